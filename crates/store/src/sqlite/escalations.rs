//! Work that nobody fits, and whom it was given to decide about; once for each task (S4-24).

use super::writer::Tx;
use super::{activity, edit, tasks};
use crate::{Escalate, Escalation, Result, TaskRow};
use abbey_engine::task::Event;
use abbey_model::{Principal, TaskRef, TaskState, Timestamp};
use rusqlite::{Connection, params};
use serde_json::json;

/// Gives a task to its receiver; nothing happens where that was done before.
pub(super) fn escalate(tx: &mut Tx<'_>, new: Escalate) -> Result<TaskRow> {
    let row = tasks::load(tx.db, new.task)?;
    let until = new.within.map(|w| tx.now + w);
    let receiver = match &new.edit {
        Some(edit) => edit
            .assignee
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        None => "operator".to_owned(),
    };
    let fresh = tx
        .db
        .prepare_cached("INSERT OR IGNORE INTO escalations VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![row.number, receiver, tx.now.0, until.map(|u| u.0)])?;
    if fresh == 0 {
        return Ok(row);
    }
    let detail = json!({ "to": receiver, "until_ms": until.map(|u| u.0), "why": new.why });
    let entity = format!("TASK-{}", row.number);
    activity::append(tx, &Principal::House, "task.escalate", &entity, detail)?;
    match new.edit {
        Some(change) => edit::edit(tx, TaskRef::Number(row.number), change, &Principal::House),
        None => Ok(row),
    }
}

/// Those whose task is not over.
pub(super) fn all(db: &Connection) -> Result<Vec<Escalation>> {
    let mut statement = db.prepare_cached(
        "SELECT e.task, e.receiver, e.until FROM escalations e JOIN tasks t ON t.number = e.task WHERE t.state NOT IN ('done', 'unverified', 'failed', 'timed_out', 'cancelled') ORDER BY e.task",
    )?;
    let rows = statement.query_map([], |r| {
        Ok(Escalation {
            task: r.get(0)?,
            receiver: r.get(1)?,
            until: r.get::<_, Option<i64>>(2)?.map(Timestamp),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Its time is over. Work that nobody took up by now is called off in the same transaction, if that is what is agreed:
/// no crash leaves it without an end.
pub(super) fn over(tx: &mut Tx<'_>, task: u64, cancels: bool) -> Result<()> {
    let changed = tx
        .db
        .prepare_cached(
            "UPDATE escalations SET until = NULL WHERE task = ?1 AND until IS NOT NULL",
        )?
        .execute([task])?;
    if changed == 0 {
        return Ok(());
    }
    let row = tasks::load(tx.db, TaskRef::Number(task))?;
    let idle = matches!(
        row.state(),
        TaskState::Parked | TaskState::Ready | TaskState::Pending
    );
    // Whoever works on it has decided.
    let cancels = cancels && idle;
    let detail = json!({ "then": if cancels { "cancel" } else { "keep" } });
    let (who, entity) = (Principal::House, format!("TASK-{task}"));
    activity::append(tx, &who, "task.escalation_over", &entity, detail)?;
    if cancels {
        tasks::simple(tx, TaskRef::Number(task), &Event::Cancel, &who)?;
    }
    Ok(())
}
