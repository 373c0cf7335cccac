//! Instructions of a guest: what its first process is told, on a drive or file that it reads once.

use crate::files::{FileEntry, FileName};
use crate::guest::GuestConfig;
use crate::spec::MicroVm;
use crate::{CellProgram, CellSpec, Error, ListenAddress, Result, files, record};
use abbey_model::CellName;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The drive with the guest's instructions has always this size: a microVM whose snapshot was
/// made before it got any must find a drive of the same size.
const CONFIG_SIZE: usize = 1 << 20;

/// Path of the file with the guest's instructions; the guest reads it once and the shim then removes it.
pub(crate) fn config_path(spec: &CellSpec) -> PathBuf {
    spec.run_dir.join("config")
}

/// Instructions for the guest of a microVM: those of every guest, with the agent's files and the files to bring and
/// take.
pub(crate) fn microvm_instructions(
    spec: &CellSpec,
    microvm: &MicroVm,
    boot: u64,
) -> Result<GuestConfig> {
    Ok(GuestConfig {
        files: files_of(&spec.cell, &microvm.files)?,
        brings: microvm.brings,
        take: microvm.take.clone(),
        ..guest_instructions(spec, boot)?
    })
}

/// Instructions for any guest: program, environment, ports, limits, random seed and clock. `boot` is the number of
/// the boot.
pub(crate) fn guest_instructions(spec: &CellSpec, boot: u64) -> Result<GuestConfig> {
    let mut entropy = [0u8; 64];
    let mut filled = 0;
    while filled < entropy.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut entropy[filled..], flags)
            .map_err(|e| Error::file("read", "random bytes")(e.into()))?;
    }
    let listen = spec.forwards.iter().filter_map(|f| match f.at {
        ListenAddress::Cell(at) => Some(at),
        ListenAddress::Host(_) => None,
    });
    Ok(GuestConfig {
        cell: spec.cell.clone(),
        boot,
        own: spec.program == CellProgram::Own,
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
        clock_ms: record::now().0,
    })
}

/// What the house wrote for an agent.
fn files_of(cell: &CellName, files: &Path) -> Result<Vec<FileEntry>> {
    if !matches!(cell, CellName::Agent(_)) {
        return Ok(Vec::new());
    }
    let names = FileName::FOR_AGENTS.into_iter();
    names
        .chain(files::list_removable_files(files)?)
        .filter_map(
            |name| match files::read_file_written_by_house(files, &name) {
                Ok(None) => None,
                Ok(Some(content)) => Some(Ok(FileEntry { name, content })),
                Err(e) => Some(Err(e)),
            },
        )
        .collect()
}

/// Writes the instructions of a waiting microVM to the drive that its guest has not read yet.
pub(crate) fn write_waiting_instructions(
    spec: &CellSpec,
    microvm: &MicroVm,
    boot: u64,
) -> Result<()> {
    let path = config_path(spec);
    // The rest of the drive was filled when it was made.
    let bytes = line(&path, &microvm_instructions(spec, microvm, boot)?)?;
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut f| f.write_all(&bytes))
        .map_err(Error::file("write", path))
}

/// Instructions as one line that fits on the drive.
fn line(path: &Path, config: &GuestConfig) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(config).map_err(|e| Error::Record {
        path: path.to_owned(),
        why: e.to_string(),
    })?;
    if bytes.len() >= CONFIG_SIZE {
        return Err(Error::Record {
            path: path.to_owned(),
            why: "the instructions of the guest are longer than 1 MiB".to_owned(),
        });
    }
    bytes.push(b'\n');
    Ok(bytes)
}

/// Writes instructions to the file that a guest gets as a drive of 1 MiB, owned by `uid`; none leaves the drive
/// empty.
pub(crate) fn write_config(
    path: &Path,
    config: Option<&GuestConfig>,
    uid: Option<u32>,
) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let _left_by_a_crash = fs::remove_file(path);
    let mut bytes = match config {
        Some(config) => line(path, config)?,
        None => Vec::new(),
    };
    bytes.resize(CONFIG_SIZE, b'\n');
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
