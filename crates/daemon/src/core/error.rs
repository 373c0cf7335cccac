//! Failures of the control plane, and their one rendering as problems.

use abbey_api::Problem;
use abbey_engine::task::Refusal;
use abbey_model::FaultKind;
use std::io;
use std::path::PathBuf;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be used.
    #[error("could not {what} `{path}`")]
    File {
        /// What was tried.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("`{path}` is damaged: {why}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Another control plane runs on this home.
    #[error("the house in `{home}` is already running (pid {holder})")]
    Locked {
        /// Which home.
        home: PathBuf,
        /// Whose lock.
        holder: String,
    },
    /// Sockets would not fit.
    #[error(
        "the path `{0}` is too long for the house's sockets; choose a home with a shorter path"
    )]
    HomeTooDeep(PathBuf),
    /// Agents could not reach their files.
    #[error(
        "agents have users of their own, which cannot enter `{dir}` on the way to `{home}`; choose another --home, or `chmod o+x` that directory"
    )]
    HomeClosed {
        /// Which home.
        home: PathBuf,
        /// The closed directory.
        dir: PathBuf,
    },
    /// A listener could not be opened.
    #[error("the operator API cannot listen on {address}: {why}")]
    Listen {
        /// Where.
        address: String,
        /// Why, with the holder where it is known.
        why: String,
    },
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] abbey_store::Error),
    /// A cell failed.
    #[error(transparent)]
    Cell(#[from] abbey_cells::Error),
    /// A problem that is already in the words of the API.
    #[error(transparent)]
    Problem(#[from] Problem),
}

impl Error {
    pub(crate) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { what, path, source }
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> FaultKind {
        match self {
            Error::Cell(abbey_cells::Error::NoTerminal(_) | abbey_cells::Error::NotRunning(_)) => {
                FaultKind::Conflict
            }
            Error::File { .. }
            | Error::HomeTooDeep(_)
            | Error::HomeClosed { .. }
            | Error::Cell(_) => FaultKind::Host,
            Error::Damaged { .. } => FaultKind::Internal,
            Error::Locked { .. } | Error::Listen { .. } => FaultKind::Conflict,
            Error::Store(error) => error.kind(),
            Error::Problem(problem) => problem.fault(),
        }
    }

    /// The whole chain in one line.
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
        if let Error::Store(store) = &error {
            match store {
                abbey_store::Error::Task(Refusal::Held { holder, .. }) => {
                    problem.holder = Some(holder.to_string())
                }
                abbey_store::Error::Task(Refusal::Fenced { current, .. }) => {
                    problem.current = Some(*current)
                }
                abbey_store::Error::Stale { current, .. } => problem.current = Some(*current),
                abbey_store::Error::Busy { agent, .. } => problem.holder = Some(agent.to_string()),
                _ => {}
            }
        }
        problem
    }
}

pub(crate) type Result<T> = std::result::Result<T, Error>;
