//! Moving a task: the engine's step is stored, with everything that a step brings along.

use super::task_rows::{self, engine_task, store, task_name};
use super::{TERMINAL_STATES, approval_rows, audit_log, counts, ledger, outbox, runs};
use crate::rows::params;
use crate::transaction::Tx;
use crate::{Error, Result, RunFacts, TaskRow};
use abbey_engine::run;
use abbey_engine::task::{self, Event, Phase, RunEnd, Step};
use abbey_model::{Principal, Slug, TaskRef, TaskState};
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
    Ok(row)
}

/// Cancels the open subtasks of a task that ended without a result: nobody needs theirs any more. Each cancels its own.
/// Subtasks of a task that is done go on: their author did not wait for them.
fn cancel_subtasks(tx: &mut Tx<'_>, parent: &TaskRow) -> Result<()> {
    let ended = match parent.state() {
        state @ (TaskState::Failed | TaskState::TimedOut | TaskState::Cancelled) => state,
        _ => return Ok(()),
    };
    let below = task_rows::subtasks(tx.rows, parent.number)?;
    for subtask in below.into_iter().filter(|c| !c.state().is_terminal()) {
        let name = task_name(parent);
        let why = format!("its parent {name} is {ended}");
        cancel_subtask(tx, subtask, why, json!({ "because": name }))?;
    }
    Ok(())
}

/// Cancels the open subtasks of the tasks that only this agent may do, and the open tasks that it gave on its own initiative:
/// it is removed, so nobody will use their results.
pub(crate) fn cancel_subtasks_of_agent(tx: &mut Tx<'_>, agent: &Slug) -> Result<()> {
    let subtasks = task_rows::list_where(
        tx.rows,
        &format!(
            "state NOT IN ({TERMINAL_STATES}) AND parent IN (SELECT number FROM tasks WHERE assignee = ?1 AND pinned AND state NOT IN ({TERMINAL_STATES}))"
        ),
        params![agent.as_str()],
    )?;
    for subtask in subtasks {
        // The end of one can have cancelled another.
        let subtask = task_rows::load(tx.rows, TaskRef::Id(subtask.id))?;
        if subtask.state().is_terminal() {
            continue;
        }
        let parent = subtask.link.as_ref().and_then(|l| l.parent);
        let parent = format!("TASK-{}", parent.unwrap_or_default());
        let why = format!("agent `{agent}`, which was to do its parent {parent}, is removed");
        cancel_subtask(tx, subtask, why, json!({ "because": parent }))?;
    }
    let own = task_rows::list_where(
        tx.rows,
        &format!(
            "author = ?1 AND parent IS NULL AND link IS NOT NULL AND state NOT IN ({TERMINAL_STATES})"
        ),
        params![Principal::Agent(agent.clone()).to_string()],
    )?;
    for task in own {
        let task = task_rows::load(tx.rows, TaskRef::Id(task.id))?;
        if task.state().is_terminal() {
            continue;
        }
        let why = format!("agent `{agent}`, which gave it on its own initiative, is removed");
        cancel_subtask(
            tx,
            task,
            why,
            json!({ "because": format!("agent:{agent}") }),
        )?;
    }
    Ok(())
}

/// Cancels a subtask for a reason that its author and `task why` show.
pub(crate) fn cancel_subtask(
    tx: &mut Tx<'_>,
    mut subtask: TaskRow,
    why: String,
    detail: Value,
) -> Result<()> {
    let who = Principal::House;
    let step = task::step(&engine_task(&subtask), &Event::Cancel, &who, tx.now)?;
    subtask.failure = Some(why);
    let entry = ("task.cancel", detail);
    store_transition(tx, &mut subtask, step, &who, entry, None)
}

/// Stores a state transition of a task with its audit entry, and the end of its run if the transition ends one. A task
/// in a terminal state loses its approvals and gets a notice in the outbox; one without a result takes its subtasks along.
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
    outbox::notify_recipient(tx, row)?;
    cancel_subtasks(tx, row)
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
