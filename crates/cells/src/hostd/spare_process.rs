//! A process that hostd forks while nobody calls, and that serves the next call: a call need not wait for the fork.

use crate::sys::descriptors;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Time without a call after which one is forked: on a small host it would compete with the call.
const QUIET: Duration = Duration::from_millis(10);

/// The spare process, as the hostd that accepts calls sees it. Whoever is forked from that hostd has to drop its copy: the
/// spare process ends when the last copy is closed.
pub(super) struct SpareProcess {
    /// To the process that waits; none if there is none.
    waiting: Option<UnixStream>,
    /// Whether one is to be forked. After a failure not before the next call.
    wanted: bool,
}

/// Where a spare process waits for its call.
pub(super) struct WaitingPlace(UnixStream);

impl WaitingPlace {
    /// Waits for the connection of the next call. None if hostd has ended.
    pub(super) fn wait_for_call(self) -> Option<UnixStream> {
        loop {
            match descriptors::receive_byte(&self.0) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                received => return received.ok().flatten().map(UnixStream::from),
            }
        }
    }
}

impl SpareProcess {
    /// There is none at first, but one is wanted.
    pub(super) fn none() -> SpareProcess {
        SpareProcess {
            waiting: None,
            wanted: true,
        }
    }

    /// Time without a call after which one is to be forked; none if it need not be.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        (self.waiting.is_none() && self.wanted).then_some(QUIET)
    }

    /// Forks the process if it is wanted. Returns its place in the new process, and none in this one.
    pub(super) fn fork_if_due(&mut self) -> Option<WaitingPlace> {
        self.next_deadline()?;
        self.wanted = false;
        let (ours, theirs) = UnixStream::pair().ok()?;
        match abbey_launch::fork() {
            Ok(None) => Some(WaitingPlace(theirs)),
            Ok(Some(_)) => {
                self.waiting = Some(ours);
                None
            }
            Err(_) => None,
        }
    }

    /// Gives the connection of a call to the process that waits. Returns false if there is none, or it was killed.
    pub(super) fn hand_over(&mut self, call: &UnixStream) -> bool {
        self.wanted = true;
        let Some(process) = self.waiting.take() else {
            return false;
        };
        descriptors::send_with_descriptors(&process, b"c", &[call.as_fd()]).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_handed_over_once_and_another_process_is_wanted_then() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut spare = SpareProcess {
            waiting: Some(ours),
            wanted: false,
        };
        assert_eq!(spare.next_deadline(), None);
        let (call, mut caller) = UnixStream::pair().unwrap();
        assert!(spare.hand_over(&call));
        assert!(!spare.hand_over(&call));
        assert!(spare.next_deadline().is_some());
        let mut served = WaitingPlace(theirs).wait_for_call().unwrap();
        io::Write::write_all(&mut served, b"x").unwrap();
        drop((served, call));
        let mut said = String::new();
        io::Read::read_to_string(&mut caller, &mut said).unwrap();
        assert_eq!(said, "x");
    }

    #[test]
    fn a_process_that_was_killed_takes_no_call_and_one_without_hostd_ends() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut spare = SpareProcess {
            waiting: Some(ours),
            wanted: false,
        };
        drop(theirs);
        let (call, _caller) = UnixStream::pair().unwrap();
        assert!(!spare.hand_over(&call));
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        assert!(WaitingPlace(theirs).wait_for_call().is_none());
    }
}
