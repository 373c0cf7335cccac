//! Nouns of cells: kinds, limits, incarnations and how they end.

use crate::words::words;
use crate::{Bytes, Slug, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Kind of isolation around an agent or service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellKind {
    /// Own processes, uid and limits, but no wall: shown as "not isolated" (S4-35).
    Process,
    /// Linux namespaces, seccomp and Landlock.
    Sandbox,
    /// A virtual machine.
    Microvm,
    /// Podman or Docker.
    Container,
    /// A FreeBSD jail.
    Jail,
}

impl CellKind {
    /// Every kind.
    pub const ALL: [CellKind; 5] = [
        CellKind::Process,
        CellKind::Sandbox,
        CellKind::Microvm,
        CellKind::Container,
        CellKind::Jail,
    ];

    /// Name in the manifest.
    pub const fn name(self) -> &'static str {
        match self {
            CellKind::Process => "process",
            CellKind::Sandbox => "sandbox",
            CellKind::Microvm => "microvm",
            CellKind::Container => "container",
            CellKind::Jail => "jail",
        }
    }

    /// Whether the kind is a boundary that an agent cannot look across.
    pub const fn isolates(self) -> bool {
        !matches!(self, CellKind::Process)
    }
}

impl fmt::Display for CellKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for CellKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        CellKind::ALL
            .into_iter()
            .find(|k| k.name() == text)
            .ok_or_else(|| format!("`{text}` is not a kind of cell"))
    }
}

/// The program that runs a virtual machine.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(rename_all = "snake_case")]
pub enum Vmm {
    /// QEMU's `microvm`, with KVM or by translation.
    #[default]
    Qemu,
    /// Firecracker, which needs KVM.
    Firecracker,
}

impl Vmm {
    /// Every one.
    pub const ALL: [Vmm; 2] = [Vmm::Qemu, Vmm::Firecracker];

    /// Name in the manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Vmm::Qemu => "qemu",
            Vmm::Firecracker => "firecracker",
        }
    }
}

impl FromStr for Vmm {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Vmm::ALL.into_iter();
        all.find(|v| v.name() == text)
            .ok_or_else(|| format!("`{text}` runs no machines"))
    }
}

/// How far the filter of system calls reaches.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Nothing is writable and executable at once.
    Strict,
    /// Programs may make code at run time, as Node and other engines do.
    #[default]
    Jit,
    /// Programs may build a sandbox of their own inside the cell.
    Nested,
}

impl Profile {
    /// Every profile.
    pub const ALL: [Profile; 3] = [Profile::Strict, Profile::Jit, Profile::Nested];

    /// Name in the manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Profile::Strict => "strict",
            Profile::Jit => "jit",
            Profile::Nested => "nested",
        }
    }
}

impl FromStr for Profile {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Profile::ALL.into_iter();
        all.find(|p| p.name() == text)
            .ok_or_else(|| format!("`{text}` is not a profile of system calls"))
    }
}

/// One layer of isolation, as it is read back from inside a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Users of the cell are nobody outside.
    User,
    /// Its own view of the file system.
    Mounts,
    /// Its own processes.
    Pids,
    /// Its own shared memory and queues.
    Ipc,
    /// Its own host name.
    Uts,
    /// Its own view of control groups.
    Cgroup,
    /// Its own network.
    Network,
    /// A root of its own, which cannot be written.
    Root,
    /// No capability in any set.
    Capabilities,
    /// No program gives new privileges.
    NoNewPrivs,
    /// System calls are filtered.
    Seccomp,
    /// Paths are restricted a second time.
    Landlock,
    /// Memory, CPU time and processes are bounded.
    Limits,
}

impl Layer {
    /// Every layer of a sandbox.
    pub const ALL: [Layer; 13] = [
        Layer::User,
        Layer::Mounts,
        Layer::Pids,
        Layer::Ipc,
        Layer::Uts,
        Layer::Cgroup,
        Layer::Network,
        Layer::Root,
        Layer::Capabilities,
        Layer::NoNewPrivs,
        Layer::Seccomp,
        Layer::Landlock,
        Layer::Limits,
    ];

