//! What is to be done is changed before anybody holds it.

use super::tasks::{clean, finish, load, machine, settle_admission};
use super::writer::Tx;
use crate::{Result, TaskEdit, TaskRow};
use abbey_engine::queue;
use abbey_engine::task::{self, Event, Phase};
use abbey_model::{Principal, Slug, TaskRef};
use rusqlite::params;
use serde_json::json;

pub(super) fn edit(
    tx: &mut Tx<'_>,
    task: TaskRef,
    edit: TaskEdit,
    who: &Principal,
) -> Result<TaskRow> {
    let mut row = load(tx.db, task)?;
    let step = task::step(&machine(&row), &Event::Edit, who, tx.now)?;
    row.text = clean(tx, &edit.text);
    row.priority = edit.priority;
    row.pinned = edit.assignee.is_some();
    row.assignee = edit.assignee;
    tx.db
        .prepare_cached("UPDATE tasks SET text = ?2, priority = ?3, pinned = ?4, assignee = ?5, queue_key = ?6 WHERE number = ?1")?
        .execute(params![
            row.number,
            row.text,
            row.priority.name(),
            row.pinned,
            row.assignee.as_ref().map(Slug::as_str),
            queue::key(row.priority, row.created_at)
        ])?;
    let detail = json!({ "text": row.text, "priority": row.priority, "assignee": row.assignee });
    finish(tx, &mut row, step, who, ("task.edit", detail), None)?;
    match row.phase {
        // What waits for its next try is admitted then.
        Phase::Pending { not_before } if not_before > tx.now => {}
        _ => settle_admission(tx, &mut row, &edit.intake)?,
    }
    Ok(row)
}
