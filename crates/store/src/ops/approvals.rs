//! Approvals as rows; `engine::approval` decides.

use super::transitions::{engine_task, finish};
use super::{audit_log, tasks};
use crate::rows::{Columns, Query, Rows, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{ApprovalRow, AskApproval, Asker, Error, Result, TaskRow, UseApproval};
use abbey_engine::approval::{self, Approval, State, Verdict};
use abbey_engine::task::{self, Event};
use abbey_model::{Millis, Principal, Slug, TaskRef, Timestamp};
use serde_json::{Value, json};

/// How long an approval that was given may be used.
const VALID_FOR: Millis = Millis::from_secs(24 * 3600);
/// Most approvals of one list.
const LIST_MAX: u32 = 500;
/// NewAuditEntry of a decision that nobody made in time.
const TIMED_OUT: &str = "nobody decided in time";

const SELECT: &str = "SELECT number, task, agent, workflow, step, action, args, hash, why, state, silence, expires_at, decided_by, note, created_at, decided_at FROM approvals";

/// Digest of one exact action with its arguments.
fn action_hash(action: &str, args: &Value) -> Result<String> {
    let text = crate::canonical(&json!({ "action": action, "args": args }))?;
    Ok(abbey_support::digest::sha256_hex(&text))
}

fn read_approval(columns: &mut Columns<'_>) -> Result<ApprovalRow> {
    Ok(ApprovalRow {
        number: columns.get()?,
        asker: {
            let task: Option<u64> = columns.get()?;
            let agent: Option<Slug> = columns.parse_optional()?;
            let run: Option<u64> = columns.get()?;
            let step: Option<Slug> = columns.parse_optional()?;
            match (task, agent, run, step) {
                (Some(task), Some(agent), None, None) => Asker::Task { task, agent },
                (None, None, Some(run), Some(step)) => Asker::Workflow { run, step },
                _ => {
                    let why = "an approval belongs to neither a task nor a workflow";
                    return Err(Error::Row(why.to_owned()));
                }
            }
        },
        action: columns.get()?,
        args: columns.json()?,
        hash: columns.get()?,
        why: columns.get()?,
        state: columns.parse()?,
        silence: columns.json()?,
        expires_at: columns.get()?,
        decided_by: columns.get()?,
        note: columns.get()?,
        created_at: columns.get()?,
        decided_at: columns.get()?,
    })
}

/// The approval as the engine's state machine sees it.
fn engine_approval(row: &ApprovalRow) -> Approval {
    Approval {
        number: row.number,
        state: row.state,
        hash: row.hash.clone(),
        expires_at: row.expires_at,
        silence: row.silence,
    }
}

fn approval_name(number: u64) -> String {
    format!("APPR-{number}")
}

/// One approval.
pub(crate) fn load(rows: &dyn Rows, number: u64) -> Result<ApprovalRow> {
    let found = rows.first(
        &format!("{SELECT} WHERE number = ?1"),
        params![number],
        read_approval,
    )?;
    found.ok_or_else(|| Error::NotFound {
        what: "approval",
        name: approval_name(number),
    })
}

/// Approvals of a task or of all, pending ones or every one, newest first.
pub(crate) fn list(rows: &dyn Rows, task: Option<u64>, all: bool) -> Result<Vec<ApprovalRow>> {
    let state = if all { "" } else { " AND state = 'pending'" };
    rows.all(
        &format!("{SELECT} WHERE (?1 IS NULL OR task = ?1){state} ORDER BY number DESC LIMIT ?2"),
        params![task, LIST_MAX],
        read_approval,
    )
}

/// What is asked.
pub(crate) struct Question {
    pub(crate) action: String,
    pub(crate) args: Value,
    pub(crate) why: String,
    /// What no answer until `until` means.
    pub(crate) silence: Verdict,
    pub(crate) until: Timestamp,
}

/// The holder of a task asks; its run ends, and the task waits.
pub(crate) fn ask(tx: &mut Tx<'_>, ask: AskApproval) -> Result<ApprovalRow> {
    let mut task = tasks::load(tx.rows, ask.task)?;
    let number = tx.next_number("approvals")?;
    let who = Principal::Agent(ask.agent.clone());
    let until = tx.now + ask.within;
    let event = Event::Ask {
        token: ask.token,
        approval: number,
        until,
    };
    let step = task::step(&engine_task(&task), &event, &who, tx.now)?;
    let asker = Asker::Task {
        task: task.number,
        agent: ask.agent,
    };
    let question = Question {
        action: ask.action,
        args: ask.args,
        why: ask.why,
        silence: ask.silence,
        until,
    };
    let row = insert(tx, number, &asker, question)?;
    let entry = ("approval.ask", ask_detail(&row));
    finish(tx, &mut task, step, &who, entry, None)?;
    Ok(row)
}

fn ask_detail(row: &ApprovalRow) -> Value {
    json!({ "approval": approval_name(row.number), "action": row.action, "hash": row.hash, "why": row.why, "until": row.expires_at })
}

fn insert(tx: &mut Tx<'_>, number: u64, asker: &Asker, question: Question) -> Result<ApprovalRow> {
    let action = tx.redact(&question.action);
    let why = tx.redact(&question.why);
    let args = tx.redact_json(&question.args)?;
    let hash = action_hash(&action, &args)?;
    let (task, agent, run, step) = match asker {
        Asker::Task { task, agent } => (Some(*task), Some(agent.as_str()), None, None),
        Asker::Workflow { run, step } => (None, None, Some(*run), Some(step.as_str())),
    };
    tx.execute(
        "INSERT INTO approvals VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'pending', ?10, ?11, NULL, NULL, ?12, NULL)",
        params![
            number, task, agent, run, step, action, args.to_string(), hash, why,
            serde_json::to_string(&question.silence)?, question.until, tx.now,
        ],
    )?;
    tx.publish(Topic::Approvals);
    load(tx.rows, number)
}

/// A step of a workflow asks.
pub(crate) fn ask_for_step(
    tx: &mut Tx<'_>,
    run: u64,
    step: &Slug,
    question: Question,
) -> Result<ApprovalRow> {
    let number = tx.next_number("approvals")?;
    let step = step.clone();
    let row = insert(tx, number, &Asker::Workflow { run, step }, question)?;
    let detail = ask_detail(&row);
    audit_log::append(
        tx,
        &Principal::House,
        "approval.ask",
        &format!("WF-{run}"),
        detail,
    )?;
    Ok(row)
}

/// The approval as its step of a workflow sees it now: once its time is over it is decided here as agreed, and an
/// approval that was given is used up.
pub(crate) fn observe_for_step(tx: &mut Tx<'_>, number: u64) -> Result<ApprovalRow> {
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

fn set_state(tx: &mut Tx<'_>, number: u64, state: State) -> Result<()> {
    tx.execute(
        "UPDATE approvals SET state = ?2 WHERE number = ?1",
        params![number, state.name()],
    )?;
    tx.publish(Topic::Approvals);
    Ok(())
}

/// Closes the approval of a step that is not waited for any more.
pub(crate) fn lapse_of_step(tx: &mut Tx<'_>, number: u64) -> Result<()> {
    tx.execute(
        "UPDATE approvals SET state = ?2 WHERE number = ?1 AND state IN ('pending', 'approved')",
        params![number, State::Lapsed.name()],
    )?;
    tx.publish(Topic::Approvals);
    Ok(())
}

/// Closes what a task that is over still asks: nothing is asked any more, and no approval given for it is valid.
pub(crate) fn lapse_of_finished_task(tx: &mut Tx<'_>, task: &TaskRow) -> Result<()> {
    if !task.state().is_terminal() {
        return Ok(());
    }
    let lapsed = tx.execute(
        "UPDATE approvals SET state = ?2 WHERE task = ?1 AND state IN ('pending', 'approved')",
        params![task.number, State::Lapsed.name()],
    )?;
    if lapsed > 0 {
        tx.publish(Topic::Approvals);
    }
    Ok(())
}

fn decide_for_step(
    tx: &mut Tx<'_>,
    row: &ApprovalRow,
    state: State,
    by: &Principal,
    note: Option<&str>,
) -> Result<()> {
    store_decision(tx, row, state, by, note)?;
    let Asker::Workflow { run, step } = &row.asker else {
        return Ok(());
    };
    let detail = json!({ "approval": approval_name(row.number), "step": step, "verdict": state, "hash": row.hash, "note": note });
    audit_log::append(tx, by, "approval.decide", &format!("WF-{run}"), detail)?;
    Ok(())
}

fn store_decision(
    tx: &mut Tx<'_>,
    row: &ApprovalRow,
    state: State,
    by: &Principal,
    note: Option<&str>,
) -> Result<()> {
    tx.execute(
        "UPDATE approvals SET state = ?2, decided_by = ?3, note = ?4, decided_at = ?5 WHERE number = ?1",
        params![row.number, state.name(), by.to_string(), note, tx.now],
    )?;
    tx.publish(Topic::Approvals);
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
    finish(tx, task, step, by, ("approval.decide", detail), None)
}

/// Decides. Returns the approval, and the task that asked when it was a task.
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
        Asker::Task { task, .. } => {
            let mut task = tasks::load(tx.rows, TaskRef::Number(*task))?;
            decide_for_task(tx, &row, state, by, note.as_deref(), &mut task)?;
            Some(task)
        }
        Asker::Workflow { .. } => {
            decide_for_step(tx, &row, state, by, note.as_deref())?;
            None
        }
    };
    Ok((load(tx.rows, number)?, task))
}

