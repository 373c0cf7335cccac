//! Documents of the API, one for each resource.
//! Source: Firecracker's API description, `firecracker.yaml` of version 1.

use serde::{Deserialize, Serialize};

/// Body of `machine-config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// Number of processors, 1 to 32.
    pub vcpu_count: u32,
    /// Memory, MiB.
    pub mem_size_mib: u64,
    /// Whether hyperthreading is enabled.
    pub smt: bool,
    /// Whether written pages are tracked, for incremental snapshots.
    pub track_dirty_pages: bool,
}

/// Body of `boot-source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootSource {
    /// Path of the uncompressed kernel.
    pub kernel_image_path: String,
    /// Path of the initial file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<String>,
    /// Kernel command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_args: Option<String>,
}

/// Token bucket: a burst of `size`, refilled in `refill_time`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBucket {
    /// Bytes or operations.
    pub size: u64,
    /// Time for a complete refill, milliseconds.
    pub refill_time: u64,
}

/// Rate limits of a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimiter {
    /// Limit on bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<TokenBucket>,
    /// Limit on operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<TokenBucket>,
}

/// Whether a flush of the guest is also a flush of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheType {
    /// It is not.
    Unsafe,
    /// It is.
    Writeback,
}

/// Body of `drives/{drive_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    /// Name of the drive.
    pub drive_id: String,
    /// File of the drive, as Firecracker sees it.
    pub path_on_host: String,
    /// Whether it is the kernel's root device.
    pub is_root_device: bool,
    /// Whether the guest may only read it.
    pub is_read_only: bool,
    /// Handling of flushes.
    pub cache_type: CacheType,
    /// Rate limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// Body of `vsock`: a channel to the guest over a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vsock {
    /// Context id of the guest.
    pub guest_cid: u32,
    /// Path of the Unix socket; a connection of the guest to port N goes to this path with `_N` appended.
    pub uds_path: String,
}

/// Body of `entropy`: a random number device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntropyDevice {}

/// Actions of `actions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActionType {
    /// Starts the microVM.
    InstanceStart,
    /// Sends Ctrl+Alt+Del to the guest.
    SendCtrlAltDel,
    /// Writes the metrics.
    FlushMetrics,
}

/// Body of `actions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceAction {
    /// Action to perform.
    pub action_type: ActionType,
}

/// Requested state of a microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmState {
    /// The guest does not run.
    Paused,
    /// The guest runs.
    Resumed,
}

/// Body of `vm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Requested state.
    pub state: VmState,
}

/// Content of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotType {
    /// All memory.
    Full,
    /// What was written since the last.
    Diff,
}

/// `snapshot/create`; the microVM stands still.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotCreate {
    /// Content of the snapshot.
    pub snapshot_type: SnapshotType,
    /// File for the device state.
    pub snapshot_path: String,
    /// File for the memory.
    pub mem_file_path: String,
}

/// Where memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackendType {
    /// A file, of which what is written to is copied.
    File,
    /// A process that is asked for each page.
    Uffd,
}

/// Memory of a microVM that is brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryBackend {
    /// Kind of the source.
    pub backend_type: BackendType,
    /// Path of the file or socket.
    pub backend_path: String,
}

/// `snapshot/load`; nothing was configured before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotLoad {
    /// File with the device state.
    pub snapshot_path: String,
    /// Source of the memory.
    pub mem_backend: MemoryBackend,
    /// Whether it goes on at once.
    pub resume_vm: bool,
}

/// Answer of `GET /`: the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceInfo {
    /// The name that it was given.
    pub id: String,
    /// `Not started`, `Running` or `Paused`.
    pub state: String,
    /// Version of Firecracker.
    pub vmm_version: String,
    /// Program.
    pub app_name: String,
}
