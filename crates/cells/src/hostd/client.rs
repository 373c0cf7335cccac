//! Calling hostd.

use super::HostdApi;
use super::HostdConfig;
use super::operation::{HostdOperation, HostdReply, HostdRequest};
use crate::sys::descriptors;
use crate::sys::lock::holder_of_lock_file;
use crate::sys::process::is_stopped;
use crate::{Error, Result};
use abbey_model::Millis;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest wait for an answer; starting a cell takes milliseconds, sweeping one seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longest wait until hostd has received a call; a host without free processor time delays it.
pub(super) const RECEIVES_WITHIN: Duration = Duration::from_secs(10);

/// Longest wait until hostd has received a call while a signal keeps its process stopped.
const CONTINUES_WITHIN: Duration = Duration::from_secs(3);

/// First pause between two looks whether a call was received; each is twice as long as the one before.
const FIRST_LOOK: Duration = Duration::from_micros(200);

/// Longest pause between two looks whether a call was received.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Bytes without which a request is invalid: the brace and the line break at its end.
const END_OF_REQUEST: usize = 2;

/// Client of a running hostd over its Unix socket.
#[derive(Debug, Clone)]
pub struct HostdClient {
    socket: PathBuf,
    /// What hostd holds locked while it runs.
    lock: PathBuf,
}

impl HostdClient {
    /// Client of the hostd that serves the house in directory `home`. Does not connect yet.
    pub fn new(home: &Path) -> Self {
        HostdClient {
            socket: HostdConfig::socket_path(home),
            lock: HostdConfig::lock_path(home),
        }
    }

    /// Checks whether hostd would accept an operation, without performing it.
    ///
    /// # Errors
    /// As [`HostdApi::call`].
    pub fn dry_run(&self, operation: HostdOperation) -> Result<HostdReply> {
        self.exchange(operation, &[], Some(PATIENCE), true, &|| false)
    }

    fn exchange(
        &self,
        operation: HostdOperation,
        fds: &[BorrowedFd<'_>],
        patience: Option<Duration>,
        dry_run: bool,
        contact: &dyn Fn() -> bool,
    ) -> Result<HostdReply> {
        let op = operation.phrase();
        let gone = |e: io::Error| Error::HostdSilent {
            op,
            why: match is_absent(&e) {
                true => "does not run".to_owned(),
                false => format!("does not answer at `{}` ({e})", self.socket.display()),
            },
        };
        let mut bytes = serde_json::to_vec(&HostdRequest { operation, dry_run })
            .map_err(|e| gone(io::Error::other(e)))?;
        bytes.push(b'\n');
        let hangs = |pid: Option<i32>| Error::HostdHangs {
            op,
            pid,
            stopped: pid.and_then(is_stopped) == Some(true),
        };
        let refused_or_full = |e: io::Error| match e.kind() {
            io::ErrorKind::WouldBlock => hangs(holder_of_lock_file(&self.lock)),
            _ => gone(e),
        };
        let stream = connect(&self.socket, &self.lock).map_err(refused_or_full)?;
        let pid = require_trusted_peer(&stream).map_err(gone)?;
        let not_taken = |e: io::Error| match e.kind() {
            io::ErrorKind::WouldBlock => hangs(Some(pid)),
            _ => gone(e),
        };
        // Descriptors that wait in a queue stay open there, and so whoever reads their other ends would wait as long. They
        // go with the end of the request, once its beginning was received.
        let held_back = if fds.is_empty() { 0 } else { END_OF_REQUEST };
        let (begin, end) = bytes.split_at(bytes.len().saturating_sub(held_back));
        descriptors::send_with_descriptors(&stream, begin, &[]).map_err(not_taken)?;
        if !is_received(&stream, pid).map_err(gone)? {
            return Err(hangs(Some(pid)));
        }
        if !end.is_empty() {
            descriptors::send_with_descriptors(&stream, end, fds).map_err(not_taken)?;
        }
        stream.set_read_timeout(patience).map_err(gone)?;
        let unfinished = |e: io::Error| match (e.kind(), patience) {
            (io::ErrorKind::WouldBlock, Some(patience)) => Error::HostdUnfinished {
                op,
                seconds: patience.as_secs(),
            },
            _ => gone(e),
        };
        let mut lines = BufReader::new(&stream);
        let mut next = || {
            let mut line = String::new();
            if lines.read_line(&mut line).map_err(unfinished)? == 0 {
                return Err(Error::HostdLost { op });
            }
            serde_json::from_str(&line).map_err(|e| gone(io::Error::other(e)))
        };
        let mut reply = next()?;
        if reply == HostdReply::Trial {
            if contact() {
                (&stream).write_all(b"k").map_err(gone)?;
            }
            stream.shutdown(Shutdown::Write).map_err(gone)?;
            reply = next()?;
        }
        match reply {
            HostdReply::Refused { why } => Err(Error::Hostd {
                op,
                why: format!("refused: {why}"),
            }),
            HostdReply::Failed { why } => Err(Error::Hostd { op, why }),
            reply => Ok(reply),
        }
    }
}

/// Connects to hostd. While its queue of connections is full, waits as long as for the receipt of a call.
///
/// # Errors
/// As [`connect_within`].
fn connect(socket: &Path, lock: &Path) -> io::Result<UnixStream> {
    match connect_within(socket, CONTINUES_WITHIN) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
        connected => return connected,
    }
    let is_stopped = holder_of_lock_file(lock).and_then(is_stopped) == Some(true);
    let rest = match is_stopped {
        // It takes no call before it goes on; one more attempt, without a wait that anybody would notice.
        true => FIRST_LOOK,
        false => RECEIVES_WITHIN.saturating_sub(CONTINUES_WITHIN),
    };
    connect_within(socket, rest)
}

