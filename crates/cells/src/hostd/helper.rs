//! Whoever carries operations out: a running hostd, or a stand-in of tests.

use super::operation::{Hello, Operation, Reply};
use crate::Result;
use crate::files::FileName;
use abbey_model::{CellName, Millis};
use abbey_plan::HostFacts;
use std::os::fd::BorrowedFd;

/// Whoever carries operations out.
pub trait Helper: Send + Sync + std::fmt::Debug {
    /// Calls, with descriptors where the operation takes some; then it may take any time.
    ///
    /// # Errors
    /// [`Error::Hostd`] when it is not there, refuses, or fails.
    fn call(&self, operation: Operation, fds: &[BorrowedFd<'_>]) -> Result<Reply>;

    /// Who serves here.
    ///
    /// # Errors
    /// As [`Helper::call`].
    fn hello(&self) -> Result<Hello> {
        match self.call(Operation::Hello {}, &[])? {
            Reply::Hello(hello) => Ok(hello),
            other => Err(other.unexpected()),
        }
    }

    /// Who holds anything.
    ///
    /// # Errors
    /// As [`Helper::call`].
    fn owners(&self) -> Result<Vec<CellName>> {
        match self.call(Operation::Owners {}, &[])? {
            Reply::Owners { owners } => Ok(owners),
            other => Err(other.unexpected()),
        }
    }

    /// A file that an agent writes for the house.
    ///
    /// # Errors
    /// As [`Helper::call`].
    fn read(&self, owner: CellName, file: FileName) -> Result<String> {
        match self.call(Operation::Read { owner, file }, &[])? {
            Reply::Text { text } => Ok(text),
            other => Err(other.unexpected()),
        }
    }

    /// Brings the firewall to what the owners hold, and keeps it when `contact` is still there. True
    /// when something had to be done.
    ///
    /// # Errors
    /// As [`Helper::call`]; also when contact was lost and it was put back.
    fn firewall(&self, confirm_within: Millis, _contact: &dyn Fn() -> bool) -> Result<bool> {
        self.call(Operation::Firewall { confirm_within }, &[])
            .map(|reply| reply != Reply::InForce)
    }

    /// What the host uses already, and what can be enforced on it.
    ///
    /// # Errors
    /// As [`Helper::call`].
    fn observe(&self) -> Result<HostFacts> {
        match self.call(Operation::Observe {}, &[])? {
            Reply::Host { facts } => Ok(*facts),
            other => Err(other.unexpected()),
        }
    }
}
