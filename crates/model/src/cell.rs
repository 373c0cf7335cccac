//! Nouns of cells: kinds of isolation, limits, incarnations, and how they end.

use crate::words::{text_form, words};
use crate::{Bytes, Slug, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

words! {
    /// Kind of isolation around an agent or service.
    CellKind {
        /// Its own processes, uid and limits, but no isolation; shown as "not isolated" (S4-35).
        Process = "process",
        /// Linux namespaces, seccomp and Landlock.
        Sandbox = "sandbox",
        /// A microVM.
        Microvm = "microvm",
        /// Podman or Docker.
        Container = "container",
        /// A FreeBSD jail.
        Jail = "jail",
    }
}

impl CellKind {
    /// Whether the kind isolates its processes from the host and from other cells.
    pub const fn isolates(self) -> bool {
        !matches!(self, CellKind::Process)
    }
}

words! {
    /// Virtual machine monitor that runs a microVM.
    #[derive(Default)]
    Vmm {
        /// QEMU with its machine type `microvm`, with KVM or by translation.
        #[default]
        Qemu = "qemu",
        /// Firecracker, which needs KVM.
        Firecracker = "firecracker",
    }
}

words! {
    /// Strictness of the system call filter.
    #[derive(Default)]
    Profile {
        /// Memory is never writable and executable at once.
        Strict = "strict",
        /// Programs may generate code at run time, as Node and other engines do.
        #[default]
        Jit = "jit",
    }
}

words! {
    /// Layer of isolation, as it is read back from inside a cell.
    Layer {
        /// User namespace: users of the cell have no identity outside.
        User = "user",
        /// Mount namespace.
        Mounts = "mounts",
        /// PID namespace.
        Pids = "pids",
        /// IPC namespace.
        Ipc = "ipc",
        /// UTS namespace: a host name of its own.
        Uts = "uts",
        /// Control group namespace.
        Cgroup = "cgroup",
        /// Network namespace.
        Network = "network",
        /// A read-only root file system of its own.
        Root = "root",
        /// No capability in any set.
        Capabilities = "capabilities",
        /// No program gains privileges by being executed (`no_new_privs`).
        NoNewPrivs = "no_new_privs",
        /// System calls are filtered by seccomp.
        Seccomp = "seccomp",
        /// Paths are restricted by Landlock.
        Landlock = "landlock",
        /// Memory, CPU time and processes are limited by a control group.
        Limits = "limits",
    }
}

/// Number of a boot of a cell. A caller that names an older one is refused.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// Resource limits of one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, bytes.
    pub memory: Bytes,
    /// CPU time per wall time, in thousandths of one CPU.
    pub cpu_milli: u32,
    /// Number of processes and threads.
    pub processes: u32,
    /// Disk bandwidth in bytes per second, for reads and for writes separately; unlimited when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<Bytes>,
}

impl Limits {
    /// Fewest processes that a cell can be limited to: its own first processes and a program with a few threads.
    pub const PROCESSES_MIN: u32 = 8;
    /// Most processes that a cell can be limited to.
    pub const PROCESSES_MAX: u32 = 1_000_000;
    /// Most CPU time that a cell can be limited to, in thousandths of one CPU.
    pub const CPU_MILLI_MAX: u32 = 1_024_000;
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory: Bytes(512 << 20),
            cpu_milli: 1000,
            processes: 256,
            io: None,
        }
    }
}

/// Sizes of a microVM's drives, one for each class of an agent's files (S3-16). Its identity (charter, credentials) is on
/// no drive that the guest can write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drives {
    /// Drive of `home`: state of the runtime. Kept and backed up.
    pub state: Bytes,
    /// Drive of `workspace`: charter, memory and work. Kept and backed up.
    pub workspace: Bytes,
    /// Drive of everything else that is written. Discarded with the boot.
    pub scratch: Bytes,
}

impl Default for Drives {
    fn default() -> Self {
        Drives {
            state: Bytes(256 << 20),
            workspace: Bytes(1 << 30),
            scratch: Bytes(1 << 30),
        }
    }
}

/// Desired state of a cell, as the operator sets it; its specification comes from the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DesiredState {
    /// Stopped, with no process left.
    Down,
    /// Running.
    #[default]
    Up,
    /// Suspended: its processes exist and do not run.
    Paused,
}

impl DesiredState {
    /// Number that stands for the state in the database.
    pub const fn number(self) -> i64 {
        match self {
            DesiredState::Down => 0,
            DesiredState::Up => 1,
            DesiredState::Paused => 2,
        }
    }

