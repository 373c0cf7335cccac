//! The clocks of the simulated host: a wall clock that can be set, and time that passes.

use abbey_engine::budget::{TimeZone, day_bounds};
use abbey_model::{Millis, Timestamp};
use abbey_store::{Clock, SteadyTime};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const NANOS_PER_MILLI: i64 = 1_000_000;
/// How much too early a clock with the planted fault sees midnight.
const EARLY: Millis = Millis::from_secs(60);

/// The store's clock on a wall clock that the simulation turns, by the rules of the real one.
#[derive(Debug)]
pub(super) struct TurnedClock(Mutex<Clocks>);

#[derive(Debug)]
struct Clocks {
    steady: SteadyTime,
    /// The wall clock, nanoseconds since 1970.
    wall: i64,
    /// Time that passed since the last reading.
    unread: Duration,
    /// Time zone in which midnight is seen too early: a planted fault.
    early_midnight: Option<TimeZone>,
}

impl Clocks {
    fn read(&mut self) -> Timestamp {
        let unread = std::mem::take(&mut self.unread);
        self.steady.advance(self.wall, unread);
        self.steady.timestamp()
    }
}

impl TurnedClock {
    pub(super) fn new(start: Timestamp) -> TurnedClock {
        let wall = start.0 * NANOS_PER_MILLI;
        TurnedClock(Mutex::new(Clocks {
            steady: SteadyTime::new(wall),
            wall,
            unread: Duration::ZERO,
            early_midnight: None,
        }))
    }

    fn clocks(&self) -> MutexGuard<'_, Clocks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets time pass.
    pub(super) fn advance(&self, time: Duration) {
        let mut clocks = self.clocks();
        clocks.unread += time;
        clocks.wall += i64::try_from(time.as_nanos()).unwrap_or(0);
    }

    /// Sets the wall clock forward or back, or lets the host sleep.
    pub(super) fn set_by(&self, step: Millis) {
        self.clocks().wall += step.0 * NANOS_PER_MILLI;
    }

    /// A new process reads the clocks for the first time.
    pub(super) fn restart(&self) {
        let mut clocks = self.clocks();
        clocks.unread = Duration::ZERO;
        clocks.steady = SteadyTime::new(clocks.wall);
    }

    /// The instant that the house should see.
    pub(super) fn true_now(&self) -> Timestamp {
        self.clocks().read()
    }

    /// Plants the fault that midnight comes too early in a time zone.
    pub(super) fn plant_early_midnight(&self, zone: TimeZone) {
        self.clocks().early_midnight = Some(zone);
    }
}

impl Clock for TurnedClock {
    fn now(&self) -> Timestamp {
        let mut clocks = self.clocks();
        let now = clocks.read();
        match &clocks.early_midnight {
            Some(zone) => {
                let midnight = day_bounds(now, zone).1;
                if midnight.since(now) <= EARLY {
                    midnight
                } else {
                    now
                }
            }
            None => now,
        }
    }

    fn continue_from(&self, newest: Timestamp) {
        self.clocks().steady.continue_from(newest);
    }

    fn unsettled_jump(&self) -> Millis {
        self.clocks().steady.unsettled_jump()
    }

    fn settle_jump(&self, jump: Millis) {
        self.clocks().steady.settle_jump(jump);
    }
}
