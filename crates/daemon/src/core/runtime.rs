//! The seam through which the control plane sleeps, reads the monotonic clock, draws random bytes,
//! and starts tasks. (Wall-clock time is the store's, so that no entry is older than the one before.)
//!
//! Everything in this crate goes through it, so that a simulator can drive the control plane with
//! timers and randomness of its own.

use abbey_api::Problem;
use abbey_model::{FaultKind, Timestamp};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

/// A future that is ready at an instant.
pub(crate) type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A monotonic clock with timers.
pub(crate) trait Timers: Send + Sync {
    fn now(&self) -> Instant;
    fn sleep_until(&self, at: Instant) -> Sleep;
}

/// A source of random bytes.
pub(crate) trait Random: Send + Sync {
    /// # Errors
    /// When the system has none.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), String>;
}

/// Timers of tokio, random bytes of the system.
pub(crate) struct System;

impl Timers for System {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        Box::pin(tokio::time::sleep_until(at.into()))
    }
}

impl Random for System {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), String> {
        getrandom::fill(bytes).map_err(|e| e.to_string())
    }
}

/// The time for something is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimedOut;

/// Timers, randomness and tasks of one control plane.
#[derive(Clone)]
pub(crate) struct Runtime {
    timers: Arc<dyn Timers>,
    random: Arc<dyn Random>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Runtime {
    /// Timers and randomness of the system.
    pub(crate) fn system() -> Runtime {
        Runtime::new(Arc::new(System), Arc::new(System))
    }

    pub(crate) fn new(timers: Arc<dyn Timers>, random: Arc<dyn Random>) -> Runtime {
        Runtime {
            timers,
            random,
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    pub(crate) fn instant(&self) -> Instant {
        self.timers.now()
    }

    pub(crate) fn sleep(&self, time: Duration) -> Sleep {
        // Longer than anybody lives is for ever.
        match self.timers.now().checked_add(time) {
            Some(at) => self.timers.sleep_until(at),
            None => Box::pin(std::future::pending()),
        }
    }

    pub(crate) fn sleep_until(&self, at: Instant) -> Sleep {
        self.timers.sleep_until(at)
    }

    /// # Errors
    /// When `future` is not ready in time.
    pub(crate) async fn timeout<F: Future>(
        &self,
        time: Duration,
        future: F,
    ) -> Result<F::Output, TimedOut> {
        tokio::select! {
            biased;
            output = future => Ok(output),
            () = self.sleep(time) => Err(TimedOut),
        }
    }

    /// # Errors
    /// When `future` is not ready by then.
    pub(crate) async fn timeout_at<F: Future>(
        &self,
        at: Instant,
        future: F,
    ) -> Result<F::Output, TimedOut> {
        tokio::select! {
            biased;
            output = future => Ok(output),
            () = self.sleep_until(at) => Err(TimedOut),
        }
    }

    /// Starts a task that the control plane waits for when it ends.
    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// Starts a task that may be cut off when the control plane ends.
    pub(crate) fn detach<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(task)
    }

    /// # Errors
    /// When the system has no random bytes.
    pub(crate) fn fill_random(&self, bytes: &mut [u8]) -> Result<(), Problem> {
        let filled = self.random.fill(bytes);
        filled.map_err(|why| Problem::new(FaultKind::Host, format!("no random bytes: {why}")))
    }

    /// Ends every loop and connection; cells go on.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Resolves once [`Runtime::stop`] was called.
    pub(crate) fn stopped(&self) -> WaitForCancellationFuture<'_> {
        self.stop.cancelled()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(crate) fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Tasks that must end before the control plane does.
    pub(crate) fn tracker(&self) -> TaskTracker {
        self.tracker.clone()
    }
}

/// Runs something that blocks its thread.
pub(crate) fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    tokio::task::spawn_blocking(work)
}

/// Time of the host's clock, which may be set back; the store's never is.
pub(crate) fn host_time() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp(since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
}

/// Pauses this thread; for start-up, which has no tasks yet.
pub(crate) fn pause_thread(time: Duration) {
    std::thread::sleep(time);
}
