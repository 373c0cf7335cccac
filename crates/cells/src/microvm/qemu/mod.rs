//! MicroVMs by QEMU.

mod arguments;
mod kvm;
mod monitor;

pub(crate) use arguments::PROGRAM;
pub(crate) use kvm::{bind as bind_kvm, usable as kvm_usable};
pub(crate) use monitor::Monitor;

use super::instructions::{config_path, instructions_of, write_config};
use super::parts::{around, parts};
use super::prepared::{Aside, Line, Prepared};
use super::template::{self, Template};
use crate::spec::{Machine, Origin};
use crate::{CellSpec, Error, Program, Result};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Makes everything that such a microVM needs.
pub(crate) fn prepare(spec: &CellSpec, machine: &Machine, boot: u64) -> Result<Prepared> {
    let parts = parts(spec, machine, arguments::ROOT)?;
    let kvm = kvm_usable();
    let key = || {
        let cpus = spec.limits.cpu_milli.div_ceil(1000).max(1);
        template::key(&parts.image, &parts.tools, spec.limits.memory, cpus, kvm)
    };
    let template = match &machine.origin {
        Origin::Cold => None,
        Origin::Template => Some(Template::empty(key(), arguments::memory(spec))?),
        Origin::From { template, waits } => {
            let dir = spec.run_dir.with_file_name(template.to_string());
            match Template::fetch(&dir, &key()) {
                Ok(template) => Some(template),
                // A command that is waited for boots its machine instead.
                Err(_) if !waits => None,
                Err(error) => return Err(error),
            }
        }
    };
    let instructions = match (&machine.origin, &template) {
        (Origin::Template, _) | (Origin::From { waits: true, .. }, _) => None,
        _ => Some(instructions_of(spec, machine, boot)?),
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
    let memory = match (&machine.origin, &template) {
        (_, None) => arguments::Memory::Own,
        (Origin::Template, Some(_)) => arguments::Memory::Shared,
        (_, Some(_)) => arguments::Memory::Copied,
    };
    if let Some(template) = &template {
        let copy = template.memory.try_clone();
        fds.push(copy.map_err(Error::file("use", "the memory of a template"))?);
    }
    let aside = match (&machine.origin, template) {
        (_, None) => Aside::Nothing,
        (Origin::Template, Some(template)) => Aside::Make(template),
        (_, Some(template)) => Aside::Restore(template.devices()?),
    };
    let argv = arguments::arguments(spec, machine.drives.is_some(), kvm, memory);
    Ok(Prepared {
        outer: around(spec, Program::Path(PathBuf::from(PROGRAM)), argv, binds),
        fds,
        line: Line::Open(channel),
        teller: None,
        monitor: Some(monitor),
        held: parts.held,
        aside,
    })
}
