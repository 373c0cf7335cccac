//! Shared documents.

use abbey_model::{Principal, Slug, Timestamp};

/// One version of a text, or one entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentRow {
    /// Name of the document.
    pub name: Slug,
    /// Number of the version or entry, from 1.
    pub version: u64,
    /// Instant at which it was written.
    pub at: Timestamp,
    /// Author.
    pub author: Principal,
    /// Text.
    pub text: String,
}

/// A new version or entry. The caller has checked that its author may write it.
#[derive(Debug, Clone)]
pub struct NewDocumentVersion {
    /// Name of the document.
    pub name: Slug,
    /// Text.
    pub text: String,
    /// Author.
    pub author: Principal,
    /// Version that the author saw, 0 for none: refused if it is no longer the newest. Without one, an entry is
    /// added to a log.
    pub based_on: Option<u64>,
    /// Idempotency key: the same key writes once.
    pub key: Option<String>,
}
