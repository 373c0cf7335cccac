//! The shutdown request of `abbey down`, which stops the cells as well.

use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// Whether a shutdown of the whole house was requested. Once set it stays set; the process ends
/// when no cell is left.
#[derive(Default)]
pub(crate) struct Shutdown {
    going_down: AtomicBool,
    requested: Notify,
}

impl Shutdown {
    /// Requests the shutdown: from now on every cell is stopped and no task is accepted.
    pub(crate) fn request(&self) {
        self.going_down.store(true, Ordering::SeqCst);
        self.requested.notify_one();
    }

    /// Whether the shutdown was requested.
    pub(crate) fn is_requested(&self) -> bool {
        self.going_down.load(Ordering::SeqCst)
    }

    /// Resolves once the shutdown was requested; for a single waiting task.
    pub(crate) async fn requested(&self) {
        self.requested.notified().await;
    }
}
