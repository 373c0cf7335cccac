//! Errors of the store.

use abbey_engine::task::Wait;
use abbey_engine::{budget, task};
use abbey_model::{FaultKind, Slug};
use std::path::PathBuf;

/// Result of an operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation was not done. It has written nothing then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state machine of the task refused.
    #[error(transparent)]
    Task(#[from] task::Refusal),
    /// A budget refused.
    #[error(transparent)]
    Budget(#[from] budget::Refusal),
    /// The change of a budget is refused.
    #[error("{0}")]
    BudgetChange(String),
    /// The delegation is not allowed.
    #[error(transparent)]
    Authority(#[from] abbey_engine::authority::Refusal),
    /// The approval is for something else, or no longer valid.
    #[error(transparent)]
    Approval(#[from] abbey_engine::approval::Refusal),
    /// A result is missing fields that the delegation expects.
    #[error("the result is missing the required fields {}; pass each as a field of `data`", missing.join(", "))]
    Handoff {
        /// Names of the fields.
        missing: Vec<String>,
    },
    /// The workflow run has ended.
    #[error("WF-{number} is {state}, so it cannot be {what}")]
    WorkflowOver {
        /// Number of the workflow run.
        number: u64,
        /// Final state of the run.
        state: &'static str,
        /// Operation that was requested.
        what: &'static str,
    },
    /// No object has this name.
    #[error("there is no {what} `{name}`")]
    NotFound {
        /// Kind of object.
        what: &'static str,
        /// Name of the object.
        name: String,
    },
    /// The name is taken.
    #[error("a {what} `{name}` already exists")]
    Exists {
        /// Kind of object.
        what: &'static str,
        /// Name of the object.
        name: String,
    },
    /// The caller saw an older version.
    #[error(
        "{what} has changed: the request is based on version {seen}, the current version is {current}; read it again"
    )]
    Stale {
        /// Object that changed.
        what: String,
        /// Version that the caller saw.
        seen: u64,
        /// Present version.
        current: u64,
    },
    /// The same idempotency key came with another request.
    #[error("the idempotency key `{0}` was already used for a different request; send a new key")]
    KeyReused(String),
    /// The agent has as many runs as it may have.
    #[error("{agent} already has {running} runs, which is its limit; wait until one has ended")]
    Busy {
        /// Slug of the agent.
        agent: Slug,
        /// Number of runs that it has.
        running: u32,
    },
    /// A task of this kind can't be begun now.
    #[error("{}; wait for other work", .0.text)]
    MustWait(Wait),
    /// A model call belongs to a run without a valid lease.
    #[error("run {0} has no valid lease, so it may not call a model")]
    NoLease(String),
    /// The disk of the state file is full.
    #[error("no disk space is left for the state in `{0}`; free some space; nothing was lost")]
    DiskFull(PathBuf),
    /// The file is not a sound database of this house.
    #[error(
        "the state file `{path}` is damaged: {why}; stop the house, keep the file, and use `abbey restore`"
    )]
    Corrupt {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with the file.
        why: String,
    },
    /// The file was written by a newer version.
    #[error(
        "the state file `{path}` has format {found}, but this version of Abbey reads only formats up to {known}; install a newer version"
    )]
    Newer {
        /// Path of the file.
        path: PathBuf,
        /// Format number of the file.
        found: i64,
        /// Newest format number that this version reads.
        known: i64,
    },
    /// The bundled database is too old.
    #[error(
        "SQLite {0} has a bug that can damage the database; version 3.51.3 or newer is required"
    )]
    OldSqlite(String),
    /// A file could not be used.
    #[error("could not {what} `{path}`")]
    File {
        /// Action that failed.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The database failed.
    #[error("a database operation failed")]
    Database(#[source] DatabaseError),
    /// The host gave no random bytes.
    #[error("cannot get random bytes from the kernel")]
    Entropy(#[source] std::io::Error),
    /// A row does not hold what the schema promises.
    #[error("a row of the database has invalid content: {0}")]
    Row(String),
    /// The time zone is not known.
    #[error("`{0}` is not a known time zone")]
    TimeZone(String),
    /// The store has been closed.
    #[error("the database is closed, since the control plane is shutting down")]
    Closed,
}

/// A failure of the database, whichever it is.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct DatabaseError {
    /// Whether it failed because no space was left.
    pub out_of_space: bool,
    /// No source in the sense of [`std::error::Error`], since its text is part of this error's.
    cause: Box<dyn std::error::Error + Send + Sync>,
}

impl DatabaseError {
    /// Wraps the error of a database driver.
    pub fn new(
        out_of_space: bool,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        DatabaseError {
            out_of_space,
            cause: source.into(),
        }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Error::Row(error.to_string())
    }
}

impl Error {
    /// Category of the error, which decides the HTTP status and the exit code that report it.
    pub fn kind(&self) -> FaultKind {
        match self {
            Error::Task(refusal) => match refusal {
                task::Refusal::NotAllowed { .. } => FaultKind::Forbidden,
                task::Refusal::Illegal { .. }
                | task::Refusal::Held { .. }
                | task::Refusal::Fenced { .. }
                | task::Refusal::LeaseOver { .. }
                | task::Refusal::NotDue => FaultKind::Conflict,
            },
            Error::Budget(_) | Error::MustWait(_) => FaultKind::Limit,
            Error::Authority(refusal) => match refusal {
                abbey_engine::authority::Refusal::TooMany { .. } => FaultKind::Limit,
                abbey_engine::authority::Refusal::NotAllowed { .. }
                | abbey_engine::authority::Refusal::MayNotAsk { .. }
                | abbey_engine::authority::Refusal::Oneself(_)
                | abbey_engine::authority::Refusal::TooDeep { .. }
                | abbey_engine::authority::Refusal::Circle { .. } => FaultKind::Forbidden,
            },
            Error::Approval(_) | Error::WorkflowOver { .. } => FaultKind::Conflict,
            Error::Handoff { .. } | Error::BudgetChange(_) => FaultKind::Invalid,
            Error::NotFound { .. } => FaultKind::NotFound,
            Error::Stale { .. } => FaultKind::Stale,
            Error::Exists { .. } | Error::KeyReused(_) | Error::Busy { .. } | Error::NoLease(_) => {
                FaultKind::Conflict
            }
            Error::DiskFull(_) => FaultKind::Host,
            Error::TimeZone(_) => FaultKind::Invalid,
            Error::Closed => FaultKind::Unavailable,
            Error::Corrupt { .. }
            | Error::Newer { .. }
            | Error::OldSqlite(_)
            | Error::File { .. }
            | Error::Database(_)
            | Error::Entropy(_)
            | Error::Row(_) => FaultKind::Internal,
        }
    }
}
