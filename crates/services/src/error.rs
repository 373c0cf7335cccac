//! Errors of the stock services.

use std::path::{Path, PathBuf};

/// A stock service could not perform a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or program of the host could not be used.
    #[error("could not {what} `{}`: {source}", path.display())]
    File {
        /// Failed action, as a verb.
        what: &'static str,
        /// Path of the file or program.
        path: PathBuf,
        /// System error.
        source: std::io::Error,
    },
    /// A program that the service needs is not installed.
    #[error("{what} was not found; {remedy}")]
    Missing {
        /// Name of the program.
        what: &'static str,
        /// What to install.
        remedy: String,
    },
    /// A program of the service failed.
    #[error("{what} failed: {said}")]
    Refused {
        /// Program, or operation that failed.
        what: &'static str,
        /// Its error output.
        said: String,
    },
    /// The data of the service is of another kind.
    #[error(
        "the directory `data` of this service has data of the kind `{found}`, which a service of the kind `{kind}` would give to other agents; give this service another name, or empty its directory in `services` of the state directory"
    )]
    OtherKind {
        /// Kind of the service.
        kind: String,
        /// Kind of the data.
        found: String,
    },
    /// The request is invalid.
    #[error("invalid request to the service: {0}")]
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
