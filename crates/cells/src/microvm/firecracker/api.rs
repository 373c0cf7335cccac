//! Documents of the API, one for each resource.
//! Source: Firecracker's API description, `firecracker.yaml` of version 1.

use serde::{Deserialize, Serialize};

/// `machine-config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// Processors; 1 to 32.
    pub vcpu_count: u32,
    /// Memory, MiB.
    pub mem_size_mib: u64,
    /// Whether two share a core.
    pub smt: bool,
    /// Whether it keeps account of what was written, for snapshots of the difference.
    pub track_dirty_pages: bool,
}

/// `boot-source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootSource {
    /// Uncompressed kernel.
    pub kernel_image_path: String,
    /// First file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<String>,
    /// Command line of the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_args: Option<String>,
}

/// What flows through at most: `size` at once, and so much again in `refill_time`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBucket {
    /// Bytes or operations.
    pub size: u64,
    /// Milliseconds.
    pub refill_time: u64,
}

/// Limits of a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimiter {
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<TokenBucket>,
    /// Operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<TokenBucket>,
}

/// When a guest's flush is one of the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheType {
    /// Never.
    Unsafe,
    /// Always.
    Writeback,
}

/// `drives/{drive_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    /// Its name.
    pub drive_id: String,
    /// File.
    pub path_on_host: String,
    /// Whether the kernel is to boot from it.
    pub is_root_device: bool,
    /// Whether it cannot be written.
    pub is_read_only: bool,
    /// When flushes count.
    pub cache_type: CacheType,
    /// Limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// `vsock`: the channel to the guest, which is a Unix socket outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vsock {
    /// Address of the guest.
    pub guest_cid: u32,
    /// The socket; a guest that calls port N calls this path with `_N` behind it.
    pub uds_path: String,
}

/// `entropy`: random numbers from the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntropyDevice {}

/// `actions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActionType {
    /// Begin.
    InstanceStart,
    /// As somebody at the keyboard would ask for the end.
    SendCtrlAltDel,
    /// Write what was counted.
    FlushMetrics,
}

/// Body of `actions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceAction {
    /// Which.
    pub action_type: ActionType,
}

/// State that a microVM is brought to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmState {
    /// It stands still.
    Paused,
    /// It goes on.
    Resumed,
}

/// Body of `vm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Which.
    pub state: VmState,
}

/// What a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotType {
    /// Everything.
    Full,
    /// What was written since the last.
    Diff,
}

/// `snapshot/create`; the microVM stands still.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotCreate {
    /// What it holds.
    pub snapshot_type: SnapshotType,
    /// File for the devices.
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
    /// Which kind.
    pub backend_type: BackendType,
    /// File or socket.
    pub backend_path: String,
}

/// `snapshot/load`; nothing was configured before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotLoad {
    /// File with the devices.
    pub snapshot_path: String,
    /// Its memory.
    pub mem_backend: MemoryBackend,
    /// Whether it goes on at once.
    pub resume_vm: bool,
}

/// What it says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceInfo {
    /// The name that it was given.
    pub id: String,
    /// `Not started`, `Running` or `Paused`.
    pub state: String,
    /// Version.
    pub vmm_version: String,
    /// Program.
    pub app_name: String,
}
