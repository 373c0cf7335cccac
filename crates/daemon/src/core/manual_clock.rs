//! A store clock that tests set by hand.

use abbey_model::Timestamp;
use abbey_store::Clock;
use std::sync::atomic::{AtomicI64, Ordering};

/// Returns the stored milliseconds since the epoch as the current time.
pub(crate) struct ManualClock(pub(crate) AtomicI64);

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}
