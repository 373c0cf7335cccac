//! Checkpoints of the audit log outside the database, and verification against them.

use crate::core::error::{Error, Result};
use crate::core::state::CoreState;
use crate::core::{hostd_journal, runtime};
use abbey_api::{CheckpointsDoc, Problem, VERSION, VerifyDoc};
use abbey_cells::hostd::{HostdOperation, read_checkpoint_lines};
use abbey_model::{Checkpoint, CheckpointLine, FaultKind};
use abbey_store::{AuditVerification, KnownCheckpoints, Topic};
use std::sync::Arc;
use std::time::Duration;

/// Longest time for which new entries have no signed head outside the database.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(300);
/// Most checkpoints of one call of hostd.
const CALL_MAX: usize = 1000;

/// Signs the head of the audit log and hands it to hostd: at start, and at most every 5 minutes while entries are
/// added. An idle house signs nothing.
pub(crate) async fn run_checkpoint_publication(core: Arc<CoreState>) {
    let mut entries = core.store.subscribe(Topic::Audit);
    loop {
        if let Err(error) = publish_checkpoints(&core).await {
            tracing::error!(
                error = error.chain(),
                "the head of the audit log could not be signed and kept outside the database; retrying when it moves"
            );
        }
        tokio::select! {
            () = core.rt.stopped() => return,
            changed = entries.changed() => if changed.is_err() { return },
        }
        tokio::select! {
            () = core.rt.stopped() => return,
            () = core.rt.sleep(PUBLISH_INTERVAL) => {}
        }
    }
}

/// Signs the head of the audit log if it moved, and has hostd append every signed head that its file lacks.
pub(crate) async fn publish_checkpoints(core: &Arc<CoreState>) -> Result<()> {
    core.store.checkpoint().await?;
    let kept = read_kept_lines(core).await?;
    let after = kept.last().map_or(0, CheckpointLine::seq);
    let heads = core.store.signed_heads(after).await?;
    for heads in heads.chunks(CALL_MAX) {
        let checkpoints = heads.iter().map(|head| Checkpoint {
            seq: head.seq,
            hash: head.hash.clone(),
            key: head.key.clone(),
            signature: head.signature.clone(),
            at: head.at,
        });
        let checkpoints = checkpoints.collect();
        crate::core::hostd::run_operation(
            &core.hostd,
            HostdOperation::KeepCheckpoints { checkpoints },
        )
        .await?;
        core.checkpoints_kept.send_replace(());
    }
    Ok(())
}

/// Lines of the checkpoint file.
pub(crate) async fn read_kept_lines(core: &CoreState) -> Result<Vec<CheckpointLine>> {
    let dir = core.home.hostd_dir();
    let read = runtime::run_blocking(move || read_checkpoint_lines(&dir)).await;
    Ok(read.map_err(|e| Problem::new(FaultKind::Internal, e.to_string()))??)
}

/// Signs the newest entry, and returns every signed head with the key that signed first. Every change that was made
/// before is in the log then, also one that only hostd's journal had.
pub(crate) async fn signed_heads_doc(core: &Arc<CoreState>) -> Result<CheckpointsDoc> {
    hostd_journal::import_journal_now(core).await?;
    publish_checkpoints(core).await?;
    let key = core.store.first_key().await?;
    let lines = read_kept_lines(core).await?;
    let lines = lines
        .iter()
        .map(serde_json::to_value)
        .collect::<std::result::Result<_, _>>();
    Ok(CheckpointsDoc {
        version: VERSION,
        key: key.unwrap_or_default(),
        lines: lines.map_err(|e| Problem::new(FaultKind::Internal, e.to_string()))?,
    })
}

/// Document of a verification.
pub(crate) fn verification_doc(verdict: AuditVerification) -> VerifyDoc {
    VerifyDoc {
        version: VERSION,
        ok: verdict.ok,
        entries: verdict.entries,
        head: verdict.head,
        first_bad: verdict.first_bad,
        checkpoints: verdict.checkpoints,
        why: verdict.why,
        key: verdict.key,
        notes: verdict.notes,
    }
}

/// Where and why an audit log does not verify, in one phrase; none if it does.
pub(crate) fn describe_damage(verdict: &AuditVerification) -> Option<String> {
    let why = verdict.why.as_ref()?;
    Some(format!("entry {}: {why}", verdict.first_bad.unwrap_or(0)))
}

/// Verifies the whole audit log: against itself, its signatures, the head that this process knows, the key with which
/// it signs, and the checkpoint file.
///
/// # Errors
/// If it could not be checked, which says nothing about it: no descriptor or memory was left to read a file.
pub(crate) async fn verify_audit_log(core: &CoreState) -> Result<AuditVerification> {
    let key = core.audit_key.read().await;
    // Read before the log: entries that are added meanwhile are no contradiction.
    let head = core.store.audit_head();
    let (lines, damaged) = match read_kept_lines(core).await {
        Ok(lines) => (lines, None),
        Err(error) if is_short_of_resources(&error) => {
            let text = format!("the audit log could not be checked: {}", error.chain());
            return Err(Problem::new(FaultKind::Host, text)
                .remedy("repeat it once the control plane has descriptors and memory again; `abbey doctor` shows what the host is missing")
                .into());
        }
        Err(error) => (Vec::new(), Some(error.chain())),
    };
    let known = KnownCheckpoints {
        head,
        lines,
        key: Some(key.clone()),
    };
    let verdict = core.store.verify_audit_log(known).await?;
    Ok(match damaged {
        Some(why) if verdict.ok => {
            let next = verdict.entries + 1;
            verdict.failed(next, format!("its checkpoint file cannot be used: {why}"))
        }
        _ => verdict,
    })
}

/// Whether an error only says that the process or the host has no descriptor or memory left.
fn is_short_of_resources(error: &Error) -> bool {
    use rustix::io::Errno;
    let short = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = at {
        let io = error.downcast_ref::<std::io::Error>();
        let code = io.and_then(std::io::Error::raw_os_error);
        if code.is_some_and(|c| short.contains(&Errno::from_raw_os_error(c))) {
            return true;
        }
        at = error.source();
    }
    false
}
