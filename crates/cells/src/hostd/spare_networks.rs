//! Network namespaces that hostd makes while nobody calls, because making one is the longest step of a start.
//!
//! They wait as descriptors in a socket pair: the kernel gives each to exactly one of the processes that serve calls, and
//! gives all of them back when the last holder of the socket ends. Nothing about them is on disk, and nothing of a cell is in
//! them before it takes one: they have only loopback.

use crate::sys::descriptors;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How many wait at most. Each takes about 200 KiB of the kernel's memory.
const SPARE: u64 = 3;

/// Time without a call after which one is made: a start that is under way would wait for the same locks of the kernel.
const QUIET: Duration = Duration::from_millis(10);

/// Spare network namespaces, and how many more are to be made.
pub(super) struct SpareNetworks {
    put: UnixStream,
    take: UnixStream,
    /// Attempts until the next call; a kernel that makes none is not asked for ever.
    attempts: u64,
}

impl SpareNetworks {
    /// Holds none at first.
    pub(super) fn open() -> io::Result<SpareNetworks> {
        let (put, take) = UnixStream::pair()?;
        take.set_nonblocking(true)?;
        put.set_nonblocking(true)?;
        let attempts = SPARE;
        Ok(SpareNetworks {
            put,
            take,
            attempts,
        })
    }

    /// Takes notice of a call, which may take one.
    pub(super) fn note_call(&mut self) {
        self.attempts = SPARE;
    }

    /// Time without a call after which one is to be made; none if there are enough.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        // One byte comes with each.
        let waiting = rustix::io::ioctl_fionread(&self.take).unwrap_or(SPARE);
        (waiting < SPARE && self.attempts > 0).then_some(QUIET)
    }

    /// Makes one if there are not enough, in a process of its own: this one never leaves the network of the host.
    pub(super) fn make_if_due(&mut self) {
        if self.next_deadline().is_none() {
            return;
        }
        self.begin();
        if let Ok(None) = abbey_launch::fork() {
            let made = self.make();
            abbey_launch::exit_immediately(i32::from(made.is_err()));
        }
    }

    fn begin(&mut self) {
        self.attempts = self.attempts.saturating_sub(1);
    }

    /// Moves this process into a new network namespace, and leaves the namespace to whoever takes it.
    fn make(&self) -> io::Result<()> {
        abbey_launch::unshare_network()?;
        let made = File::open("/proc/self/ns/net")?;
        descriptors::send_with_descriptors(&self.put, b"n", &[made.as_fd()])
    }

    /// Takes one, if there is one, and lets go of the others.
    pub(super) fn take(self) -> Option<OwnedFd> {
        descriptors::receive_byte(&self.take).ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_taken_once_and_no_more_are_made_than_wait() {
        let mut spare = SpareNetworks::open().unwrap();
        let file = File::open("/proc/self/ns/net").unwrap();
        for _ in 0..SPARE {
            assert!(spare.next_deadline().is_some());
            spare.begin();
            descriptors::send_with_descriptors(&spare.put, b"n", &[file.as_fd()]).unwrap();
        }
        spare.note_call();
        assert_eq!(spare.next_deadline(), None);
        let copy = || SpareNetworks {
            put: spare.put.try_clone().unwrap(),
            take: spare.take.try_clone().unwrap(),
            attempts: 0,
        };
        for _ in 0..SPARE {
            assert!(copy().take().is_some());
        }
        assert!(copy().take().is_none());
        assert!(spare.next_deadline().is_some());
    }

    #[test]
    fn a_kernel_that_makes_none_is_asked_a_few_times_after_each_call() {
        let mut spare = SpareNetworks::open().unwrap();
        for _ in 0..SPARE {
            assert!(spare.next_deadline().is_some());
            spare.begin();
        }
        assert_eq!(spare.next_deadline(), None);
        spare.note_call();
        assert!(spare.next_deadline().is_some());
    }
}
