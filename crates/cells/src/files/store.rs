//! An owner's files: made, written and read by names that are known here. Nothing an agent
//! can write to is ever reached by a path: directories are opened without following links, and
//! files are made with `O_EXCL` and published by rename within them (hazards 8, 9, 19 and 21).

use super::names::{CREDENTIAL, FileEntry, FileName, NOTES, Owner, SERVICES, SHARED};
use crate::{Error, Result};
use abbey_model::CellName;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Most of a file that is read for the house, bytes.
const READ_MAX: u64 = 64 << 10;

/// Converts an errno to [`Error::File`] for `path`; `what` is the verb of the message. For `map_err`.
pub(crate) fn file_error(
    what: &'static str,
    path: &Path,
) -> impl FnOnce(rustix::io::Errno) -> Error {
    let path = path.to_owned();
    move |e| Error::file(what, path)(e.into())
}

/// Opens directory `name` in the open directory `at`, without following a link.
pub(crate) fn open_dir(at: impl AsFd, name: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty()).map_err(file_error("open", name))
}

/// Creates directory `name` in the open directory `at` if it is missing, sets its owner (as root) and mode, and
/// opens it.
pub(crate) fn ensure_dir(
    at: impl AsFd,
    name: &Path,
    mode: u32,
    owner: (u32, u32),
) -> Result<OwnedFd> {
    match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(file_error("make", name)(e)),
    }
    let dir = open_dir(at, name)?;
    hand_over(&dir, name, owner)?;
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode)).map_err(file_error("protect", name))?;
    Ok(dir)
}

fn hand_over(fd: &OwnedFd, name: &Path, (uid, gid): (u32, u32)) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(file_error("hand over", name))
}

/// Creates the directories of `owner` at `path` and writes `files` into them, with the right owners and modes.
/// Idempotent.
pub(crate) fn prepare_owner_files(
    path: &Path,
    owner: &CellName,
    serve_uid: u32,
    uid: Option<u32>,
    files: &[FileEntry],
) -> Result<()> {
    let theirs = uid.map_or((0, 0), |u| (u, u));
    if matches!(owner, CellName::Service(_) | CellName::Run(_)) {
        ensure_dir(CWD, path, 0o700, theirs)?;
        return Ok(());
    }
    let dir = ensure_dir(CWD, path, 0o711, (0, 0))?;
    let before =
        rustix::fs::statat(&dir, "home", AtFlags::SYMLINK_NOFOLLOW).map_or(0, |s| s.st_uid);
    // Files that were brought back are of the user that their agent had then. Whose the directory itself is tells that
    // this is still to do, so it changes last.
    if before != 0 && before != theirs.0 && uid.is_some() {
        for place in ["home", "workspace"] {
            if let Ok(place) = open_dir(&dir, Path::new(place)) {
                adopt(&place, before, theirs)?;
                crate::crash::point("hostd.adopted");
            }
        }
    }
    let home = ensure_dir(&dir, Path::new("home"), 0o700, theirs)?;
    // Sticky and ours: the agent works in it, and cannot replace what we put there (S2-23).
    let mode = if uid.is_some() { 0o1770 } else { 0o700 };
    let workspace = ensure_dir(&dir, Path::new("workspace"), mode, (0, theirs.1))?;
    let notes = ensure_dir(&workspace, Path::new("memory"), 0o700, theirs)?;
    let shared = ensure_dir(&workspace, Path::new("shared"), 0o755, (0, 0))?;
    let of_services =
        |f: &FileEntry| matches!(f.name, FileName::Credential(_) | FileName::Trust(_));
    let services = match files.iter().any(of_services) {
        true => Some(ensure_dir(&home, Path::new("services"), 0o700, theirs)?),
        false => None,
    };
    for entry in files {
        let (place, name, whose, mode, keep) = entry.name.location();
        let name = name.as_ref();
        let at = match place {
            "" => &dir,
            SHARED => &shared,
            SERVICES => services.as_ref().unwrap_or(&home),
            NOTES => &notes,
            _ => &workspace,
        };
        if entry.name.is_removed_when_empty() && entry.content.is_empty() {
            remove_file(at, name)?;
            if let (FileName::Credential(service), Some(services)) = (&entry.name, &services) {
                remove_file(services, service.as_str())?;
            }
            continue;
        }
        let ids = match whose {
            Owner::House => (0, 0),
            Owner::ControlPlane => (0, serve_uid),
            Owner::Agent => theirs,
        };
        let there = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if keep && there {
            continue;
        }
        let same = there && read_at(at, name).is_some_and(|t| t == entry.content);
        if !same {
            publish(at, name, entry.content.as_bytes(), mode, ids)?;
        }
        if entry.name == FileName::Token {
            publish(&home, name, entry.content.as_bytes(), 0o400, theirs)?;
        }
        if let (FileName::Credential(service), Some(services)) = (&entry.name, &services)
            && read_at(services, service.as_str()).is_none_or(|t| t != entry.content)
        {
            let text = entry.content.as_bytes();
            publish(services, service.as_str(), text, 0o400, theirs)?;
        }
    }
    Ok(())
}

