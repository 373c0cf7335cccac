//! Import of hostd's journal into the audit log. hostd appends to the journal without a control
//! plane; the offset up to which it was imported is stored in the same transaction as the entries.

use crate::core::error::Result;
use crate::core::state::CoreState;
use abbey_cells::hostd::JournalLine;
use abbey_model::Principal;
use abbey_store::NewAuditEntry;
use serde_json::json;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Time between two checks of the journal's size; the file is only read when it has grown.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Most bytes that are imported in one transaction.
const CHUNK_MAX: u64 = 256 << 10;

/// Imports new journal lines into the audit log periodically until the control plane stops, and
/// once more then.
pub(crate) async fn run_journal_import(core: Arc<CoreState>) {
    let mut size_seen = 0;
    loop {
        let stopped = tokio::select! {
            () = core.rt.stopped() => true,
            () = core.rt.sleep(POLL_INTERVAL) => false,
        };
        if let Err(error) = import_new_lines(&core, &mut size_seen).await {
            tracing::warn!(
                error = error.chain(),
                "could not import the journal of hostd into the audit log; retrying in a second"
            );
        }
        if stopped {
            return;
        }
    }
}

fn journal_path(core: &CoreState) -> PathBuf {
    core.home.root().join("hostd/journal.jsonl")
}

/// Imports what the journal has now, without waiting for the next check.
pub(crate) async fn import_journal_now(core: &CoreState) -> Result<()> {
    import_new_lines(core, &mut 0).await
}

/// Imports every line behind the stored offset, in chunks. `size_seen` is the file size at the last
/// import.
async fn import_new_lines(core: &CoreState, size_seen: &mut u64) -> Result<()> {
    loop {
        let size = match std::fs::metadata(journal_path(core)) {
            Ok(meta) => meta.len(),
            Err(_) => return Ok(()),
        };
        if size == *size_seen {
            return Ok(());
        }
        let known = core.store.journal_offset().await?;
        // A journal that is shorter than the stored offset belongs to a restored home: import it from its start.
        let from = if known > size { 0 } else { known };
        let (notes, to) = read_whole_lines(core, from).unwrap_or_else(|error| {
            tracing::error!(%error, "hostd's journal could not be read, so its lines are missing in the audit log");
            Default::default()
        });
        if to > from {
            core.store.import_journal(known, to, notes).await?;
        }
        *size_seen = to.max(from);
        if to <= from {
            return Ok(());
        }
    }
}

/// Reads complete lines from an offset on, as audit entries, and returns the offset behind the last
/// one.
fn read_whole_lines(core: &CoreState, from: u64) -> std::io::Result<(Vec<NewAuditEntry>, u64)> {
    let mut file = File::open(journal_path(core))?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(CHUNK_MAX).read_to_end(&mut bytes)?;
    let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
    let text = String::from_utf8_lossy(&bytes[..end]);
    let notes = text
        .lines()
        .map(|line| match serde_json::from_str::<JournalLine>(line) {
            Ok(line) => NewAuditEntry {
                actor: match line.is_by_operator() {
                    true => Principal::Operator,
                    false => Principal::House,
                },
                action: match line.is_by_operator() {
                    true => line.op.clone(),
                    false => format!("hostd.{}", line.op),
                },
                entity: match line.subject.is_empty() {
                    true => "hostd".to_owned(),
                    false => line.subject.clone(),
                },
                detail: json!({
                    "done_at": abbey_api::Time(line.at).to_string(),
                    "outcome": line.outcome,
                    "dry_run": line.dry_run,
                    "caller": { "uid": line.uid, "pid": line.pid },
                }),
            },
            Err(_) => NewAuditEntry {
                actor: Principal::House,
                action: "hostd.damaged".to_owned(),
                entity: "hostd".to_owned(),
                detail: json!({ "bytes": line.len() }),
            },
        });
    Ok((notes.collect(), from + end as u64))
}
