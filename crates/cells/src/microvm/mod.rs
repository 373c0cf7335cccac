//! MicroVMs: what one is made of, and the program that runs it.
//!
//! The program that runs a microVM is itself in a sandbox, as the cell's user, with no network at all: a
//! guest that breaks out of its microVM is where an ordinary cell begins. Everything between the guest
//! and the house goes over one channel ([`crate::guest::channel`]).

pub mod drives;
pub mod firecracker;
pub mod image;
mod image_setuid;
mod instructions;
mod kernel;
mod parts;
mod prepared;
mod qemu;
mod requirements;
mod template;
mod tools;

pub use crate::{spec::BootOrigin, spec::MicroVm};
pub(crate) use instructions::{
    config_path, guest_instructions, write_config, write_waiting_instructions,
};
pub(crate) use prepared::{GuestLine, PreparedGuest, SnapshotRole};
pub(crate) use qemu::{PROGRAM as QEMU, QemuMonitor};
pub(crate) use requirements::why_microvms_unusable;
pub(crate) use template::MicroVmTemplate;
pub(crate) use tools::ensure_tools_directory;

use crate::{CellSpec, Result};
use abbey_model::Vmm;

/// Creates everything that a microVM needs (drives, instructions, sockets, command line) with its virtual machine
/// monitor, which is not started yet.
pub(crate) fn prepare_microvm(
    spec: &CellSpec,
    microvm: &MicroVm,
    boot: u64,
) -> Result<PreparedGuest> {
    match microvm.vmm {
        Vmm::Qemu => qemu::prepare_qemu(spec, microvm, boot),
        Vmm::Firecracker => firecracker::prepare_firecracker(spec, microvm, boot),
    }
}
