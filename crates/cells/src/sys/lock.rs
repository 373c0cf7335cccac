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

/// Waits until nobody else holds it.
pub(crate) fn wait(path: &Path) -> Result<File> {
    let file = open(path)?;
    flock(&file, FlockOperation::LockExclusive).map_err(|e| Error::file("lock", path)(e.into()))?;
    Ok(file)
}

/// Takes it if nobody holds it.
pub(crate) fn try_take(path: &Path) -> Result<Option<File>> {
    let file = open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(Error::file("lock", path)(e.into())),
    }
}
