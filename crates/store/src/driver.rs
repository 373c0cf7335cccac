//! What one database adds to the operations: transactions, readers, and copies of the whole.

use crate::rows::Rows;
use crate::topic::{Subscription, Topic};
use crate::transaction::Tx;
use crate::{Reply, Result};
use abbey_model::Timestamp;
use std::path::PathBuf;

/// A database that runs the operations. [`Storage`](crate::Storage) is implemented for every driver.
pub(crate) trait Driver: Send + Sync {
    /// Runs an operation in a transaction; the answer arrives when it is on disk.
    fn write<T: Send + 'static>(
        &self,
        op: impl FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Reply<T>;
    /// As [`Driver::write`], with the space that is kept for operations that end or pause what may fill the disk.
    fn write_essential<T: Send + 'static>(
        &self,
        op: impl FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Reply<T>;
    /// Runs a read on a consistent view of what is committed.
    fn read<T: Send + 'static>(
        &self,
        op: impl FnOnce(&dyn Rows) -> Result<T> + Send + 'static,
    ) -> Reply<T>;
    /// As [`Driver::read`], for an operation that reads the whole state: at most one runs at a time, and ordinary reads do
    /// not wait for it.
    fn scan<T: Send + 'static>(
        &self,
        op: impl FnOnce(&dyn Rows) -> Result<T> + Send + 'static,
    ) -> Reply<T>;
    /// See [`Storage::now`](crate::Storage::now).
    fn now(&self) -> Timestamp;
    /// See [`Storage::audit_head`](crate::Storage::audit_head).
    fn audit_head(&self) -> u64;
    /// See [`Storage::subscribe`](crate::Storage::subscribe).
    fn subscribe(&self, topic: Topic) -> Subscription;
    /// See [`Storage::counters`](crate::Storage::counters).
    fn counters(&self) -> (u64, u64);
    /// See [`Storage::backup`](crate::Storage::backup).
    fn backup(&self, to: PathBuf) -> Reply<()>;
    /// See [`Storage::state_hash`](crate::Storage::state_hash).
    fn state_hash(&self) -> Reply<String>;
    /// Counts a call of the operation with this number in [`OPERATIONS`](crate::OPERATIONS).
    fn count_call(&self, operation: usize);
    /// Calls of each operation since the store was opened, in the order of [`OPERATIONS`](crate::OPERATIONS).
    fn calls(&self) -> Vec<u64>;
}
