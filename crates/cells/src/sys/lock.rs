//! Locks that end with their holder: a file that is open and locked (`flock(2)`).

use crate::sys::process;
use crate::{Error, Result};
use abbey_launch::read_kernel_file;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use std::fs::{File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Mode of a lock file: whoever can open a file can hold its lock, so only its owner can.
const MODE: u32 = 0o600;

/// Opens the file of a lock, which need not exist.
fn open(path: &Path) -> Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(MODE)
        .open(path)
        .map_err(Error::file("open", path))?;
    // Earlier versions made it readable for others.
    let found = file.metadata().map_err(Error::file("open", path))?;
    if found.mode() & 0o077 != 0 && found.uid() == rustix::process::geteuid().as_raw() {
        file.set_permissions(Permissions::from_mode(MODE))
            .map_err(Error::file("set the mode of", path))?;
    }
    Ok(file)
}

/// Opens and locks the lock file at `path` (`flock(2)`), waiting until it is free. Dropping the file releases the
/// lock.
pub(crate) fn lock_file(path: &Path) -> Result<File> {
    let file = open(path)?;
    flock(&file, FlockOperation::LockExclusive).map_err(|e| Error::file("lock", path)(e.into()))?;
    Ok(file)
}

/// Opens and locks the lock file at `path` without waiting; none if another process holds the lock.
pub(crate) fn try_lock_file(path: &Path) -> Result<Option<File>> {
    loop {
        let file = open(path)?;
        if !try_lock(&file, path)? {
            return Ok(None);
        }
        if is_at(&file, path) {
            return Ok(Some(file));
        }
    }
}

/// As [`try_lock_file`], and none if there is no file, which is not created.
pub(crate) fn try_lock_existing_file(path: &Path) -> Result<Option<File>> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(CWD, path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(e) => return Err(Error::file("open", path)(e.into())),
    };
    let is_locked = try_lock(&file, path)? && is_at(&file, path);
    Ok(Some(file).filter(|_| is_locked))
}

fn try_lock(file: &File, path: &Path) -> Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(Error::file("lock", path)(e.into())),
    }
}

/// Whether an open file is the one at `path`: who held its lock before may have removed it, and the lock of a file that nobody
/// finds any more keeps off nobody.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    let there = std::fs::metadata(path).map(identity).ok();
    there.is_some() && there == file.metadata().map(identity).ok()
}

/// Process that took the lock of this open file (`flock(2)`), as the kernel reports it. It runs, and as the owner of the
/// file: a lock outlives the process that took it where another has the file open too, and its number may be used again.
/// None if there is no such process.
pub fn lock_holder(file: &File) -> Option<i32> {
    let owner = file.metadata().ok()?.uid();
    let wanted = name_in_locks(file)?;
    let locks = read_kernel_file("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        // `1: FLOCK  ADVISORY  WRITE 4711 fe:00:5447842 0 EOF`; one that waits has an arrow after its number.
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, name, ..] = words.as_slice() else {
            return None;
        };
        let pid = pid.parse().ok().filter(|_| *name == wanted)?;
        let runs = process::identify(pid).is_some();
        (runs && process::user_of(pid) == Some(owner)).then_some(pid)
    })
}

/// As [`lock_holder`], of the lock file at `path`, which this process need not be able to read.
pub fn lock_file_holder(path: &Path) -> Option<i32> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::empty()).ok()?;
    lock_holder(&File::from(file))
}

/// What `/proc/locks` calls an open file: the number of its file system and its inode there, which are not always those that
/// `stat(2)` gives.
fn name_in_locks(file: &File) -> Option<String> {
    let info = read_kernel_file(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let field = |name: &str| Some(info.lines().find_map(|l| l.strip_prefix(name))?.trim());
    let (mount, inode) = (field("mnt_id:")?, field("ino:")?);
    let mounts = read_kernel_file("/proc/self/mountinfo").ok()?;
    let device = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let this = words.next() == Some(mount);
        words.nth(1).filter(|_| this)
    })?;
    let (major, minor) = device.split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    Some(format!("{major:02x}:{minor:02x}:{inode}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_the_process_that_took_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let other = File::open(file.path()).unwrap();
        assert_eq!(lock_holder(&other), None);
        let held = try_lock_file(file.path()).unwrap().unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(lock_holder(&other), Some(me));
        assert_eq!(lock_file_holder(file.path()), Some(me));
        drop(held);
        assert_eq!(lock_holder(&other), None);
    }

    #[test]
    fn a_lock_of_a_file_that_is_not_there_any_more_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(try_lock_existing_file(&path).unwrap().is_none());
        assert!(!path.exists());
        let held = try_lock_file(&path).unwrap().unwrap();
        assert!(try_lock_existing_file(&path).unwrap().is_none());
        std::fs::remove_file(&path).unwrap();
        assert!(!is_at(&held, &path));
        let next = try_lock_file(&path).unwrap().unwrap();
        assert!(is_at(&next, &path) && !is_at(&held, &path));
        drop(next);
        assert!(try_lock_existing_file(&path).unwrap().is_some());
    }

    #[test]
    fn only_the_owner_can_open_a_lock_file() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        let (new, old) = (dir.path().join("new"), dir.path().join("old"));
        std::fs::write(&old, "").unwrap();
        std::fs::set_permissions(&old, Permissions::from_mode(0o644)).unwrap();
        for path in [&new, &old] {
            let held = try_lock_file(path).unwrap();
            assert!(held.is_some());
            assert_eq!(mode(path), 0o600);
        }
    }
}
