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

/// Files that a microVM is made of, as the program that runs it sees them.
pub(crate) struct MicroVmParts {
    pub(crate) image: image::Image,
    /// The drive with the house's own program.
    pub(crate) tools: PathBuf,
    pub(crate) binds: Vec<Bind>,
    pub(crate) held: Option<drives::LockedDrives>,
}

/// Makes or finds the files of a microVM, below `root` in the eyes of whoever runs it.
pub(crate) fn parts(spec: &CellSpec, microvm: &MicroVm, root: &str) -> Result<MicroVmParts> {
    let place = microvm.images.join(&microvm.image);
    let image = image::verified(&place)?;
    let tools = tools::ensure(&microvm.images)?;
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
            let held = drives::take(&spec.cell, &microvm.files, classes, spec.uid)?;
            let scratch = spec.run_dir.join("scratch.ext4");
            drives::scratch(&scratch, classes.scratch, spec.uid)?;
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

/// The cell around the program that runs a machine.
pub(crate) fn around(
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
