//! The journal: one JSON line for each call, only ever appended to.

use abbey_model::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Line of hostd's journal: one call and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalLine {
    /// Time of the call.
    pub at: Timestamp,
    /// User id of the caller.
    pub uid: u32,
    /// Process id of the caller.
    pub pid: i32,
    /// Name of the operation.
    pub op: String,
    /// Owner or cell of the operation; may be empty.
    pub subject: String,
    /// Whether the operation was only checked.
    pub dry_run: bool,
    /// `done`, `refused` or `failed`, with the reason.
    pub outcome: String,
}

/// Path of the journal in hostd's directory `dir`.
pub(super) fn journal_path(dir: &Path) -> PathBuf {
    dir.join("journal.jsonl")
}

/// Appends one line to the journal. A line that cannot be written, for example to a full disk, is dropped, so that
/// the operation itself succeeds.
pub(super) fn append_journal_line(dir: &Path, line: &JournalLine) {
    use std::os::unix::fs::OpenOptionsExt;
    let opened = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(journal_path(dir));
    if let (Ok(mut file), Ok(mut bytes)) = (opened, serde_json::to_vec(line)) {
        bytes.push(b'\n');
        // One write: lines of two calls do not mix.
        let _disk_full = file.write_all(&bytes);
    }
}
