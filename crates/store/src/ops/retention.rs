//! Retention: removing what has been over for long. The audit log stays.

use super::{TERMINAL_STATES, approval_rows, audit_log};
use crate::Result;
use crate::rows::{Query, params};
use crate::transaction::Tx;
use abbey_model::{Millis, Principal};
use serde_json::json;

/// Tables with a column `task`, and what identifies a task there.
const OF_TASKS: [(&str, &str); 5] = [
    ("runs", "id"),
    ("reservations", "id"),
    ("approvals", "number"),
    ("outbox", "number"),
    ("escalations", "number"),
];

/// Deletes what ended more than `keep` ago: tasks with their runs, idempotency keys, sagas and workflow runs. Returns
/// the number of tasks.
pub(crate) fn remove_finished(tx: &mut Tx<'_>, keep: Millis) -> Result<u64> {
    // Approvals that were granted before an update are planned here.
    approval_rows::plan_next_unused(tx)?;
    let before = tx.now - keep;
    for sql in [
        "DELETE FROM idempotency WHERE at < ?1",
        "DELETE FROM saga_log WHERE saga IN (SELECT id FROM sagas WHERE open = 0 AND at < ?1)",
        "DELETE FROM sagas WHERE open = 0 AND at < ?1",
        "DELETE FROM approvals WHERE workflow IN (SELECT number FROM workflow_runs WHERE state IN ('done', 'failed', 'cancelled') AND updated_at < ?1)",
        "DELETE FROM workflow_runs WHERE state IN ('done', 'failed', 'cancelled') AND updated_at < ?1",
    ] {
        tx.execute(sql, params![before])?;
    }
    let old = format!("state IN ({TERMINAL_STATES}) AND updated_at < ?1");
    let any = format!("SELECT 1 FROM tasks WHERE {old} LIMIT 1");
    if !tx.rows.exists(&any, params![before])? {
        return Ok(0);
    }
    for (table, column) in OF_TASKS {
        tx.execute(
            &format!("DELETE FROM {table} WHERE task IN (SELECT {column} FROM tasks WHERE {old})"),
            params![before],
        )?;
    }
    tx.execute(
        &format!(
            "DELETE FROM budgets WHERE scope IN (SELECT 'task:' || id FROM tasks WHERE {old})"
        ),
        params![before],
    )?;
    tx.execute(
        "DELETE FROM budgets WHERE scope LIKE 'run:%' AND substr(scope, 5) NOT IN (SELECT id FROM runs)",
        params![],
    )?;
    let removed = tx.execute(&format!("DELETE FROM tasks WHERE {old}"), params![before])?;
    let detail = json!({ "tasks": removed, "keep_ms": keep });
    audit_log::append(tx, &Principal::House, "store.retain", "house", detail)?;
    Ok(removed)
}
