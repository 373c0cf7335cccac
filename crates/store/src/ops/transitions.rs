//! Moving a task: the engine's step is stored, with everything that a step brings along.

use super::{approvals, audit_log, delegation, ledger, runs, tasks};
use crate::rows::params;
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{Error, Result, RunFacts, TaskRow};
use abbey_engine::run;
use abbey_engine::task::{self, Event, Phase, RunEnd, Step, Task};
use abbey_model::{Principal, Slug, TaskRef, Timestamp};
use serde_json::{Value, json};

/// The task as the engine's state machine sees it.
pub(crate) fn engine_task(row: &TaskRow) -> Task {
    Task {
        phase: row.phase.clone(),
        token: row.token,
        attempts: row.attempts,
        author: row.author.clone(),
    }
}

/// Name of a task in the audit log.
pub(crate) fn task_name(row: &TaskRow) -> String {
    format!("TASK-{}", row.number)
}

/// Moves a task by an event without parameters: unblock, cancel or retry.
pub(crate) fn apply_event(
    tx: &mut Tx<'_>,
    task: TaskRef,
    event: &Event,
    who: &Principal,
) -> Result<TaskRow> {
    let mut row = tasks::load(tx.rows, task)?;
    let step = task::step(&engine_task(&row), event, who, tx.now)?;
    let action = format!("task.{}", event.name());
    finish(tx, &mut row, step, who, (&action, json!({})), None)?;
    if matches!(event, Event::Cancel) {
        cancel_subtasks(tx, row.number)?;
    }
    Ok(row)
}

/// Cancels every subtask below a task that was cancelled.
fn cancel_subtasks(tx: &mut Tx<'_>, number: u64) -> Result<()> {
    let below = delegation::subtasks(tx.rows, number)?;
    let who = Principal::House;
    for mut subtask in below.into_iter().filter(|c| !c.state().is_terminal()) {
        let step = task::step(&engine_task(&subtask), &Event::Cancel, &who, tx.now)?;
        let because = json!({ "because": format!("TASK-{number}") });
        let entry = ("task.cancel", because);
        finish(tx, &mut subtask, step, &who, entry, None)?;
        cancel_subtasks(tx, subtask.number)?;
    }
    Ok(())
}

/// Stores a step that may have ended a run: the run, its reservation, the task, the audit entry; and for a task that
/// is over, its approvals and the notice to its recipient.
pub(crate) fn finish(
    tx: &mut Tx<'_>,
    row: &mut TaskRow,
    step: Step,
    who: &Principal,
    (action, mut detail): (&str, Value),
    facts: Option<&RunFacts>,
) -> Result<()> {
    if let Some(end) = step.ends {
        end_run(tx, end, facts)?;
        if let Value::Object(map) = &mut detail {
            map.insert("run".to_owned(), json!(end.run));
            map.insert("reason".to_owned(), json!(end.reason));
        }
    }
    save(tx, row, step.task)?;
    if let Value::Object(map) = &mut detail {
        map.insert("state".to_owned(), json!(row.state().name()));
    }
    audit_log::append(tx, who, action, &task_name(row), detail)?;
    approvals::lapse_of_finished_task(tx, row)?;
    delegation::notify_recipient(tx, row)
}

/// Writes what the state machine decided. Publishes [`Topic::Work`] for every change but a renewal, and
/// [`Topic::Deadlines`] when the task's next deadline is nearer than before.
pub(crate) fn save(tx: &mut Tx<'_>, row: &mut TaskRow, next: Task) -> Result<()> {
    let earlier = deadline(row);
    let same_run = match (row.phase.lease(), next.phase.lease()) {
        (Some(old), Some(new)) => old.run == new.run,
        _ => false,
    };
    row.phase = next.phase;
    row.token = next.token;
    row.attempts = next.attempts;
    row.version += 1;
    row.updated_at = tx.now;
    let deadline = deadline(row);
    if !same_run {
        tx.publish(Topic::Work);
    }
    // A deadline that has passed (that of a new task is its first instant) no longer wakes anybody.
    let earlier = earlier.filter(|old| *old > tx.now);
    let nearer = deadline.is_some_and(|new| earlier.is_none_or(|old| new < old));
    if nearer {
        tx.publish(Topic::Deadlines);
    }
    tx.execute(
        "UPDATE tasks SET state = ?2, phase = ?3, holder = ?4, assignee = ?5, attempts = ?6, token = ?7, route = ?8, result = ?9, failure = ?10, version = ?11, deadline = ?12, updated_at = ?13 WHERE number = ?1",
        params![
            row.number, row.state().name(), serde_json::to_string(&row.phase)?,
            row.phase.lease().map(|l| l.holder.as_str()), row.assignee.as_ref().map(Slug::as_str),
            row.attempts, row.token.0, serde_json::to_string(&row.route)?,
            row.result.as_ref().map(serde_json::to_string).transpose()?, &row.failure,
            row.version, deadline, tx.now,
        ],
    )?;
    Ok(())
}

/// When the house must act on a task by itself: its lease, wall time, pause, approval or due time is over.
fn deadline(row: &TaskRow) -> Option<Timestamp> {
    let due = row.link.as_ref().and_then(|l| l.due);
    let due = due.filter(|_| !row.state().is_terminal());
    let own = match &row.phase {
        Phase::Pending { not_before } => Some(*not_before),
        Phase::Running { lease } => Some(lease.expires_at.min(lease.wall_ends_at)),
        Phase::AwaitingApproval { until, .. } => Some(*until),
        Phase::Parked { .. }
        | Phase::Ready { .. }
        | Phase::Blocked { .. }
        | Phase::Done { .. }
        | Phase::Unverified
        | Phase::Failed { .. }
        | Phase::TimedOut
        | Phase::Cancelled => None,
    };
    [own, due].into_iter().flatten().min()
}

/// What is known of a run after a report: fields that the report leaves out stay as they were.
pub(crate) fn merge_facts(old: RunFacts, new: &RunFacts) -> RunFacts {
    RunFacts {
        prompt_hash: new.prompt_hash.clone().or(old.prompt_hash),
        skill_hash: new.skill_hash.clone().or(old.skill_hash),
        session_start: new.session_start.or(old.session_start),
        session_end: new.session_end.or(old.session_end),
        receipts: new.receipts.or(old.receipts),
        flagged: new.flagged.or(old.flagged),
    }
}

fn end_run(tx: &mut Tx<'_>, end: RunEnd, facts: Option<&RunFacts>) -> Result<()> {
    let row = runs::load(tx.rows, end.run)?;
    let state = run::step(row.state, run::Event::Ended(end.state))
        .map_err(|e| Error::Row(e.to_string()))?;
    let facts = match facts {
        Some(new) => merge_facts(row.facts, new),
        None => row.facts,
    };
    tx.execute(
        "UPDATE runs SET state = ?2, reason = ?3, ended_at = ?4, facts = ?5 WHERE id = ?1",
        params![
            end.run.to_string(),
            state.name(),
            end.reason.name(),
            tx.now,
            serde_json::to_string(&facts)?,
        ],
    )?;
    let seconds = u64::try_from(tx.now.since(row.started_at).secs_ceil()).unwrap_or(0);
    ledger::settle_run(tx, end.run, seconds)
}