    /// State with this number in the database; down for an unknown number.
    pub const fn from_number(number: i64) -> DesiredState {
        match number {
            1 => DesiredState::Up,
            2 => DesiredState::Paused,
            _ => DesiredState::Down,
        }
    }

    /// Name of the state in the audit log.
    pub const fn name(self) -> &'static str {
        match self {
            DesiredState::Down => "down",
            DesiredState::Up => "up",
            DesiredState::Paused => "paused",
        }
    }
}

/// Identity of a process, which a later process with the same PID does not share (hazard 9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// PID.
    pub pid: i32,
    /// Start time in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

/// One boot of one cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// Number of this boot.
    pub generation: Generation,
    /// Shim that owns the cell.
    pub shim: ProcessIdentity,
    /// Main process; absent before it runs.
    pub child: Option<ProcessIdentity>,
    /// Time of the start.
    pub started_at: Timestamp,
}

/// Address on which a cell or service listens.
pub type Address = std::net::SocketAddr;

/// Way in which a cell's main process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ExitKind {
    /// The process exited by itself.
    Code {
        /// Exit status.
        code: i32,
    },
    /// A signal killed it.
    Signal {
        /// Signal number.
        signal: i32,
    },
    /// The kernel killed it: the cell was over its memory limit.
    OutOfMemory,
    /// The process did not announce readiness in time.
    NotReady,
    /// The process could not be started.
    SpawnFailed {
        /// Failed step, and the error of the operating system.
        error: String,
    },
    /// The shim disappeared, so the reason of the end is unknown.
    Lost,
    /// The host went down, and the cell with it.
    HostRestarted,
    /// The process was requested to stop, and did.
    Stopped,
    /// The process ignored the request to stop and was killed.
    Killed,
    /// The microVM ended although the program in it had not.
    Machine {
        /// Cause.
        end: VmEnd,
    },
}

/// Reason why a microVM ended although the program in it had not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum VmEnd {
    /// The guest's kernel panicked.
    Panicked,
    /// The guest rebooted itself.
    Rebooted,
    /// The guest powered itself off.
    PoweredOff,
    /// The guest violated the channel's protocol, and was ended.
    Garbage {
        /// The violation.
        what: String,
    },
    /// The virtual machine monitor ended, or the program that runs a container did not run it.
    Monitor {
        /// Its exit status; absent when a signal killed it.
        status: Option<i32>,
    },
}

impl fmt::Display for VmEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VmEnd::Panicked => f.write_str("its kernel panicked"),
            VmEnd::Rebooted => f.write_str("its microVM was rebooted from inside"),
            VmEnd::PoweredOff => f.write_str("its microVM was powered off from inside"),
            VmEnd::Garbage { what } => {
                write!(f, "its microVM was ended: {what} on the guest channel")
            }
            VmEnd::Monitor { status: Some(code) } => {
                write!(
                    f,
                    "the program that runs it (QEMU or Podman) exited with status {code}; its log shows what that printed"
                )
            }
            VmEnd::Monitor { status: None } => {
                f.write_str("the program that runs it (QEMU or Podman) was killed")
            }
        }
    }
}

impl ExitKind {
    /// Whether the end has nothing to do with the cell and what ran in it: it was ordered, or the host went down.
    pub const fn says_nothing_about_the_cell(&self) -> bool {
        self.was_requested() || matches!(self, ExitKind::HostRestarted)
    }

    /// Whether the operator or the control plane had requested the stop.
    pub const fn was_requested(&self) -> bool {
        matches!(self, ExitKind::Stopped | ExitKind::Killed)
    }
}

impl fmt::Display for ExitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitKind::Code { code } => write!(f, "exit status {code}"),
            ExitKind::Signal { signal } => write!(f, "signal {signal}"),
            ExitKind::OutOfMemory => f.write_str("killed: over its memory limit"),
            ExitKind::NotReady => f.write_str("did not announce readiness in time"),
            ExitKind::SpawnFailed { error } => write!(f, "could not be started: {error}"),
            ExitKind::Lost => f.write_str("its shim disappeared"),
            ExitKind::HostRestarted => f.write_str("the host was restarted"),
            ExitKind::Stopped => f.write_str("stopped on request"),
            ExitKind::Killed => f.write_str("killed after ignoring the request to stop"),
            ExitKind::Machine { end } => end.fmt(f),
        }
    }
}

/// Record of a cell's end, written by its shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Boot that ended.
    pub generation: Generation,
    /// Way in which it ended.
    pub exit: ExitKind,
    /// Time of the end.
    pub ended_at: Timestamp,
    /// Resources that the cell used; absent when its shim was not there to count.
    #[serde(default)]
    pub spent: Option<CellUsage>,
}

