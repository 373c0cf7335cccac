//! Wakes by interval: which instant is next, and which were missed.
//!
//! An instant is a pure function of (anchor, interval, name, number), so nothing is stored while
//! nothing happens, and a wake that fired is known by its number (hazard: a job fires twice).

use abbey_model::{Millis, Timestamp};

/// Wakes of an agent at a regular interval, each delayed by a pseudorandom jitter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interval {
    /// Instant from which the interval counts.
    pub anchor: Timestamp,
    /// Time between two wakes; at least one second.
    pub every: Millis,
    /// Largest delay of a wake, so that agents do not all wake at once.
    pub jitter: Millis,
    /// Seed of the jitter: the agent's slug.
    pub seed: String,
}

impl Interval {
    /// Instant of the wake with number `n`; the first has number 1.
    pub fn instant_of_wake(&self, n: u64) -> Timestamp {
        let steps = i64::try_from(n).unwrap_or(i64::MAX);
        let base = Timestamp(
            self.anchor
                .0
                .saturating_add(self.every.0.max(1000).saturating_mul(steps)),
        );
        if self.jitter.0 <= 0 {
            return base;
        }
        base + Millis(
            i64::try_from(spread(&self.seed, n))
                .unwrap_or(0)
                .rem_euclid(self.jitter.0 + 1),
        )
    }

    /// Number of the newest wake that is due at `now`; 0 when none was due yet.
    pub fn last_due_wake(&self, now: Timestamp) -> u64 {
        let passed = u64::try_from(now.since(self.anchor).0 / self.every.0.max(1000)).unwrap_or(0);
        // Jitter can put the newest one still ahead, never by more than its own interval.
        (passed.saturating_sub(1)..=passed)
            .rev()
            .find(|n| *n > 0 && self.instant_of_wake(*n) <= now)
            .unwrap_or(0)
    }

    /// Number and instant of the wake that fires next after wake number `fired`. Of several missed wakes only the
    /// newest fires.
    pub fn next_instant(&self, fired: u64, now: Timestamp) -> (u64, Timestamp) {
        let due = self.last_due_wake(now);
        let n = if due > fired { due } else { fired.max(due) + 1 };
        (n, self.instant_of_wake(n))
    }
}

/// Deterministic spread of (name, number): FNV-1a, 64 bits, positive.
fn spread(seed: &str, n: u64) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let hash = seed.bytes().fold(0xcbf2_9ce4_8422_2325, mix);
    n.to_le_bytes().into_iter().fold(hash, mix) >> 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daily() -> Interval {
        Interval {
            anchor: Timestamp(1000),
            every: Millis::from_secs(86_400),
            jitter: Millis::from_secs(300),
            seed: "sysadmin".into(),
        }
    }

    #[test]
    fn a_day_asleep_is_one_wake_not_many() {
        let s = daily();
        let now = s.instant_of_wake(5) + Millis(1);
        assert_eq!(s.next_instant(1, now).0, 5);
        assert_eq!(s.next_instant(5, now).0, 6);
        assert!(s.next_instant(5, now).1 > now);
    }

    #[test]
    fn nothing_is_due_before_the_first() {
        let s = daily();
        assert_eq!(s.last_due_wake(Timestamp(2000)), 0);
        assert_eq!(s.next_instant(0, Timestamp(2000)).0, 1);
    }

    #[test]
    fn jitter_is_bounded_and_stable() {
        let s = daily();
        for n in 1..100 {
            let late = s.instant_of_wake(n).0 - (s.anchor.0 + s.every.0 * n as i64);
            assert!((0..=300_000).contains(&late));
            assert_eq!(s.instant_of_wake(n), daily().instant_of_wake(n));
        }
    }
}
