//! Operations in the caller's own process, without a running hostd.

use super::journal::Line;
use super::operation::{Operation, Reply, Request};
use super::server::attempt;
use super::{Config, Helper};
use crate::{Error, Result, record};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Operations carried out in the caller's own process; see [`inline`].
#[derive(Debug, Clone)]
pub struct Inline(pub Config);

impl Helper for Inline {
    fn call(&self, operation: Operation, fds: &[BorrowedFd<'_>]) -> Result<Reply> {
        let copy = |fd: &BorrowedFd<'_>| fd.as_fd().try_clone_to_owned();
        let fds = fds
            .iter()
            .map(copy)
            .collect::<std::io::Result<_>>()
            .map_err(Error::file("copy", "a descriptor"))?;
        inline(&self.0, operation, fds)
    }
}

/// An operation in this process, for those that need no process of their own: tools that work on
/// a home without a running house, and tests.
///
/// # Errors
/// As the operation; [`Error::Hostd`] when it is refused or is one that starts a program.
pub fn inline(config: &Config, operation: Operation, fds: Vec<OwnedFd>) -> Result<Reply> {
    let op = operation.summary().0;
    let no = |why: String| Err(Error::Hostd { op, why });
    if let Operation::Start { .. }
    | Operation::Enter { .. }
    | Operation::Firewall { .. }
    | Operation::End {} = operation
        && (config.privileged || !matches!(operation, Operation::Firewall { .. }))
    {
        return no("this needs a running hostd".to_owned());
    }
    let (one, _other) = UnixStream::pair().map_err(Error::file("make", "a socket pair"))?;
    let line = Line {
        at: record::now(),
        uid: config.serve_uid,
        pid: 0,
        op: op.to_owned(),
        subject: String::new(),
        dry_run: false,
        outcome: String::new(),
    };
    let request = Request {
        operation,
        dry_run: false,
    };
    match attempt(config, request, fds, &one, &line)? {
        Reply::Refused { why } => no(format!("refused: {why}")),
        reply => Ok(reply),
    }
}
