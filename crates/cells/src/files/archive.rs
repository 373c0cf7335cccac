//! Archives of files that an agent can write to. Each file is opened beneath its directory without following links,
//! so that nothing an agent puts there, or swaps while we read or write, leads out of it.

use super::tree::{HOLES_MAX, take_holes};
use crate::{Error, Result};
use abbey_support::beneath::{DirHandle, set_owner_and_mode};
use rustix::fs::FileType;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

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

/// What becomes of the symbolic links in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ArchivedLinks {
    /// An archive with a link is refused.
    Refused,
    /// Links are made as they are; nothing is reached through them.
    Made,
}

/// Unpacks the tar archive that arrives on `archive` into the empty directory `dir`, owned by `uid`.
pub(crate) fn unpack_stream(
    dir: &Path,
    uid: Option<u32>,
    links: ArchivedLinks,
    archive: OwnedFd,
) -> Result<()> {
    DirHandle::open(dir)
        .and_then(|handle| unpack_archive(&handle, uid, links, File::from(archive)))
        .map_err(Error::file("unpack into", dir))
}

/// Unpacks a tar archive of plain files and directories into the empty directory `dir`, owned by `uid`. Refuses
/// hard links, paths that lead out of `dir`, more than 10,000 entries and more than 256 MiB.
pub(crate) fn unpack_archive(
    dir: &DirHandle,
    uid: Option<u32>,
    links: ArchivedLinks,
    archive: File,
) -> io::Result<()> {
    if !dir.names()?.is_empty() {
        return Err(invalid_archive("it is not empty"));
    }
    let owner = uid.map_or_else(own_user, |u| (u, u));
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
            tar::EntryType::Directory => drop(make_dirs(dir, &path, owner)?),
            tar::EntryType::Regular => {
                let parent = make_dirs(dir, path.parent().unwrap_or(Path::new("")), owner)?;
                let mut file = parent.create_file(path.file_name().unwrap_or_default(), 0o600)?;
                io::copy(&mut entry, &mut file)?;
                let mode = entry.header().mode()? & 0o777 | 0o600;
                set_owner_and_mode(&file, owner, mode)?;
            }
            tar::EntryType::Symlink if links == ArchivedLinks::Made => {
                let target = entry.link_name()?.unwrap_or_default().into_owned();
                let parent = make_dirs(dir, path.parent().unwrap_or(Path::new("")), owner)?;
                rustix::fs::symlinkat(&target, &parent, path.file_name().unwrap_or_default())?;
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

fn own_user() -> (u32, u32) {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    (uid.as_raw(), gid.as_raw())
}

/// Opens the directory at a plain path below `dir`; creates what is missing of it.
pub(super) fn make_dirs(dir: &DirHandle, path: &Path, owner: (u32, u32)) -> io::Result<DirHandle> {
    let mut at = dir.open_dir(".")?;
    for part in path.components() {
        if let Component::Normal(part) = part {
            at = match at.open_dir(part) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    at.ensure_dir(part, 0o755, owner)?
                }
                opened => opened?,
            };
        }
    }
    Ok(at)
}

/// Writes a complete tar archive of `paths` below `dir` to the descriptor `to`; links are not followed.
pub(crate) fn pack_to_stream(dir: &Path, paths: &[PathBuf], to: OwnedFd) -> Result<()> {
    let handle = DirHandle::open(dir).map_err(Error::file("open", dir))?;
    let end = pack_unfinished(&handle, paths, to)?.into_inner();
    end.map(drop).map_err(Error::file("take along from", dir))
}

/// Writes a tar archive of `paths` below `dir` to `to` and returns it unfinished, so that the caller can add
/// entries. The holes of files are written as zeros, as by `abbey cp` and `abbey backup`: no reader needs to know them.
pub(crate) fn pack_unfinished(
    dir: &DirHandle,
    paths: &[PathBuf],
    to: OwnedFd,
) -> Result<tar::Builder<File>> {
    let mut packer = Packer {
        archive: tar::Builder::new(File::from(to)),
        holes_left: HOLES_MAX,
    };
    for path in paths {
        let taken = match is_plain(path) {
            true => packer.add(dir, path),
            false => Err(invalid_archive("it leads out of the command's directory")),
        };
        taken.map_err(Error::file("take along", path))?;
    }
    Ok(packer.archive)
}

struct Packer {
    archive: tar::Builder<File>,
    /// Bytes of holes that may still be packed.
    holes_left: u64,
}

impl Packer {
    /// Adds one file or directory at a path below `root`, every part of it opened without following links.
    fn add(&mut self, root: &DirHandle, path: &Path) -> io::Result<()> {
        let fd = root.open_entry(path)?;
        match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
            FileType::Directory => self.add_directory(&DirHandle::from(fd), path, 0),
            FileType::RegularFile => self.add_file(File::from(fd), path),
            _ => Err(io::Error::other("it is neither a file nor a directory")),
        }
    }

    /// Adds an open directory under `name`, recursively to depth 64, with its links as links. Skips what is no file,
    /// directory or link, and entries that vanish meanwhile.
    fn add_directory(&mut self, dir: &DirHandle, name: &Path, depth: usize) -> io::Result<()> {
        self.archive.append_dir(name, dir.proc_path())?;
        for entry in dir.names()? {
            let path = name.join(&entry);
            // A program may remove or swap an entry while we read: what is gone is left out.
            let Ok(Some(stat)) = dir.stat_entry(&entry) else {
                continue;
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory if depth < DEPTH_MAX => {
                    if let Ok(below) = dir.open_dir(&entry) {
                        self.add_directory(&below, &path, depth + 1)?;
                    }
                }
                FileType::RegularFile => {
                    if let Ok(fd) = dir.open_entry(&entry) {
                        self.add_file(File::from(fd), &path)?;
                    }
                }
                FileType::Symlink => {
                    let Ok(target) = rustix::fs::readlinkat(dir, &entry, Vec::new()) else {
                        continue;
                    };
                    let mut header = tar::Header::new_gnu();
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    let target = OsStr::from_bytes(target.to_bytes());
                    self.archive.append_link(&mut header, &path, target)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn add_file(&mut self, file: File, path: &Path) -> io::Result<()> {
        let found = file.metadata()?;
        if !found.is_file() {
            return Ok(());
        }
        take_holes(&found, &mut self.holes_left)
            .map_err(|why| io::Error::other(format!("`{}` is {why}", path.display())))?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&found);
        // A file that grows or shrinks meanwhile still has the size in its header.
        let whole = file.chain(io::repeat(0)).take(found.len());
        self.archive.append_data(&mut header, path, whole)
    }
}
