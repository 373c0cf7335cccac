//! A clock that tests turn.

use abbey_model::Timestamp;
use abbey_store::Clock;
use std::sync::atomic::{AtomicI64, Ordering};

pub(crate) struct Turned(pub(crate) AtomicI64);

impl Clock for Turned {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}
