//! All of the house's state that must not be lost, behind operations rather than SQL.
//!
//! [`Storage`] is the interface: every operation is declared once in `storage`, and written once in `ops` over the
//! row interface ([`Rows`]). A [driver](driver) brings transactions to it; [`Sqlite`] is the first, with one writer
//! thread that groups the operations of many callers into one flush, and read-only connections beside it.
//!
//! Each operation runs the `engine` inside its transaction and logs to the audit log in the same one. A commit
//! publishes the [topics](Topic) that its operations touched, and wakes who waits for them. Only the store's clock
//! decides leases: callers hand in durations, never instants. Deliberately absent: policy. No decision is written in
//! SQL.

mod chain;
mod clock;
mod driver;
mod entropy;
mod error;
mod ops;
mod rows;
mod sqlite;
mod storage;
mod topic;
mod transaction;
mod types;

pub use chain::{AuditEntry, AuditVerification, GENESIS, canonical, entry_hash};
pub use clock::{Clock, MonotonicClock, SystemClock};
pub use entropy::{Entropy, SystemEntropy};
pub use error::{DatabaseError, Error, Result};
pub use rows::{Row, Rows, Scalar, WriteRows};
pub use sqlite::{Options, Sqlite};
pub use storage::{OPERATIONS, Storage};
pub use topic::{Subscription, Topic, Topics};
pub use types::*;

/// An answer that arrives when its transaction is on disk.
#[derive(Debug)]
pub struct Reply<T>(tokio::sync::oneshot::Receiver<Result<T>>);

impl<T> Reply<T> {
    pub(crate) fn new() -> (tokio::sync::oneshot::Sender<Result<T>>, Self) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        (sender, Reply(receiver))
    }

    /// Blocks until the answer is there; for threads outside an async runtime.
    ///
    /// # Errors
    /// What the operation says, or [`Error::Closed`].
    pub fn wait(self) -> Result<T> {
        self.0.blocking_recv().unwrap_or(Err(Error::Closed))
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T>;
    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0)
            .poll(cx)
            .map(|r| r.unwrap_or(Err(Error::Closed)))
    }
}
