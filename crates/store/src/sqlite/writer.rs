//! The writer: one thread, one connection, many operations to a flush.
//!
//! While a flush is under way the next operations queue up; they become the next group. Answers
//! go out only after the commit. An operation that fails is undone alone; a commit that fails
//! undoes the group, and when the flush itself failed the process must end, because what is on
//! disk is then unknown.

use super::open::Opened;
use crate::{Error, Guarded, Reply, Result};
use abbey_engine::budget::Account;
use abbey_model::{Redactor, Timestamp};
use ed25519_dalek::SigningKey;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, RwLock};

/// Most operations in one flush.
const GROUP_MAX: usize = 512;
/// Most operations waiting; callers beyond it wait.
const QUEUE_MAX: usize = 8192;

/// Scope and metric.
pub(super) type AccountKey = (String, &'static str);
/// What is called after a commit, and when a flush failed.
type Hooks = (Arc<dyn Fn(u64) + Send + Sync>, Box<dyn FnOnce(&str) + Send>);
type Finish = Box<dyn FnOnce(std::result::Result<(), Error>) + Send>;
type Job = Box<dyn FnOnce(&mut Tx<'_>) -> Finish + Send>;

pub(super) struct Writer {
    queue: Option<SyncSender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
    head: Arc<AtomicU64>,
    transactions: Arc<AtomicU64>,
    operations: Arc<AtomicU64>,
}

/// What an operation sees: the open transaction, its instant, and state that is flushed with it.
pub(super) struct Tx<'a> {
    pub(super) db: &'a Connection,
    /// Stamped once for the whole transaction.
    pub(super) now: Timestamp,
    pub(super) head: (u64, String),
    pub(super) key: &'a SigningKey,
    pub(super) redactor: &'a RwLock<Redactor>,
    pub(super) zone: abbey_engine::budget::TimeZone,
    /// Budgets touched in this group, written once at its end.
    pub(super) accounts: BTreeMap<AccountKey, Option<(Account, bool)>>,
    /// Values to go back to when the current operation fails.
    pub(super) undo: Vec<(AccountKey, Option<(Account, bool)>)>,
}

impl Tx<'_> {
    /// The next number of a kind; none is given out twice.
    pub(super) fn next(&self, kind: &str) -> Result<u64> {
        let number = self
            .db
            .prepare_cached("INSERT INTO meta VALUES (?1, '1') ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + 1 RETURNING CAST(value AS INTEGER)")?
            .query_row([kind], |r| r.get(0))?;
        Ok(number)
    }
}

impl Writer {
    pub(super) fn start(
        opened: Opened,
        clock: Arc<Guarded>,
        path: &Path,
        redactor: Arc<RwLock<Redactor>>,
        hooks: Hooks,
    ) -> Writer {
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let head = Arc::new(AtomicU64::new(opened.head.0));
        let transactions = Arc::new(AtomicU64::new(0));
        let operations = Arc::new(AtomicU64::new(0));
        let counters = (
            Arc::clone(&head),
            Arc::clone(&transactions),
            Arc::clone(&operations),
        );
        let path = path.to_owned();
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || run(&opened, &jobs, &clock, &path, &redactor, hooks, &counters))
            .ok();
        Writer {
            queue: Some(queue),
            thread,
            head,
            transactions,
            operations,
        }
    }

    pub(super) fn submit<T: Send + 'static>(
        &self,
        op: impl FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Reply<T> {
        let (sender, reply) = Reply::new();
        let job: Job = Box::new(move |tx| {
            let outcome = tx.isolated(op);
            Box::new(move |committed| {
                let _caller_gone = sender.send(match committed {
                    Ok(()) => outcome,
                    Err(error) => outcome.and(Err(error)),
                });
            })
        });
        if let Some(queue) = &self.queue {
            let _closed = queue.send(job);
        }
        reply
    }

    pub(super) fn head(&self) -> u64 {
        self.head.load(Ordering::SeqCst)
    }

    pub(super) fn counters(&self) -> (u64, u64) {
        (
            self.transactions.load(Ordering::Relaxed),
            self.operations.load(Ordering::Relaxed),
        )
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

impl Tx<'_> {
    /// Runs one operation so that its failure leaves no trace.
    fn isolated<T>(&mut self, op: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.undo.clear();
        let head = self.head.clone();
        self.db.prepare_cached("SAVEPOINT op")?.execute([])?;
        let outcome = op(self);
        if outcome.is_err() {
            self.db.prepare_cached("ROLLBACK TO op")?.execute([])?;
            self.head = head;
            for (key, value) in self.undo.drain(..).rev() {
                match value {
                    Some(_) => self.accounts.insert(key, value),
                    None => self.accounts.remove(&key),
                };
            }
        }
        self.db.prepare_cached("RELEASE op")?.execute([])?;
        outcome
    }
}

