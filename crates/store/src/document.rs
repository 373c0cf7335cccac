//! What the store says of shared documents.

use abbey_model::{Principal, Slug, Timestamp};

/// One version of a text, or one entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentRow {
    /// Name of the document.
    pub name: Slug,
    /// Its number, from 1.
    pub version: u64,
    /// When it was written.
    pub at: Timestamp,
    /// By whom.
    pub author: Principal,
    /// What it says.
    pub text: String,
}

/// A new version or entry. Who may write it was decided before.
#[derive(Debug, Clone)]
pub struct WriteDocument {
    /// Name of the document.
    pub name: Slug,
    /// What it says.
    pub text: String,
    /// By whom.
    pub author: Principal,
    /// Version that the writer saw, 0 for none: refused if it is not the newest any more. Not given, it is one more
    /// entry of a log.
    pub based_on: Option<u64>,
    /// The same key writes once.
    pub key: Option<String>,
}
