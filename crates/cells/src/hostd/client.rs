//! Calling hostd.

use super::HostdApi;
use super::HostdConfig;
use super::operation::{HostdOperation, HostdReply, HostdRequest};
use crate::sys::descriptors;
use crate::{Error, Result};
use abbey_model::Millis;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest wait for an answer; starting a cell takes milliseconds, sweeping one seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Client of a running hostd over its Unix socket.
#[derive(Debug, Clone)]
pub struct HostdClient {
    socket: PathBuf,
}

impl HostdClient {
    /// Client of the hostd that serves the house in directory `home`. Does not connect yet.
    pub fn new(home: &Path) -> Self {
        HostdClient {
            socket: HostdConfig::socket_path(home),
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
        let op = operation.summary().0;
        let gone = |e: io::Error| Error::HostdSilent {
            op,
            why: format!(
                "`{}` does not answer ({e}); `abbey up` starts it again",
                self.socket.display()
            ),
        };
        let mut bytes = serde_json::to_vec(&HostdRequest { operation, dry_run })
            .map_err(|e| gone(io::Error::other(e)))?;
        bytes.push(b'\n');
        let stream = UnixStream::connect(&self.socket).map_err(gone)?;
        require_trusted_peer(&stream).map_err(gone)?;
        stream.set_read_timeout(patience).map_err(gone)?;
        descriptors::send_with_descriptors(&stream, &bytes, fds).map_err(gone)?;
        let mut lines = BufReader::new(&stream);
        let mut next = || {
            let mut line = String::new();
            if lines.read_line(&mut line).map_err(gone)? == 0 {
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

/// Refuses a socket at which neither root nor the user of this process listens.
fn require_trusted_peer(stream: &UnixStream) -> io::Result<()> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?.uid;
    match peer.is_root() || peer == rustix::process::geteuid() {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("user {} listens there, not root", peer.as_raw()),
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
