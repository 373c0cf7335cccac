//! Agents' files in one archive. Each is opened beneath its directory without following links, so
//! that nothing an agent puts there, or swaps while we read, leads out of it.

use crate::{Error, Result};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Files that are never in a backup.
const EXCLUDED: [&str; 3] = ["token", "key", "session.lock"];
/// Deepest directory; an agent could nest without end.
const DEPTH_MAX: usize = 64;

/// Packs every agent's files and the claims into `to`, which the caller goes on writing: the end
/// of the archive is its to set.
pub(super) fn pack(home: &Path, to: OwnedFd) -> Result<()> {
    let agents = &home.join("agents");
    let mut archive = tar::Builder::new(File::from(to));
    let dir = open(CWD, agents.as_os_str().as_bytes(), OFlags::DIRECTORY)
        .map_err(Error::file("open", agents))?;
    add(&mut archive, &dir, &PathBuf::from("agents"), 0).map_err(Error::file("pack", agents))?;
    let claims = home.join("hostd/claims.json");
    archive
        .append_path_with_name(&claims, "hostd/claims.json")
        .map_err(Error::file("pack", claims))?;
    // Dropping it would write the end.
    std::mem::forget(archive);
    Ok(())
}

fn open(at: impl AsFd, name: &[u8], kind: OFlags) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | kind;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

fn add(
    archive: &mut tar::Builder<File>,
    dir: &OwnedFd,
    name: &Path,
    depth: usize,
) -> std::io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        if bytes == b"." || bytes == b".." {
            continue;
        }
        let path = name.join(std::ffi::OsStr::from_bytes(bytes));
        // An agent may remove or swap an entry while we read: what is gone is left out.
        let Ok(stat) = rustix::fs::statat(dir, bytes, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth < DEPTH_MAX => {
                let Ok(below) = open(dir, bytes, OFlags::DIRECTORY) else {
                    continue;
                };
                archive.append_dir(&path, format!("/proc/self/fd/{}", raw(&below)))?;
                add(archive, &below, &path, depth + 1)?;
            }
            FileType::RegularFile if !EXCLUDED.iter().any(|e| e.as_bytes() == bytes) => {
                let Ok(fd) = open(dir, bytes, OFlags::empty()) else {
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
pub(super) fn add_below(
    archive: &mut tar::Builder<File>,
    root: &Path,
    path: &Path,
) -> std::io::Result<()> {
    let mut at = open(CWD, root.as_os_str().as_bytes(), OFlags::DIRECTORY)?;
    let parts: Vec<&[u8]> = path
        .iter()
        .map(OsStrExt::as_bytes)
        .filter(|p| *p != b".")
        .collect();
    let Some((last, parents)) = parts.split_last() else {
        return Err(std::io::ErrorKind::NotFound.into());
    };
    for part in parents {
        at = open(&at, part, OFlags::DIRECTORY)?;
    }
    let fd = open(&at, last, OFlags::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            archive.append_dir(path, format!("/proc/self/fd/{}", raw(&fd)))?;
            add(archive, &fd, path, 0)
        }
        FileType::RegularFile => archive.append_file(path, &mut File::from(fd)),
        _ => Err(std::io::Error::other(
            "it is neither a file nor a directory",
        )),
    }
}

fn raw(fd: &OwnedFd) -> i32 {
    use std::os::fd::AsRawFd;
    fd.as_raw_fd()
}
