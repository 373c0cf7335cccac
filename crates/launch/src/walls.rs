//! A program behind walls: its own namespaces, root, users, filters.
//!
//! The caller is the shim. It makes a child in new namespaces; the child builds its own root,
//! takes away its own rights, reads back what is in force and says so; only when the caller is
//! content does it start the program. The child stays as the first process of its PID namespace:
//! it reaps, forwards signals, and tells how the program ended.
//!
//! Two orders of events. With privilege, everything is built by root and the user namespace comes
//! last, so that no right inside it reaches the mounts, the network or the processes of the cell.
//! Without, the user namespace comes first and lends the rights to build.

use crate::inside;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags,
    SocketType,
};
use std::ffi::CString;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, OwnedFd};

/// User number of the program as it sees itself.
pub const INNER_UID: u32 = 1000;

/// Attributes of a mount (`mount_setattr(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
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
        attributes: Attributes,
        /// Left out when the host lacks it.
        optional: bool,
    },
    /// Memory, with options of tmpfs; `uid` and `gid` are added.
    Tmpfs(CString, String, Attributes),
    /// The processes of the cell.
    Proc(CString),
    /// Terminals of the cell.
    Pts(CString),
    /// Hides what is there: a directory becomes empty, a file reads as nothing.
    Mask(CString),
    /// Can be read but not written from here on.
    ReadOnly(CString),
}

/// What may be reached by path, as the second line behind the mounts (`landlock(7)`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Landlock {
    /// Absolute paths inside below which everything may be written.
    pub write: Vec<CString>,
    /// A file inside that the mounts would let the program make and Landlock must not.
    pub probe: CString,
}

/// One instruction of a filter: code, jumps, operand (`seccomp(2)`).
pub type Instruction = (u16, u8, u8, u32);

/// The walls.
#[derive(Debug)]
pub struct Walls {
    /// Whether the caller is an ordinary user.
    pub rootless: bool,
    /// User and group on the host.
    pub outer_uid: u32,
    /// Name of the host as seen inside.
    pub hostname: String,
    /// An empty directory of the caller's, on which the new root is built; nothing is seen there
    /// from outside.
    pub staging: CString,
    /// How the root is built.
    pub mounts: Vec<Mount>,
    /// Ports of the cell's own network on which the caller wants to listen.
    pub listen: Vec<SocketAddrV4>,
    /// Reach of paths; none leaves the layer out.
    pub landlock: Option<Landlock>,
    /// Filters of system calls, installed in order; the last decides first.
    pub filters: Vec<Vec<Instruction>>,
}

/// What was read back from inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InForce {
    /// Namespaces that are not the caller's.
    pub user: bool,
    /// Mounts.
    pub mounts: bool,
    /// Processes.
    pub pids: bool,
    /// System V objects and queues.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
    /// Control groups.
    pub cgroup: bool,
    /// Network.
    pub network: bool,
    /// The root is memory of the cell's own and cannot be written.
    pub root: bool,
    /// No capability is left in any set.
    pub capabilities: bool,
    /// `no_new_privs` is set.
    pub no_new_privs: bool,
    /// A filter is installed.
    pub seccomp: bool,
    /// The probe was refused.
    pub landlock: bool,
}

