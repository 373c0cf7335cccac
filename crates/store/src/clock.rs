//! The one clock that decides leases.
//!
//! It never goes back and never stands still. It follows the host's wall clock forwards, also when that is set; a jump
//! is reported, so that what measures running time (a lease, the wall time of a run) is extended by it, while windows,
//! schedules and due times follow the wall. When the wall clock was set back, this one runs at half speed until both
//! agree again: each instant of a calendar comes once, early by at most the step, and every wait ends.

use abbey_model::{Millis, Timestamp};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Least step of the wall clock that counts as a jump and not as a correction. Leases outlast less.
const JUMP_LEAST: Duration = Duration::from_secs(5);

/// A source of instants. Injected, so that tests turn it by hand.
pub trait Clock: Send + Sync {
    /// The instant now.
    fn now(&self) -> Timestamp;

    /// Tells the clock that a reading of an earlier process was `newest`: it goes on from there.
    fn continue_from(&self, _newest: Timestamp) {}

    /// Time by which the wall clock was set forward, or by which the host slept, and which nobody has
    /// [settled](Clock::settle_jump) yet.
    fn unsettled_jump(&self) -> Millis {
        Millis(0)
    }

    /// Takes this much off the jump: its consequences are stored.
    fn settle_jump(&self, _jump: Millis) {}
}

/// The host's clock, made steady.
#[derive(Debug)]
pub struct SystemClock {
    steady: Mutex<(SteadyTime, Instant)>,
}

impl SystemClock {
    /// Clock that starts at the present wall-clock time and then follows the operating system's clocks.
    pub fn new() -> Self {
        SystemClock {
            steady: Mutex::new((SteadyTime::new(wall()), Instant::now())),
        }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, (SteadyTime, Instant)> {
        self.steady
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let mut locked = self.locked();
        let (steady, read) = &mut *locked;
        // The wall first: of a pause of this process between the two, the next reading takes half for a jump, not all.
        let wall = wall();
        let at = Instant::now();
        steady.advance(wall, at.duration_since(*read));
        *read = at;
        steady.timestamp()
    }

    fn continue_from(&self, newest: Timestamp) {
        self.locked().0.continue_from(newest);
    }

    fn unsettled_jump(&self) -> Millis {
        self.locked().0.unsettled_jump()
    }

    fn settle_jump(&self, jump: Millis) {
        self.locked().0.settle_jump(jump);
    }
}

const NANOS_PER_MILLI: i64 = 1_000_000;

/// Time that follows a wall clock, as a pure function of its readings, in nanoseconds since 1970. [`SystemClock`] reads
/// the host's clocks for it; a simulation turns its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SteadyTime {
    now: i64,
    /// Sum of the jumps that nobody has settled.
    jumped: i64,
}

impl SteadyTime {
    /// Time that begins at a reading of the wall clock, in nanoseconds since 1970.
    pub fn new(wall: i64) -> Self {
        SteadyTime {
            now: wall,
            jumped: 0,
        }
    }

    /// Goes on to a reading of the wall clock, `elapsed` after the previous one.
    pub fn advance(&mut self, wall: i64, elapsed: Duration) {
        let elapsed = nanos(elapsed);
        let ahead_before = self.now.saturating_add(elapsed);
        if wall >= ahead_before {
            let jump = wall - ahead_before;
            if jump >= nanos(JUMP_LEAST) {
                self.jumped = self.jumped.saturating_add(jump);
            }
            self.now = wall;
        } else {
            self.now = wall.max(self.now.saturating_add(elapsed / 2));
        }
    }

    /// The instant that it is now.
    pub fn timestamp(self) -> Timestamp {
        Timestamp(self.now / NANOS_PER_MILLI)
    }

    /// [`Clock::unsettled_jump`].
    pub fn unsettled_jump(self) -> Millis {
        Millis(self.jumped / NANOS_PER_MILLI)
    }

    /// [`Clock::settle_jump`].
    pub fn settle_jump(&mut self, jump: Millis) {
        self.jumped = (self.jumped - jump.0.saturating_mul(NANOS_PER_MILLI)).max(0);
    }

