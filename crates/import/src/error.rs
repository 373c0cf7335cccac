//! Why an import fails as a whole.

use std::path::PathBuf;

/// Why an import failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path does not have the stated format.
    #[error("`{}` is not a {what}: {why}", path.display())]
    WrongFormat {
        /// Path that was read.
        path: PathBuf,
        /// Expected format.
        what: &'static str,
        /// What is missing or invalid.
        why: String,
    },
    /// A file has a mistake.
    #[error("{}{}: {why}", path.display(), line.map_or_else(String::new, |l| format!(":{l}")))]
    Mistake {
        /// Path of the file.
        path: PathBuf,
        /// Line of the mistake, from 1.
        line: Option<u64>,
        /// What is wrong.
        why: String,
    },
    /// A place to be left out is not in the installation.
    #[error(
        "`--skip {place}`: there is no such file or key in the installation; places are written as in the import report"
    )]
    NothingToSkip {
        /// Place that was named.
        place: String,
    },
    /// A file cannot be read.
    #[error("could not read `{}`: {source}", path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
}

/// Result of an importer.
pub type Result<T> = std::result::Result<T, Error>;
