//! Approvals as rows; what decides is `engine::approval`.

use super::writer::Tx;
use super::{activity, parse, tasks};
use crate::{ApprovalRow, AskApproval, Error, Result, TaskRow};
use abbey_engine::approval::{self, Approval, State, Verdict};
use abbey_engine::task::{self, Event};
use abbey_model::{LeaseToken, Millis, Principal, TaskRef, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// How long a yes is good for.
const GOOD_FOR: Millis = Millis::from_secs(24 * 3600);

const SELECT: &str = "SELECT number, task, agent, action, args, hash, why, state, silence, expires_at, decided_by, note, created_at, decided_at FROM approvals";

/// Digest of one exact action with its arguments.
pub(super) fn hash(action: &str, args: &Value) -> Result<String> {
    let text = crate::canonical(&json!({ "action": action, "args": args }))?;
    Ok(crate::chain::hex(&Sha256::digest(text.as_bytes())))
}

fn row(r: &rusqlite::Row<'_>) -> rusqlite::Result<Result<ApprovalRow>> {
    let texts: [String; 7] = [
        r.get(2)?,
        r.get(3)?,
        r.get(4)?,
        r.get(5)?,
        r.get(6)?,
        r.get(7)?,
        r.get(8)?,
    ];
    let numbers: (u64, u64, i64, i64, Option<i64>) =
        (r.get(0)?, r.get(1)?, r.get(9)?, r.get(12)?, r.get(13)?);
    let (decided_by, note): (Option<String>, Option<String>) = (r.get(10)?, r.get(11)?);
    let build = || -> Result<ApprovalRow> {
        let [agent, action, args, hash, why, state, silence] = &texts;
        Ok(ApprovalRow {
            number: numbers.0,
            task: numbers.1,
            agent: parse(agent)?,
            action: action.clone(),
            args: serde_json::from_str(args)?,
            hash: hash.clone(),
            why: why.clone(),
            state: parse(state)?,
            silence: serde_json::from_str(silence)?,
            expires_at: Timestamp(numbers.2),
            decided_by,
            note,
            created_at: Timestamp(numbers.3),
            decided_at: numbers.4.map(Timestamp),
        })
    };
    Ok(build())
}

fn machine(row: &ApprovalRow) -> Approval {
    Approval {
        number: row.number,
        state: row.state,
        hash: row.hash.clone(),
        expires_at: row.expires_at,
        silence: row.silence,
    }
}

pub(super) fn load(db: &Connection, number: u64) -> Result<ApprovalRow> {
    let found = db
        .prepare_cached(&format!("{SELECT} WHERE number = ?1"))?
        .query_row([number], row)
        .optional()?;
    found.unwrap_or_else(|| {
        Err(Error::NotFound {
            what: "approval",
            name: format!("APPR-{number}"),
        })
    })
}

/// Those of a task, or those that nobody has decided, newest first.
pub(super) fn list(db: &Connection, task: Option<u64>, all: bool) -> Result<Vec<ApprovalRow>> {
    let mut statement = db.prepare_cached(&format!(
        "{SELECT} WHERE (?1 IS NULL OR task = ?1) AND (?2 OR state = 'pending') ORDER BY number DESC LIMIT 500"
    ))?;
    let rows = statement.query_map(params![task, all], row)?;
    rows.map(|r| r?).collect()
}

/// The holder of a task asks; its run ends, and the task waits.
pub(super) fn ask(tx: &mut Tx<'_>, ask: AskApproval) -> Result<ApprovalRow> {
    let mut task = tasks::load(tx.db, ask.task)?;
    let number = tx.next("approvals")?;
    let who = Principal::Agent(ask.agent.clone());
    let until = tx.now + ask.within;
    let event = Event::Ask {
        token: ask.token,
        approval: number,
        until,
    };
    let step = task::step(&tasks::machine(&task), &event, &who, tx.now)?;
    let (action, why) = (tasks::clean(tx, &ask.action), tasks::clean(tx, &ask.why));
    let args: Value = serde_json::from_str(&tasks::clean(tx, &ask.args.to_string()))?;
    let hash = hash(&action, &args)?;
    tx.db
        .prepare_cached("INSERT INTO approvals VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'pending', ?8, ?9, NULL, NULL, ?10, NULL)")?
        .execute(params![
            number, task.number, ask.agent.as_str(), action, args.to_string(), hash, why,
            serde_json::to_string(&ask.silence)?, until.0, tx.now.0,
        ])?;
    let detail = json!({ "approval": format!("APPR-{number}"), "action": action, "hash": hash, "why": why, "until": until });
    tasks::finish(tx, &mut task, step, &who, ("approval.ask", detail), None)?;
    load(tx.db, number)
}

fn write(
    tx: &Tx<'_>,
    row: &ApprovalRow,
    state: State,
    by: &Principal,
    note: Option<&str>,
) -> Result<()> {
    tx.db
        .prepare_cached("UPDATE approvals SET state = ?2, decided_by = ?3, note = ?4, decided_at = ?5 WHERE number = ?1")?
        .execute(params![row.number, state.name(), by.to_string(), note, tx.now.0])?;
    Ok(())
}

/// The task goes on, or is over.
fn answer(
    tx: &mut Tx<'_>,
    row: &ApprovalRow,
    state: State,
    by: &Principal,
    note: Option<&str>,
    task: &mut TaskRow,
) -> Result<()> {
    write(tx, row, state, by, note)?;
    let goes_on = state != State::Denied;
    let step = task::step(
        &tasks::machine(task),
        &Event::Answered { goes_on },
        by,
        tx.now,
    )?;
    if !goes_on {
        task.failure = Some(format!(
            "APPR-{} was denied{}",
            row.number,
            note.map_or_else(String::new, |n| format!(": {n}"))
        ));
    }
    let detail = json!({ "approval": format!("APPR-{}", row.number), "verdict": state, "hash": row.hash, "note": note });
    tasks::finish(tx, task, step, by, ("approval.decide", detail), None)
}

/// What a task that is over still has open is not asked any more, and no yes for it is good.
pub(super) fn lapse(tx: &Tx<'_>, task: &TaskRow) -> Result<()> {
    if task.state().is_terminal() {
        tx.db
            .prepare_cached("UPDATE approvals SET state = ?2 WHERE task = ?1 AND state IN ('pending', 'approved')")?
            .execute(params![task.number, State::Lapsed.name()])?;
    }
    Ok(())
}

/// Somebody decides.
pub(super) fn decide(
    tx: &mut Tx<'_>,
    number: u64,
    verdict: Verdict,
    note: Option<String>,
    by: &Principal,
) -> Result<(ApprovalRow, TaskRow)> {
    let row = load(tx.db, number)?;
    let state = approval::decide(&machine(&row), verdict, tx.now)?;
    let mut task = tasks::load(tx.db, TaskRef::Number(row.task))?;
    let note = note.map(|n| tasks::clean(tx, &n));
    answer(tx, &row, state, by, note.as_deref(), &mut task)?;
    Ok((load(tx.db, number)?, task))
}

/// Nobody decided in time: silence is the answer that was agreed on.
pub(super) fn silence(tx: &mut Tx<'_>, number: u64, task: &mut TaskRow) -> Result<()> {
    let row = load(tx.db, number)?;
    let state = approval::silence(&machine(&row), tx.now)?;
    answer(
        tx,
        &row,
        state,
        &Principal::House,
        Some("nobody decided in time"),
        task,
    )
}

/// The holder of the task does now what was approved: exactly that, once.
pub(super) fn take(
    tx: &mut Tx<'_>,
    number: u64,
    agent: &abbey_model::Slug,
    token: LeaseToken,
    action: &str,
    args: &Value,
) -> Result<ApprovalRow> {
    let row = load(tx.db, number)?;
    let task = tasks::load(tx.db, TaskRef::Number(row.task))?;
    let who = Principal::Agent(agent.clone());
    let alive = Event::Renew {
        token,
        ttl: Millis(0),
    };
    task::step(&tasks::machine(&task), &alive, &who, tx.now)?;
    // As it was asked for: without secrets.
    let action = tasks::clean(tx, action);
    let args: Value = serde_json::from_str(&tasks::clean(tx, &args.to_string()))?;
    let decided = row.decided_at.unwrap_or(row.created_at);
    let state = approval::take(
        &machine(&row),
        &hash(&action, &args)?,
        decided + GOOD_FOR,
        tx.now,
    )?;
    tx.db
        .prepare_cached("UPDATE approvals SET state = ?2 WHERE number = ?1")?
        .execute(params![number, state.name()])?;
    let detail =
        json!({ "task": format!("TASK-{}", row.task), "action": row.action, "hash": row.hash });
    activity::append(tx, &who, "approval.use", &format!("APPR-{number}"), detail)?;
    load(tx.db, number)
}
