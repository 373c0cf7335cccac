//! Read-only connections beside the writer, each on a thread of its own.

use super::connection::{SqliteRows, database_error};
use crate::{Error, Reply, Result};
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Readers of ordinary operations; two cores gain nothing from more.
pub(super) const READERS: usize = 2;
/// Readers of operations that read the whole state, which would keep ordinary reads waiting. One at a time is enough.
pub(super) const SCANNERS: usize = 1;
/// Pages that a reader keeps between reads, KiB. The kernel has the file in memory as well, so more is memory without gain.
const CACHE_KIB: i64 = 512;
/// Most reads waiting.
const QUEUE_MAX: usize = 4096;

type Job = Box<dyn FnOnce(&SqliteRows) + Send>;

pub(super) struct Readers {
    queue: Option<SyncSender<Job>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Readers {
    /// Opens `count` read-only connections to the state file, each with a thread that runs the queued reads.
    pub(super) fn open(path: &Path, count: usize) -> Result<Readers> {
        let (queue, jobs) = sync_channel::<Job>(QUEUE_MAX);
        let jobs = Arc::new(Mutex::new(jobs));
        let mut threads = Vec::new();
        for _ in 0..count {
            let rows = connect(path).map_err(database_error)?;
            let jobs = Arc::clone(&jobs);
            let thread = std::thread::Builder::new()
                .name("store-reader".to_owned())
                .spawn(move || serve(&rows, &jobs))
                .map_err(|source| Error::File {
                    what: "start a reader of",
                    path: path.to_owned(),
                    source,
                })?;
            threads.push(thread);
        }
        Ok(Readers {
            queue: Some(queue),
            threads,
        })
    }

    /// Queues a read, which runs on a consistent view of the committed state. Returns the reply that its result will
    /// arrive in. A read whose reply was dropped before its turn is left out.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        op: impl FnOnce(&SqliteRows) -> Result<T> + Send + 'static,
    ) -> Reply<T> {
        let (sender, reply) = Reply::new();
        let job: Job = Box::new(move |rows| {
            if sender.is_closed() {
                return;
            }
            let _caller_gone = sender.send(op(rows));
        });
        if let Some(queue) = &self.queue {
            let _closed = queue.send(job);
        }
        reply
    }
}

fn connect(path: &Path) -> rusqlite::Result<SqliteRows> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    super::schema::distrust_schema(&connection)?;
    // A negative number is an amount in KiB.
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    // The first read opens the journal, for which there may be no descriptor later.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
        row.get::<_, i64>(0)
    })?;
    Ok(SqliteRows::new(connection))
}

fn serve(rows: &SqliteRows, jobs: &Mutex<Receiver<Job>>) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(job) => job(rows),
            Err(_) => return,
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        drop(self.queue.take());
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}
