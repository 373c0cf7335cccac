//! MicroVMs by QEMU.

mod arguments;
mod kvm;
mod monitor;

pub(crate) use arguments::PROGRAM;
pub(crate) use kvm::{is_kvm_usable as kvm_usable, kvm_bind as bind_kvm};
pub(crate) use monitor::QemuMonitor;

use super::instructions::{config_path, microvm_instructions, write_config};
use super::parts::{collect_parts, monitor_cell};
use super::prepared::{GuestLine, PreparedGuest, SnapshotRole};
use super::template::{self, MicroVmTemplate};
use crate::spec::{BootOrigin, MicroVm};
use crate::{CellProgram, CellSpec, Error, Result};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Creates the files, channel, monitor socket, command line and template memory of a QEMU microVM; QEMU is not
/// started yet.
pub(crate) fn prepare_qemu(spec: &CellSpec, microvm: &MicroVm, boot: u64) -> Result<PreparedGuest> {
    let parts = collect_parts(spec, microvm, arguments::ROOT)?;
    let kvm = kvm_usable();
    let key = || {
        let cpus = spec.limits.cpu_milli.div_ceil(1000).max(1);
        template::template_key(&parts.image, &parts.tools, spec.limits.memory, cpus, kvm)
    };
    let template = match &microvm.origin {
        BootOrigin::Cold => None,
        BootOrigin::Template => Some(MicroVmTemplate::empty(
            key(),
            arguments::guest_memory(spec),
        )?),
        BootOrigin::From { template, waits } => {
            let dir = spec.run_dir.with_file_name(template.to_string());
            match MicroVmTemplate::fetch_from_shim(&dir, &key()) {
                Ok(template) => Some(template),
                // A command that is waited for boots its microVM instead.
                Err(_) if !waits => None,
                Err(error) => return Err(error),
            }
        }
    };
    let instructions = match (&microvm.origin, &template) {
        (BootOrigin::Template, _) | (BootOrigin::From { waits: true, .. }, _) => None,
        _ => Some(microvm_instructions(spec, microvm, boot)?),
    };
    write_config(&config_path(spec), instructions.as_ref(), spec.uid)?;
    let mut binds = parts.binds;
    if kvm {
        binds.push(bind_kvm(spec)?);
    }
    let pair = || -> Result<(OwnedFd, OwnedFd)> {
        let broken = || Error::file("make", "a socket pair");
        let (ours, theirs) = UnixStream::pair().map_err(broken())?;
        ours.set_nonblocking(true).map_err(broken())?;
        Ok((ours.into(), theirs.into()))
    };
    let ((channel, channel_end), (monitor, monitor_end)) = (pair()?, pair()?);
    let mut fds = vec![channel_end, monitor_end];
    let memory = match (&microvm.origin, &template) {
        (_, None) => arguments::MemorySource::Own,
        (BootOrigin::Template, Some(_)) => arguments::MemorySource::Shared,
        (_, Some(_)) => arguments::MemorySource::Copied,
    };
    if let Some(template) = &template {
        let copy = template.memory.try_clone();
        fds.push(copy.map_err(Error::file("use", "the memory of a template"))?);
    }
    let aside = match (&microvm.origin, template) {
        (_, None) => SnapshotRole::Nothing,
        (BootOrigin::Template, Some(template)) => SnapshotRole::Make(template),
        (_, Some(template)) => SnapshotRole::Restore(template.open_devices()?),
    };
    let argv = arguments::qemu_arguments(spec, microvm.drives.is_some(), kvm, memory);
    Ok(PreparedGuest {
        outer: monitor_cell(spec, CellProgram::Path(PathBuf::from(PROGRAM)), argv, binds),
        fds,
        line: GuestLine::Open(channel),
        firecracker_setup: None,
        monitor: Some(monitor),
        held: parts.held,
        aside,
    })
}
