//! The store in one SQLite file: WAL, `synchronous=FULL`, one writer, many readers.

mod backup;
mod connection;
mod import;
mod open;
mod readers;
mod reserve;
mod schema;
mod writer;

pub use import::import_state_file;
pub use open::SqliteOptions;
pub use schema::FORMAT;

use crate::disk::{DiskSpace, HostDisk};
use crate::driver::Driver;
use crate::rows::Rows;
use crate::topic::{Subscription, Topic};
use crate::transaction::{Context, Tx};
use crate::{MonotonicClock, OPERATIONS, Reply, Result};
use abbey_model::Timestamp;
use ed25519_dalek::SigningKey;
use readers::{READERS, Readers, SCANNERS};
use reserve::Reserve;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use writer::Writer;

/// The store in one SQLite file.
pub struct Sqlite {
    writer: Writer,
    readers: Readers,
    scanners: Readers,
    clock: Arc<MonotonicClock>,
    path: PathBuf,
    /// Calls of each operation, in the order of [`OPERATIONS`].
    calls: Vec<AtomicU64>,
}

impl Sqlite {
    /// Opens or creates the state file.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) for anything but a sound file of a known format; a damaged file is
    /// never taken for an empty house.
    pub fn open(options: SqliteOptions) -> Result<Sqlite> {
        Sqlite::open_on_disk(options, Arc::new(HostDisk))
    }

    /// As [`Sqlite::open`], on this disk.
    ///
    /// # Errors
    /// As [`Sqlite::open`].
    pub fn open_on_disk(options: SqliteOptions, disk: Arc<dyn DiskSpace>) -> Result<Sqlite> {
        let path = options.path.clone();
        let mut reserve = Reserve::of(&path);
        // Opening writes a little too, and what fills the disk may only be ended by a house that runs.
        reserve.release_if_short();
        let opened = open::open(&options)?;
        let clock = Arc::new(MonotonicClock::new(options.clock, opened.newest));
        let readers = Readers::open(&path, READERS)?;
        let scanners = Readers::open(&path, SCANNERS)?;
        let context = Context {
            redactor: options.redactor,
            entropy: options.entropy,
        };
        let key = SigningKey::from_bytes(&options.signing_key);
        let clock_of_writer = Arc::clone(&clock);
        let writer = Writer::start(
            opened,
            clock_of_writer,
            (&path, reserve, disk),
            (context, key),
            options.on_fatal,
        )?;
        let calls = OPERATIONS.iter().map(|_| AtomicU64::new(0)).collect();
        Ok(Sqlite {
            writer,
            readers,
            scanners,
            clock,
            path,
            calls,
        })
    }

    /// Path of the state file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Driver for Sqlite {
    fn write<T: Send + 'static>(
        &self,
        op: impl FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Reply<T> {
        self.writer.submit(op, false)
    }

    fn write_essential<T: Send + 'static>(
        &self,
        op: impl FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Reply<T> {
        self.writer.submit(op, true)
    }

    fn read<T: Send + 'static>(
        &self,
        op: impl FnOnce(&dyn Rows) -> Result<T> + Send + 'static,
    ) -> Reply<T> {
        self.readers.submit(|rows| op(rows))
    }

    fn scan<T: Send + 'static>(
        &self,
        op: impl FnOnce(&dyn Rows) -> Result<T> + Send + 'static,
    ) -> Reply<T> {
        self.scanners.submit(|rows| op(rows))
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn audit_head(&self) -> u64 {
        self.writer.head()
    }

    fn subscribe(&self, topic: Topic) -> Subscription {
        self.writer.subscribe(topic)
    }

    fn counters(&self) -> (u64, u64) {
        self.writer.counters()
    }

    fn backup(&self, to: PathBuf) -> Reply<()> {
        self.scanners
            .submit(move |rows| backup::copy_to(&rows.0, &to))
    }

    fn state_hash(&self) -> Reply<String> {
        self.scanners.submit(|rows| backup::state_hash(&rows.0))
    }

    fn count_call(&self, operation: usize) {
        if let Some(calls) = self.calls.get(operation) {
            calls.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn calls(&self) -> Vec<u64> {
        let count = |calls: &AtomicU64| calls.load(Ordering::Relaxed);
        self.calls.iter().map(count).collect()
    }
}
