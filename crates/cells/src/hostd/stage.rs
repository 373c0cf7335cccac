//! Files of a single command: brought along, taken along, deleted. Before its cell starts only we
//! write there; afterwards nothing is reached by following a link.

use super::files::dir_of;
use super::pack;
use super::server::Config;
use crate::{Error, Result};
use abbey_model::CellName;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

/// Most bytes that a command brings along or leaves to be taken, unpacked.
const BYTES_MAX: u64 = 256 << 20;
/// Most entries of an archive.
const ENTRIES_MAX: usize = 10_000;

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// A path that stays where it begins.
fn is_plain(path: &Path) -> bool {
    let mut parts = path
        .components()
        .filter(|c| *c != Component::CurDir)
        .peekable();
    parts.peek().is_some() && parts.all(|c| matches!(c, Component::Normal(_)))
}

/// Unpacks an archive of directories and files into the directory of `owner`, for its user.
pub(super) fn stage(
    config: &Config,
    owner: &CellName,
    uid: Option<u32>,
    archive: OwnedFd,
) -> Result<()> {
    let dir = dir_of(config, owner);
    unpack(&dir, uid, File::from(archive)).map_err(Error::file("unpack into", &dir))
}

/// Unpacks an archive that comes over a stream into a directory of the house's own.
pub(crate) fn unpack_in(dir: &Path, uid: Option<u32>, archive: OwnedFd) -> Result<()> {
    unpack(dir, uid, File::from(archive)).map_err(Error::file("unpack into", dir))
}

fn unpack(dir: &Path, uid: Option<u32>, archive: File) -> io::Result<()> {
    if fs::read_dir(dir)?.next().is_some() {
        return Err(invalid("it is not empty"));
    }
    let mut archive = tar::Archive::new(archive);
    let mut left = BYTES_MAX;
    for (n, entry) in archive.entries()?.enumerate() {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if n >= ENTRIES_MAX || entry.size() > left {
            return Err(invalid("there is more than a command may bring along"));
        }
        left -= entry.size();
        match entry.header().entry_type() {
            tar::EntryType::Directory if path == Path::new("./") || path == Path::new(".") => {}
            _ if !is_plain(&path) => return Err(invalid("a path leads out of it")),
            tar::EntryType::Directory => make_dirs(dir, &path, uid)?,
            tar::EntryType::Regular => {
                if let Some(parent) = path.parent().filter(|p| is_plain(p)) {
                    make_dirs(dir, parent, uid)?;
                }
                let to = dir.join(&path);
                let mut file = File::create_new(&to)?;
                io::copy(&mut entry, &mut file)?;
                use std::os::unix::fs::PermissionsExt;
                let mode = entry.header().mode()? & 0o777 | 0o600;
                file.set_permissions(fs::Permissions::from_mode(mode))?;
                std::os::unix::fs::fchown(&file, uid, uid)?;
            }
            _ => return Err(invalid("only files and directories are brought along")),
        }
    }
    Ok(())
}

fn make_dirs(dir: &Path, path: &Path, uid: Option<u32>) -> io::Result<()> {
    let mut at = dir.to_owned();
    for part in path.components() {
        at.push(part);
        match fs::create_dir(&at) {
            Ok(()) => std::os::unix::fs::chown(&at, uid, uid)?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Packs files and directories of `owner`; what is not there, or is no file, is an error.
pub(super) fn collect(
    config: &Config,
    owner: &CellName,
    paths: &[PathBuf],
    to: OwnedFd,
) -> Result<()> {
    let dir = dir_of(config, owner);
    let archive = pack_into(&dir, paths, to)?;
    let end = archive
        .into_inner()
        .and_then(|mut file| match file.stream_position()? > BYTES_MAX {
            true => Err(invalid("it is more than can be taken along")),
            false => file.flush(),
        });
    end.map_err(Error::file("take along from", dir))
}

/// Packs files and directories below one, onto a stream.
pub(crate) fn pack_below(dir: &Path, paths: &[PathBuf], to: OwnedFd) -> Result<()> {
    let end = pack_into(dir, paths, to)?.into_inner();
    end.map(drop).map_err(Error::file("take along from", dir))
}

fn pack_into(dir: &Path, paths: &[PathBuf], to: OwnedFd) -> Result<tar::Builder<File>> {
    let mut archive = tar::Builder::new(File::from(to));
    for path in paths {
        let taken = match is_plain(path) {
            true => pack::add_below(&mut archive, dir, path),
            false => Err(invalid("it leads out of the command's directory")),
        };
        taken.map_err(Error::file("take along", path))?;
    }
    Ok(archive)
}

/// Deletes the directory and the log of a command; nothing runs in it any more.
pub(super) fn discard(config: &Config, owner: &CellName) -> Result<()> {
    let log = config.home.join("logs").join(owner.to_string());
    for dir in [dir_of(config, owner), log] {
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::file("remove", dir)(e));
            }
            _ => {}
        }
    }
    Ok(())
}
