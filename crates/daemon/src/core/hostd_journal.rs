//! What hostd did, taken from its journal into the chain. The journal is hostd's own and goes on
//! without a control plane; how far it was taken is kept with the chain, in one transaction.

use crate::core::error::Result;
use crate::core::state::CoreState;
use abbey_cells::hostd::Line;
use abbey_model::Principal;
use abbey_store::NewAuditEntry;
use serde_json::json;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Time between two looks at the size of the journal; nothing else is read when it did not grow.
const LOOK: Duration = Duration::from_secs(1);
/// Most bytes that are taken at once.
const CHUNK: u64 = 256 << 10;

/// Takes new lines until the house stops, and once more then.
pub(crate) async fn run(core: Arc<CoreState>) {
    let mut size_seen = 0;
    loop {
        let stopped = tokio::select! {
            () = core.rt.stopped() => true,
            () = core.rt.sleep(LOOK) => false,
        };
        if let Err(error) = fold(&core, &mut size_seen).await {
            tracing::warn!(
                error = error.chain(),
                "the journal of hostd could not be taken over"
            );
        }
        if stopped {
            return;
        }
    }
}

fn path(core: &CoreState) -> PathBuf {
    core.home.root().join("hostd/journal.jsonl")
}

/// Takes everything new, a bounded part at a time.
async fn fold(core: &CoreState, size_seen: &mut u64) -> Result<()> {
    loop {
        let size = match std::fs::metadata(path(core)) {
            Ok(meta) => meta.len(),
            Err(_) => return Ok(()),
        };
        if size == *size_seen {
            return Ok(());
        }
        let known = core.store.journal_offset().await?;
        // A journal that is shorter than what was taken is another one, of a restored core.
        let from = if known > size { 0 } else { known };
        let (notes, to) = read(core, from).unwrap_or_default();
        if to > from {
            core.store.import_journal(known, to, notes).await?;
        }
        *size_seen = to.max(from);
        if to <= from {
            return Ok(());
        }
    }
}

/// Whole lines from a place on, as entries, and where they end.
fn read(core: &CoreState, from: u64) -> std::io::Result<(Vec<NewAuditEntry>, u64)> {
    let mut file = File::open(path(core))?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(CHUNK).read_to_end(&mut bytes)?;
    let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
    let text = String::from_utf8_lossy(&bytes[..end]);
    let notes = text
        .lines()
        .map(|line| match serde_json::from_str::<Line>(line) {
            Ok(line) => NewAuditEntry {
                actor: Principal::House,
                action: format!("hostd.{}", line.op),
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
