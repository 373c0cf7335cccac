//! A limit on how fast somebody may cause work or bytes outside of their own cell.

use std::time::{Duration, Instant};

/// An allowance that is used up and fills again: `burst` at once, and `per_second` from then on.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    burst: f64,
    per_second: f64,
    left: f64,
    at: Instant,
}

impl TokenBucket {
    /// A full allowance at `now`; both numbers are positive.
    pub(crate) fn new(burst: f64, per_second: f64, now: Instant) -> TokenBucket {
        TokenBucket {
            burst,
            per_second,
            left: burst,
            at: now,
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = self.burst.min(self.left + passed * self.per_second);
        self.at = now;
    }

    /// Time from `now` until an amount can be taken. More than the burst is taken from a full allowance, which is then in
    /// debt.
    pub(crate) fn wait(&mut self, amount: f64, now: Instant) -> Duration {
        self.refill(now);
        let missing = amount.min(self.burst) - self.left;
        Duration::from_secs_f64(missing.max(0.0) / self.per_second)
    }

    /// Takes an amount at `now`.
    ///
    /// # Errors
    /// The time until the amount can be taken; then nothing was.
    pub(crate) fn take(&mut self, amount: f64, now: Instant) -> Result<(), Duration> {
        let wait = self.wait(amount, now);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.left -= amount;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_used_up_and_fills_again() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut bucket = TokenBucket::new(10.0, 2.0, start);
        assert_eq!(bucket.take(10.0, start), Ok(()));
        assert_eq!(bucket.take(4.0, start), Err(second * 2));
        assert_eq!(bucket.take(4.0, start + second * 2), Ok(()));
        // What is larger than the whole allowance waits for a full one, and for its debt afterwards.
        let full = start + second * 20;
        assert_eq!(bucket.take(30.0, full), Ok(()));
        assert_eq!(bucket.take(1.0, full), Err(second * 21 / 2));
    }
}
