//! Approvals as rows; what decides is `engine::approval`.

use super::writer::Tx;
use super::{activity, parse, tasks};
use crate::{ApprovalRow, AskApproval, Asker, Error, Result, TaskRow};
use abbey_engine::approval::{self, Approval, State, Verdict};
use abbey_engine::task::{self, Event};
use abbey_model::{LeaseToken, Millis, Principal, TaskRef, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

/// How long a yes is good for.
const GOOD_FOR: Millis = Millis::from_secs(24 * 3600);

const SELECT: &str = "SELECT number, task, agent, workflow, step, action, args, hash, why, state, silence, expires_at, decided_by, note, created_at, decided_at FROM approvals";

/// Digest of one exact action with its arguments.
pub(super) fn hash(action: &str, args: &Value) -> Result<String> {
    let text = crate::canonical(&json!({ "action": action, "args": args }))?;
    Ok(abbey_support::digest::sha256_hex(text))
}

fn row(r: &rusqlite::Row<'_>) -> rusqlite::Result<Result<ApprovalRow>> {
    let texts: [String; 6] = [
        r.get(5)?,
        r.get(6)?,
        r.get(7)?,
        r.get(8)?,
        r.get(9)?,
        r.get(10)?,
    ];
    let asker: (Option<u64>, Option<String>, Option<u64>, Option<String>) =
        (r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?);
    let numbers: (u64, i64, i64, Option<i64>) = (r.get(0)?, r.get(11)?, r.get(14)?, r.get(15)?);
    let (decided_by, note): (Option<String>, Option<String>) = (r.get(12)?, r.get(13)?);
    let build = || -> Result<ApprovalRow> {
        let [action, args, hash, why, state, silence] = &texts;
        let asker = match &asker {
            (Some(task), Some(agent), None, None) => Asker::Task {
                task: *task,
                agent: parse(agent)?,
            },
            (None, None, Some(run), Some(step)) => Asker::Workflow {
                run: *run,
                step: parse(step)?,
            },
            _ => return Err(Error::Row("an approval of nothing".to_owned())),
        };
        Ok(ApprovalRow {
            number: numbers.0,
            asker,
            action: action.clone(),
            args: serde_json::from_str(args)?,
            hash: hash.clone(),
            why: why.clone(),
            state: parse(state)?,
            silence: serde_json::from_str(silence)?,
            expires_at: Timestamp(numbers.1),
            decided_by,
            note,
            created_at: Timestamp(numbers.2),
            decided_at: numbers.3.map(Timestamp),
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
    let row = put(tx, number, &asker, question)?;
    tasks::finish(
        tx,
        &mut task,
        step,
        &who,
        ("approval.ask", told(&row)),
        None,
    )?;
    Ok(row)
}

/// What somebody is asked.
pub(super) struct Question {
    pub(super) action: String,
    pub(super) args: Value,
    pub(super) why: String,
    pub(super) silence: Verdict,
    pub(super) until: Timestamp,
}

fn told(row: &ApprovalRow) -> Value {
    json!({ "approval": format!("APPR-{}", row.number), "action": row.action, "hash": row.hash, "why": row.why, "until": row.expires_at })
}

fn put(tx: &Tx<'_>, number: u64, asker: &Asker, question: Question) -> Result<ApprovalRow> {
    let action = tasks::clean(tx, &question.action);
    let why = tasks::clean(tx, &question.why);
    let args: Value = serde_json::from_str(&tasks::clean(tx, &question.args.to_string()))?;
    let hash = hash(&action, &args)?;
    let (task, agent, run, step) = match asker {
        Asker::Task { task, agent } => (Some(*task), Some(agent.as_str()), None, None),
        Asker::Workflow { run, step } => (None, None, Some(*run), Some(step.as_str())),
    };
    tx.db
        .prepare_cached("INSERT INTO approvals VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'pending', ?10, ?11, NULL, NULL, ?12, NULL)")?
        .execute(params![
            number, task, agent, run, step, action, args.to_string(), hash, why,
            serde_json::to_string(&question.silence)?, question.until.0, tx.now.0,
        ])?;
    load(tx.db, number)
}

/// A step of a workflow asks.
pub(super) fn ask_for_step(
    tx: &mut Tx<'_>,
    run: u64,
    step: &abbey_model::Slug,
    question: Question,
) -> Result<ApprovalRow> {
    let number = tx.next("approvals")?;
    let step = step.clone();
    let row = put(tx, number, &Asker::Workflow { run, step }, question)?;
    let entity = format!("WF-{run}");
    activity::append(tx, &Principal::House, "approval.ask", &entity, told(&row))?;
    Ok(row)
}

/// What a step hears of its question: what silence means is decided here once its time is over, and a yes is used up.
pub(super) fn heard_by_step(tx: &mut Tx<'_>, number: u64) -> Result<ApprovalRow> {
    let row = load(tx.db, number)?;
    if row.state == State::Pending && tx.now >= row.expires_at {
        let state = approval::silence(&machine(&row), tx.now)?;
        answer_step(
            tx,
            &row,
            state,
            &Principal::House,
            Some("nobody decided in time"),
        )?;
        return heard_by_step(tx, number);
    }
    if row.state == State::Approved {
        tx.db
            .prepare_cached("UPDATE approvals SET state = ?2 WHERE number = ?1")?
            .execute(params![number, State::Used.name()])?;
    }
    Ok(row)
}

/// The step is not waited for any more.
pub(super) fn lapse_step(tx: &Tx<'_>, number: u64) -> Result<()> {
    tx.db
        .prepare_cached("UPDATE approvals SET state = ?2 WHERE number = ?1 AND state IN ('pending', 'approved')")?
        .execute(params![number, State::Lapsed.name()])?;
    Ok(())
}

fn answer_step(
    tx: &mut Tx<'_>,
    row: &ApprovalRow,
    state: State,
    by: &Principal,
    note: Option<&str>,
) -> Result<()> {
    write(tx, row, state, by, note)?;
    let Asker::Workflow { run, step } = &row.asker else {
        return Ok(());
    };
    let detail = json!({ "approval": format!("APPR-{}", row.number), "step": step, "verdict": state, "hash": row.hash, "note": note });
    activity::append(tx, by, "approval.decide", &format!("WF-{run}"), detail)?;
    Ok(())
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

/// Somebody decides. The task that goes on by it, when it was a task that asked.
pub(super) fn decide(
    tx: &mut Tx<'_>,
    number: u64,
    verdict: Verdict,
    note: Option<String>,
    by: &Principal,
) -> Result<(ApprovalRow, Option<TaskRow>)> {
    let row = load(tx.db, number)?;
    let state = approval::decide(&machine(&row), verdict, tx.now)?;
    let note = note.map(|n| tasks::clean(tx, &n));
    let task = match &row.asker {
        Asker::Task { task, .. } => {
            let mut task = tasks::load(tx.db, TaskRef::Number(*task))?;
            answer(tx, &row, state, by, note.as_deref(), &mut task)?;
            Some(task)
        }
        Asker::Workflow { .. } => {
            answer_step(tx, &row, state, by, note.as_deref())?;
            None
        }
    };
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
    let Asker::Task { task, .. } = &row.asker else {
        return Err(Error::NotFound {
            what: "approval of a task",
            name: format!("APPR-{number}"),
        });
    };
    let task = tasks::load(tx.db, TaskRef::Number(*task))?;
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
        json!({ "task": format!("TASK-{}", task.number), "action": row.action, "hash": row.hash });
    activity::append(tx, &who, "approval.use", &format!("APPR-{number}"), detail)?;
    load(tx.db, number)
}
