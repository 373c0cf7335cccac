//! Comparison of a guest's clock with the host's: after its start, after a pause, and then from time to time, because a guest
//! does not notice that its host was suspended, and without KVM its clock may be slower or faster.

use crate::guest::CLOCK_OFF_MAX;
use std::time::{Duration, Instant};

/// Time between two comparisons.
const EVERY: Duration = Duration::from_secs(30);
/// Time after which a clock that was set is compared again.
const AGAIN: Duration = Duration::from_secs(1);

/// When the clock is compared next, and how far it was off.
#[derive(Debug, Default)]
pub(super) struct GuestClock {
    next: Option<Instant>,
    off_ms: Option<i64>,
}

impl GuestClock {
    /// Compares the clock at this instant.
    pub(super) fn check_at(&mut self, at: Instant) {
        self.next = Some(at);
    }

    /// Stops comparing, because the guest cannot answer, and forgets what it answered.
    pub(super) fn hold(&mut self) {
        *self = GuestClock::default();
    }

    /// Whether the guest is to compare its clock now; then the next comparison is planned.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let due = self.next.is_some_and(|at| at <= now);
        if due {
            self.next = Some(now + EVERY);
        }
        due
    }

    /// Takes an answer of the guest. A clock that it set is compared again soon.
    pub(super) fn note(&mut self, off_ms: i64, now: Instant) {
        self.off_ms = Some(off_ms);
        if off_ms.unsigned_abs() >= CLOCK_OFF_MAX && self.next.is_some() {
            self.next = Some(now + AGAIN);
        }
    }

    /// Instant of the next comparison; none while there is none.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.next
    }

    /// How far the clock was ahead at the last comparison, milliseconds; none before the first.
    pub(super) fn off_ms(&self) -> Option<i64> {
        self.off_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_compared_from_time_to_time_and_soon_after_it_was_set() {
        let begun = Instant::now();
        let mut clock = GuestClock::default();
        assert!(!clock.take_due(begun) && clock.next_deadline().is_none());
        clock.check_at(begun);
        assert!(clock.take_due(begun));
        assert!(!clock.take_due(begun), "once");
        clock.note(-12, begun);
        assert_eq!(clock.next_deadline(), Some(begun + EVERY));
        assert!(clock.take_due(begun + EVERY));
        // An hour behind: set, and compared again.
        clock.note(-3_600_000, begun + EVERY);
        assert_eq!(clock.off_ms(), Some(-3_600_000));
        assert_eq!(clock.next_deadline(), Some(begun + EVERY + AGAIN));
        assert!(clock.take_due(begun + EVERY + AGAIN));
        clock.note(3, begun + EVERY + AGAIN);
        assert_eq!(clock.off_ms(), Some(3));
        // Paused, it is not asked, and what it said is not true any more.
        clock.hold();
        clock.note(9_000, begun);
        assert!(clock.next_deadline().is_none());
    }
}
