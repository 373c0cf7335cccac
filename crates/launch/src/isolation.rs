//! Isolation of a program: its namespaces, root, users and filters, and what was read back of them.

use std::ffi::CString;
use std::io;
use std::net::SocketAddrV4;

/// User number of the program as it sees itself.
pub const INNER_UID: u32 = 1000;

/// Attributes of a mount (`mount_setattr(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountAttributes {
    /// Nothing can be written.
    pub read_only: bool,
    /// Device nodes work.
    pub devices: bool,
    /// Nothing can be executed.
    pub no_exec: bool,
}

/// One step of building the root, in order. Paths begin at the new root and have no leading slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// A directory.
    Dir(CString, u32),
    /// A symbolic link to a text.
    Link(CString, CString),
    /// A file with a content.
    File(CString, Vec<u8>, u32),
    /// Something of the host, with everything mounted below it.
    Bind {
        /// On the host.
        source: CString,
        /// In the cell.
        path: CString,
        /// How.
        attributes: MountAttributes,
        /// Left out when the host lacks it.
        optional: bool,
    },
    /// Memory, with options of tmpfs; `uid` and `gid` are added.
    Tmpfs(CString, String, MountAttributes),
    /// The processes of the cell.
    Proc(CString),
    /// Terminals of the cell.
    Pts(CString),
    /// Hides what is there, if anything: a directory becomes the empty one at the second path, a file reads as nothing.
    Mask(CString, CString),
    /// Can be read but not written from here on.
    ReadOnly(CString),
}

/// What may be reached by path, as the second line behind the mounts (`landlock(7)`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LandlockRules {
    /// Absolute paths inside below which everything may be written.
    pub write: Vec<CString>,
    /// A file inside that the mounts would let the program make and Landlock must not.
    pub probe: CString,
}

/// One instruction of a filter: code, jumps, operand (`seccomp(2)`).
pub type BpfInstruction = (u16, u8, u8, u32);

/// Isolation of one program.
#[derive(Debug)]
pub struct Isolation {
    /// Whether the caller is an ordinary user.
    pub rootless: bool,
    /// User and group on the host.
    pub outer_uid: u32,
    /// Name of the host as seen inside.
    pub hostname: String,
    /// How the root is built.
    pub mounts: Vec<Mount>,
    /// Ports of the cell's own network on which the caller wants to listen.
    pub listen: Vec<SocketAddrV4>,
    /// Reach of paths; none leaves the layer out.
    pub landlock: Option<LandlockRules>,
    /// Filters of system calls, installed in order; the last decides first.
    pub filters: Vec<Vec<BpfInstruction>>,
}

/// Isolation layers that were verified from inside the cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IsolationInForce {
    /// User namespace.
    pub user: bool,
    /// Mount namespace.
    pub mounts: bool,
    /// PID namespace.
    pub pids: bool,
    /// IPC namespace.
    pub ipc: bool,
    /// UTS namespace (host name).
    pub uts: bool,
    /// Cgroup namespace.
    pub cgroup: bool,
    /// Network namespace.
    pub network: bool,
    /// The root file system is the cell's own and read-only.
    pub root: bool,
    /// No capability is left in any set.
    pub capabilities: bool,
    /// `no_new_privs` is set.
    pub no_new_privs: bool,
    /// A seccomp filter is installed.
    pub seccomp: bool,
    /// Landlock refused the write to the probe file.
    pub landlock: bool,
}

impl IsolationInForce {
    /// Decodes a bit mask with one bit for each field, in the order of the fields.
    pub(crate) fn from_bits(bits: u32) -> Self {
        let bit = |n: u32| bits & (1 << n) != 0;
        IsolationInForce {
            user: bit(0),
            mounts: bit(1),
            pids: bit(2),
            ipc: bit(3),
            uts: bit(4),
            cgroup: bit(5),
            network: bit(6),
            root: bit(7),
            capabilities: bit(8),
            no_new_privs: bit(9),
            seccomp: bit(10),
            landlock: bit(11),
        }
    }

    /// Name of every isolation layer, and whether it is in force.
    pub fn layers(&self) -> [(&'static str, bool); 12] {
        [
            ("user", self.user),
            ("mounts", self.mounts),
            ("pids", self.pids),
            ("ipc", self.ipc),
            ("uts", self.uts),
            ("cgroup", self.cgroup),
            ("network", self.network),
            ("root", self.root),
            ("capabilities", self.capabilities),
            ("no_new_privs", self.no_new_privs),
            ("seccomp", self.seccomp),
            ("landlock", self.landlock),
        ]
    }
}

/// A step of the isolation setup failed.
#[derive(Debug)]
pub struct IsolationError {
    /// Step that failed, as a verb.
    pub what: String,
    /// Object of the step; may be empty.
    pub on: String,
    /// System error.
    pub source: io::Error,
}

impl std::fmt::Display for IsolationError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.on.as_str() {
            "" => write!(f, "could not {}", self.what),
            on => write!(f, "could not {} `{on}`", self.what),
        }
    }
}
impl std::error::Error for IsolationError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl IsolationError {
    /// Error for the step `what` on the object `on`, which may be empty, with its cause.
    pub(crate) fn new(what: &str, on: impl Into<String>, source: impl Into<io::Error>) -> Self {
        IsolationError {
            what: what.to_owned(),
            on: on.into(),
            source: source.into(),
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, IsolationError>;
