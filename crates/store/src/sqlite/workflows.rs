//! Runs of workflows as rows: what `engine::workflow` asks for is done in the transaction that writes it down, so a
//! crash repeats no step and loses none (S3-31).

use super::writer::Tx;
use super::{activity, approvals, parse, tasks};
use crate::{
    ApprovalRow, Delegated, Error, Intakes, NewRun, NewTask, Nudge, Result, TaskRow, WorkflowRow,
};
use abbey_engine::approval::{State as Answer, Verdict};
use abbey_engine::task::Event;
use abbey_engine::workflow::{self, Act, At, Begin, Effect, Fact, Handle, Item, Run};
use abbey_model::{
    Amounts, Millis, Principal, Priority, Slug, TaskRef, TaskState, Timestamp, Tokens,
};
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Time for an answer where the step gives none.
const ANSWER_WITHIN: Millis = Millis::from_secs(24 * 3600);

const SELECT: &str =
    "SELECT number, name, digest, definition, run, author, next_at, created_at FROM workflow_runs";

fn row(r: &rusqlite::Row<'_>) -> rusqlite::Result<Result<WorkflowRow>> {
    let texts: [String; 5] = [r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?];
    let numbers: (u64, Option<i64>, i64) = (r.get(0)?, r.get(6)?, r.get(7)?);
    let build = || -> Result<WorkflowRow> {
        let [name, digest, definition, run, author] = &texts;
        Ok(WorkflowRow {
            number: numbers.0,
            name: name.clone(),
            digest: digest.clone(),
            workflow: serde_json::from_str(definition)?,
            run: serde_json::from_str(run)?,
            by: parse(author)?,
            next_at: numbers.1.map(Timestamp),
            created_at: Timestamp(numbers.2),
        })
    };
    Ok(build())
}

pub(super) fn load(db: &Connection, number: u64) -> Result<WorkflowRow> {
    let found = db
        .prepare_cached(&format!("{SELECT} WHERE number = ?1"))?
        .query_row([number], row)
        .optional()?;
    found.unwrap_or_else(|| {
        Err(Error::NotFound {
            what: "run of a workflow",
            name: format!("WF-{number}"),
        })
    })
}

