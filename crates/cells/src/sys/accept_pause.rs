//! A pause of a listener whose connections cannot be accepted for now.

use rustix::io::Errno;
use std::io;
use std::time::{Duration, Instant};

/// Time until a listener is polled again.
const PAUSE: Duration = Duration::from_millis(200);

/// Pause of a listener after it could not accept for want of descriptors or memory. The connection stays in the kernel's
/// queue, so `poll` would report it at once again, over and over.
#[derive(Debug, Default)]
pub(crate) struct AcceptPause(Option<Instant>);

impl AcceptPause {
    /// What was accepted; begins a pause if nothing can be accepted for now.
    pub(crate) fn accepted<T>(&mut self, result: io::Result<T>) -> Option<T> {
        let error = match result {
            Ok(accepted) => return Some(accepted),
            Err(error) => error.raw_os_error().map(Errno::from_raw_os_error),
        };
        let short = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
        if error.is_some_and(|e| short.contains(&e)) {
            self.0 = Some(Instant::now() + PAUSE);
        }
        None
    }

    /// When the pause ends; none if there is none.
    pub(crate) fn end(&self) -> Option<Instant> {
        self.0.filter(|end| *end > Instant::now())
    }
}
