//! Archives of files that an agent can write to. Each file is opened beneath its directory without following links,
//! so that nothing an agent puts there, or swaps while we read, leads out of it.

use super::names::CREDENTIAL;
use crate::{Error, Result};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Files that are never in a backup.
pub(crate) const EXCLUDED: [&str; 3] = ["token", "key", "session.lock"];
/// Directories that are packed by what is on them, or not at all.
pub(crate) const LEFT_OUT: [&str; 4] = ["drives", DISKS, "lost+found", UNLOADED];
/// Directory of the disk images among an owner's files.
pub(crate) const DISKS: &str = "disks";
/// Where the files of a drive are while they are packed.
pub(crate) const UNLOADED: &str = "unloaded";
/// Deepest directory; an agent could nest without end.
const DEPTH_MAX: usize = 64;
/// Most bytes that a command brings along or leaves to be taken, unpacked.
pub(crate) const BYTES_MAX: u64 = 256 << 20;
/// Most entries of an archive.
const ENTRIES_MAX: usize = 10_000;

/// I/O error of kind `InvalidInput` with this text, for an archive or path that is refused.
pub(crate) fn invalid_archive(why: &str) -> io::Error {
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

/// Unpacks the tar archive that arrives on `archive` into the empty directory `dir`, owned by `uid`.
pub(crate) fn unpack_stream(dir: &Path, uid: Option<u32>, archive: OwnedFd) -> Result<()> {
    unpack_archive(dir, uid, File::from(archive)).map_err(Error::file("unpack into", dir))
}

/// Unpacks a tar archive of plain files and directories into the empty directory `dir`, owned by `uid`. Refuses
/// links, paths that lead out of `dir`, more than 10,000 entries and more than 256 MiB.
pub(crate) fn unpack_archive(dir: &Path, uid: Option<u32>, archive: File) -> io::Result<()> {
    if fs::read_dir(dir)?.next().is_some() {
        return Err(invalid_archive("it is not empty"));
    }
    let mut archive = tar::Archive::new(archive);
    let mut left = BYTES_MAX;
    for (n, entry) in archive.entries()?.enumerate() {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if n >= ENTRIES_MAX || entry.size() > left {
            return Err(invalid_archive(
                "the archive exceeds 10,000 entries or 256 MiB",
            ));
        }
        left -= entry.size();
        match entry.header().entry_type() {
            tar::EntryType::Directory if path == Path::new("./") || path == Path::new(".") => {}
            _ if !is_plain(&path) => {
                return Err(invalid_archive("a path leads out of the directory"));
            }
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
            _ => {
                return Err(invalid_archive(
                    "an archive may contain only files and directories",
                ));
            }
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

/// Writes a complete tar archive of `paths` below `dir` to the descriptor `to`; links are not followed.
pub(crate) fn pack_to_stream(dir: &Path, paths: &[PathBuf], to: OwnedFd) -> Result<()> {
    let end = pack_unfinished(dir, paths, to)?.into_inner();
    end.map(drop).map_err(Error::file("take along from", dir))
}

/// Writes a tar archive of `paths` below `dir` to `to` and returns it unfinished, so that the caller can add
/// entries.
pub(crate) fn pack_unfinished(
    dir: &Path,
    paths: &[PathBuf],
    to: OwnedFd,
) -> Result<tar::Builder<File>> {
    let mut archive = tar::Builder::new(File::from(to));
    for path in paths {
        let taken = match is_plain(path) {
            true => add_below(&mut archive, dir, path),
            false => Err(invalid_archive("it leads out of the command's directory")),
        };
        taken.map_err(Error::file("take along", path))?;
    }
    Ok(archive)
}

/// Whether a path below `agents/NAME` holds the agent's credential at a service, which no archive may contain.
pub(crate) fn is_credential(path: &Path) -> bool {
    let below: PathBuf = path.components().skip(2).collect();
    let first = below
        .iter()
        .next()
        .and_then(|f| f.to_str())
        .unwrap_or_default();
    below.starts_with("home/services") || first.starts_with(CREDENTIAL)
}

/// Opens `name` in the open directory `at` for reading, without following a link. `kind` adds flags such as
/// `O_DIRECTORY`.
pub(crate) fn open_below(at: impl AsFd, name: &[u8], kind: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | kind;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

/// Adds the content of an open directory to a tar archive under `name`, recursively to depth 64. Skips links,
/// credentials, and entries that vanish meanwhile.
pub(crate) fn add_directory(
    archive: &mut tar::Builder<File>,
    dir: &OwnedFd,
    name: &Path,
    depth: usize,
) -> io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        if bytes == b"." || bytes == b".." {
            continue;
        }
        let path = name.join(std::ffi::OsStr::from_bytes(bytes));
        if is_credential(&path) {
            continue;
        }
        // An agent may remove or swap an entry while we read: what is gone is left out.
        let Ok(stat) = rustix::fs::statat(dir, bytes, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if LEFT_OUT.iter().any(|l| l.as_bytes() == bytes) => {}
            FileType::Directory if depth < DEPTH_MAX => {
                let Ok(below) = open_below(dir, bytes, OFlags::DIRECTORY) else {
                    continue;
                };
                archive.append_dir(&path, format!("/proc/self/fd/{}", raw(&below)))?;
                add_directory(archive, &below, &path, depth + 1)?;
            }
            FileType::RegularFile if !EXCLUDED.iter().any(|e| e.as_bytes() == bytes) => {
                let Ok(fd) = open_below(dir, bytes, OFlags::empty()) else {
                    continue;
                };
                let mut file = File::from(fd);
                if file.metadata()?.is_file() {
                    archive.append_file(&path, &mut file)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Adds one file or directory at a path below `root`, every part of it opened without following
/// links.
fn add_below(archive: &mut tar::Builder<File>, root: &Path, path: &Path) -> io::Result<()> {
    let mut at = open_below(CWD, root.as_os_str().as_bytes(), OFlags::DIRECTORY)?;
    let parts: Vec<&[u8]> = path
        .iter()
        .map(OsStrExt::as_bytes)
        .filter(|p| *p != b".")
        .collect();
    let Some((last, parents)) = parts.split_last() else {
        return Err(io::ErrorKind::NotFound.into());
    };
    for part in parents {
        at = open_below(&at, part, OFlags::DIRECTORY)?;
    }
    let fd = open_below(&at, last, OFlags::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            archive.append_dir(path, format!("/proc/self/fd/{}", raw(&fd)))?;
            add_directory(archive, &fd, path, 0)
        }
        FileType::RegularFile => archive.append_file(path, &mut File::from(fd)),
        _ => Err(io::Error::other("it is neither a file nor a directory")),
    }
}

fn raw(fd: &OwnedFd) -> i32 {
    use std::os::fd::AsRawFd;
    fd.as_raw_fd()
}
