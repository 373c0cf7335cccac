//! Virtual machines: what one is made of, and the program that runs it.
//!
//! The program that runs a machine is itself in a sandbox, as the cell's user, with no network at all: a
//! guest that breaks out of its machine is where an ordinary cell begins. Everything between the guest
//! and the house goes over one channel ([`crate::channel`]).

pub(crate) mod container;
pub mod drives;
pub mod firecracker;
pub mod image;
mod kernel;
mod kvm;
mod qemu;
mod qmp;
mod template;
mod tools;

pub(crate) use qmp::Monitor;
pub(crate) use template::Template;

use crate::guest::Config;
use crate::hostd::{FileEntry, FileName};
use crate::{Bind, CellSpec, Error, Listen, Program, Result, Sandbox};
use abbey_model::{Bytes, CellName, Drives, Limits, Profile, Vmm};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// What the program around a guest needs beside the guest's memory.
const OVERHEAD: Bytes = Bytes(192 << 20);
/// Processes and threads of that program.
const PROCESSES: u32 = 64;
/// The drive with the guest's instructions has always this size: a machine that was put aside before it
/// got any must find a drive of the same size.
const CONFIG_SIZE: usize = 1 << 20;

/// Where a machine begins.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// At its boot.
    #[default]
    Cold,
    /// At its boot, and it ends where its program would begin: others begin there.
    Template,
    /// Where a template ended.
    From {
        /// Which.
        template: CellName,
        /// Whether it is kept there, ready, until it is told what for.
        waits: bool,
    },
}

impl Origin {
    /// Whether a machine is kept without a program.
    pub(crate) const fn waits(&self) -> bool {
        matches!(self, Origin::From { waits: true, .. })
    }

    /// What it begins from.
    pub(crate) const fn template(&self) -> Option<&CellName> {
        match self {
            Origin::From { template, .. } => Some(template),
            Origin::Cold | Origin::Template => None,
        }
    }
}

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Image that it boots from.
    pub image: String,
    /// What runs it.
    #[serde(default)]
    pub vmm: Vmm,
    /// Sizes of its drives; none for a single command, which keeps nothing.
    pub drives: Option<Drives>,
    /// Where it begins.
    #[serde(default)]
    pub origin: Origin,
    /// Whether it starts with the files that were staged for it.
    pub brings: bool,
    /// Files that are taken from it when it has ended.
    pub take: Vec<PathBuf>,
    /// Where images are; hostd puts it in.
    pub images: PathBuf,
    /// The owner's files; hostd puts it in.
    pub files: PathBuf,
}

/// Why machines cannot run on this host; none when they can.
pub(crate) fn unusable() -> Option<String> {
    let missing = [
        (qemu::PROGRAM, "qemu-system-x86"),
        ("mkfs.ext4", "e2fsprogs"),
    ]
    .into_iter()
    .find(|(program, _)| !crate::enter::installed(program));
    if std::env::consts::ARCH != "x86_64" {
        return Some(format!(
            "machines are built for x86_64, and this host is {}",
            std::env::consts::ARCH
        ));
    }
    missing.map(|(program, package)| {
        format!("`{program}` is not installed (package {package} on Debian)")
    })
}

/// A machine that is about to run.
pub(crate) struct Prepared {
    /// The cell around the program that runs it.
    pub(crate) outer: CellSpec,
    /// That program's descriptors from 4 on.
    pub(crate) fds: Vec<OwnedFd>,
    /// Our end of the guest's channel.
    pub(crate) line: Line,
    /// What the program must be told before the machine begins.
    pub(crate) teller: Option<firecracker::Teller>,
    /// Our end of the program's own, if it has one.
    pub(crate) monitor: Option<OwnedFd>,
    /// Drives that are held.
    pub(crate) held: Option<drives::Held>,
    /// What is put aside, or brought back.
    pub(crate) aside: Aside,
}

/// Our end of a guest's channel.
#[derive(Debug)]
pub(crate) enum Line {
    /// It stands.
    Open(OwnedFd),
    /// The guest calls here, by way of a program of this user.
    Called {
        /// Where.
        at: UnixListener,
        /// Who runs the machine; none shares the house's user.
        uid: Option<u32>,
    },
}

/// What a machine has to do with templates.
#[derive(Debug)]
pub(crate) enum Aside {
    /// Nothing.
    Nothing,
    /// It becomes one.
    Make(Template),
    /// It begins with these devices of one.
    Restore(OwnedFd),
}

impl Aside {
    /// Word in the record.
    pub(crate) const fn boot(&self) -> &'static str {
        match self {
            Aside::Nothing | Aside::Make(_) => "cold",
            Aside::Restore(_) => "template",
        }
    }
}

/// Where the guest's instructions are until it has read them.
pub(crate) fn config_path(spec: &CellSpec) -> PathBuf {
    spec.run_dir.join("config")
}

/// Files that a machine is made of, as the program that runs it sees them.
pub(crate) struct Parts {
    pub(crate) image: image::Image,
    /// The drive with the house's own program.
    pub(crate) tools: PathBuf,
    pub(crate) binds: Vec<Bind>,
    pub(crate) held: Option<drives::Held>,
}