/// Decides as agreed for silence: nobody answered a task's question in time.
pub(crate) fn expire_of_task(tx: &mut Tx<'_>, number: u64, task: &mut TaskRow) -> Result<()> {
    let row = load(tx.rows, number)?;
    let state = approval::expire(&engine_approval(&row), tx.now)?;
    decide_for_task(tx, &row, state, &Principal::House, Some(TIMED_OUT), task)
}

/// Uses an approval: by the holder of the task, for exactly the action that was approved, once and in time.
pub(crate) fn consume(tx: &mut Tx<'_>, used: &UseApproval) -> Result<ApprovalRow> {
    let row = load(tx.rows, used.number)?;
    let Asker::Task { task, .. } = &row.asker else {
        return Err(Error::NotFound {
            what: "approval of a task",
            name: approval_name(used.number),
        });
    };
    let task = tasks::load(tx.rows, TaskRef::Number(*task))?;
    let who = Principal::Agent(used.agent.clone());
    let alive = Event::Renew {
        token: used.token,
        ttl: Millis(0),
    };
    task::step(&engine_task(&task), &alive, &who, tx.now)?;
    // Compared as it was asked for: without secrets.
    let hash = action_hash(&tx.redact(&used.action), &tx.redact_json(&used.args)?)?;
    let decided = row.decided_at.unwrap_or(row.created_at);
    let state = approval::consume(&engine_approval(&row), &hash, decided + VALID_FOR, tx.now)?;
    set_state(tx, used.number, state)?;
    let detail =
        json!({ "task": format!("TASK-{}", task.number), "action": row.action, "hash": row.hash });
    let name = approval_name(used.number);
    audit_log::append(tx, &who, "approval.use", &name, detail)?;
    load(tx.rows, used.number)
}
