//! The journal: one JSON line for each call, only ever appended to.

use abbey_model::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// One call as it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalLine {
    /// When.
    pub at: Timestamp,
    /// User of the caller.
    pub uid: u32,
    /// Process of the caller.
    pub pid: i32,
    /// Which operation.
    pub op: String,
    /// On whom.
    pub subject: String,
    /// Whether it was only checked.
    pub dry_run: bool,
    /// `done`, `refused` or `failed`, with the reason.
    pub outcome: String,
}

/// Where the journal is.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("journal.jsonl")
}

/// Adds a line. A disk that is full must not stop a cell from being swept, so a line that cannot
/// be written is lost; the caller's own entry in the chain remains.
pub(super) fn append(dir: &Path, line: &JournalLine) {
    use std::os::unix::fs::OpenOptionsExt;
    let opened = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path(dir));
    if let (Ok(mut file), Ok(mut bytes)) = (opened, serde_json::to_vec(line)) {
        bytes.push(b'\n');
        // One write: lines of two calls do not mix.
        let _disk_full = file.write_all(&bytes);
    }
}
