//! Writing what others decide the size of: never to the last block of a disk, and only while somebody wants it.

use abbey_model::Bytes;
use abbey_support::space::shortage;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

/// Bytes written between two checks.
const CHECK_EVERY: u64 = 4 << 20;

/// Checks that the file system of `file` keeps its reserve after `more` bytes.
///
/// # Errors
/// `StorageFull` if it would not.
pub(crate) fn check_free_space(file: impl AsFd, more: u64) -> io::Result<()> {
    let Some(short) = shortage(file, more)? else {
        return Ok(());
    };
    let text = format!(
        "the disk has {} left, and {} must stay free; free some space",
        Bytes(short.free).human(),
        Bytes(short.reserve).human()
    );
    Err(io::Error::new(io::ErrorKind::StorageFull, text))
}

/// A file that is written for a caller. Writing fails once the caller's connection is closed, the file was removed, or
/// its disk has no more than the reserve. Pipes and sockets end with their reader.
pub(crate) struct GuardedFile<'a> {
    file: File,
    caller: BorrowedFd<'a>,
    is_file: bool,
    /// Bytes until the next check.
    left: u64,
}

impl<'a> GuardedFile<'a> {
    /// Guards `file` for the caller at the other end of the socket `caller`.
    pub(crate) fn new(file: File, caller: BorrowedFd<'a>) -> io::Result<GuardedFile<'a>> {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
        Ok(GuardedFile {
            file,
            caller,
            is_file: kind == FileType::RegularFile,
            left: 0,
        })
    }

    fn check(&self) -> io::Result<()> {
        let gone = || Err(io::Error::other("the caller is gone"));
        let mut fds = [PollFd::new(&self.caller, PollFlags::empty())];
        poll(&mut fds, Some(&Timespec::default()))?;
        if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
            return gone();
        }
        match self.is_file {
            true if rustix::fs::fstat(&self.file)?.st_nlink == 0 => gone(),
            true => check_free_space(&self.file, CHECK_EVERY),
            false => Ok(()),
        }
    }
}

impl Write for GuardedFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.check()?;
            self.left = CHECK_EVERY;
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let written = self.file.write(&bytes[..bytes.len().min(most)])?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn nothing_more_is_written_once_the_caller_or_the_file_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let chunk = vec![0u8; usize::try_from(CHECK_EVERY).unwrap()];
        for close in [true, false] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut file = GuardedFile::new(File::create(&path).unwrap(), ours.as_fd()).unwrap();
            file.write_all(&chunk).unwrap();
            let mut kept = Some(theirs);
            match close {
                true => drop(kept.take()),
                false => std::fs::remove_file(&path).unwrap(),
            }
            let error = file.write_all(&chunk).unwrap_err();
            assert!(error.to_string().contains("gone"), "{error}");
        }
    }

    #[test]
    fn a_disk_keeps_its_reserve() {
        let file = tempfile::tempfile().unwrap();
        check_free_space(&file, 0).unwrap();
        let error = check_free_space(&file, u64::MAX / 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
