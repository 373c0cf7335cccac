//! Escalations: tasks without an eligible agent, and the receiver who decides about each; once for each task (S4-24).

use super::transitions::apply_event;
use super::{TERMINAL_STATES, audit_log, task_rows, tasks};
use crate::rows::{Query, Rows, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{Escalation, NewEscalation, Result, TaskRow};
use abbey_engine::task::Event;
use abbey_model::{Principal, TaskRef, TaskState};
use serde_json::json;

/// Assigns a task without an eligible agent to the agent or operator that decides about it, and stores the deadline. A
/// task that was escalated before is returned unchanged.
pub(crate) fn escalate(tx: &mut Tx<'_>, new: NewEscalation) -> Result<TaskRow> {
    let row = task_rows::load(tx.rows, new.task)?;
    let until = new.within.map(|w| tx.now + w);
    let receiver = match &new.edit {
        Some(edit) => edit
            .assignee
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        None => "operator".to_owned(),
    };
    let inserted = tx.execute(
        "INSERT INTO escalations VALUES (?1, ?2, ?3, ?4) ON CONFLICT (task) DO NOTHING",
        params![row.number, &receiver, tx.now, until],
    )?;
    if inserted == 0 {
        return Ok(row);
    }
    let detail = json!({ "to": receiver, "until_ms": until.map(|u| u.0), "why": new.why });
    let entity = format!("TASK-{}", row.number);
    audit_log::append(tx, &Principal::House, "task.escalate", &entity, detail)?;
    tx.publish(Topic::Work);
    match new.edit {
        Some(change) => tasks::edit(tx, TaskRef::Number(row.number), change, &Principal::House),
        None => Ok(row),
    }
}

/// Reads the escalations whose task is not in a terminal state.
pub(crate) fn list_open(rows: &dyn Rows) -> Result<Vec<Escalation>> {
    rows.all(
        &format!(
            "SELECT e.task, e.receiver, e.until FROM escalations e JOIN tasks t ON t.number = e.task WHERE t.state NOT IN ({TERMINAL_STATES}) ORDER BY e.task"
        ),
        params![],
        |c| {
            Ok(Escalation {
                task: c.get()?,
                receiver: c.get()?,
                until: c.get()?,
            })
        },
    )
}

/// Ends the decision time of an escalated task; a second call does nothing. With `cancels`, a task that no agent runs
/// is cancelled in the same transaction.
pub(crate) fn end_decision_time(tx: &mut Tx<'_>, task: u64, cancels: bool) -> Result<()> {
    let changed = tx.execute(
        "UPDATE escalations SET until = NULL WHERE task = ?1 AND until IS NOT NULL",
        params![task],
    )?;
    if changed == 0 {
        return Ok(());
    }
    let row = task_rows::load(tx.rows, TaskRef::Number(task))?;
    let idle = matches!(
        row.state(),
        TaskState::Parked | TaskState::Ready | TaskState::Pending
    );
    // An agent that works on it has decided.
    let cancels = cancels && idle;
    let detail = json!({ "then": if cancels { "cancel" } else { "keep" } });
    let (who, entity) = (Principal::House, format!("TASK-{task}"));
    audit_log::append(tx, &who, "task.escalation_over", &entity, detail)?;
    tx.publish(Topic::Work);
    if cancels {
        apply_event(tx, TaskRef::Number(task), &Event::Cancel, &who)?;
    }
    Ok(())
}
