//! The writer: one thread, one connection, many operations to a flush (group commit).
//!
//! While a flush is under way the next operations queue up; they become the next group. Answers are sent only after
//! the commit. An operation that fails is undone alone; a commit that fails undoes the group, and when the flush
//! itself failed the process must end, because what is on disk is then unknown.

use super::connection::{SqliteRows, database_error};
use super::open::Opened;
use super::reserve::Reserve;
use crate::disk::DiskSpace;
use crate::error::DatabaseError;
use crate::ops::{leases, ledger};
use crate::rows::{WriteRows, params};
use crate::topic::{Publisher, Subscription, Topic};
use crate::transaction::{Context, Tx};
use crate::{Error, MonotonicClock, Reply, Result};
use abbey_engine::budget::TimeZone;
use abbey_model::Millis;
use ed25519_dalek::SigningKey;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Most operations in one flush.
const GROUP_MAX: usize = 512;
/// Most operations waiting; callers beyond it wait.
const QUEUE_MAX: usize = 8192;

/// Called when a flush failed.
type OnFatal = Box<dyn FnOnce(&str) + Send>;
/// Sends an operation's answer, once it is known whether its group was committed.
type Answer = Box<dyn FnOnce(Result<()>) + Send>;
/// One operation, with the way to its caller.
struct Job {
    run: Box<dyn FnOnce(&mut Tx<'_>) -> Answer + Send>,
    /// Whether it may use the reserved space.
    essential: bool,
}

/// What the writer tells others after each commit.
struct Shared {
    head: AtomicU64,
    transactions: AtomicU64,
    operations: AtomicU64,
    publisher: Publisher,
}

pub(super) struct Writer {
    queue: Option<SyncSender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
    shared: Arc<Shared>,
}

impl Writer {
    /// Starts the thread that runs every write. `on_fatal` is called with the reason when a commit fails, because the
    /// state on disk is unknown then.
    pub(super) fn start(
        opened: Opened,
        clock: Arc<MonotonicClock>,
        (path, reserve, disk): (&Path, Reserve, Arc<dyn DiskSpace>),
        (context, signing_key): (Context, SigningKey),
        on_fatal: OnFatal,
    ) -> Result<Writer> {
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let rows = SqliteRows::new(opened.connection);
        let zone = ledger::time_zone(&rows)?;
        let shared = Arc::new(Shared {
            head: AtomicU64::new(opened.head.0),
            transactions: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            publisher: Publisher::new(),
        });
        let mut state = State {
            rows,
            context,
            clock,
            path: path.to_owned(),
            reserve,
            disk,
            head: opened.head,
            signing_key,
            zone,
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || state.serve(&jobs, on_fatal))
            .map_err(|source| Error::File {
                what: "start the writer of",
                path: path.to_owned(),
                source,
            })?;
        Ok(Writer {
            queue: Some(queue),
            thread: Some(thread),
            shared,
        })
    }

