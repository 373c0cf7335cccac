//! Counts since the start, for metrics.

use std::sync::atomic::AtomicU64;

#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Wakes with nothing to consider.
    pub(crate) wakes_skipped: AtomicU64,
    pub(crate) model_calls: AtomicU64,
}