/// Makes or finds the files of a machine, below `root` in the eyes of whoever runs it.
pub(crate) fn parts(spec: &CellSpec, machine: &Machine, root: &str) -> Result<Parts> {
    let place = machine.images.join(&machine.image);
    let image = image::verified(&place)?;
    let tools = tools::ensure(&machine.images)?;
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
    let held = match &machine.drives {
        None => None,
        Some(classes) => {
            let held = drives::take(&spec.cell, &machine.files, classes, spec.uid)?;
            let scratch = spec.run_dir.join("scratch.ext4");
            drives::scratch(&scratch, classes.scratch, spec.uid)?;
            bind(scratch, "scratch", true);
            bind(held.state.clone(), "state", true);
            bind(held.workspace.clone(), "workspace", true);
            Some(held)
        }
    };
    bind(config_path(spec), "config", false);
    Ok(Parts {
        image,
        tools,
        binds,
        held,
    })
}

/// The cell around the program that runs a machine.
pub(crate) fn around(
    spec: &CellSpec,
    program: Program,
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
        machine: None,
        ..spec.clone()
    }
}

/// Makes everything that a machine needs, in order: image, drives, instructions.
pub(crate) fn prepare(spec: &CellSpec, machine: &Machine, boot: u64) -> Result<Prepared> {
    match machine.vmm {
        Vmm::Qemu => by_qemu(spec, machine, boot),
        Vmm::Firecracker => firecracker::prepare(spec, machine, boot),
    }
}

fn by_qemu(spec: &CellSpec, machine: &Machine, boot: u64) -> Result<Prepared> {
    let parts = parts(spec, machine, qemu::ROOT)?;
    let kvm = qemu::kvm_usable();
    let key = || {
        let cpus = spec.limits.cpu_milli.div_ceil(1000).max(1);
        template::key(&parts.image, &parts.tools, spec.limits.memory, cpus, kvm)
    };
    let template = match &machine.origin {
        Origin::Cold => None,
        Origin::Template => Some(Template::empty(key(), qemu::memory(spec))?),
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
        binds.push(kvm::bind(spec)?);
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
        (_, None) => qemu::Memory::Own,
        (Origin::Template, Some(_)) => qemu::Memory::Shared,
        (_, Some(_)) => qemu::Memory::Copied,
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
    let argv = qemu::arguments(spec, machine.drives.is_some(), kvm, memory);
    Ok(Prepared {
        outer: around(
            spec,
            Program::Path(PathBuf::from(qemu::PROGRAM)),
            argv,
            binds,
        ),
        fds,
        line: Line::Open(channel),
        teller: None,
        monitor: Some(monitor),
        held: parts.held,
        aside,
    })
}

/// What the first process of a machine is told.
fn instructions_of(spec: &CellSpec, machine: &Machine, boot: u64) -> Result<Config> {
    Ok(Config {
        files: identity(&spec.cell, &machine.files)?,
        brings: machine.brings,
        take: machine.take.clone(),
        ..instructions(spec, boot)?
    })
}

/// What every first process is told.
fn instructions(spec: &CellSpec, boot: u64) -> Result<Config> {
    let mut entropy = [0u8; 64];
    let mut filled = 0;
    while filled < entropy.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut entropy[filled..], flags)
            .map_err(|e| Error::file("read", "random bytes")(e.into()))?;
    }
    let listen = spec.forwards.iter().filter_map(|f| match f.at {
        Listen::Cell(at) => Some(at),
        Listen::Host(_) => None,
    });
    Ok(Config {
        cell: spec.cell.clone(),
        boot,
        own: spec.program == Program::Own,
        argv: spec.argv.clone(),
        env: spec.env.clone(),
        cwd: spec.cwd.clone(),
        terminal: spec.terminal,
        announces: spec.ready_within.is_some(),
        processes: spec.limits.processes,
        memory: spec.limits.memory,
        listen: listen.collect(),
        files: Vec::new(),
        brings: false,
        take: Vec::new(),
        contained: false,
        entropy: entropy.to_vec(),
        clock_ms: crate::shim::now().0,
    })
}

/// What the house wrote for an agent.
fn identity(cell: &CellName, files: &Path) -> Result<Vec<FileEntry>> {
    if !matches!(cell, CellName::Agent(_)) {
        return Ok(Vec::new());
    }
    let names = FileName::FOR_AGENTS.into_iter();
    names
        .chain(crate::hostd::brought_to(files)?)
        .filter_map(|name| match crate::hostd::kept(files, &name) {
            Ok(None) => None,
            Ok(Some(content)) => Some(Ok(FileEntry { name, content })),
            Err(e) => Some(Err(e)),
        })
        .collect()
}

/// Tells a machine that waited, on the drive that it has not read yet.
pub(crate) fn tell(spec: &CellSpec, machine: &Machine, boot: u64) -> Result<()> {
    let path = config_path(spec);
    let bytes = padded(&path, &instructions_of(spec, machine, boot)?)?;
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut f| f.write_all(&bytes))
        .map_err(Error::file("write", path))
}

fn padded(path: &Path, config: &Config) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(config).map_err(|e| Error::Record {
        path: path.to_owned(),
        why: e.to_string(),
    })?;
    if bytes.len() >= CONFIG_SIZE {
        return Err(Error::Record {
            path: path.to_owned(),
            why: "what the guest is told is longer than a megabyte".to_owned(),
        });
    }
    bytes.resize(CONFIG_SIZE, b'\n');
    Ok(bytes)
}

fn write_config(path: &Path, config: Option<&Config>, uid: Option<u32>) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let _left_by_a_crash = fs::remove_file(path);
    let bytes = match config {
        Some(config) => padded(path, config)?,
        None => vec![b'\n'; CONFIG_SIZE],
    };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::file("make", path))?;
    file.write_all(&bytes).map_err(Error::file("write", path))?;
    match uid {
        Some(uid) => std::os::unix::fs::fchown(&file, Some(uid), Some(uid))
            .map_err(Error::file("hand over", path)),
        None => Ok(()),
    }
}
