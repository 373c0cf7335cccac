//! Files that a microVM is made of, and the cell around the program that runs it.

use super::instructions::config_path;
use super::{drives, image, tools};
use crate::spec::MicroVm;
use crate::{Bind, CellProgram, CellSpec, Result, Sandbox};
use abbey_model::{Bytes, Limits, Profile};
use std::path::{Path, PathBuf};

/// What the program around a guest needs beside the guest's memory.
const OVERHEAD: Bytes = Bytes(192 << 20);
/// Processes and threads of that program.
const PROCESSES: u32 = 64;

/// Files of a microVM, as its virtual machine monitor sees them.
pub(crate) struct MicroVmParts {
    pub(crate) image: image::Image,
    /// Drive with Abbey's own binary.
    pub(crate) tools: PathBuf,
    pub(crate) binds: Vec<Bind>,
    pub(crate) held: Option<drives::LockedDrives>,
}

/// Finds or creates the kernel, drives and tools of a microVM, and the mounts that show them below `root` to the
/// virtual machine monitor.
pub(crate) fn collect_parts(
    spec: &CellSpec,
    microvm: &MicroVm,
    root: &str,
) -> Result<MicroVmParts> {
    let place = microvm.images.join(&microvm.image);
    let image = image::open_verified_image(&place)?;
    let tools = tools::ensure_tools_drive(&microvm.images)?;
    let mut binds = Vec::new();
    let mut bind = |source: PathBuf, name: &str, writable| {
        binds.push(Bind {
            source,
            path: Path::new(root).join(name),
            writable,
        });
    };
    bind(place.join("kernel"), "kernel", false);
    bind(place.join("initrd"), "initrd", false);
    bind(place.join("base.ext4"), "base", false);
    bind(tools.clone(), "tools", false);
    let held = match &microvm.drives {
        None => None,
        Some(classes) => {
            let held = drives::lock_drives(&spec.cell, &microvm.files, classes, spec.uid)?;
            let scratch = spec.run_dir.join("scratch.ext4");
            drives::create_scratch_drive(&scratch, classes.scratch, spec.uid)?;
            bind(scratch, "scratch", true);
            bind(held.state.clone(), "state", true);
            bind(held.workspace.clone(), "workspace", true);
            Some(held)
        }
    };
    bind(config_path(spec), "config", false);
    Ok(MicroVmParts {
        image,
        tools,
        binds,
        held,
    })
}

/// Specification of the sandbox in which the virtual machine monitor of a microVM runs.
pub(crate) fn monitor_cell(
    spec: &CellSpec,
    program: CellProgram,
    argv: Vec<String>,
    binds: Vec<Bind>,
) -> CellSpec {
    CellSpec {
        program,
        argv,
        env: vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())],
        cwd: PathBuf::from("/"),
        limits: Limits {
            memory: Bytes(spec.limits.memory.0 + OVERHEAD.0),
            processes: PROCESSES,
            ..spec.limits
        },
        sandbox: Some(Sandbox {
            binds,
            profile: Profile::Jit,
            tmp: Bytes(16 << 20),
        }),
        network: None,
        forwards: Vec::new(),
        terminal: false,
        ready_within: None,
        microvm: None,
        ..spec.clone()
    }
}