    /// Word in the manifest and on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Layer::User => "user",
            Layer::Mounts => "mounts",
            Layer::Pids => "pids",
            Layer::Ipc => "ipc",
            Layer::Uts => "uts",
            Layer::Cgroup => "cgroup",
            Layer::Network => "network",
            Layer::Root => "root",
            Layer::Capabilities => "capabilities",
            Layer::NoNewPrivs => "no_new_privs",
            Layer::Seccomp => "seccomp",
            Layer::Landlock => "landlock",
            Layer::Limits => "limits",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Layer {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Layer::ALL.into_iter();
        all.find(|l| l.name() == text)
            .ok_or_else(|| format!("`{text}` is not a layer of isolation"))
    }
}

/// Number of the boot of a cell; an executor that holds an older one is refused.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// Ceilings of one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, bytes.
    pub memory: Bytes,
    /// CPU time per wall time, in thousandths of one CPU.
    pub cpu_milli: u32,
    /// Processes and threads.
    pub processes: u32,
    /// Bytes a second that are read from the disk, and as many that are written to it; none when it is not
    /// bounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<Bytes>,
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

/// How much room each class of an agent's files has in a machine of its own (S3-16). Identity is a fourth
/// class: the house writes it, and it is on no drive that the guest can write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drives {
    /// Runtime state: `home`. Lasts, is backed up.
    pub state: Bytes,
    /// Charter, memory and work: `workspace`. Lasts, is backed up.
    pub workspace: Bytes,
    /// Everything else that is written. Gone with the boot.
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

/// What the operator wants of a cell; the rest of the wish is the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Nothing of it.
    Down,
    /// Up.
    #[default]
    Up,
    /// As it is, but nothing in it goes on.
    Paused,
}

impl Wish {
    /// Number in the state.
    pub const fn number(self) -> i64 {
        match self {
            Wish::Down => 0,
            Wish::Up => 1,
            Wish::Paused => 2,
        }
    }

    /// The wish with this number; down for one that nobody wrote.
    pub const fn of_number(number: i64) -> Wish {
        match number {
            1 => Wish::Up,
            2 => Wish::Paused,
            _ => Wish::Down,
        }
    }

    /// Word in the activity chain.
    pub const fn name(self) -> &'static str {
        match self {
            Wish::Down => "down",
            Wish::Up => "up",
            Wish::Paused => "paused",
        }
    }
}

/// A process that cannot be mistaken for another with the same number (hazard 9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process number.
    pub pid: i32,
    /// Start time in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

/// One boot of one cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// Which boot this is.
    pub generation: Generation,
    /// The process that owns the cell.
    pub shim: ProcessIdentity,
    /// The first process inside; absent before it runs.
    pub child: Option<ProcessIdentity>,
    /// When it was started.
    pub started_at: Timestamp,
}

/// Address on which a cell's door or port listens.
pub type Address = std::net::SocketAddr;

/// How a cell's main process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ExitKind {
    /// It returned a status.
    Code {
        /// Exit status.
        code: i32,
    },
    /// A signal ended it.
    Signal {
        /// Signal number.
        signal: i32,
    },
    /// The kernel ended it for memory.
    OutOfMemory,
    /// It never announced readiness in time.
    NotReady,
    /// It could not be started at all.
    SpawnFailed {
        /// Step and system error.
        error: String,
    },
    /// Its shim vanished, so the way it ended is not known.
    Lost,
    /// It was asked to stop and did.
    Stopped,
    /// It ignored the request and was killed.
    Killed,
    /// Its machine ended, and not because its program had.
    Machine {
        /// How.
        end: VmEnd,
    },
}

/// How a virtual machine ended without its program's doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum VmEnd {
    /// Its kernel gave up.
    Panicked,
    /// It was started anew from inside.
    Rebooted,
    /// It was switched off from inside.
    PoweredOff,
    /// It sent what is not in the protocol, and was ended.
    Garbage {
        /// What it did.
        what: String,
    },
    /// The program that runs it ended.
    Monitor {
        /// Its status; none when a signal ended it.
        status: Option<i32>,
    },
}

