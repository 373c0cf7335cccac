//! Delays between attempts.

use std::time::Duration;

/// Delays that double from a first one up to a longest one, which then repeats. Yields values only: callers sleep in
/// their own way and decide when to give up.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// Exponential backoff: delays start at `first` and double up to `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Backoff {
        Backoff {
            next: first,
            longest,
        }
    }

    /// Delay before the next attempt; each call returns the next longer one.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next.min(self.longest);
        self.next = delay.saturating_mul(2).min(self.longest);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(500));
        let delays: Vec<u128> = (0..5).map(|_| backoff.next_delay().as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 500, 500]);
        let mut short = Backoff::new(Duration::from_secs(9), Duration::from_secs(1));
        assert_eq!(short.next_delay(), Duration::from_secs(1));
    }
}
