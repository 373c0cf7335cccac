//! Operations in the caller's own process, without a running hostd.

use super::journal::JournalLine;
use super::operation::{HostdOperation, HostdReply, HostdRequest};
use super::server::perform_operation;
use super::{HostdApi, HostdConfig};
use crate::{Error, Result, record};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Operations of hostd performed in the caller's process; see [`run_in_process`].
#[derive(Debug, Clone)]
pub struct InProcessHostd(pub HostdConfig);

impl HostdApi for InProcessHostd {
    fn call(&self, operation: HostdOperation, fds: &[BorrowedFd<'_>]) -> Result<HostdReply> {
        let copy = |fd: &BorrowedFd<'_>| fd.as_fd().try_clone_to_owned();
        let fds = fds
            .iter()
            .map(copy)
            .collect::<std::io::Result<_>>()
            .map_err(Error::file("copy", "a descriptor"))?;
        run_in_process(&self.0, operation, fds)
    }
}

/// Performs an operation of hostd in this process, without a running hostd: for tools that work offline, and tests.
///
/// # Errors
/// As the operation; [`Error::Hostd`] if it is refused or needs a running hostd because it starts a program.
pub fn run_in_process(
    config: &HostdConfig,
    operation: HostdOperation,
    fds: Vec<OwnedFd>,
) -> Result<HostdReply> {
    let (op, phrase) = (operation.summary().0, operation.phrase());
    let no = |why: String| Err(Error::Hostd { op: phrase, why });
    if let HostdOperation::Start { .. }
    | HostdOperation::Enter { .. }
    | HostdOperation::Firewall { .. }
    | HostdOperation::End {} = operation
        && (config.privileged || !matches!(operation, HostdOperation::Firewall { .. }))
    {
        return no("this operation needs a running hostd".to_owned());
    }
    let (one, _other) = UnixStream::pair().map_err(Error::file("make", "a socket pair"))?;
    let line = JournalLine {
        at: record::now(),
        uid: config.serve_uid,
        pid: 0,
        op: op.to_owned(),
        subject: String::new(),
        dry_run: false,
        outcome: String::new(),
    };
    let request = HostdRequest {
        operation,
        dry_run: false,
    };
    match perform_operation(config, request, fds, &one, &line, None)? {
        HostdReply::Refused { why } => no(format!("refused: {why}")),
        reply => Ok(reply),
    }
}
