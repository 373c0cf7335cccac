//! The wall time of a run, as its worker counts it. While the run waits for another agent the house counts alone, which
//! knows whether somebody works on the subtask, and ends the lease when the time is over.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Shortest pause between two looks at the time that is left.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Wall time of a run.
pub(super) struct WallClock {
    started: Instant,
    wall: Duration,
    stood: Mutex<Stood>,
}

/// Time for which the clock stood still.
#[derive(Default)]
struct Stood {
    before: Duration,
    since: Option<Instant>,
}

impl WallClock {
    /// A clock that goes from now on.
    pub(super) fn start(wall: Duration) -> WallClock {
        WallClock {
            started: Instant::now(),
            wall,
            stood: Mutex::default(),
        }
    }

    fn stood(&self) -> MutexGuard<'_, Stood> {
        self.stood.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the clock until the value is dropped.
    pub(super) fn stand_still(&self) -> StandsStill<'_> {
        self.stood().since.get_or_insert_with(Instant::now);
        StandsStill(self)
    }

    /// Time that is left at `now`.
    fn left(&self, now: Instant) -> Duration {
        let stood = self.stood();
        let now = stood.since.unwrap_or(now);
        let worked = now.duration_since(self.started);
        self.wall
            .saturating_sub(worked.saturating_sub(stood.before))
    }

    /// Returns once no time is left.
    pub(super) async fn run_out(&self) {
        loop {
            let left = self.left(Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.max(LOOK_EVERY)).await;
        }
    }
}

/// A clock that stands still.
pub(super) struct StandsStill<'a>(&'a WallClock);

impl Drop for StandsStill<'_> {
    fn drop(&mut self) {
        let mut stood = self.0.stood();
        if let Some(since) = stood.since.take() {
            stood.before += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_still_while_the_run_waits() {
        let clock = WallClock::start(Duration::from_secs(10));
        let left = |after: u64| clock.left(clock.started + Duration::from_secs(after));
        assert_eq!(left(4).as_secs(), 6);
        clock.stood().since = Some(clock.started + Duration::from_secs(4));
        assert_eq!(left(64).as_secs(), 6);
        *clock.stood() = Stood {
            before: Duration::from_secs(60),
            since: None,
        };
        assert_eq!((left(69).as_secs(), left(71).as_secs()), (1, 0));
        let still = clock.stand_still();
        assert!(clock.stood().since.is_some());
        drop(still);
        assert!(clock.stood().since.is_none());
    }
}
