//! Starts a program in isolation: its own namespaces, root, users, filters.
//!
//! The caller is the shim. It makes a child in new namespaces; the child builds its own root,
//! takes away its own rights, reads back what is in force and says so; only when the caller is
//! content does it start the program. The child stays as the first process of its PID namespace:
//! it reaps, forwards signals, and tells how the program ended.
//!
//! Two orders of events. With privilege, everything is built by root and the user namespace comes
//! last, so that no right inside it reaches the mounts, the network or the processes of the cell.
//! Without, the user namespace comes first and lends the rights to build.

use crate::isolated_child;
use crate::isolation::{INNER_UID, Isolation, IsolationError, IsolationInForce, Result};
use crate::spawn::{Child, LaunchSpec, clone_process};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags,
    SocketType,
};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A program that runs in isolation.
#[derive(Debug)]
pub struct IsolatedChild {
    /// First process of the cell; its end ends every process of the cell.
    pub child: Child,
    /// Listeners in the cell's network, in the requested order.
    pub listeners: Vec<OwnedFd>,
    /// Isolation layers that were verified from inside.
    pub in_force: IsolationInForce,
    /// Socket on which the first process reports how the program ended.
    pub channel: OwnedFd,
}

impl IsolatedChild {
    /// Wait status of the cell's program, read from `channel` after the cell's first process has ended; none if it
    /// was not reported.
    pub fn read_exit_status(channel: &OwnedFd) -> Option<i32> {
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

/// Network namespace of a cell that starts.
#[derive(Debug, Clone, Copy)]
pub enum NetworkNamespace<'a> {
    /// That of the process with this id.
    OfProcess(i32),
    /// This one, in which the cell's first process is or will be.
    Open(BorrowedFd<'a>),
}

impl NetworkNamespace<'_> {
    /// Opens it.
    ///
    /// # Errors
    /// What the system says, for example that there is no such process any more.
    pub fn open(self) -> io::Result<OwnedFd> {
        match self {
            NetworkNamespace::OfProcess(pid) => {
                std::fs::File::open(format!("/proc/{pid}/ns/net")).map(OwnedFd::from)
            }
            NetworkNamespace::Open(network) => network.try_clone_to_owned(),
        }
    }
}

/// What the caller of [`spawn_isolated`] does in between, in this order. An error ends the child.
pub trait LaunchSteps {
    /// Connects the network of the cell, while its first process builds its root.
    ///
    /// # Errors
    /// Any, which is reported as that of the network.
    fn connect(&mut self, network: NetworkNamespace<'_>) -> io::Result<()>;

    /// Does what else has to be done before the program runs, while the first process restricts itself.
    ///
    /// # Errors
    /// Any.
    fn prepare(&mut self) -> io::Result<()>;

    /// Sees the isolation layers that are in force and may refuse to run the program.
    ///
    /// # Errors
    /// That of the refusal.
    fn accept(&mut self, in_force: &IsolationInForce) -> io::Result<()>;
}

/// Starts the program of `spec` in new namespaces with the restrictions of `isolation`. `network` is a network namespace with
/// only loopback that becomes the cell's; without it the cell gets a new one.
///
/// # Errors
/// [`IsolationError`] with the step that failed; no process is left.
pub fn spawn_isolated(
    spec: &LaunchSpec,
    isolation: &Isolation,
    network: Option<OwnedFd>,
    steps: &mut dyn LaunchSteps,
) -> Result<IsolatedChild> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|e| IsolationError::new("make", "a socket pair", e))?;
    let mut flags =
        libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if network.is_none() {
        flags |= libc::CLONE_NEWNET;
    }
    if isolation.rootless {
        flags |= libc::CLONE_NEWUSER;
    }
    let outside = isolated_child::Namespaces::of_self();
    let (pid, pidfd) = clone_process(flags, spec.groups.born_in.as_ref())
        .map_err(|e| IsolationError::new("make", "namespaces", e))?;
    let Some(pidfd) = pidfd else {
        drop(ours);
        isolated_child::run_cell_init(spec, isolation, network, &outside, theirs);
    };
    drop(theirs);
    let child = Child { pid, pidfd };
    let network = network.as_ref().map(AsFd::as_fd);
    match attend(&ours, isolation, &child, network, steps) {
        Ok((listeners, in_force)) => Ok(IsolatedChild {
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
    isolation: &Isolation,
    child: &Child,
    network: Option<BorrowedFd<'_>>,
    steps: &mut dyn LaunchSteps,
) -> Result<(Vec<OwnedFd>, IsolationInForce)> {
    let mut listeners = Vec::new();
    let mut in_force = IsolationInForce::default();
    let resume_child = || {
        rustix::net::send(channel, b"k", SendFlags::NOSIGNAL)
            .map(drop)
            .map_err(|e| IsolationError::new("speak to", "the cell's first process", e))
    };
    // Once the first process needs nothing of us for a while.
    let prepare = |steps: &mut dyn LaunchSteps| {
        let failed = |e| IsolationError::new("prepare", "the cell", e);
        steps.prepare().map_err(failed)
    };
    let connect = |steps: &mut dyn LaunchSteps, network| {
        steps.connect(network).map_err(|e| {
            // A child that failed meanwhile has no network any more.
            let own = || IsolationError::new("connect the network", "", e);
            reported_error(channel).unwrap_or_else(own)
        })
    };
    // One that is there already need not wait for the first process to be in it.
    if let Some(network) = network {
        connect(steps, NetworkNamespace::Open(network))?;
    }
    loop {
        let message = receive(channel, &mut listeners)?;
        let (kind, body) = message.split_first().unwrap_or((&0, &[]));
        match kind {
            b'U' => {
                write_maps(isolation, child.pid)?;
                resume_child()?;
                if !isolation.rootless {
                    prepare(steps)?;
                }
            }
            b'N' => {
                if network.is_none() {
                    connect(steps, NetworkNamespace::OfProcess(child.pid))?;
                }
                resume_child()?;
                if isolation.rootless {
                    prepare(steps)?;
                }
            }
            // The listeners came with it.
            b'L' => {}
            b'R' => {
                let bits = body.try_into().map_or(0, u32::from_ne_bytes);
                in_force = IsolationInForce::from_bits(bits);
                steps
                    .accept(&in_force)
                    .map_err(|e| IsolationError::new("accept the isolation", "", e))?;
                resume_child()?;
            }
            b'P' => return Ok((listeners, in_force)),
            b'E' => return Err(told(body)),
            _ => {
                return Err(IsolationError::new(
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
fn write_maps(isolation: &Isolation, pid: i32) -> Result<()> {
    let put = |file: &str, text: String| {
        let path = format!("/proc/{pid}/{file}");
        std::fs::write(&path, text).map_err(|e| IsolationError::new("write", path, e))
    };
    if isolation.rootless {
        put("setgroups", "deny".to_owned())?;
    }
    let map = format!("{INNER_UID} {} 1\n", isolation.outer_uid);
    put("gid_map", map.clone())?;
    put("uid_map", map)
}

/// An error as the child put it: step, thing, number.
fn told(body: &[u8]) -> IsolationError {
    let text = String::from_utf8_lossy(body);
    let mut parts = text.split('\0');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    let (what, on, number) = (next(), next(), next());
    let source = io::Error::from_raw_os_error(number.parse().unwrap_or(0));
    IsolationError { what, on, source }
}

/// Error that the child has reported, if it has.
fn reported_error(channel: &OwnedFd) -> Option<IsolationError> {
    let mut buffer = [0u8; 2048];
    let (got, _) = rustix::net::recv(channel, &mut buffer[..], RecvFlags::DONTWAIT).ok()?;
    let body = buffer[..got].strip_prefix(b"E")?;
    Some(told(body))
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
            Err(e) => {
                return Err(IsolationError::new(
                    "hear from",
                    "the cell's first process",
                    e,
                ));
            }
        }
    };
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    Ok(buffer[..got].to_vec())
}