/// Removes file `name` in the open directory `at`. Succeeds if there is none.
pub(crate) fn remove_file(at: &OwnedFd, name: &str) -> Result<()> {
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(file_error("remove", Path::new(name))(e)),
    }
}

/// Names of the shared documents, credentials and certificates that exist below an owner's directory and that empty
/// content would remove.
pub(crate) fn list_removable_files(path: &Path) -> Result<Vec<FileName>> {
    let dir = open_dir(CWD, path)?;
    let named = |place: OwnedFd, name: &dyn Fn(&str) -> Option<FileName>| {
        let entries = rustix::fs::Dir::read_from(&place).map_err(file_error("list", path))?;
        let names = entries
            .flatten()
            .filter_map(|e| name(e.file_name().to_str().ok()?));
        Ok::<Vec<FileName>, Error>(names.collect())
    };
    let document = |name: &str| Some(FileName::Shared(name.strip_suffix(".md")?.parse().ok()?));
    let credential = |name: &str| {
        Some(FileName::Credential(
            name.strip_prefix(CREDENTIAL)?.parse().ok()?,
        ))
    };
    let trust = |name: &str| Some(FileName::Trust(name.strip_suffix(".pem")?.parse().ok()?));
    let mut names = named(open_dir(&dir, Path::new("."))?, &credential)?;
    for (place, name) in [
        (SHARED, &document as &dyn Fn(&str) -> Option<FileName>),
        (SERVICES, &trust),
    ] {
        if let Ok(place) = below(&dir, place) {
            names.extend(named(place, name)?);
        }
    }
    Ok(names)
}

/// Writes a file whole or not at all, within an open directory.
fn publish(at: &OwnedFd, name: &str, bytes: &[u8], mode: u32, ids: (u32, u32)) -> Result<()> {
    let path = Path::new(name);
    let temporary = format!("{name}.new");
    let _left_by_a_crash = rustix::fs::unlinkat(at, &temporary, AtFlags::empty());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(at, &temporary, flags, Mode::from_raw_mode(0o600))
        .map_err(file_error("make", path))?;
    let mut file = std::fs::File::from(fd.try_clone().map_err(Error::file("write", path))?);
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(Error::file("write", path))?;
    hand_over(&fd, path, ids)?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode)).map_err(file_error("protect", path))?;
    rustix::fs::renameat(at, &temporary, at, name).map_err(file_error("publish", path))
}

/// A plain file's text, as far as it is one.
fn read_at(at: impl AsFd, name: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(at, name, flags, Mode::empty()).ok()?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&fd).ok()?.st_mode);
    if kind != rustix::fs::FileType::RegularFile {
        return None;
    }
    let mut text = String::new();
    let file = std::fs::File::from(fd);
    file.take(READ_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Text of a known file below an owner's directory, at most 64 KiB; empty if it does not exist or is not a plain
/// file.
pub(crate) fn read_owner_file(path: &Path, name: &FileName) -> Result<String> {
    let dir = open_dir(CWD, path)?;
    let (place, name, ..) = name.location();
    let text = match place {
        "" => read_at(&dir, &name),
        place => read_at(below(&dir, place)?, &name),
    };
    Ok(text.unwrap_or_default())
}

/// A directory below an open one; no step follows a link.
fn below(dir: &OwnedFd, place: &str) -> Result<OwnedFd> {
    let mut at = open_dir(dir, Path::new("."))?;
    for part in place.split('/') {
        at = open_dir(&at, Path::new(part))?;
    }
    Ok(at)
}

/// Text of a known file if it exists with the mode that the house gives it. Distinguishes a charter of the house
/// from one of the agent, which share a path.
pub(crate) fn read_file_written_by_house(path: &Path, name: &FileName) -> Result<Option<String>> {
    let dir = open_dir(CWD, path)?;
    let (place, file, _, mode, _) = name.location();
    let at = match place {
        "" => dir,
        place => below(&dir, place)?,
    };
    match rustix::fs::statat(&at, file.as_ref(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if stat.st_mode & 0o777 == mode => Ok(read_at(&at, &file)),
        _ => Ok(None),
    }
}

/// Gives a new owner what another left, below an open directory; links are not followed.
fn adopt(dir: &OwnedFd, from: u32, (uid, gid): (u32, u32)) -> Result<()> {
    let entries = rustix::fs::Dir::read_from(dir).map_err(file_error("list", Path::new(".")))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let at = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(file_error("look at", at))?;
        if stat.st_uid == from {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(file_error("hand over", at))?;
        }
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        if kind == rustix::fs::FileType::Directory {
            adopt(&open_dir(dir, at)?, from, (uid, gid))?;
        }
    }
    Ok(())
}