impl fmt::Display for VmEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VmEnd::Panicked => f.write_str("its kernel panicked"),
            VmEnd::Rebooted => f.write_str("its machine was rebooted from inside"),
            VmEnd::PoweredOff => f.write_str("its machine was switched off from inside"),
            VmEnd::Garbage { what } => {
                write!(
                    f,
                    "its machine was ended: {what} on the channel of the guest"
                )
            }
            VmEnd::Monitor { status: Some(code) } => {
                write!(
                    f,
                    "the program that runs its machine ended with status {code}"
                )
            }
            VmEnd::Monitor { status: None } => {
                f.write_str("the program that runs its machine was killed")
            }
        }
    }
}

impl ExitKind {
    /// Whether the operator or the house asked for this end.
    pub const fn was_asked(&self) -> bool {
        matches!(self, ExitKind::Stopped | ExitKind::Killed)
    }
}

impl fmt::Display for ExitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitKind::Code { code } => write!(f, "exit status {code}"),
            ExitKind::Signal { signal } => write!(f, "signal {signal}"),
            ExitKind::OutOfMemory => f.write_str("killed: over its memory limit"),
            ExitKind::NotReady => f.write_str("never announced that it was ready"),
            ExitKind::SpawnFailed { error } => write!(f, "could not be started: {error}"),
            ExitKind::Lost => f.write_str("its shim vanished"),
            ExitKind::Stopped => f.write_str("stopped on request"),
            ExitKind::Killed => f.write_str("killed after ignoring the request to stop"),
            ExitKind::Machine { end } => end.fmt(f),
        }
    }
}

/// The record a shim leaves behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Which boot ended.
    pub generation: Generation,
    /// How.
    pub exit: ExitKind,
    /// When.
    pub ended_at: Timestamp,
    /// What it used up; absent when nobody was left to count.
    #[serde(default)]
    pub spent: Option<Spent>,
}

/// What a cell used up over its whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Spent {
    /// CPU time, microseconds.
    pub cpu_us: u64,
    /// Most memory at any time, bytes; 0 where the kernel does not tell.
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
    /// Combines the two probes of a cell that is neither starting nor stopping.
    pub const fn from_probes(ingress: bool, worker: bool) -> Presence {
        match (ingress, worker) {
            (true, true) => Presence::Ready,
            (false, true) => Presence::WorkerOnly,
            (true, false) => Presence::IngressOnly,
            (false, false) => Presence::Down,
        }
    }

    /// Parses a word of a filter, where the words of version 0.1 are still accepted.
    ///
    /// # Errors
    /// When it is neither a presence nor one of the earlier words.
    pub fn from_filter(word: &str) -> Result<Presence, String> {
        match word {
            "robed" => Ok(Presence::Ready),
            "unrobed" => Ok(Presence::WorkerOnly),
            "lobster" => Ok(Presence::IngressOnly),
            "dead" => Ok(Presence::Down),
            word => word.parse(),
        }
    }
}

/// What a look at the host shows of one cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// No process, no record.
    Nothing,
    /// The shim answers.
    Running {
        /// Which boot.
        generation: Generation,
        /// Digest of the specification that it was started from.
        spec: String,
        /// Whether the child announced readiness.
        ready: bool,
        /// When it was started.
        started_at: Timestamp,
        /// Whether it was already asked to stop.
        stopping: bool,
        /// Whether nothing in it goes on.
        paused: bool,
    },
    /// The shim ended and left its record.
    Exited(ExitRecord),
    /// The shim is gone without a record; processes may be left.
    Orphaned {
        /// Which boot.
        generation: Generation,
    },
}

/// Name of a cell on the host: whose it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CellName {
    /// The cell of an agent.
    Agent(Slug),
    /// The cell of a service.
    Service(Slug),
    /// A cell for one command, gone with it.
    Run(Slug),
}

impl CellName {
    /// The slug of its owner.
    pub const fn slug(&self) -> &Slug {
        match self {
            CellName::Agent(slug) | CellName::Service(slug) | CellName::Run(slug) => slug,
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

impl Serialize for CellName {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for CellName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
