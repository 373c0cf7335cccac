//! Moving a task: the engine's step is stored, with everything that a step brings along.

use super::task_rows::{self, engine_task, store, task_name};
use super::{approval_rows, audit_log, counts, ledger, outbox, runs};
use crate::rows::params;
use crate::transaction::Tx;
use crate::{Error, Result, RunFacts, TaskRow};
use abbey_engine::run;
use abbey_engine::task::{self, Event, Phase, RunEnd, Step};
use abbey_model::{Principal, TaskRef};
use serde_json::{Value, json};

/// Applies an event without parameters (unblock, cancel, retry) to a task; cancelling also cancels its subtasks.
pub(crate) fn apply_event(
    tx: &mut Tx<'_>,
    task: TaskRef,
    event: &Event,
    who: &Principal,
) -> Result<TaskRow> {
    let mut row = task_rows::load(tx.rows, task)?;
    let step = task::step(&engine_task(&row), event, who, tx.now)?;
    let action = format!("task.{}", event.name());
    store_transition(tx, &mut row, step, who, (&action, json!({})), None)?;
    if matches!(event, Event::Cancel) {
        cancel_subtasks(tx, row.number)?;
    }
    Ok(row)
}

/// Cancels every subtask below a task that was cancelled.
fn cancel_subtasks(tx: &mut Tx<'_>, number: u64) -> Result<()> {
    let below = task_rows::subtasks(tx.rows, number)?;
    let who = Principal::House;
    for mut subtask in below.into_iter().filter(|c| !c.state().is_terminal()) {
        let step = task::step(&engine_task(&subtask), &Event::Cancel, &who, tx.now)?;
        let because = json!({ "because": format!("TASK-{number}") });
        let entry = ("task.cancel", because);
        store_transition(tx, &mut subtask, step, &who, entry, None)?;
        cancel_subtasks(tx, subtask.number)?;
    }
    Ok(())
}

/// Stores a state transition of a task with its audit entry, and the end of its run if the transition ends one. A task
/// in a terminal state loses its approvals and gets a notice in the outbox.
pub(crate) fn store_transition(
    tx: &mut Tx<'_>,
    row: &mut TaskRow,
    step: Step,
    who: &Principal,
    (action, mut detail): (&str, Value),
    facts: Option<&RunFacts>,
) -> Result<()> {
    if let Some(end) = step.ends {
        let waited = matches!(step.task.phase, Phase::Parked { .. });
        end_run(tx, end, facts, waited)?;
        if let Value::Object(map) = &mut detail {
            map.insert("run".to_owned(), json!(end.run));
            map.insert("reason".to_owned(), json!(end.reason));
        }
    }
    store(tx, row, step.task)?;
    if let Value::Object(map) = &mut detail {
        map.insert("state".to_owned(), json!(row.state().name()));
    }
    audit_log::append(tx, who, action, &task_name(row), detail)?;
    if row.state().is_terminal() {
        counts::count_end(tx, row.state())?;
    }
    approval_rows::lapse_of_finished_task(tx, row)?;
    outbox::notify_recipient(tx, row)
}

/// Combines two reports about one run: fields that the new report leaves out keep their old value.
pub(crate) fn merge_facts(old: RunFacts, new: &RunFacts) -> RunFacts {
    RunFacts {
        prompt_hash: new.prompt_hash.clone().or(old.prompt_hash),
        skill_hash: new.skill_hash.clone().or(old.skill_hash),
        session_start: new.session_start.or(old.session_start),
        session_end: new.session_end.or(old.session_end),
        receipts: new.receipts.or(old.receipts),
        flagged: new.flagged.or(old.flagged),
        claims: new.claims.clone().or(old.claims),
        reported_usage: new.reported_usage.or(old.reported_usage),
    }
}

/// Ends a run; one that only had to wait does not count as a run of its budgets.
fn end_run(tx: &mut Tx<'_>, end: RunEnd, facts: Option<&RunFacts>, waited: bool) -> Result<()> {
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
    ledger::settle_run(tx, end.run, seconds, waited)
}
