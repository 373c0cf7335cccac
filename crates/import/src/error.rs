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