fn run(
    opened: &Opened,
    jobs: &Receiver<Job>,
    clock: &Guarded,
    path: &Path,
    redactor: &RwLock<Redactor>,
    (on_commit, on_fatal): Hooks,
    (head, transactions, operations): &(Arc<AtomicU64>, Arc<AtomicU64>, Arc<AtomicU64>),
) {
    let db = &opened.connection;
    // On every way out but a failed flush, the journal is folded into the one file.
    struct Fold<'a>(&'a Connection);
    impl Drop for Fold<'_> {
        fn drop(&mut self) {
            let _a_reader_may_hold_it = self.0.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
        }
    }
    let fold = Fold(db);
    let mut committed_head = opened.head.clone();
    let mut zone = super::ledger::zone(db);
    while let Ok(first) = jobs.recv() {
        let mut tx = Tx {
            db,
            now: clock.now(),
            head: committed_head.clone(),
            key: &opened.key,
            redactor,
            zone: zone.clone(),
            accounts: BTreeMap::new(),
            undo: Vec::new(),
        };
        let begun = db
            .prepare_cached("BEGIN IMMEDIATE")
            .and_then(|mut s| s.execute([]));
        let before = total_changes(db);
        let mut finishes = Vec::new();
        if begun.is_ok() {
            finishes.push(first(&mut tx));
            while finishes.len() < GROUP_MAX
                && let Ok(job) = jobs.try_recv()
            {
                finishes.push(job(&mut tx));
            }
        } else {
            drop(first);
        }
        operations.fetch_add(finishes.len() as u64, Ordering::Relaxed);
        let outcome = begun
            .map(drop)
            .map_err(Error::from)
            .and_then(|()| super::ledger::flush(&mut tx))
            .and_then(|()| {
                if total_changes(db) == before {
                    // Nothing was written: no flush, no transaction.
                    db.execute_batch("ROLLBACK")?;
                    return Ok(false);
                }
                db.prepare_cached("COMMIT")?.execute([])?;
                Ok(true)
            });
        match outcome {
            Ok(wrote) => {
                committed_head = tx.head.clone();
                zone = tx.zone.clone();
                head.store(committed_head.0, Ordering::SeqCst);
                transactions.fetch_add(u64::from(wrote), Ordering::Relaxed);
                if wrote {
                    on_commit(committed_head.0);
                }
                finishes.into_iter().for_each(|finish| finish(Ok(())));
            }
            Err(error) => {
                if !db.is_autocommit() {
                    let _already_rolled_back = db.execute_batch("ROLLBACK");
                }
                let full = is_full(&error);
                let told = || {
                    if full {
                        Error::DiskFull(parent(path))
                    } else {
                        Error::Closed
                    }
                };
                finishes.into_iter().for_each(|finish| finish(Err(told())));
                if !full {
                    // What reached the disk is unknown; only a restart that reads it back knows.
                    std::mem::forget(fold);
                    on_fatal(&format!(
                        "a flush of `{}` failed: {}",
                        path.display(),
                        render(&error)
                    ));
                    return;
                }
            }
        }
    }
}

fn total_changes(db: &Connection) -> u64 {
    db.total_changes()
}

fn render(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn is_full(error: &Error) -> bool {
    matches!(error, Error::Sql(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull))
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}