    /// [`Clock::continue_from`].
    pub fn continue_from(&mut self, newest: Timestamp) {
        self.now = self.now.max(newest.0.saturating_mul(NANOS_PER_MILLI));
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Reading of the wall clock, nanoseconds since 1970.
fn wall() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    nanos(since.unwrap_or_default())
}

/// A clock behind a floor: never before the newest instant that the store has on disk.
pub struct MonotonicClock {
    inner: std::sync::Arc<dyn Clock>,
    floor: AtomicI64,
}

impl MonotonicClock {
    /// Wraps a clock so that its readings never go back below `floor`.
    pub fn new(inner: std::sync::Arc<dyn Clock>, floor: Timestamp) -> Self {
        inner.continue_from(floor);
        MonotonicClock {
            inner,
            floor: AtomicI64::new(floor.0),
        }
    }

    /// Current instant: that of the wrapped clock, or the newest instant returned before if that is later.
    pub fn now(&self) -> Timestamp {
        let seen = self.inner.now().0;
        Timestamp(self.floor.fetch_max(seen, Ordering::SeqCst).max(seen))
    }

    /// Current instant, and [`Clock::unsettled_jump`] of the wrapped clock, which the instant includes: another thread may
    /// read the clock and find a jump at any time.
    pub(crate) fn now_with_jump(&self) -> (Timestamp, Millis) {
        loop {
            let jump = self.inner.unsettled_jump();
            let now = self.now();
            if self.inner.unsettled_jump() == jump {
                return (now, jump);
            }
        }
    }

    /// [`Clock::settle_jump`] of the wrapped clock.
    pub(crate) fn settle_jump(&self, jump: Millis) {
        self.inner.settle_jump(jump);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;
    const DAY: i64 = 86_400 * SECOND;
    const START: i64 = 1_800_000_000 * SECOND;

    fn after(time: &mut SteadyTime, seconds: u64, wall: i64) -> i64 {
        time.advance(wall, Duration::from_secs(seconds));
        time.now
    }

    #[test]
    fn a_jump_is_followed_and_reported_once() {
        let mut time = SteadyTime::new(START);
        assert_eq!(
            after(&mut time, 10, START + 10 * SECOND),
            START + 10 * SECOND
        );
        assert_eq!(time.jumped, 0);
        // A correction is no jump.
        after(&mut time, 10, START + 21 * SECOND);
        assert_eq!(time.jumped, 0);
        let later = START + 31 * SECOND + 3 * DAY;
        assert_eq!(after(&mut time, 10, later), later);
        assert_eq!(time.jumped, 3 * DAY);
        after(&mut time, 10, later + 10 * SECOND);
        assert_eq!(time.jumped, 3 * DAY);
    }

    #[test]
    fn a_step_back_slows_the_clock_until_the_wall_has_caught_up() {
        let mut time = SteadyTime::new(START + 3 * DAY);
        let (mut wall, mut before) = (START, time.now);
        for hour in 1..=6 * 24 {
            wall += 3_600 * SECOND;
            let now = after(&mut time, 3_600, wall);
            assert!(now > before, "it stood still in hour {hour}");
            before = now;
        }
        assert_eq!(time.now, wall, "both agree after twice the step");
        assert_eq!(time.jumped, 0);
        // Frequent readings lose nothing of it.
        let mut time = SteadyTime::new(START + DAY);
        for micros in 1..=2_000_000 {
            time.advance(START + micros * 1_000, Duration::from_micros(1));
        }
        assert_eq!(time.now, START + DAY + SECOND);
    }

    #[test]
    fn a_clock_that_was_set_back_while_the_house_was_down_does_not_stand_still() {
        let newest = Timestamp((wall() + 3 * DAY) / NANOS_PER_MILLI);
        let clock = MonotonicClock::new(std::sync::Arc::new(SystemClock::new()), newest);
        let end = Instant::now() + Duration::from_secs(20);
        while clock.now() <= newest {
            assert!(Instant::now() < end, "the clock stands still");
        }
        assert!(clock.now() < newest + Millis(60_000));
    }
}