pub(super) fn list(db: &Connection, open: bool, limit: u32) -> Result<Vec<WorkflowRow>> {
    let mut statement = db.prepare_cached(&format!(
        "{SELECT} WHERE NOT ?1 OR state IN ('running', 'undoing') ORDER BY number DESC LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![open, limit], row)?;
    rows.map(|r| r?).collect()
}

/// Runs of which something is over, or whose instant has come; and the next instant.
pub(super) fn due(db: &Connection, now: Timestamp) -> Result<(Vec<u64>, Option<Timestamp>)> {
    let mut statement = db.prepare_cached(
        "SELECT number FROM workflow_runs WHERE next_at <= ?1
         UNION SELECT run FROM workflow_waits w LEFT JOIN tasks t ON t.number = w.number
           WHERE kind = 'task' AND coalesce(t.state, 'done') IN ('done', 'unverified', 'failed', 'timed_out', 'cancelled')
         UNION SELECT run FROM workflow_waits w LEFT JOIN approvals a ON a.number = w.number
           WHERE kind = 'approval' AND coalesce(a.state, 'lapsed') <> 'pending'",
    )?;
    let due = statement.query_map([now.0], |r| r.get(0))?;
    let due = due.collect::<rusqlite::Result<_>>()?;
    let next: Option<i64> = db
        .prepare_cached("SELECT min(next_at) FROM workflow_runs WHERE next_at > ?1")?
        .query_row([now.0], |r| r.get(0))?;
    Ok((due, next.map(Timestamp)))
}

/// What a run waits for, so that it is found when that is over.
fn write_waits(tx: &Tx<'_>, number: u64, open: &[Handle]) -> Result<()> {
    tx.db
        .prepare_cached("DELETE FROM workflow_waits WHERE run = ?1")?
        .execute([number])?;
    for handle in open {
        let (kind, of) = match handle {
            Handle::Task(n) => ("task", n),
            Handle::Approval(n) => ("approval", n),
        };
        tx.db
            .prepare_cached("INSERT INTO workflow_waits VALUES (?1, ?2, ?3)")?
            .execute(params![number, kind, of])?;
    }
    Ok(())
}

pub(super) fn start(tx: &mut Tx<'_>, new: NewRun) -> Result<(u64, bool)> {
    if let Some(key) = &new.key {
        let known: Option<(u64, String)> = tx
            .db
            .prepare_cached("SELECT number, digest FROM workflow_runs WHERE key = ?1")?
            .query_row([key], |r| Ok((r.get(0)?, r.get(1)?)))
            .optional()?;
        match known {
            Some((number, digest)) if digest == new.digest => return Ok((number, false)),
            Some(_) => return Err(Error::KeyReused(key.clone())),
            None => {}
        }
    }
    let number = tx.next("workflows")?;
    let input: BTreeMap<String, Value> = clean(tx, &new.input)?;
    let run = Run::new(input, tx.now);
    tx.db
        .prepare_cached(
            "INSERT INTO workflow_runs VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?7, ?7)",
        )?
        .execute(params![
            number,
            new.name,
            new.digest,
            serde_json::to_string(&new.workflow)?,
            serde_json::to_string(&run)?,
            run.state.name(),
            tx.now.0,
            new.by.to_string(),
            new.key,
        ])?;
    let detail = json!({ "workflow": new.name, "digest": new.digest, "input": run.input });
    activity::append(
        tx,
        &new.by,
        "workflow.start",
        &format!("WF-{number}"),
        detail,
    )?;
    Ok((number, true))
}

/// Without secrets.
fn clean<T: serde::Serialize + serde::de::DeserializeOwned>(tx: &Tx<'_>, value: &T) -> Result<T> {
    let text = tasks::clean(tx, &serde_json::to_string(value)?);
    Ok(serde_json::from_str(&text)?)
}

pub(super) fn advance(
    tx: &mut Tx<'_>,
    number: u64,
    nudge: Nudge,
    intakes: &Intakes,
) -> Result<WorkflowRow> {
    let mut row = load(tx.db, number)?;
    let before = row.run.clone();
    let entity = format!("WF-{number}");
    match nudge {
        Nudge::Look => {}
        Nudge::CallOff(by) => {
            if row.run.state.is_over() {
                return Err(over(&row, "called off"));
            }
            if !row.run.called_off {
                row.run.called_off = true;
                activity::append(tx, &by, "workflow.cancel", &entity, json!({}))?;
            }
        }
        Nudge::Event { name, data, by } => {
            if row.run.state.is_over() {
                return Err(over(&row, "told of events"));
            }
            // The first report of an event is the one that counts.
            if let Entry::Vacant(first) = row.run.heard.entry(name) {
                let data = clean(tx, &data)?;
                let detail = json!({ "event": first.key(), "data": data });
                first.insert(data);
                activity::append(tx, &by, "workflow.event", &entity, detail)?;
            }
        }
    }
    let mut facts: Vec<(Handle, Fact)> = Vec::new();
    for handle in row.run.open() {
        facts.push((handle, fact(tx, handle)?));
    }
    let known = |handle: Handle| {
        let found = facts.iter().find(|(h, _)| *h == handle);
        found.map_or(Fact::Open, |(_, fact)| fact.clone())
    };
    let effects = workflow::advance(&row.workflow, &mut row.run, &known, tx.now);
    for effect in effects {
        match effect {
            Effect::Begin(begin) => {
                let handle = start_step(tx, &row, &begin, intakes)?;
                row.run.bind(&begin, handle);
            }
            Effect::CallOff(handle) => call_off(tx, handle)?,
        }
    }
    let expiry = |handle: Handle| match handle {
        Handle::Approval(n) => approvals::load(tx.db, n).ok().map(|a| a.expires_at),
        Handle::Task(_) => None,
    };
    let answers = row.run.open().into_iter().filter_map(expiry);
    row.next_at = answers.chain(row.run.next(&row.workflow)).min();
    write_waits(tx, number, &row.run.open())?;
    tell(tx, &row, &before)?;
    tx.db
        .prepare_cached(
            "UPDATE workflow_runs SET run = ?2, state = ?3, next_at = ?4, updated_at = ?5 WHERE number = ?1",
        )?
        .execute(params![
            number,
            serde_json::to_string(&row.run)?,
            row.run.state.name(),
            row.next_at.map(|t| t.0),
            tx.now.0,
        ])?;
    Ok(row)
}

fn over(row: &WorkflowRow, what: &'static str) -> Error {
    Error::WorkflowOver {
        number: row.number,
        state: row.run.state.name(),
        what,
    }
}

/// What was over long ago may not be kept any more.
fn kept<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Err(Error::NotFound { .. }) => Ok(None),
        found => found.map(Some),
    }
}

/// What is known of what a step began.
fn fact(tx: &mut Tx<'_>, handle: Handle) -> Result<Fact> {
    match handle {
        Handle::Task(number) => {
            let task = kept(tasks::load(tx.db, TaskRef::Number(number)))?;
            let gone = || Fact::Failed(format!("TASK-{number} is not kept any more"));
            Ok(task.map_or_else(gone, |task| of_task(&task)))
        }
        Handle::Approval(number) => Ok(of_answer(&approvals::heard_by_step(tx, number)?)),
    }
}

fn of_task(task: &TaskRow) -> Fact {
    match task.state() {
        TaskState::Done | TaskState::Unverified => {
            let mut output = match task.result.as_ref().map(|r| &r.data) {
                Some(Value::Object(map)) => map.clone(),
                _ => Map::new(),
            };
            let text = task.result.as_ref().map(|r| r.text.clone());
            output.entry("text").or_insert_with(|| text.into());
            Fact::Done(Value::Object(output))
        }
        state if state.is_terminal() => {
            let why = task.failure.as_deref().unwrap_or("it says no more");
            Fact::Failed(format!("TASK-{} is {state}: {why}", task.number))
        }
        _ => Fact::Open,
    }
}

