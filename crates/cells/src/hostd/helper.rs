//! Whoever carries operations out: a running hostd, or a stand-in of tests.

use super::operation::{Hello, HostdOperation, HostdReply};
use crate::Result;
use crate::files::FileName;
use abbey_model::{CellName, Millis};
use abbey_plan::HostFacts;
use std::os::fd::BorrowedFd;

/// Whoever carries operations out.
pub trait HostdApi: Send + Sync + std::fmt::Debug {
    /// Calls, with descriptors where the operation takes some; then it may take any time.
    ///
    /// # Errors
    /// [`Error::Hostd`] when it is not there, refuses, or fails.
    fn call(&self, operation: HostdOperation, fds: &[BorrowedFd<'_>]) -> Result<HostdReply>;

    /// Who serves here.
    ///
    /// # Errors
    /// As [`HostdApi::call`].
    fn hello(&self) -> Result<Hello> {
        match self.call(HostdOperation::Hello {}, &[])? {
            HostdReply::Hello(hello) => Ok(hello),
            other => Err(other.unexpected()),
        }
    }

    /// Who holds anything.
    ///
    /// # Errors
    /// As [`HostdApi::call`].
    fn owners(&self) -> Result<Vec<CellName>> {
        match self.call(HostdOperation::Owners {}, &[])? {
            HostdReply::Owners { owners } => Ok(owners),
            other => Err(other.unexpected()),
        }
    }

    /// A file that an agent writes for the house.
    ///
    /// # Errors
    /// As [`HostdApi::call`].
    fn read(&self, owner: CellName, file: FileName) -> Result<String> {
        match self.call(HostdOperation::Read { owner, file }, &[])? {
            HostdReply::Text { text } => Ok(text),
            other => Err(other.unexpected()),
        }
    }

    /// Brings the firewall to what the owners hold, and keeps it when `contact` is still there. True
    /// when something had to be done.
    ///
    /// # Errors
    /// As [`HostdApi::call`]; also when contact was lost and it was put back.
    fn firewall(&self, confirm_within: Millis, _contact: &dyn Fn() -> bool) -> Result<bool> {
        self.call(HostdOperation::Firewall { confirm_within }, &[])
            .map(|reply| reply != HostdReply::InForce)
    }

    /// What the host uses already, and what can be enforced on it.
    ///
    /// # Errors
    /// As [`HostdApi::call`].
    fn observe(&self) -> Result<HostFacts> {
        match self.call(HostdOperation::Observe {}, &[])? {
            HostdReply::Host { facts } => Ok(*facts),
            other => Err(other.unexpected()),
        }
    }
}
