//! What is ready before the program that runs a microVM or container starts.

use super::drives;
use super::firecracker::FirecrackerSetup;
use super::template::MicroVmTemplate;
use crate::CellSpec;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

/// A microVM or container whose files and channel are ready; its program is not started yet.
pub(crate) struct PreparedGuest {
    /// The cell around the program that runs it.
    pub(crate) outer: CellSpec,
    /// That program's descriptors from 4 on.
    pub(crate) fds: Vec<OwnedFd>,
    /// Our end of the guest's channel.
    pub(crate) line: GuestLine,
    /// What the program must be told before the microVM begins.
    pub(crate) firecracker_setup: Option<FirecrackerSetup>,
    /// Our end of the program's own, if it has one.
    pub(crate) monitor: Option<OwnedFd>,
    /// Drives that are held.
    pub(crate) held: Option<drives::LockedDrives>,
    /// Snapshot that is created, or restored.
    pub(crate) aside: SnapshotRole,
}

/// Our end of a guest's channel.
#[derive(Debug)]
pub(crate) enum GuestLine {
    /// It stands.
    Open(OwnedFd),
    /// The guest calls here, by way of a program of this user.
    Called {
        /// Where.
        at: UnixListener,
        /// Who runs the microVM; none shares the house's user.
        uid: Option<u32>,
    },
}

/// Role of a boot in the use of templates.
#[derive(Debug)]
pub(crate) enum SnapshotRole {
    /// Nothing.
    Nothing,
    /// It becomes one.
    Make(MicroVmTemplate),
    /// It begins with these devices of one.
    Restore(OwnedFd),
}

impl SnapshotRole {
    /// Value of `boot` in the cell's record: `cold`, or `template` for a microVM that starts from one.
    pub(crate) const fn boot_kind(&self) -> &'static str {
        match self {
            SnapshotRole::Nothing | SnapshotRole::Make(_) => "cold",
            SnapshotRole::Restore(_) => "template",
        }
    }
}
