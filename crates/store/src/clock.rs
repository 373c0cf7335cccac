//! The one clock that decides leases.

use abbey_model::Timestamp;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A source of instants. Injected, so that tests turn it by hand.
pub trait Clock: Send + Sync {
    /// The instant now.
    fn now(&self) -> Timestamp;
}

/// The host's clock, made steady: it follows the wall clock forwards and never backwards. After
/// a step back it follows the monotonic clock until the wall has caught up, so leases still
/// end in time.
#[derive(Debug)]
pub struct SystemClock {
    anchor: Mutex<(i64, Instant)>,
}

impl SystemClock {
    /// Clock that starts at the present wall-clock time and then follows the operating system's clocks.
    pub fn new() -> Self {
        SystemClock {
            anchor: Mutex::new((wall(), Instant::now())),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let mut anchor = self
            .anchor
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let elapsed = i64::try_from(anchor.1.elapsed().as_millis()).unwrap_or(i64::MAX);
        let steady = anchor.0.saturating_add(elapsed);
        let now = steady.max(wall());
        *anchor = (now, Instant::now());
        Timestamp(now)
    }
}

fn wall() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A clock behind a floor: never before the newest instant that the store has on disk.
pub struct MonotonicClock {
    inner: std::sync::Arc<dyn Clock>,
    floor: AtomicI64,
}

impl MonotonicClock {
    /// Wraps a clock so that its readings never go back below `floor`.
    pub fn new(inner: std::sync::Arc<dyn Clock>, floor: Timestamp) -> Self {
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
}
