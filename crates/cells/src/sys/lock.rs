//! Locks that end with their holder: a file that is open and locked (`flock(2)`).

use crate::{Error, Result};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::Path;

/// Opens the file of a lock, which need not exist.
fn open(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(Error::file("open", path))
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
    let file = open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(Error::file("lock", path)(e.into())),
    }
}
