//! The journal: one JSON line for each call, and for each change that the command line makes itself, only ever appended to.

use super::HostdConfig;
use super::checkpoints::{HOSTD_LOG_MODE, ends_within_line};
use crate::{Error, Result, record};
use abbey_model::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
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

/// Operation of the command line that stores a secret.
pub const SECRET_SET: &str = "secret.set";
/// Operation of the command line that removes a secret.
pub const SECRET_REMOVE: &str = "secret.remove";

impl JournalLine {
    /// Whether it records a change that the operator's command line made itself. No operation of hostd has such a name.
    pub fn is_by_operator(&self) -> bool {
        [SECRET_SET, SECRET_REMOVE].contains(&self.op.as_str())
    }
}

/// Appends one line to the journal. A line that cannot be written, for example to a full disk, is dropped, so that
/// the operation itself succeeds.
pub(super) fn append_journal_line(dir: &Path, line: &JournalLine) {
    let _disk_full = append_line(dir, line);
}

/// Records a change that this process is about to make without hostd, or how it failed, so that the control plane copies
/// it into the audit log, now or at its next start. `op` is one of the operations of this module; the line survives a
/// power failure once this returns.
///
/// # Errors
/// If the line cannot be written; the change must not be made then.
pub fn record_operator_change(
    config: &HostdConfig,
    op: &str,
    subject: &str,
    outcome: &str,
) -> Result<()> {
    let dir = config.hostd_dir();
    let line = JournalLine {
        at: record::now(),
        uid: rustix::process::getuid().as_raw(),
        pid: rustix::process::getpid().as_raw_nonzero().get(),
        op: op.to_owned(),
        subject: subject.to_owned(),
        dry_run: false,
        outcome: outcome.to_owned(),
    };
    append_line(&dir, &line)
        .and_then(|file| file.sync_all())
        .map_err(Error::file("append to", journal_path(&dir)))
}

fn append_line(dir: &Path, line: &JournalLine) -> io::Result<File> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
    let mut file = fs::OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(HOSTD_LOG_MODE)
        .custom_flags(libc::O_NOFOLLOW)
        .open(journal_path(dir))?;
    // Whatever the umask of a command that records the first line: the control plane reads the journal.
    let found = file.metadata()?;
    let is_own = found.uid() == rustix::process::geteuid().as_raw();
    if is_own && found.mode() & 0o7777 != HOSTD_LOG_MODE {
        file.set_permissions(fs::Permissions::from_mode(HOSTD_LOG_MODE))?;
    }
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    // A full disk may have left a part of a line, which must not damage this one.
    if ends_within_line(&mut file)? {
        bytes.insert(0, b'\n');
    }
    // One write: lines of two calls do not mix.
    file.write_all(&bytes)?;
    Ok(file)
}
