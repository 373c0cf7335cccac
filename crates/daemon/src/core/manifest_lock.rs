//! The lock under which commands edit the manifest of a house, or apply it: one at a time.

use crate::core::error::Error;
use crate::core::home::Home;
use abbey_support::beneath::DirHandle;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::geteuid;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

/// Path of the lock file below the home. It is in hostd's directory, where nobody but the user whom the house belongs to
/// creates files: a lock on the manifest itself could be held by everybody who can read that.
const LOCK_FILE: &str = "hostd/manifest.lock";

/// Mode of the lock file: whoever can open a file can hold its lock.
const MODE: u32 = 0o600;

/// What [`Home::try_lock_manifest`] found.
#[derive(Debug)]
pub enum ManifestLock {
    /// The lock is taken until this file is dropped.
    Taken(File),
    /// Another command has it, whose process is this one if it was found.
    HeldBy(Option<i32>),
    /// Nobody can take it: there is no house, its file system has no locks, or it has no place for the lock file.
    Unavailable,
}

impl Home {
    /// Takes the lock under which commands edit or apply the manifest of this house, without waiting for it.
    ///
    /// # Errors
    /// If the lock file can be neither opened nor locked.
    pub fn try_lock_manifest(&self) -> Result<ManifestLock, Error> {
        let path = || self.root().join(LOCK_FILE);
        let file = match self.open_manifest_lock() {
            Ok(file) => file,
            Err(e) if is_unavailable(&e) => return Ok(ManifestLock::Unavailable),
            Err(e) => return Err(Error::file("open", path())(e)),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(ManifestLock::Taken(file)),
            Err(Errno::WOULDBLOCK) => Ok(ManifestLock::HeldBy(abbey_cells::lock_holder(&file))),
            Err(e) if is_unavailable(&e.into()) => Ok(ManifestLock::Unavailable),
            Err(e) => Err(Error::file("lock", path())(e.into())),
        }
    }

    fn open_manifest_lock(&self) -> io::Result<File> {
        let root = DirHandle::open_trusted(self.root())?;
        let owner = root.stat()?;
        let file = root.open_or_create(LOCK_FILE, MODE)?;
        // Root may work on the house of another user, who must be able to open it afterwards.
        if geteuid().is_root() && file.metadata()?.uid() != owner.st_uid {
            std::os::unix::fs::fchown(&file, Some(owner.st_uid), Some(owner.st_gid))?;
        }
        Ok(file)
    }
}

/// Whether there can be no lock, rather than that it failed: a house that nobody started has no directory for it, another
/// user's house is refused for that later, on a full disk nothing can be edited either, and not every file system has
/// locks (NFS without a server for them).
fn is_unavailable(error: &io::Error) -> bool {
    use io::ErrorKind::{
        NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
        Unsupported,
    };
    let kinds = [
        NotADirectory,
        NotFound,
        PermissionDenied,
        QuotaExceeded,
        ReadOnlyFilesystem,
        StorageFull,
        Unsupported,
    ];
    kinds.contains(&error.kind())
        || matches!(
            Errno::from_io_error(error),
            Some(Errno::NOLCK | Errno::BADF)
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_command_at_a_time_has_the_lock_and_only_the_owner_can_open_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path().to_owned());
        let lock = || home.try_lock_manifest().unwrap();
        assert!(matches!(lock(), ManifestLock::Unavailable), "no house");
        std::fs::create_dir(dir.path().join("hostd")).unwrap();
        let held = lock();
        assert!(matches!(held, ManifestLock::Taken(_)));
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(matches!(lock(), ManifestLock::HeldBy(Some(pid)) if pid == own));
        let mode = dir.path().join(LOCK_FILE).metadata().unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        drop(held);
        assert!(matches!(lock(), ManifestLock::Taken(_)));
    }
}