/// Resources that a cell used in one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CellUsage {
    /// CPU time, in microseconds.
    pub cpu_us: u64,
    /// Peak memory; 0 where the kernel does not report it.
    pub memory_peak: Bytes,
}

words! {
    /// Whether an agent or a service can be used now. Derived from the cell's state and two probes, never stored.
    Presence {
        /// The worker runs and its address answers.
        Ready = "ready",
        /// The worker runs; its address doesn't answer.
        WorkerOnly = "worker_only",
        /// The address answers; the worker doesn't run.
        IngressOnly = "ingress_only",
        /// It should be up and isn't.
        Down = "down",
        /// On its way up.
        Starting = "starting",
        /// On its way down.
        Stopping = "stopping",
        /// Stopped by the operator.
        Stopped = "stopped",
        /// Suspended by the operator: its processes exist and don't run.
        Paused = "paused",
        /// Put to sleep by an idle policy; work wakes it.
        Idle = "idle",
        /// Failing repeatedly; waits before the next attempt.
        Degraded = "degraded",
        /// Not observed yet.
        Unknown = "unknown",
    }
}

impl Presence {
    /// Presence of a running cell from its two probes: whether its address answers (`ingress`) and whether its worker
    /// runs (`worker`).
    pub const fn from_probes(ingress: bool, worker: bool) -> Presence {
        match (ingress, worker) {
            (true, true) => Presence::Ready,
            (false, true) => Presence::WorkerOnly,
            (true, false) => Presence::IngressOnly,
            (false, false) => Presence::Down,
        }
    }
}

/// Time between two heartbeats that an agent's worker sends to its shim.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// Time without a heartbeat after which a worker counts as hung: three are missing.
pub const HEARTBEAT_DEADLINE: Duration = Duration::from_secs(16);

/// State of one cell as observed on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// There is no process and no record.
    Nothing,
    /// The shim answers.
    Running {
        /// Number of the boot.
        generation: Generation,
        /// Digest of the specification that the cell was started from.
        spec: String,
        /// Whether the main process announced readiness.
        ready: bool,
        /// Time of the start.
        started_at: Timestamp,
        /// Whether a stop was requested.
        stopping: bool,
        /// Whether its processes are suspended.
        paused: bool,
        /// Whether its program works as far as its shim knows: false once an agent's worker has sent no heartbeat for
        /// [`HEARTBEAT_DEADLINE`].
        worker: bool,
    },
    /// The shim ended and left a record.
    Exited(ExitRecord),
    /// The shim is gone without a record; processes may remain.
    Orphaned {
        /// Number of the boot.
        generation: Generation,
    },
}

/// Name of a cell on the host: kind and name of its owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CellName {
    /// The cell of an agent.
    Agent(Slug),
    /// The cell of a service.
    Service(Slug),
    /// The cell of a single command, removed when the command ends.
    Run(Slug),
}

impl CellName {
    /// Slug of the agent or service that the cell belongs to.
    pub const fn slug(&self) -> &Slug {
        match self {
            CellName::Agent(slug) | CellName::Service(slug) | CellName::Run(slug) => slug,
        }
    }

    /// Name of the cell's owner in plans and their allocations: `agent:NAME`, `service:NAME`, `run:NAME`.
    pub fn owner(&self) -> String {
        let kind = match self {
            CellName::Agent(_) => "agent",
            CellName::Service(_) => "service",
            CellName::Run(_) => "run",
        };
        format!("{kind}:{}", self.slug())
    }

    /// The cell's owner in a sentence: "agent `iris`".
    pub fn described(&self) -> String {
        match self {
            CellName::Agent(slug) => format!("agent `{slug}`"),
            CellName::Service(slug) => format!("service `{slug}`"),
            CellName::Run(slug) => format!("command `{slug}`"),
        }
    }
}

impl fmt::Display for CellName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CellName::Agent(slug) => write!(f, "agent-{slug}"),
            CellName::Service(slug) => write!(f, "service-{slug}"),
            CellName::Run(slug) => write!(f, "run-{slug}"),
        }
    }
}

impl FromStr for CellName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not the name of a cell");
        match text.split_once('-') {
            Some(("agent", slug)) => slug.parse().map(CellName::Agent).map_err(|_| bad()),
            Some(("service", slug)) => slug.parse().map(CellName::Service).map_err(|_| bad()),
            Some(("run", slug)) => slug.parse().map(CellName::Run).map_err(|_| bad()),
            _ => Err(bad()),
        }
    }
}

text_form!(CellName);
