//! How fast a shim takes a program's output for its log. Writing the log is work of the shim and of the disk, which the
//! limits of the cell do not count, so a program that writes faster waits, as for any reader that is slow.

use std::time::{Duration, Instant};

/// Bytes of the log that are written at once.
const BURST: i64 = 16 << 20;
/// Bytes of the log that are written in a second after that.
const PER_SECOND: i64 = 1 << 20;
/// Bytes that must be allowed before output is read again, so that a pause is worth its wake-up.
const STEP: i64 = 64 << 10;

/// Allowance of the log of one cell.
pub(super) struct LogRate {
    /// May be negative: what was read is written.
    left: i64,
    at: Instant,
    /// Until when no output is read.
    paused_until: Option<Instant>,
}

impl LogRate {
    /// A full allowance.
    pub(super) fn new(now: Instant) -> LogRate {
        LogRate {
            left: BURST,
            at: now,
            paused_until: None,
        }
    }

    /// Counts bytes that were written to the log.
    pub(super) fn count(&mut self, bytes: u64, now: Instant) {
        self.refill(now);
        self.left = self
            .left
            .saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        if self.left <= 0 {
            let missing = STEP.saturating_sub(self.left).unsigned_abs();
            let wait = Duration::from_millis(missing * 1000 / PER_SECOND.unsigned_abs() + 1);
            self.paused_until = Some(now + wait);
        }
    }

    /// Until when output stays unread; none if it is read now.
    pub(super) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|until| now < *until)
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        let more = i64::try_from(passed.as_micros()).unwrap_or(i64::MAX);
        let more = more.saturating_mul(PER_SECOND) / 1_000_000;
        if more > 0 {
            self.left = BURST.min(self.left.saturating_add(more));
            self.at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_read_at_the_mean_rate_after_a_burst() {
        let begin = Instant::now();
        let mut rate = LogRate::new(begin);
        let (mut now, mut written) = (begin, 0u64);
        while now < begin + Duration::from_secs(60) {
            match rate.paused_until(now) {
                Some(until) => now = until,
                None => {
                    rate.count(100_000, now);
                    written += 100_000;
                    now += Duration::from_micros(100);
                }
            }
        }
        let expected = (16 + 60) << 20;
        assert!(written.abs_diff(expected) < 1 << 20, "{written}");
        // Whoever is quiet for a while may burst again.
        let later = now + Duration::from_secs(100);
        rate.count(15 << 20, later);
        assert_eq!(rate.paused_until(later), None);
    }
}
