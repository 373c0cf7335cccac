//! Whether the whole house is going down, cells included.

use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// Set by `abbey down`, and never unset: the process ends once no cell is left.
#[derive(Default)]
pub(crate) struct Shutdown {
    going_down: AtomicBool,
    requested: Notify,
}

impl Shutdown {
    /// From now on every cell is stopped, and no task is accepted.
    pub(crate) fn request(&self) {
        self.going_down.store(true, Ordering::SeqCst);
        self.requested.notify_one();
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.going_down.load(Ordering::SeqCst)
    }

    /// Resolves once it was requested.
    pub(crate) async fn requested(&self) {
        self.requested.notified().await;
    }
}
