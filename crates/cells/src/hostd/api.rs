//! Whoever carries operations out: a running hostd, or a stand-in of tests.

use super::operation::{Hello, HostdOperation, HostdReply};
use crate::Result;
use crate::allocation::Allocation;
use crate::files::FileName;
use abbey_model::{CellName, Millis, Slug};
use abbey_plan::HostFacts;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;

/// Calls of hostd: by a client of a running one, in this process, or by a fake in tests.
pub trait HostdApi: Send + Sync + std::fmt::Debug {
    /// Performs one operation. `fds` are the descriptors that some operations take; a call with descriptors has no
    /// time limit.
    ///
    /// # Errors
    /// [`Error::Hostd`] if hostd is not running, refuses, or fails.
    fn call(&self, operation: HostdOperation, fds: &[BorrowedFd<'_>]) -> Result<HostdReply>;

    /// Version, process and privilege of the running hostd.
    ///
    /// # Errors
    /// As [`HostdApi::call`].
    fn hello(&self) -> Result<Hello> {
        match self.call(HostdOperation::Hello {}, &[])? {
            HostdReply::Hello(hello) => Ok(hello),
            other => Err(other.unexpected_reply_error()),
        }
    }

    /// Every owner that has an allocation, and what it is.
    ///
    /// # Errors
    /// As [`HostdApi::call`].
    fn owners(&self) -> Result<BTreeMap<CellName, Allocation>> {
        match self.call(HostdOperation::Owners {}, &[])? {
            HostdReply::Owners { owners } => Ok(owners),
            other => Err(other.unexpected_reply_error()),
        }
    }

    /// Text of a known file of an owner; empty if it does not exist.
    ///
    /// # Errors
    /// As [`HostdApi::call`].
    fn read_file(&self, owner: CellName, file: FileName) -> Result<String> {
        match self.call(HostdOperation::Read { owner, file }, &[])? {
            HostdReply::Text { text } => Ok(text),
            other => Err(other.unexpected_reply_error()),
        }
    }

    /// Applies the firewall rules of the current allocations. They are rolled back unless `contact` returns true in
    /// time. Returns whether something changed.
    ///
    /// # Errors
    /// As [`HostdApi::call`]; also when contact was lost and it was put back.
    fn apply_firewall(&self, confirm_within: Millis, _contact: &dyn Fn() -> bool) -> Result<bool> {
        self.call(HostdOperation::Firewall { confirm_within }, &[])
            .map(|reply| reply != HostdReply::InForce)
    }

    /// Facts about the host: networks and ports in use, and the features it can enforce.
    ///
    /// # Errors
    /// As [`HostdApi::call`].
    fn observe_host(&self) -> Result<HostFacts> {
        self.observe_host_for(BTreeSet::new(), BTreeSet::new())
    }

    /// As [`HostdApi::observe_host`], and which of these images of containers the host lacks, and how large the files of
    /// those of these agents are that are on no drives.
    ///
    /// # Errors
    /// As [`HostdApi::call`].
    fn observe_host_for(
        &self,
        container_images: BTreeSet<String>,
        sizes_of: BTreeSet<Slug>,
    ) -> Result<HostFacts> {
        let operation = HostdOperation::Observe {
            container_images,
            sizes_of,
        };
        match self.call(operation, &[])? {
            HostdReply::Host { facts } => Ok(*facts),
            other => Err(other.unexpected_reply_error()),
        }
    }
}
