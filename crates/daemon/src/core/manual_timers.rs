//! Timers that a simulation or a test advances by hand; for tests, a clock of the store as well.

use crate::core::runtime::{Sleep, System, Timers};
use parking_lot::Mutex;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// Returns the stored milliseconds since the epoch as the current time.
#[cfg(test)]
pub(crate) struct ManualClock(pub(crate) std::sync::atomic::AtomicI64);

#[cfg(test)]
impl abbey_store::Clock for ManualClock {
    fn now(&self) -> abbey_model::Timestamp {
        abbey_model::Timestamp(self.0.load(std::sync::atomic::Ordering::SeqCst))
    }
}

/// Timers that fire only when they are advanced.
pub(crate) struct ManualTimers {
    state: Mutex<TimerState>,
    /// Number of sleeps begun so far, and the length of the last one.
    begun: watch::Sender<(u64, Duration)>,
}

struct TimerState {
    now: Instant,
    sleepers: Vec<(Instant, oneshot::Sender<()>)>,
}

impl ManualTimers {
    /// Timers whose clock starts at the current time of the system.
    pub(crate) fn new() -> ManualTimers {
        ManualTimers {
            state: Mutex::new(TimerState {
                now: System.now(),
                sleepers: Vec::new(),
            }),
            begun: watch::Sender::new((0, Duration::ZERO)),
        }
    }

    /// Advances the monotonic clock, and fires the timers that are due, in the order of their
    /// instants.
    pub(crate) fn advance(&self, time: Duration) {
        let mut state = self.state.lock();
        state.now += time;
        let now = state.now;
        let mut due: Vec<_> = state
            .sleepers
            .extract_if(.., |(at, _)| *at <= now)
            .collect();
        due.sort_by_key(|(at, _)| *at);
        for (_, sleeper) in due {
            let _no_longer_awaited = sleeper.send(());
        }
    }

    #[cfg(test)]
    /// Number of sleeps begun so far, for [`ManualTimers::sleep_after`].
    pub(crate) fn sleeps_begun(&self) -> u64 {
        self.begun.borrow().0
    }

    #[cfg(test)]
    /// Waits until more than `count` sleeps have begun, and returns the length of the newest.
    pub(crate) async fn sleep_after(&self, count: u64) -> Duration {
        let mut begun = self.begun.subscribe();
        let newest = begun.wait_for(|(number, _)| *number > count).await;
        newest.map_or(Duration::ZERO, |newest| newest.1)
    }
}

impl Timers for ManualTimers {
    fn now(&self) -> Instant {
        self.state.lock().now
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        let (sleeper, fired) = oneshot::channel();
        let mut state = self.state.lock();
        let length = at.saturating_duration_since(state.now);
        if length.is_zero() {
            return Box::pin(std::future::ready(()));
        }
        state.sleepers.retain(|(_, sleeper)| !sleeper.is_closed());
        state.sleepers.push((at, sleeper));
        drop(state);
        self.begun
            .send_modify(|begun| *begun = (begun.0 + 1, length));
        Box::pin(async move {
            if fired.await.is_err() {
                // The timers are gone, so this one never fires.
                std::future::pending::<()>().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::runtime::{Runtime, TimedOut};
    use std::sync::Arc;

    #[tokio::test]
    async fn sleeps_and_timeouts_end_when_the_timers_are_advanced() {
        let timers = Arc::new(ManualTimers::new());
        let rt = Runtime::new(Arc::clone(&timers) as Arc<dyn Timers>, Arc::new(System));
        let before = rt.now();
        let limit = Duration::from_secs(3600);
        let limited = rt.timeout(limit, std::future::pending::<()>());
        tokio::pin!(limited);
        tokio::select! {
            biased;
            _ = &mut limited => panic!("no time has passed"),
            length = timers.sleep_after(0) => assert_eq!(length, limit),
        }
        timers.advance(limit);
        assert_eq!(limited.await, Err(TimedOut));
        assert_eq!(rt.now() - before, limit);
        rt.sleep_until(before).await;
    }
}