fn of_answer(row: &ApprovalRow) -> Fact {
    let note = row.note.as_deref().unwrap_or_default();
    match row.state {
        Answer::Pending => Fact::Open,
        Answer::Approved | Answer::Used => {
            Fact::Done(json!({ "by": row.decided_by, "note": note, "text": note }))
        }
        Answer::Denied | Answer::Revise | Answer::Lapsed => {
            Fact::Failed(format!("APPR-{} is {}: {note}", row.number, row.state))
        }
    }
}

fn start_step(
    tx: &mut Tx<'_>,
    row: &WorkflowRow,
    begin: &Begin,
    intakes: &Intakes,
) -> Result<Handle> {
    let step = row.workflow.steps.get(&begin.step);
    let within = step.and_then(|s| s.within);
    let place = format!("WF-{}/{}", row.number, begin.step);
    if let Act::Approval { ask, silence } = &begin.act {
        let question = approvals::Question {
            action: ask.clone(),
            args: Value::Object(begin.data.clone()),
            why: format!("{place} of the workflow {}", row.name),
            silence: match silence {
                true => Verdict::Approve,
                false => Verdict::Deny,
            },
            until: tx.now + within.unwrap_or(ANSWER_WITHIN),
        };
        let asked = approvals::ask_for_step(tx, row.number, &begin.step, question)?;
        return Ok(Handle::Approval(asked.number));
    }
    let (text, agent) = match &begin.act {
        Act::Task { text, agent } => (text.clone(), agent.clone()),
        Act::Skill { skill, agent } => {
            (format!("{skill}, as a step of {}", row.name), agent.clone())
        }
        Act::Approval { .. } | Act::Event { .. } | Act::Pause(_) => (String::new(), None),
    };
    let expects = step.filter(|_| !begin.undo).map(|s| &s.expects);
    let new = NewTask {
        text,
        author: Principal::House,
        assignee: agent,
        priority: Priority::P1,
        budget: Amounts {
            tokens: Tokens(step.and_then(|s| s.tokens).unwrap_or(0)),
            ..Amounts::default()
        },
        policy: None,
        idempotency: None,
        intake: intakes(begin),
        delegated: Some(Delegated {
            expects: expects
                .map(|e| e.keys().cloned().collect())
                .unwrap_or_default(),
            within,
            step: Some(place),
            data: clean(tx, &begin.data)?,
            ..Delegated::default()
        }),
    };
    Ok(Handle::Task(tasks::add(tx, new)?.task.number))
}

fn call_off(tx: &mut Tx<'_>, handle: Handle) -> Result<()> {
    match handle {
        Handle::Task(number) => {
            let task = TaskRef::Number(number);
            if !tasks::load(tx.db, task)?.state().is_terminal() {
                tasks::simple(tx, task, &Event::Cancel, &Principal::House)?;
            }
            Ok(())
        }
        Handle::Approval(number) => approvals::lapse_step(tx, number),
    }
}

/// What changed is entered in the log.
fn tell(tx: &mut Tx<'_>, row: &WorkflowRow, before: &Run) -> Result<()> {
    let entity = format!("WF-{}", row.number);
    let word = |at: Option<&At>| match at {
        None => "not_started",
        Some(At::Working(_)) => "working",
        Some(At::Waiting(_)) => "waiting",
        Some(At::Retry(_)) => "retry",
        Some(At::Done(_)) => "done",
        Some(At::Skipped) => "skipped",
        Some(At::Failed(_)) => "failed",
    };
    let was = |step: &Slug, index: usize| -> Option<&Item> { before.steps.get(step)?.get(index) };
    for (step, items) in &row.run.steps {
        for (index, item) in items.iter().enumerate() {
            let old = was(step, index);
            let places = [
                ("step", old.map(|i| &i.at), Some(&item.at)),
                (
                    "undo",
                    old.and_then(|i| i.undo.as_ref()),
                    item.undo.as_ref(),
                ),
            ];
            for (what, old, new) in places {
                if old == new || new.is_none() {
                    continue;
                }
                let began = match new {
                    Some(At::Working(Some(Handle::Task(n)))) => Some(format!("TASK-{n}")),
                    Some(At::Working(Some(Handle::Approval(n)))) => Some(format!("APPR-{n}")),
                    _ => None,
                };
                let why = match new {
                    Some(At::Failed(why)) => Some(why.as_str()),
                    _ => None,
                };
                let detail = json!({ "step": step, "index": index, "attempt": item.attempts, "state": word(new), "began": began, "why": why });
                let action = format!("workflow.{what}");
                activity::append(tx, &Principal::House, &action, &entity, detail)?;
            }
        }
    }
    if before.state != row.run.state {
        let detail = json!({ "state": row.run.state, "why": row.run.failure });
        activity::append(tx, &Principal::House, "workflow.state", &entity, detail)?;
    }
    Ok(())
}
