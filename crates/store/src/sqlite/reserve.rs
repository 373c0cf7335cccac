//! Disk space that is kept for the operations that free some: ending, pausing and entering a cell are logged too, and an
//! agent that filled the disk could otherwise be neither ended nor cleaned up.
//!
//! The space is that of a file beside the database. It is given back in parts when an essential operation finds too
//! little, and taken again once the file system has plenty.

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Size of the whole reserve, bytes: the first group after a start may write all pages of a small database to its log.
const SIZE: u64 = 2 << 20;
/// Space that an essential operation needs, bytes.
const NEEDED: u64 = 256 << 10;
/// Available space from which the reserve is made whole again, bytes.
const PLENTY: u64 = 4 * SIZE;

/// The reserve of one database.
pub(super) struct Reserve {
    path: PathBuf,
    /// Bytes that the file has now.
    size: u64,
}

impl Reserve {
    /// The reserve beside a database, as an earlier process left it.
    pub(super) fn of(database: &Path) -> Reserve {
        let path = database.with_extension("db.reserve");
        let size = path.symlink_metadata().map_or(0, |m| m.len());
        Reserve { path, size }
    }

    /// Gives a part of the reserve back if there is less space than an essential operation needs.
    pub(super) fn release_if_short(&mut self) {
        if self.size == 0 || self.available().is_none_or(|free| free >= NEEDED) {
            return;
        }
        let rest = self.size.saturating_sub(NEEDED);
        let file = OpenOptions::new().write(true).open(&self.path);
        if file.and_then(|file| file.set_len(rest)).is_ok() {
            self.size = rest;
        }
    }

    /// Makes the reserve whole again if the file system has plenty of space. Where space cannot be allocated in advance
    /// there is none.
    pub(super) fn restore(&mut self) {
        if self.size >= SIZE || self.available().is_none_or(|free| free < PLENTY) {
            return;
        }
        if let Ok(file) = self.create()
            && fallocate(&file, FallocateFlags::empty(), 0, SIZE).is_ok()
        {
            self.size = SIZE;
        }
    }

    fn create(&self) -> std::io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.open(&self.path)
    }

    /// Bytes that this user may still write; none if the file system does not say.
    fn available(&self) -> Option<u64> {
        let stat = statvfs(self.path.parent()?).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_beside_the_database_and_stays_while_there_is_space() {
        let dir = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::of(&dir.path().join("abbey.db"));
        reserve.restore();
        reserve.release_if_short();
        let file = dir.path().join("abbey.db.reserve");
        assert_eq!(file.metadata().unwrap().len(), SIZE);
        assert_eq!(Reserve::of(&dir.path().join("abbey.db")).size, SIZE);
    }
}
