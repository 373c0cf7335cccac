//! Exports of the audit log: JSON Lines that verify without a house. A header comes first, then the lines of the
//! checkpoint file, then the entries.

use crate::core::audit_checkpoints::verification_doc;
use crate::core::error::{Error, Result};
use abbey_api::{EntryView, Problem, VerifyDoc};
use abbey_cells::hostd::parse_checkpoint_lines;
use abbey_model::{CheckpointLine, FaultKind};
use abbey_store::{AuditEntry, ChainVerifier, KnownCheckpoints};
use abbey_support::input::open_input;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Value of [`ExportHeader::kind`].
const KIND: &str = "abbey_audit_log";

/// First line of an export.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExportHeader {
    /// Always `abbey_audit_log`.
    kind: String,
    /// Version of the format; always 1.
    version: u32,
    /// Public key that signed first, hexadecimal.
    key: String,
}

impl ExportHeader {
    /// Header of the export of a log that this public key signed first.
    pub fn new(key: String) -> ExportHeader {
        ExportHeader {
            kind: KIND.to_owned(),
            version: 1,
            key,
        }
    }
}

/// Verifies the export of an audit log in a file, without a house: every hash and signature. `key` is the public key
/// that must have signed first, and `checkpoints` a file with further lines that the log must agree with, such as a
/// copy that is kept elsewhere.
///
/// # Errors
/// If a file cannot be read, or is not an export.
pub fn verify_export(
    path: &Path,
    key: Option<&str>,
    checkpoints: Option<&Path>,
) -> Result<VerifyDoc> {
    let open = |path: &Path| {
        Ok::<_, Error>(BufReader::new(
            open_input(path).map_err(|e| Error::file("open", path)(e.into()))?,
        ))
    };
    let mut known = KnownCheckpoints::default();
    if let Some(path) = checkpoints {
        known.lines = parse_checkpoint_lines(open(path)?, path)?;
    }
    let damaged = |n: usize, why: String| Error::Damaged {
        path: path.to_owned(),
        why: format!("line {n}: {why}"),
    };
    let mut lines = open(path)?.lines().zip(1..).map(|(line, n)| {
        let line = line.map_err(Error::file("read", path))?;
        let value: Value = serde_json::from_str(&line).map_err(|e| damaged(n, e.to_string()))?;
        Ok::<_, Error>((n, value))
    });
    let header = lines.next().transpose()?.and_then(|(_, first)| {
        let header: ExportHeader = serde_json::from_value(first).ok()?;
        (header.kind == KIND && header.version == 1).then_some(header)
    });
    let header = header.ok_or_else(|| {
        let text = format!("`{}` is not an export of an audit log: its first line is not the header that `abbey activity export` writes", path.display());
        Problem::new(FaultKind::Invalid, text)
    })?;
    let mut lines = lines.peekable();
    let is_entry =
        |line: &Result<(usize, Value)>| line.as_ref().is_ok_and(|(_, v)| v.get("kind").is_none());
    while let Some(line) = lines.next_if(|line| !is_entry(line)) {
        let (n, value) = line?;
        let line: CheckpointLine =
            serde_json::from_value(value).map_err(|e| damaged(n, e.to_string()))?;
        known.lines.push(line);
    }
    let stranger = key.filter(|key| !key.eq_ignore_ascii_case(&header.key));
    let mut check = ChainVerifier::new(Some(header.key.clone()), Vec::new(), known);
    for line in lines {
        let (n, value) = line?;
        let entry: EntryView =
            serde_json::from_value(value).map_err(|e| damaged(n, e.to_string()))?;
        if check.verify_entry(&audit_entry(entry))?.is_break() {
            break;
        }
    }
    let mut verdict = check.finish();
    if verdict.ok
        && let Some(key) = stranger
    {
        let why = format!(
            "the log was signed first with key {}, not with {key}",
            header.key
        );
        verdict = verdict.failed(1, why);
    }
    if verdict.ok && verdict.checkpoints == 0 {
        let next = verdict.entries + 1;
        verdict = verdict.failed(next, "no signature covers the export");
    }
    Ok(verification_doc(verdict))
}

fn audit_entry(entry: EntryView) -> AuditEntry {
    AuditEntry {
        seq: entry.seq,
        at: entry.at.0,
        actor: entry.actor,
        action: entry.action,
        entity: entry.entity,
        detail: entry.detail,
        prev: entry.prev,
        hash: entry.hash,
    }
}
