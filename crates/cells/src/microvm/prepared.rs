//! What is ready before the program that runs a microVM or container starts.

use super::drives;
use super::firecracker::FirecrackerSetup;
use super::template::MicroVmTemplate;
use crate::CellSpec;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

/// MicroVM or container whose files and channel are ready, before its program starts.
pub(crate) struct PreparedGuest {
    /// Specification of the cell in which the virtual machine monitor or Podman runs.
    pub(crate) outer: CellSpec,
    /// Descriptors that this program gets from number 4 on.
    pub(crate) fds: Vec<OwnedFd>,
    /// Shim's end of the channel to the guest.
    pub(crate) line: GuestLine,
    /// Configuration to send to Firecracker before the microVM starts.
    pub(crate) firecracker_setup: Option<FirecrackerSetup>,
    /// Shim's end of QEMU's monitor socket.
    pub(crate) monitor: Option<OwnedFd>,
    /// Locked drives of the microVM.
    pub(crate) held: Option<drives::LockedDrives>,
    /// Whether the microVM becomes or uses a template.
    pub(crate) aside: SnapshotRole,
}

/// How the channel to the guest is connected.
#[derive(Debug)]
pub(crate) enum GuestLine {
    /// It is connected.
    Open(OwnedFd),
    /// The guest connects to this socket through its virtual machine monitor.
    Called {
        /// Listening socket.
        at: UnixListener,
        /// User of the virtual machine monitor; none if it is the house's user.
        uid: Option<u32>,
    },
}

/// Use of a template by a boot.
#[derive(Debug)]
pub(crate) enum SnapshotRole {
    /// No template is involved.
    Nothing,
    /// The microVM is saved as this template.
    Make(MicroVmTemplate),
    /// The microVM starts from a template with this device state.
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
