//! Text of a finished task's outcome, and logging of outcomes that cannot be delivered.

use crate::core::error::Result;
use crate::work::state::WorkState;
use abbey_model::{Principal, Recipient};
use abbey_store::{NewAuditEntry, TaskRow};
use serde_json::json;

/// Longest part of a result that is delivered to its recipient, bytes; the rest stays with the
/// task.
pub(crate) const OUTCOME_TEXT_MAX: usize = 16 << 10;

/// Logs to the audit log that a task's outcome cannot be delivered to its recipient.
pub(crate) async fn log_undeliverable_outcome(
    work: &WorkState,
    row: &TaskRow,
    recipient: &Recipient,
    why: &str,
) -> Result<()> {
    let note = NewAuditEntry {
        actor: Principal::House,
        action: "delivery.failed".to_owned(),
        entity: format!("TASK-{}", row.number),
        detail: json!({ "recipient": recipient.to_string(), "why": why }),
    };
    work.core.store.append_audit_entry(note).await?;
    Ok(())
}

/// Result or failure of a task, truncated to [`OUTCOME_TEXT_MAX`].
pub(crate) fn outcome_text(row: &TaskRow) -> String {
    let said = match (&row.result, &row.failure) {
        (Some(result), _) => result.text.clone(),
        (None, Some(failure)) => failure.clone(),
        (None, None) => String::new(),
    };
    let mut end = said.len().min(OUTCOME_TEXT_MAX);
    while !said.is_char_boundary(end) {
        end -= 1;
    }
    said[..end].to_owned()
}