/// Connects to a Unix socket. While its queue of connections is full, waits for `limit` at most, and then fails with
/// [`io::ErrorKind::WouldBlock`], as do later attempts to send what does not fit.
pub(super) fn connect_within(socket: &Path, limit: Duration) -> io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let stream = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&stream, sockopt::Timeout::Send, Some(limit))?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(socket)?)?;
    Ok(UnixStream::from(stream))
}

/// Whether a connection failed because no process listens.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error.kind(), ConnectionRefused | NotFound)
}

/// Whether hostd of a house takes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostdState {
    /// It does not run.
    Absent,
    /// Its process, which has this number if that is known, did not accept a connection in time.
    Silent(Option<i32>),
    /// It accepts connections.
    TakesCalls,
    /// This process may not connect to it.
    Unknown,
}

/// Whether hostd of the house in `home` accepts a connection `within` this time. Calls that it is at work on do not matter.
pub fn hostd_state(home: &Path, within: Duration) -> HostdState {
    let stream = match connect_within(&HostdConfig::socket_path(home), within) {
        Ok(stream) => stream,
        Err(e) if is_absent(&e) => return HostdState::Absent,
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
            let pid = holder_of_lock_file(&HostdConfig::lock_path(home));
            return HostdState::Silent(pid);
        }
        Err(_) => return HostdState::Unknown,
    };
    let Ok(pid) = require_trusted_peer(&stream) else {
        return HostdState::Unknown;
    };
    // Whoever accepts a connection without a request closes it.
    let closes = stream
        .shutdown(Shutdown::Write)
        .and_then(|()| stream.set_read_timeout(Some(within)))
        .and_then(|()| (&stream).read(&mut [0]));
    match closes {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => HostdState::Silent(Some(pid)),
        _ => HostdState::TakesCalls,
    }
}

/// Waits until the request that was sent over `stream` was received, which needs nothing but that hostd, process `pid`,
/// accepts the connection: however long the operation itself takes, its process reads the request at once. Returns false
/// if it was not received in time.
fn is_received(stream: &UnixStream, pid: i32) -> io::Result<bool> {
    let began = Instant::now();
    let mut pause = FIRST_LOOK;
    while abbey_launch::has_unreceived_bytes(stream.as_fd())? {
        let mut reply = [PollFd::new(stream, PollFlags::IN)];
        let wait = Timespec::try_from(pause).map_err(io::Error::other)?;
        match poll(&mut reply, Some(&wait)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(e) => return Err(e.into()),
        }
        pause = LOOK_EVERY.min(pause * 2);
        let limit = match is_stopped(pid) {
            Some(true) => CONTINUES_WITHIN,
            _ => RECEIVES_WITHIN,
        };
        if began.elapsed() >= limit {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Refuses a socket at which neither root nor the user of this process listens. Returns the process that listens.
fn require_trusted_peer(stream: &UnixStream) -> io::Result<i32> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    match peer.uid.is_root() || peer.uid == rustix::process::geteuid() {
        true => Ok(peer.pid.as_raw_nonzero().get()),
        false => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("user {} listens there, not root", peer.uid.as_raw()),
        )),
    }
}

/// Times that a call is made whose connection breaks off: each is served by a process of its own,
/// which may be ended without harm to any other.
const TRIES: usize = 3;

impl HostdApi for HostdClient {
    fn call(&self, operation: HostdOperation, fds: &[BorrowedFd<'_>]) -> Result<HostdReply> {
        let patience = fds.is_empty().then_some(PATIENCE);
        for _ in 1..TRIES {
            if !operation.is_idempotent() {
                break;
            }
            match self.exchange(operation.clone(), fds, patience, false, &|| false) {
                Err(Error::HostdLost { .. }) => {}
                ended => return ended,
            }
        }
        self.exchange(operation, fds, patience, false, &|| false)
    }

    fn apply_firewall(&self, confirm_within: Millis, contact: &dyn Fn() -> bool) -> Result<bool> {
        let operation = HostdOperation::Firewall { confirm_within };
        self.exchange(operation, &[], Some(PATIENCE), false, contact)
            .map(|reply| reply != HostdReply::InForce)
    }
}