impl InForce {
    /// Bits in the order of the fields.
    fn from_bits(bits: u32) -> Self {
        let bit = |n: u32| bits & (1 << n) != 0;
        InForce {
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

    /// Every layer by name, and whether it holds.
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

/// A wall that could not be built.
#[derive(Debug)]
pub struct Error {
    /// What could not be done.
    pub what: String,
    /// On what; may be empty.
    pub on: String,
    /// What the system says.
    pub source: io::Error,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.on.as_str() {
            "" => write!(f, "could not {}", self.what),
            on => write!(f, "could not {} `{on}`", self.what),
        }
    }
}
impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl Error {
    pub(crate) fn new(what: &str, on: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Error {
            what: what.to_owned(),
            on: on.into(),
            source: source.into(),
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// A program that runs behind walls.
#[derive(Debug)]
pub struct Walled {
    /// The first process of the cell, whose end is the end of all of it.
    pub child: crate::Child,
    /// Listeners in the cell's network, in the order asked for.
    pub listeners: Vec<OwnedFd>,
    /// What holds.
    pub in_force: InForce,
    /// Where the first process says how the program ended.
    pub channel: OwnedFd,
}

impl Walled {
    /// The wait status of the program, once [`Walled::child`] has ended by itself.
    pub fn status(channel: &OwnedFd) -> Option<i32> {
        let mut buffer = [0u8; 64];
        loop {
            match rustix::net::recv(channel, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((5, _)) if buffer[0] == b'X' => {
                    return Some(i32::from_ne_bytes([
                        buffer[1], buffer[2], buffer[3], buffer[4],
                    ]));
                }
                Ok((0, _)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

/// Starts `spec` behind `walls`. `born` is called once with the number of the cell's first
/// process, before it builds anything: the time to connect its network. `content` sees what is
/// in force and decides whether the program may run.
///
/// # Errors
/// [`Error`] with the step; no process is left then.
pub fn spawn(
    spec: &crate::Spec,
    walls: &Walls,
    born: &mut dyn FnMut(i32) -> io::Result<()>,
    content: &mut dyn FnMut(&InForce) -> io::Result<()>,
) -> Result<Walled> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|e| Error::new("make", "a socket pair", e))?;
    let mut flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWNET;
    if walls.rootless {
        flags |= libc::CLONE_NEWUSER;
    }
    let outside = inside::Namespaces::of_self();
    let (pid, pidfd) = crate::clone_with(flags, spec.groups.born_in.as_ref())
        .map_err(|e| Error::new("make", "namespaces", e))?;
    let Some(pidfd) = pidfd else {
        drop(ours);
        inside::run(spec, walls, &outside, theirs);
    };
    drop(theirs);
    let child = crate::Child { pid, pidfd };
    match attend(&ours, walls, &child, born, content) {
        Ok((listeners, in_force)) => Ok(Walled {
            child,
            listeners,
            in_force,
            channel: ours,
        }),
        Err(error) => {
            let _gone_already =
                rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL);
            let _reaped_by_another = rustix::process::waitid(
                rustix::process::WaitId::PidFd(child.pidfd.as_fd()),
                rustix::process::WaitIdOptions::EXITED,
            );
            Err(error)
        }
    }
}

/// Serves the child until its program runs.
fn attend(
    channel: &OwnedFd,
    walls: &Walls,
    child: &crate::Child,
    born: &mut dyn FnMut(i32) -> io::Result<()>,
    content: &mut dyn FnMut(&InForce) -> io::Result<()>,
) -> Result<(Vec<OwnedFd>, InForce)> {
    let mut listeners = Vec::new();
    let mut in_force = InForce::default();
    let go_on = || {
        rustix::net::send(channel, b"k", SendFlags::NOSIGNAL)
            .map(drop)
            .map_err(|e| Error::new("speak to", "the cell's first process", e))
    };
    loop {
        let message = receive(channel, &mut listeners)?;
        let (kind, body) = message.split_first().unwrap_or((&0, &[]));
        match kind {
            b'U' => {
                write_maps(walls, child.pid)?;
                go_on()?;
            }
            b'N' => {
                born(child.pid).map_err(|e| Error::new("connect the network", "", e))?;
                go_on()?;
            }
            b'L' => go_on()?,
            b'R' => {
                let bits = body.try_into().map_or(0, u32::from_ne_bytes);
                in_force = InForce::from_bits(bits);
                content(&in_force).map_err(|e| Error::new("accept the walls", "", e))?;
                go_on()?;
            }
            b'P' => return Ok((listeners, in_force)),
            b'E' => return Err(told(body)),
            _ => {
                return Err(Error::new(
                    "hear from",
                    "the cell's first process",
                    io::Error::from(io::ErrorKind::UnexpectedEof),
                ));
            }
        }
    }
}

/// The map has one entry: the program is its user and nobody else, so nothing it makes can belong
/// to another.
fn write_maps(walls: &Walls, pid: i32) -> Result<()> {
    let put = |file: &str, text: String| {
        let path = format!("/proc/{pid}/{file}");
        std::fs::write(&path, text).map_err(|e| Error::new("write", path, e))
    };
    if walls.rootless {
        put("setgroups", "deny".to_owned())?;
    }
    let map = format!("{INNER_UID} {} 1\n", walls.outer_uid);
    put("gid_map", map.clone())?;
    put("uid_map", map)
}

/// An error as the child put it: step, thing, number.
fn told(body: &[u8]) -> Error {
    let text = String::from_utf8_lossy(body);
    let mut parts = text.split('\0');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    let (what, on, number) = (next(), next(), next());
    let source = io::Error::from_raw_os_error(number.parse().unwrap_or(0));
    Error { what, on, source }
}

fn receive(channel: &OwnedFd, fds: &mut Vec<OwnedFd>) -> Result<Vec<u8>> {
    let mut buffer = [0u8; 2048];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let mut io = [IoSliceMut::new(&mut buffer)];
        match rustix::net::recvmsg(channel, &mut io, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(got) => break got.bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::new("hear from", "the cell's first process", e)),
        }
    };
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    Ok(buffer[..got].to_vec())
}
