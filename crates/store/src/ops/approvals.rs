//! Approvals as rows; `engine::approval` decides.

use super::approval_rows::{
    ApprovalQuestion, action_hash, approval_name, engine_approval, expire_granted, granted, insert,
    load, next_unused, plan_next_unused, request_detail, set_state, store_decision,
};
use super::audit_log;
use super::task_rows::{self, engine_task};
use super::transitions::store_transition;
use crate::transaction::Tx;
use crate::{ApprovalRequest, ApprovalRequester, ApprovalRow, ApprovalUse, Error, Result, TaskRow};
use abbey_engine::approval::{self, State, Verdict};
use abbey_engine::task::{self, Event};
use abbey_model::{Millis, Principal, Slug, TaskRef};
use serde_json::json;

/// Note of a decision that was made by timeout.
const TIMED_OUT: &str = "no decision was made in time";
/// Why a granted approval expires.
const UNUSED: &str = "it was not used within 24 hours after it was approved";

/// Requests an approval as the agent that holds the lease of a task: the run ends and the task waits for the decision.
pub(crate) fn request_for_task(tx: &mut Tx<'_>, ask: ApprovalRequest) -> Result<ApprovalRow> {
    let mut task = task_rows::load(tx.rows, ask.task)?;
    let number = tx.next_number("approvals")?;
    let who = Principal::Agent(ask.agent.clone());
    let until = tx.now + ask.within;
    let event = Event::Ask {
        token: ask.token,
        approval: number,
        until,
    };
    let step = task::step(&engine_task(&task), &event, &who, tx.now)?;
    let asker = ApprovalRequester::Task {
        task: task.number,
        agent: ask.agent,
    };
    let question = ApprovalQuestion {
        action: ask.action,
        args: ask.args,
        why: ask.why,
        silence: ask.silence,
        until,
    };
    let row = insert(tx, number, &asker, question)?;
    let entry = ("approval.ask", request_detail(&row));
    store_transition(tx, &mut task, step, &who, entry, None)?;
    Ok(row)
}

/// Requests an approval for a step of a workflow run.
pub(crate) fn request_for_step(
    tx: &mut Tx<'_>,
    run: u64,
    step: &Slug,
    question: ApprovalQuestion,
) -> Result<ApprovalRow> {
    let number = tx.next_number("approvals")?;
    let step = step.clone();
    let row = insert(
        tx,
        number,
        &ApprovalRequester::Workflow { run, step },
        question,
    )?;
    let detail = request_detail(&row);
    audit_log::append(
        tx,
        &Principal::House,
        "approval.ask",
        &format!("WF-{run}"),
        detail,
    )?;
    Ok(row)
}

/// Reads the approval of a workflow step. If its deadline is over, its default decision is stored first; if it is
/// granted, it is marked as used.
pub(crate) fn resolve_for_step(tx: &mut Tx<'_>, number: u64) -> Result<ApprovalRow> {
    let mut row = load(tx.rows, number)?;
    if row.state == State::Pending && tx.now >= row.expires_at {
        let state = approval::expire(&engine_approval(&row), tx.now)?;
        decide_for_step(tx, &row, state, &Principal::House, Some(TIMED_OUT))?;
        row = load(tx.rows, number)?;
    }
    if row.state == State::Approved {
        set_state(tx, number, State::Used)?;
    }
    Ok(row)
}

fn decide_for_step(
    tx: &mut Tx<'_>,
    row: &ApprovalRow,
    state: State,
    by: &Principal,
    note: Option<&str>,
) -> Result<()> {
    store_decision(tx, row, state, by, note)?;
    let ApprovalRequester::Workflow { run, step } = &row.asker else {
        return Ok(());
    };
    let detail = json!({ "approval": approval_name(row.number), "step": step, "verdict": state, "hash": row.hash, "note": note });
    audit_log::append(tx, by, "approval.decide", &format!("WF-{run}"), detail)?;
    Ok(())
}

