//! The one seam through which the control plane reads the monotonic clock, sleeps, draws random
//! bytes, and starts tasks, so that tests and a simulator can drive it with timers and randomness of
//! their own. Wall-clock time comes from the store's clock, which never goes back.
//!
//! [`Runtime`] is passed to every feature. The free functions below belong to the seam as well, for
//! callers without a runtime: `cargo xtask tidy` refuses other clocks, timers and threads.

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
    /// Current time of this clock.
    fn now(&self) -> Instant;
    /// A future that is ready once this clock has reached `at`.
    fn sleep_until(&self, at: Instant) -> Sleep;
}

/// A source of random bytes.
pub(crate) trait Random: Send + Sync {
    /// Fills a buffer with random bytes.
    ///
    /// # Errors
    /// The cause, if there are none.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), String>;
}

/// Timers of Tokio and random bytes of the operating system.
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

/// A time limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimedOut;

/// Timers, randomness and tasks of one control plane. Clones share them.
#[derive(Clone)]
pub(crate) struct Runtime {
    timers: Arc<dyn Timers>,
    random: Arc<dyn Random>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Runtime {
    /// A runtime with the timers and random bytes of the operating system.
    pub(crate) fn system() -> Runtime {
        Runtime::new(Arc::new(System), Arc::new(System))
    }

    /// A runtime with these timers and this source of random bytes.
    pub(crate) fn new(timers: Arc<dyn Timers>, random: Arc<dyn Random>) -> Runtime {
        Runtime {
            timers,
            random,
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Current time of the monotonic clock.
    pub(crate) fn now(&self) -> Instant {
        self.timers.now()
    }

    /// A future that is ready after this time; never, if the time exceeds what the clock can represent.
    pub(crate) fn sleep(&self, time: Duration) -> Sleep {
        match self.timers.now().checked_add(time) {
            Some(at) => self.timers.sleep_until(at),
            None => Box::pin(std::future::pending()),
        }
    }

    /// A future that is ready once the monotonic clock has reached `at`.
    pub(crate) fn sleep_until(&self, at: Instant) -> Sleep {
        self.timers.sleep_until(at)
    }

    /// Output of a future, if it is ready within this time; otherwise it is dropped.
    ///
    /// # Errors
    /// [`TimedOut`].
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

    /// Output of a future, if it is ready before this instant; otherwise it is dropped.
    ///
    /// # Errors
    /// [`TimedOut`].
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

    /// Starts a task that the control plane waits for at shutdown.
    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// Starts a task that may be cancelled at any point when the control plane ends.
    pub(crate) fn spawn_untracked<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(task)
    }

    /// Fills a buffer with random bytes.
    ///
    /// # Errors
    /// `Host`, if there are none.
    pub(crate) fn fill_random(&self, bytes: &mut [u8]) -> Result<(), Problem> {
        let filled = self.random.fill(bytes);
        filled.map_err(|why| {
            Problem::new(
                FaultKind::Host,
                format!("cannot get random bytes from the kernel: {why}"),
            )
        })
    }

    /// Requests the end of every loop and connection of the control plane; cells keep running.
    pub(crate) fn request_stop(&self) {
        self.stop.cancel();
    }

    /// Resolves once [`Runtime::request_stop`] was called.
    pub(crate) fn stopped(&self) -> WaitForCancellationFuture<'_> {
        self.stop.cancelled()
    }

    /// Whether [`Runtime::request_stop`] was called.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Token that is cancelled by [`Runtime::request_stop`].
    pub(crate) fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Tracker of the tasks started by [`Runtime::spawn`], with which shutdown waits for their end.
    pub(crate) fn tracker(&self) -> TaskTracker {
        self.tracker.clone()
    }
}

/// Runs a blocking function on a thread of Tokio's blocking pool.
pub(crate) fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    tokio::task::spawn_blocking(work)
}

/// Time of the host's wall clock, which may go back; only for comparing it with the store's clock.
pub(crate) fn host_wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp(since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
}

/// Blocks the calling thread for this time; only for start-up, before there is a runtime.
pub(crate) fn sleep_thread(time: Duration) {
    std::thread::sleep(time);
}
