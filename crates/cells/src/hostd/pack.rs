//! Agents' files in one archive. Each is opened beneath its directory without following links, so
//! that nothing an agent puts there, or swaps while we read, leads out of it.

use super::claims::Claims;
use super::files::dir_of;
use super::guest;
use super::server::Config;
use crate::machine::drives;
use crate::{Error, Result};
use abbey_model::{CellName, Slug};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Component, Path, PathBuf};

/// Files that are never in a backup.
const EXCLUDED: [&str; 3] = ["token", "key", "session.lock"];
/// Directories that are packed by what is on them, or not at all.
const LEFT_OUT: [&str; 4] = ["drives", super::disks::DIR, "lost+found", UNLOADED];
/// Where the files of a drive are while they are packed.
const UNLOADED: &str = "unloaded";
/// Most that a guest may send of its files, bytes.
const GUEST_MAX: u64 = 64 << 30;
/// Deepest directory; an agent could nest without end.
const DEPTH_MAX: usize = 64;

/// Packs every agent's files and the claims, or one agent's alone, into `to`, which the caller goes on writing: the end
/// of the archive is its to set.
pub(super) fn pack(
    config: &Config,
    claims: &Claims,
    one: Option<&Slug>,
    to: OwnedFd,
) -> Result<()> {
    let wanted = |owner: &CellName| match (owner, one) {
        (CellName::Agent(slug), Some(one)) => slug == one,
        (CellName::Agent(_), None) => true,
        (CellName::Service(_) | CellName::Run(_), _) => false,
    };
    let owners = || claims.owners.iter().filter(|(owner, _)| wanted(owner));
    for (owner, claim) in owners() {
        if let Some(disks) = claim.disks {
            super::disks::enter(config, owner, disks)?;
        }
    }
    let home = &config.home;
    let mut archive = tar::Builder::new(File::from(to));
    let mut name = PathBuf::from("agents");
    name.extend(one.map(Slug::as_str));
    let agents = &home.join(&name);
    let dir = open(CWD, agents.as_os_str().as_bytes(), OFlags::DIRECTORY)
        .map_err(Error::file("open", agents))?;
    let depth = usize::from(one.is_some());
    add(&mut archive, &dir, &name, depth).map_err(Error::file("pack", agents))?;
    for (owner, claim) in owners() {
        if dir_of(config, owner).join("drives").exists() {
            machine(config, owner, claim.uid, &mut archive)?;
        }
    }
    if one.is_none() {
        let claims = home.join("hostd/claims.json");
        archive
            .append_path_with_name(&claims, "hostd/claims.json")
            .map_err(Error::file("pack", claims))?;
    }
    // Dropping it would write the end.
    std::mem::forget(archive);
    Ok(())
}

/// Whether something below `agents/NAME` is a credential at a service.
fn is_credential(path: &Path) -> bool {
    let below: PathBuf = path.components().skip(2).collect();
    let first = below
        .iter()
        .next()
        .and_then(|f| f.to_str())
        .unwrap_or_default();
    below.starts_with("home/services") || first.starts_with(super::files::CREDENTIAL)
}

/// What is on the drives of a machine: its guest tells while it runs; else programs of its user's look.
/// Later entries of an archive count, so these come after what its directory holds beside them.
fn machine(
    config: &Config,
    owner: &CellName,
    uid: Option<u32>,
    archive: &mut tar::Builder<File>,
) -> Result<()> {
    let name = Path::new("agents").join(owner.slug().as_str());
    if guest::runs(&config.cells(), owner)? {
        let stream = guest::pack(config, owner)?;
        return copy(stream, &name, uid, archive).map_err(Error::file("pack", name));
    }
    let staging = dir_of(config, owner).join(UNLOADED);
    let _left_by_a_crash = std::fs::remove_dir_all(&staging);
    std::fs::create_dir(&staging).map_err(Error::file("make", &staging))?;
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o711);
    let packed = std::fs::set_permissions(&staging, mode)
        .map_err(Error::file("protect", &staging))
        .and_then(|()| drives::unload(owner, &dir_of(config, owner), &staging, uid))
        .and_then(|()| {
            let dir = open(CWD, staging.as_os_str().as_bytes(), OFlags::DIRECTORY);
            dir.and_then(|dir| add(archive, &dir, &name, 0))
                .map_err(Error::file("pack", &staging))
        });
    let _swept_with_the_house = std::fs::remove_dir_all(&staging);
    packed
}

/// Entries that a guest sends, under names and owners of ours.
fn copy(
    stream: UnixStream,
    name: &Path,
    uid: Option<u32>,
    archive: &mut tar::Builder<File>,
) -> std::io::Result<()> {
    let mut from = tar::Archive::new(stream.take(GUEST_MAX));
    for entry in from.entries()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        let kind = entry.header().entry_type();
        let last = path.file_name().unwrap_or_default();
        let wanted = (kind.is_file() || kind.is_dir())
            && !EXCLUDED.iter().any(|e| *e == last)
            && !path.iter().any(|p| LEFT_OUT.iter().any(|l| *l == p));
        if !plain || !wanted || is_credential(&name.join(&path)) {
            continue;
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(entry.size());
        header.set_mode(entry.header().mode()? & 0o777);
        header.set_mtime(entry.header().mtime()?);
        let owner = match entry.header().uid()? {
            0 => 0,
            _ => uid
                .unwrap_or_else(|| rustix::process::geteuid().as_raw())
                .into(),
        };
        header.set_uid(owner);
        header.set_gid(owner);
        archive.append_data(&mut header, name.join(&path), entry)?;
    }
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
