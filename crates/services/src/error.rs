//! Why a stock service did not do what it was asked.

use std::path::{Path, PathBuf};

/// Why a stock service did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or a program of the host.
    #[error("could not {what} `{}`: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A program that the service consists of is not there.
    #[error("{what} was not found; {remedy}")]
    Missing {
        /// Which.
        what: &'static str,
        /// What to do.
        remedy: String,
    },
    /// A program of the service refused.
    #[error("{what}: {said}")]
    Refused {
        /// What was asked of it.
        what: &'static str,
        /// Its own words.
        said: String,
    },
    /// The question itself.
    #[error("this cannot be asked of the service: {0}")]
    InvalidRequest(String),
}

/// Outcome of a stock service.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Converts an I/O error to [`Error::File`] for `path`; `what` is the verb of the message. For `map_err`.
    pub(crate) fn file(
        what: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_owned();
        move |source| Error::File { what, path, source }
    }
}
