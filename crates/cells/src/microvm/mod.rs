//! MicroVMs: what one is made of, and the program that runs it.
//!
//! The program that runs a microVM is itself in a sandbox, as the cell's user, with no network at all: a
//! guest that breaks out of its microVM is where an ordinary cell begins. Everything between the guest
//! and the house goes over one channel ([`crate::guest::channel`]).

pub mod drives;
pub mod firecracker;
pub mod image;
mod instructions;
mod kernel;
mod parts;
mod prepared;
mod qemu;
mod requirements;
mod template;
mod tools;

pub use crate::{spec::BootOrigin, spec::MicroVm};
pub(crate) use instructions::{config_path, instructions, tell, write_config};
pub(crate) use prepared::{GuestLine, PreparedGuest, SnapshotRole};
pub(crate) use qemu::QemuMonitor;
pub(crate) use requirements::unusable;
pub(crate) use template::MicroVmTemplate;
pub(crate) use tools::directory as tools_directory;

use crate::{CellSpec, Result};
use abbey_model::Vmm;

/// Makes everything that a microVM needs, in order: image, drives, instructions.
pub(crate) fn prepare(spec: &CellSpec, microvm: &MicroVm, boot: u64) -> Result<PreparedGuest> {
    match microvm.vmm {
        Vmm::Qemu => qemu::prepare(spec, microvm, boot),
        Vmm::Firecracker => firecracker::prepare(spec, microvm, boot),
    }
}
