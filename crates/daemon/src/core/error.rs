//! Errors of the control plane, and their conversion into problem documents.

use abbey_api::Problem;
use abbey_engine::task::Refusal;
use abbey_model::{CellName, FaultKind};
use abbey_support::shell::shell_path;
use std::io;
use std::path::PathBuf;

/// Any failure of the control plane.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("could not {what} `{path}`")]
    File {
        /// Verb of the failed action, such as `read`.
        what: &'static str,
        /// File of the failed action.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A file has invalid content.
    #[error("`{path}` is damaged: {why}")]
    Damaged {
        /// File with the invalid content.
        path: PathBuf,
        /// Description of the defect.
        why: String,
    },
    /// A file is no backup of a house. Nothing of its content is shown: it may be any file.
    #[error("`{0}` is no archive of Abbey; name a file that `abbey backup` wrote")]
    NoArchive(PathBuf),
    /// The database is missing or empty, but the home is not a new one.
    #[error(
        "the database `{path}` is {state}, but this is no new house: the home has {found}; nothing was started. Restore a backup with `abbey --home {} restore FILE`, put the file back, or move the whole home to another place to begin anew",
        shell_path(home)
    )]
    LostDatabase {
        /// Path of the database.
        path: PathBuf,
        /// `missing` or `empty`.
        state: &'static str,
        /// What the home has.
        found: String,
        /// Path of the home.
        home: PathBuf,
    },
    /// Another control plane runs on this home.
    #[error("the house in `{home}` is already running (pid {})", holder.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()))]
    Locked {
        /// Path of the home.
        home: PathBuf,
        /// Process that holds the lock; none if this process may not know it.
        holder: Option<i32>,
    },
    /// Paths of sockets below this home would exceed the limit of Unix socket paths.
    #[error("the path `{0}` is too long for a Unix socket; choose a home with a shorter path")]
    HomeTooDeep(PathBuf),
    /// A directory above the home cannot be entered by the users of agents.
    #[error(
        "agents run as users of their own, which cannot enter `{dir}`, a parent of the home `{home}`; choose another `--home`, or run `chmod o+x {}`",
        shell_path(dir)
    )]
    HomeClosed {
        /// Path of the home.
        home: PathBuf,
        /// Directory that the users of agents cannot enter.
        dir: PathBuf,
    },
    /// The operator API's listener could not be opened.
    #[error("the operator API cannot listen on {address}: {why}")]
    Listen {
        /// Address of the listener.
        address: String,
        /// Cause, with the process that holds the port if it is known.
        why: String,
    },
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] abbey_store::Error),
    /// An operation on a cell failed.
    #[error(transparent)]
    Cell(#[from] abbey_cells::Error),
    /// A failure that is already a problem document.
    #[error(transparent)]
    Problem(#[from] Problem),
}

impl Error {
    /// Makes a closure for `map_err` that turns an I/O error into [`Error::File`] with this verb
    /// (`"read"`) and path.
    pub(crate) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { what, path, source }
    }

    /// Kind of fault, which decides the HTTP status and the exit code.
    pub fn kind(&self) -> FaultKind {
        match self {
            Error::Cell(abbey_cells::Error::NoTerminal(_) | abbey_cells::Error::NotRunning(_)) => {
                FaultKind::Conflict
            }
            Error::Cell(abbey_cells::Error::HostdHangs { .. }) => FaultKind::Unavailable,
            Error::File { .. }
            | Error::HomeTooDeep(_)
            | Error::HomeClosed { .. }
            | Error::Cell(_) => FaultKind::Host,
            Error::Damaged { .. } | Error::NoArchive(_) | Error::LostDatabase { .. } => {
                FaultKind::Internal
            }
            Error::Locked { .. } | Error::Listen { .. } => FaultKind::Conflict,
            Error::Store(error) => error.kind(),
            Error::Problem(problem) => problem.fault(),
        }
    }

    /// Whether it failed for want of space on a disk.
    pub(crate) fn is_full_disk(&self) -> bool {
        match self {
            Error::File { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            Error::Store(abbey_store::Error::DiskFull(_)) => true,
            Error::Store(abbey_store::Error::Database(e)) => e.out_of_space,
            _ => false,
        }
    }

    /// This error and all its sources in one line, separated by `: `.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut at = std::error::Error::source(self);
        while let Some(source) = at {
            text = format!("{text}: {source}");
            at = source.source();
        }
        text
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        if let Error::Problem(problem) = error {
            return problem;
        }
        let mut problem = Problem::new(error.kind(), error.chain());
        if let Error::Cell(abbey_cells::Error::NotRunning(cell)) = &error {
            problem.detail = match cell {
                CellName::Agent(slug) => format!("agent `{slug}` is not running"),
                CellName::Service(slug) => format!("service `{slug}` is not running"),
                CellName::Run(_) => problem.detail,
            };
            problem.remedy = start_remedy(cell);
        }
        if let Error::Store(store) = &error {
            match store {
                abbey_store::Error::Task(Refusal::Fenced { current, .. }) => {
                    problem.current = Some(*current)
                }
                abbey_store::Error::Stale { current, .. } => problem.current = Some(*current),
                abbey_store::Error::Busy { agent, .. } => problem.holder = Some(agent.to_string()),
                abbey_store::Error::NotFound { what, .. } => {
                    problem.remedy = how_to_list(what).map(str::to_owned);
                }
                _ => {}
            }
        }
        problem
    }
}

/// Problem with an object that does not exist: its kind, its name as the caller wrote it, and how to list those that
/// do.
pub(crate) fn not_found(what: &str, name: &str) -> Problem {
    let problem = Problem::new(FaultKind::NotFound, format!("there is no {what} `{name}`"));
    match how_to_list(what) {
        Some(remedy) => problem.remedy(remedy),
        None => problem,
    }
}

/// How the operator lists objects of a kind; `None` for kinds that no command lists.
fn how_to_list(what: &str) -> Option<&'static str> {
    Some(match what {
        "agent" => "`abbey ps` lists the agents",
        "service" => "`abbey service list` lists the services",
        "task" => "`abbey task list` lists the tasks",
        "provider" => "`abbey provider list` lists the providers",
        "approval" => "`abbey approvals` lists the open requests",
        "token" => "`abbey token list` lists the tokens",
        "run of a workflow" => "`abbey workflow list` lists the runs",
        _ => return None,
    })
}

/// How the operator starts a cell that is not running; `None` for a single command.
fn start_remedy(cell: &CellName) -> Option<String> {
    match cell {
        CellName::Agent(slug) => Some(format!(
            "`abbey why {slug}` says whether it is still starting, stopped or failing; `abbey start {slug}` starts it"
        )),
        CellName::Service(slug) => Some(format!(
            "`abbey service logs {slug}` shows its output; `abbey service restart {slug}` starts it"
        )),
        CellName::Run(_) => None,
    }
}

/// Result with the control plane's [`Error`].
pub(crate) type Result<T> = std::result::Result<T, Error>;
