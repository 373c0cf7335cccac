//! An owner's files: made, written and read by names that are known here. Nothing an agent
//! can write to is ever reached by a path from outside: everything is opened beneath the owner's directory, and
//! files are made with `O_EXCL` and published by rename within it (hazards 8, 9, 19 and 21).

use super::names::{CREDENTIAL, FileEntry, FileName, NOTES, Owner, SERVICES, SHARED};
use crate::allocation::UIDS_FIRST;
use crate::{Error, Result};
use abbey_model::CellName;
use abbey_support::beneath::DirHandle;
use rustix::fs::{FileType, Gid, Stat, Uid};
use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;

/// Most of a file that is read for the house, bytes.
const READ_MAX: u64 = 64 << 10;

/// Opens the directory with an owner's files.
pub(crate) fn open_owner_dir(path: &Path) -> Result<DirHandle> {
    DirHandle::open(path).map_err(Error::file("open", path))
}

/// Creates directory `name` in `at` if it is missing, sets its owner (as root) and mode, and opens it.
pub(crate) fn ensure_dir(
    at: &DirHandle,
    name: &str,
    mode: u32,
    owner: (u32, u32),
) -> Result<DirHandle> {
    at.ensure_dir(name, mode, owner)
        .map_err(Error::file("make or open", name))
}

/// As [`ensure_dir`] where an agent may have put something else: that is moved aside.
fn ensure_dir_among_theirs(
    at: &DirHandle,
    name: &str,
    mode: u32,
    owner: (u32, u32),
) -> Result<DirHandle> {
    let there = stat(at, name)?;
    if there.is_some_and(|s| kind(&s) != FileType::Directory) {
        at.move_aside(name)
            .map_err(Error::file("move aside", name))?;
    }
    ensure_dir(at, name, mode, owner)
}