    /// Queues a write, which runs in a transaction together with others that wait. Returns the reply that arrives after
    /// the commit. An `essential` one may use the reserved space.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        op: impl FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
        essential: bool,
    ) -> Reply<T> {
        let (sender, reply) = Reply::new();
        let run = Box::new(move |tx: &mut Tx<'_>| -> Answer {
            let outcome = tx.run_in_savepoint(op);
            Box::new(move |committed| {
                let _caller_gone = sender.send(match committed {
                    Ok(()) => outcome,
                    Err(error) => outcome.and(Err(error)),
                });
            })
        });
        if let Some(queue) = &self.queue {
            let _closed = queue.send(Job { run, essential });
        }
        reply
    }

    /// Sequence number of the newest committed audit entry.
    pub(super) fn head(&self) -> u64 {
        self.shared.head.load(Ordering::SeqCst)
    }

    /// Number of transactions and of operations that were committed since the store was opened.
    pub(super) fn counters(&self) -> (u64, u64) {
        (
            self.shared.transactions.load(Ordering::Relaxed),
            self.shared.operations.load(Ordering::Relaxed),
        )
    }

    /// Subscribes to a topic, which every commit that touches it publishes.
    pub(super) fn subscribe(&self, topic: Topic) -> Subscription {
        self.shared.publisher.subscribe(topic)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// What the writer's thread owns.
struct State {
    rows: SqliteRows,
    context: Context,
    clock: Arc<MonotonicClock>,
    path: PathBuf,
    reserve: Reserve,
    disk: Arc<dyn DiskSpace>,
    /// Sequence number and hash of the newest committed audit entry.
    head: (u64, String),
    /// Key that signs heads of the audit log.
    signing_key: SigningKey,
    zone: TimeZone,
    shared: Arc<Shared>,
}

impl State {
    fn serve(&mut self, jobs: &Receiver<Job>, on_fatal: OnFatal) {
        while let Ok(first) = jobs.recv() {
            if let Err(error) = self.commit_group(first, jobs) {
                // What reached the disk is unknown; only a restart that reads it back knows. So the journal is not
                // folded into the file either.
                let path = self.path.display();
                on_fatal(&format!("a flush of `{path}` failed: {}", chain(&error)));
                return;
            }
        }
        // On the way out the journal is folded into the one file; a reader may still hold it.
        let _busy = self
            .connection()
            .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    }

    fn connection(&self) -> &Connection {
        &self.rows.0
    }

    /// Runs the first operation and all that wait behind it, commits them together, and sends their answers.
    ///
    /// # Errors
    /// When the flush failed for any reason but a full disk.
    fn commit_group(&mut self, first: Job, jobs: &Receiver<Job>) -> Result<()> {
        let mut answers = Vec::new();
        match self.run_group(first, jobs, &mut answers) {
            Ok(()) => {
                self.reserve.restore();
                answers.into_iter().for_each(|answer| answer(Ok(())));
                Ok(())
            }
            Err(error) => {
                if !self.connection().is_autocommit() {
                    let _already_rolled_back = self.connection().execute_batch("ROLLBACK");
                }
                let full = matches!(&error, Error::Database(e) if e.out_of_space);
                for answer in answers {
                    answer(Err(if full {
                        Error::DiskFull(parent(&self.path))
                    } else {
                        Error::Closed
                    }));
                }
                if full { Ok(()) } else { Err(error) }
            }
        }
    }

    fn run_group(
        &mut self,
        first: Job,
        jobs: &Receiver<Job>,
        answers: &mut Vec<Answer>,
    ) -> Result<()> {
        let State {
            rows,
            shared,
            reserve,
            ..
        } = self;
        let mut essential = first.essential;
        if first.essential {
            reserve.release_if_short();
        }
        let (now, jump) = self.clock.now_with_jump();
        let (head, zone) = (self.head.clone(), self.zone.clone());
        let key = self.signing_key.clone();
        let mut tx = Tx::new(rows, &self.context, now, head, key, zone);
        rows.execute("BEGIN IMMEDIATE", params![])?;
        let before = rows.0.total_changes();
        let extended = match jump > Millis(0) {
            true => leases::extend_by_clock_jump(&mut tx, jump),
            false => Ok(()),
        };
        // Its caller gets an answer also when this failed.
        answers.push((first.run)(&mut tx));
        extended?;
        while answers.len() < GROUP_MAX
            && let Ok(job) = jobs.try_recv()
        {
            // A large group that comes first must not use the space up.
            essential |= job.essential;
            if job.essential {
                reserve.release_if_short();
            }
            answers.push((job.run)(&mut tx));
        }
        let operations = answers.len() as u64;
        shared.operations.fetch_add(operations, Ordering::Relaxed);
        ledger::write_changed_accounts(&mut tx)?;
        if rows.0.total_changes() == before {
            // Nothing was written: no flush, no transaction.
            return rows.0.execute_batch("ROLLBACK").map_err(database_error);
        }
        if !essential && self.disk.is_full() {
            let full = DatabaseError::new(true, "the disk is full");
            return Err(Error::Database(full));
        }
        rows.execute("COMMIT", params![])?;
        self.clock.settle_jump(jump);
        let topics = tx.topics();
        (self.head, self.zone) = (tx.head, tx.zone);
        self.signing_key = tx.signing_key;
        shared.head.store(self.head.0, Ordering::SeqCst);
        shared.transactions.fetch_add(1, Ordering::Relaxed);
        shared.publisher.publish(topics);
        Ok(())
    }
}

/// An error with all its causes, on one line.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}
