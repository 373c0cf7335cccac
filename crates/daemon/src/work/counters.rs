//! Counters since the start of the control plane, for metrics.

use std::sync::atomic::AtomicU64;

/// Events counted since the start of the control plane.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Wakes of agents whose heartbeat file was empty.
    pub(crate) wakes_skipped: AtomicU64,
    /// Model calls for which a reservation was requested.
    pub(crate) model_calls: AtomicU64,
}