fn stat(at: &DirHandle, name: &str) -> Result<Option<Stat>> {
    at.stat_entry(name).map_err(Error::file("look at", name))
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Creates the directories of `owner` as `name` in `parent` and writes `files` into them, with the right owners and
/// modes. Idempotent. Where the owner had files before and they are another user's now, they were copied back, and are given
/// to it.
pub(crate) fn prepare_owner_files(
    parent: &DirHandle,
    name: &str,
    owner: &CellName,
    serve_uid: u32,
    uid: Option<u32>,
    had_files: bool,
    files: &[FileEntry],
) -> Result<()> {
    let theirs = uid.map_or((0, 0), |u| (u, u));
    if matches!(owner, CellName::Service(_) | CellName::Run(_)) {
        // Whose the directory itself is tells that this is still to do for what is in it, so it changes last. What is in it
        // says nothing: its own user can put there what it likes.
        let found = stat(parent, name)?.filter(|s| kind(s) == FileType::Directory);
        let before = found.map(|s| s.st_uid).filter(|user| *user != theirs.0);
        if let Some(before) = before.filter(|_| uid.is_some() && had_files)
            && let Ok(copied) = parent.open_dir(name)
        {
            adopt(&copied, before, theirs, &[])?;
        }
        ensure_dir(parent, name, 0o700, theirs)?;
        return Ok(());
    }
    let dir = ensure_dir(parent, name, 0o711, (0, 0))?;
    let before = stat(&dir, "home")?.map(|s| s.st_uid);
    // Files that were brought back are of the user that their agent had then, or of root, who copied them. Whose the
    // directory itself is tells that this is still to do, so it changes last.
    let is_to_move = |user: &u32| *user != theirs.0 && (*user != 0 || had_files);
    if let Some(before) = before.filter(is_to_move).filter(|_| uid.is_some()) {
        for name in dir.names().map_err(Error::file("list", name))? {
            let text = name.to_string_lossy();
            if text == "token" || text == "key" || text.starts_with(CREDENTIAL) {
                hand_over(&dir, &name, (0, serve_uid))?;
            }
        }
        for (place, ours) in [("home", &[][..]), ("workspace", OURS_IN_WORKSPACE)] {
            if let Ok(place) = dir.open_dir(place) {
                adopt(&place, before, theirs, ours)?;
                crate::crash::point("hostd.adopted");
            }
        }
    }
    // The directory itself is always ours; its group says whose it was made for, and is set last.
    let group = stat(&dir, "workspace")?.map(|s| s.st_gid);
    if group.is_some_and(|gid| gid != theirs.1 && had_files && uid.is_some())
        && let Ok(copied) = dir.open_dir("workspace")
    {
        adopt(&copied, 0, theirs, OURS_IN_WORKSPACE)?;
    }
    let home = ensure_dir(&dir, "home", 0o700, theirs)?;
    // Sticky and ours: the agent works in it, and cannot replace what we put there (S2-23).
    let mode = if uid.is_some() { 0o1770 } else { 0o700 };
    let workspace = ensure_dir(&dir, "workspace", mode, (0, theirs.1))?;
    let notes = ensure_dir_among_theirs(&workspace, "memory", 0o700, theirs)?;
    let shared = ensure_dir_among_theirs(&workspace, "shared", 0o755, (0, 0))?;
    let of_services =
        |f: &FileEntry| matches!(f.name, FileName::Credential(_) | FileName::Trust(_));
    let services = match files.iter().any(of_services) {
        true => Some(ensure_dir_among_theirs(&home, "services", 0o700, theirs)?),
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
        if keep && stat(at, name)?.is_some() {
            continue;
        }
        if !is_published(at, name, &entry.content, ids)? {
            publish(at, name, entry.content.as_bytes(), mode, ids)?;
        }
        if entry.name == FileName::Token {
            publish(&home, name, entry.content.as_bytes(), 0o400, theirs)?;
        }
        if let (FileName::Credential(service), Some(services)) = (&entry.name, &services) {
            let (service, text) = (service.as_str(), &entry.content);
            // Files that were unpacked over the home can have another mode, with which clients refuse a credential.
            let found = stat(services, service)?;
            let is_private = found.is_some_and(|s| s.st_mode & 0o777 == 0o400);
            if !is_private || !is_published(services, service, text, theirs)? {
                publish(services, service, text.as_bytes(), 0o400, theirs)?;
            }
        }
    }
    Ok(())
}

/// Removes file `name` in the open directory `at`. Succeeds if there is none.
pub(crate) fn remove_file(at: &DirHandle, name: &str) -> Result<()> {
    at.remove_file(name).map_err(Error::file("remove", name))
}

/// Names of the shared documents, credentials and certificates that exist below an owner's directory and that empty
/// content would remove.
pub(crate) fn list_removable_files(path: &Path) -> Result<Vec<FileName>> {
    let dir = open_owner_dir(path)?;
    let named = |place: &DirHandle, name: &dyn Fn(&str) -> Option<FileName>| {
        let names = place.names().map_err(Error::file("list", path))?;
        let names = names.iter().filter_map(|n| name(n.to_str()?));
        Ok::<Vec<FileName>, Error>(names.collect())
    };
    let document = |name: &str| Some(FileName::Shared(name.strip_suffix(".md")?.parse().ok()?));
    let credential = |name: &str| {
        Some(FileName::Credential(
            name.strip_prefix(CREDENTIAL)?.parse().ok()?,
        ))
    };
    let trust = |name: &str| Some(FileName::Trust(name.strip_suffix(".pem")?.parse().ok()?));
    let mut names = named(&dir, &credential)?;
    for (place, name) in [
        (SHARED, &document as &dyn Fn(&str) -> Option<FileName>),
        (SERVICES, &trust),
    ] {
        if let Ok(place) = dir.open_dir(place) {
            names.extend(named(&place, name)?);
        }
    }
    Ok(names)
}

/// Writes a file whole or not at all. A directory in its place, which an agent may have made, is moved aside.
fn publish(at: &DirHandle, name: &str, bytes: &[u8], mode: u32, ids: (u32, u32)) -> Result<()> {
    if stat(at, name)?.is_some_and(|s| kind(&s) == FileType::Directory) {
        at.move_aside(name)
            .map_err(Error::file("move aside", name))?;
    }
    at.publish(name, bytes, mode, ids, true)
        .map_err(Error::file("publish", name))
}

/// Whether a file has this text and, where users differ, this owner.
fn is_published(at: &DirHandle, name: &str, text: &str, (uid, gid): (u32, u32)) -> Result<bool> {
    let owned = stat(at, name)?.is_some_and(|found| (found.st_uid, found.st_gid) == (uid, gid));
    let owned = owned || !rustix::process::geteuid().is_root();
    Ok(owned && read_at(at, name).is_some_and(|found| found == text))
}

/// A plain file's text, as far as it is one.
fn read_at(at: &DirHandle, name: &str) -> Option<String> {
    let mut text = String::new();
    let file = at.open_file(name).ok()?;
    file.take(READ_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Text of a known file below an owner's directory, at most 64 KiB; empty if it does not exist or is not a plain
/// file.
pub(crate) fn read_owner_file(dir: &DirHandle, name: &FileName) -> Result<String> {
    let (place, name, ..) = name.location();
    let at = open_place(dir, place)?;
    Ok(read_at(&at, &name).unwrap_or_default())
}

/// A directory of an owner's files; `""` is the one that has all of them.
fn open_place(dir: &DirHandle, place: &str) -> Result<DirHandle> {
    let name = if place.is_empty() { "." } else { place };
    dir.open_dir(name).map_err(Error::file("open", name))
}

/// Text of a known file if it exists with the mode that the house gives it. Distinguishes a charter of the house
/// from one of the agent, which share a path.
pub(crate) fn read_file_written_by_house(path: &Path, name: &FileName) -> Result<Option<String>> {
    let (place, file, _, mode, _) = name.location();
    let at = open_place(&open_owner_dir(path)?, place)?;
    match stat(&at, &file)? {
        Some(stat) if stat.st_mode & 0o777 == mode => Ok(read_at(&at, &file)),
        _ => Ok(None),
    }
}

/// Deepest directory whose owner is changed; an agent could nest without end.
const ADOPT_DEPTH_MAX: usize = 256;

/// Gives a new owner what another left below an open directory, but for the entries of these names; links are not followed.
/// What no user of a house left and has several names stays theirs, and so does what is mounted there: it can be the host's.
fn adopt(dir: &DirHandle, from: u32, to: (u32, u32), but: &[&str]) -> Result<()> {
    let device = dir.stat().map_err(Error::file("look at", "."))?.st_dev;
    adopt_below(dir, (from, device), to, but, 0)
}

/// What in a workspace is the house's and not the agent's.
const OURS_IN_WORKSPACE: &[&str] = &["SOUL.md", "shared"];

/// Gives an entry, which may be a link, a new owner.
fn hand_over(dir: &DirHandle, name: &OsStr, (uid, gid): (u32, u32)) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), flags)
        .map_err(|e| Error::file("hand over", Path::new(name))(e.into()))
}

fn adopt_below(
    dir: &DirHandle,
    (from, device): (u32, u64),
    to: (u32, u32),
    but: &[&str],
    depth: usize,
) -> Result<()> {
    for name in dir.names().map_err(Error::file("list", "."))? {
        let failed = |what| Error::file(what, Path::new(&name));
        if but.iter().any(|kept| *kept == name) {
            continue;
        }
        let Some(found) = dir.stat_entry(&name).map_err(failed("look at"))? else {
            continue;
        };
        // What is mounted here is the host's.
        if found.st_dev != device {
            continue;
        }
        let is_dir = kind(&found) == FileType::Directory;
        let shared = from < UIDS_FIRST && !is_dir && found.st_nlink > 1;
        if found.st_uid == from && !shared {
            hand_over(dir, &name, to)?;
        }
        if is_dir && depth < ADOPT_DEPTH_MAX {
            let below = dir.open_dir(&name).map_err(failed("open"))?;
            adopt_below(&below, (from, device), to, &[], depth + 1)?;
        }
    }
    Ok(())
}
