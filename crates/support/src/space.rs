//! Room on a file system: what others decide the size of is never written to the last block of a disk.

use std::io;
use std::os::fd::AsFd;

/// Most that stays free on a disk, bytes; a small disk keeps a twentieth of its size.
const RESERVE_MAX: u64 = 1 << 30;

/// A file system that cannot take something and keep its reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// Bytes that are free for ordinary users.
    pub free: u64,
    /// Bytes that are to stay free: 1 GiB, or a twentieth of a smaller disk.
    pub reserve: u64,
}

/// Shortage of the file system of `file`, if `more` bytes do not fit above its reserve.
///
/// # Errors
/// What the system says.
pub fn shortage(file: impl AsFd, more: u64) -> io::Result<Option<Shortage>> {
    let stat = rustix::fs::fstatvfs(file)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(shortage_of(
        bytes(stat.f_blocks),
        bytes(stat.f_bavail),
        more,
    ))
}

fn shortage_of(size: u64, free: u64, more: u64) -> Option<Shortage> {
    let reserve = RESERVE_MAX.min(size / 20);
    let short = free < reserve.saturating_add(more);
    // Some file systems have no size.
    (size > 0 && short).then_some(Shortage { free, reserve })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twentieth_stays_free_and_at_most_a_gibibyte() {
        const GIB: u64 = 1 << 30;
        assert_eq!(shortage_of(0, 0, 1), None);
        assert_eq!(shortage_of(200, 30, 20), None);
        let (free, reserve) = (29, 10);
        assert_eq!(shortage_of(200, free, 20), Some(Shortage { free, reserve }));
        assert_eq!(shortage_of(100 * GIB, 2 * GIB, GIB), None);
        assert!(shortage_of(100 * GIB, 2 * GIB, GIB + 1).is_some());
        assert!(shortage_of(u64::MAX, u64::MAX - 1, u64::MAX).is_some());
    }
}