/// Stores a decision and moves the task that asked: it resumes, or it fails after a denial.
fn decide_for_task(
    tx: &mut Tx<'_>,
    row: &ApprovalRow,
    state: State,
    by: &Principal,
    note: Option<&str>,
    task: &mut TaskRow,
) -> Result<()> {
    store_decision(tx, row, state, by, note)?;
    let goes_on = state != State::Denied;
    let event = Event::Answered { goes_on };
    let step = task::step(&engine_task(task), &event, by, tx.now)?;
    let name = approval_name(row.number);
    if !goes_on {
        let reason = note.map_or_else(String::new, |n| format!(": {n}"));
        task.failure = Some(format!("{name} was denied{reason}"));
    }
    let detail = json!({ "approval": name, "verdict": state, "hash": row.hash, "note": note });
    store_transition(tx, task, step, by, ("approval.decide", detail), None)
}

/// Stores a person's decision about a pending approval and resumes or fails the task that waits for it. Returns the
/// approval, and that task if a task requested it.
pub(crate) fn decide(
    tx: &mut Tx<'_>,
    number: u64,
    verdict: Verdict,
    note: Option<String>,
    by: &Principal,
) -> Result<(ApprovalRow, Option<TaskRow>)> {
    let row = load(tx.rows, number)?;
    let state = approval::decide(&engine_approval(&row), verdict, tx.now)?;
    let note = note.map(|n| tx.redact(&n));
    let task = match &row.asker {
        ApprovalRequester::Task { task, .. } => {
            let mut task = task_rows::load(tx.rows, TaskRef::Number(*task))?;
            decide_for_task(tx, &row, state, by, note.as_deref(), &mut task)?;
            Some(task)
        }
        ApprovalRequester::Workflow { .. } => {
            decide_for_step(tx, &row, state, by, note.as_deref())?;
            None
        }
    };
    Ok((load(tx.rows, number)?, task))
}

/// Applies the default decision of an approval whose deadline is over to the task that waits for it.
pub(crate) fn apply_timeout_to_task(
    tx: &mut Tx<'_>,
    number: u64,
    task: &mut TaskRow,
) -> Result<()> {
    let row = load(tx.rows, number)?;
    let state = approval::expire(&engine_approval(&row), tx.now)?;
    decide_for_task(tx, &row, state, &Principal::House, Some(TIMED_OUT), task)
}

/// Ends the granted approvals of tasks that were not used in time, each with an entry that says so.
pub(crate) fn expire_unused(tx: &mut Tx<'_>) -> Result<()> {
    if next_unused(tx.rows)?.is_none_or(|at| at > tx.now) {
        return Ok(());
    }
    for row in granted(tx.rows)? {
        let good_until = row.good_until.unwrap_or(row.expires_at);
        let Ok(state) = approval::expire_unused(&engine_approval(&row), good_until, tx.now) else {
            continue;
        };
        let ApprovalRequester::Task { task, .. } = &row.asker else {
            continue;
        };
        expire_granted(tx, &row, state, UNUSED)?;
        let detail = json!({ "task": format!("TASK-{task}"), "action": row.action, "hash": row.hash, "why": UNUSED });
        let name = approval_name(row.number);
        audit_log::append(tx, &Principal::House, "approval.expire", &name, detail)?;
    }
    plan_next_unused(tx)
}

/// Marks a granted approval as used by the agent that holds the task's lease.
///
/// # Errors
/// When action or arguments differ from the approved ones, the approval is not granted or already used, it is older
/// than 24 hours, or the caller does not hold the lease.
pub(crate) fn consume(tx: &mut Tx<'_>, used: &ApprovalUse) -> Result<ApprovalRow> {
    let row = load(tx.rows, used.number)?;
    let ApprovalRequester::Task { task, .. } = &row.asker else {
        return Err(Error::NotFound {
            what: "approval of a task",
            name: approval_name(used.number),
        });
    };
    let task = task_rows::load(tx.rows, TaskRef::Number(*task))?;
    let who = Principal::Agent(used.agent.clone());
    let alive = Event::Renew {
        token: used.token,
        ttl: Millis(0),
    };
    task::step(&engine_task(&task), &alive, &who, tx.now)?;
    // Compared as it was asked for: without secrets.
    let hash = action_hash(&tx.redact(&used.action), &tx.redact_json(&used.args)?)?;
    let good_until = row.good_until.unwrap_or(row.expires_at);
    let state = approval::consume(&engine_approval(&row), &hash, good_until, tx.now)?;
    set_state(tx, used.number, state)?;
    let detail =
        json!({ "task": format!("TASK-{}", task.number), "action": row.action, "hash": row.hash });
    let name = approval_name(used.number);
    audit_log::append(tx, &who, "approval.use", &name, detail)?;
    load(tx.rows, used.number)
}
