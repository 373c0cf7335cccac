//! Whether a command shows what it was asked for by now: its output, a program on a terminal, or a question. A notice about
//! what keeps it waiting would only disturb that.

use std::sync::atomic::{AtomicBool, Ordering};

static SHOWN: AtomicBool = AtomicBool::new(false);

/// Notes that the command has begun to show something, or follows what may come.
pub(crate) fn note() {
    SHOWN.store(true, Ordering::Relaxed);
}

/// Whether the command has begun to show something.
pub(crate) fn is_anything() -> bool {
    SHOWN.load(Ordering::Relaxed)
}
