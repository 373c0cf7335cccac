//! Runs of workflows: what `engine::workflow` decides to begin is begun in the transaction that stores the decision,
//! so a crash repeats no step and loses none (S3-31).

use super::transitions::cancel_subtask;
use super::{TERMINAL_STATES, approval_rows, approvals, audit_log, task_rows, tasks};
use crate::rows::{Columns, Query, Rows, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{
    ApprovalRow, DelegationRequest, Error, Intakes, NewRun, NewTask, Result, TaskRow, WorkflowRow,
    WorkflowSignal,
};
use abbey_engine::approval::{State as Answer, Verdict};
use abbey_engine::workflow::{
    self, EventVerdict, StepAction, StepItem, StepProgress, StepStart, WorkHandle, WorkOutcome,
    WorkflowEffect, WorkflowRun,
};
use abbey_model::{
    BudgetAmounts, Millis, Principal, Priority, Slug, TaskRef, TaskState, Timestamp, Tokens,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Time for a decision where the step gives none.
const ANSWER_WITHIN: Millis = Millis::from_secs(24 * 3600);

/// Newest failed runs that are looked at for incidents.
const INCIDENTS_LOOKED_AT_MAX: u32 = 500;

const SELECT: &str =
    "SELECT number, name, digest, definition, run, author, next_at, created_at FROM workflow_runs";

fn read_workflow(columns: &mut Columns<'_>) -> Result<WorkflowRow> {
    Ok(WorkflowRow {
        number: columns.get()?,
        name: columns.get()?,
        digest: columns.get()?,
        workflow: columns.json()?,
        run: columns.json()?,
        by: columns.parse()?,
        next_at: columns.get()?,
        created_at: columns.get()?,
    })
}

/// Reads one workflow run by number.
///
/// # Errors
/// [`Error::NotFound`].
pub(crate) fn load(rows: &dyn Rows, number: u64) -> Result<WorkflowRow> {
    let found = rows.first(
        &format!("{SELECT} WHERE number = ?1"),
        params![number],
        read_workflow,
    )?;
    found.ok_or_else(|| Error::NotFound {
        what: "run of a workflow",
        name: format!("WF-{number}"),
    })
}

/// Reads workflow runs, newest first, at most `limit`; with `open`, only those that have not ended.
pub(crate) fn list(rows: &dyn Rows, open: bool, limit: u32) -> Result<Vec<WorkflowRow>> {
    let state = if open {
        " WHERE state IN ('running', 'undoing')"
    } else {
        ""
    };
    rows.all(
        &format!("{SELECT}{state} ORDER BY number DESC LIMIT ?1"),
        params![limit],
        read_workflow,
    )
}

/// Reads the workflow runs of which a step could not be undone and that changed at or after `since`, newest first.
pub(crate) fn list_incidents(rows: &dyn Rows, since: Timestamp) -> Result<Vec<WorkflowRow>> {
    let mut found = rows.all(
        &format!(
            "{SELECT} WHERE state IN ('undoing', 'failed', 'cancelled') AND updated_at >= ?1 ORDER BY number DESC LIMIT ?2"
        ),
        params![since, INCIDENTS_LOOKED_AT_MAX],
        read_workflow,
    )?;
    found.retain(|row| !row.run.failed_undos().is_empty());
    Ok(found)
}

/// Numbers of the workflow runs that can advance at `now`, because a task or approval that they wait for ended or their
/// next instant has come; and the earliest next instant of the others.
pub(crate) fn due(rows: &dyn Rows, now: Timestamp) -> Result<(Vec<u64>, Option<Timestamp>)> {
    let due = rows.all(
        &format!(
            "SELECT number FROM workflow_runs WHERE next_at <= ?1
             UNION SELECT run FROM workflow_waits w LEFT JOIN tasks t ON t.number = w.number
               WHERE kind = 'task' AND coalesce(t.state, 'done') IN ({TERMINAL_STATES})
             UNION SELECT run FROM workflow_waits w LEFT JOIN approvals a ON a.number = w.number
               WHERE kind = 'approval' AND coalesce(a.state, 'lapsed') <> 'pending'"
        ),
        params![now],
        |c| c.get(),
    )?;
    let next = rows.aggregate(
        "SELECT min(next_at) FROM workflow_runs WHERE next_at > ?1",
        params![now],
    )?;
    Ok((due, next))
}

/// Stores what a run waits for, so that [`due`] finds the run when that is over.
fn store_waits(tx: &Tx<'_>, number: u64, open: &[WorkHandle]) -> Result<()> {
    tx.execute("DELETE FROM workflow_waits WHERE run = ?1", params![number])?;
    for handle in open {
        let (kind, of) = match handle {
            WorkHandle::Task(n) => ("task", *n),
            WorkHandle::Approval(n) => ("approval", *n),
        };
        tx.execute(
            "INSERT INTO workflow_waits VALUES (?1, ?2, ?3)",
            params![number, kind, of],
        )?;
    }
    Ok(())
}

/// Starts a run of a workflow. Returns its number, and whether it is new: a repeated idempotency key returns the run
/// that was started first.
pub(crate) fn start(tx: &mut Tx<'_>, new: NewRun) -> Result<(u64, bool)> {
    if let Some(key) = &new.key {
        let known: Option<(u64, String)> = tx.rows.first(
            "SELECT number, digest FROM workflow_runs WHERE key = ?1",
            params![key],
            |c| Ok((c.get()?, c.get()?)),
        )?;
        match known {
            Some((number, digest)) if digest == new.digest => return Ok((number, false)),
            Some(_) => return Err(Error::KeyReused(key.clone())),
            None => {}
        }
    }
    let number = tx.next_number("workflows")?;
    let input: BTreeMap<String, Value> = tx.redact_json(&new.input)?;
    let run = WorkflowRun::new(input, tx.now);
    tx.execute(
        "INSERT INTO workflow_runs VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?7, ?7)",
        params![
            number,
            &new.name,
            &new.digest,
            serde_json::to_string(&new.workflow)?,
            serde_json::to_string(&run)?,
            run.state.name(),
            tx.now,
            new.by.to_string(),
            &new.key,
        ],
    )?;
    let detail = json!({ "workflow": new.name, "digest": new.digest, "input": run.input });
    let entity = format!("WF-{number}");
    audit_log::append(tx, &new.by, "workflow.start", &entity, detail)?;
    tx.publish(Topic::Workflows);
    Ok((number, true))
}

/// Advances a workflow run with an outside signal and the outcome of its tasks and approvals: starts, cancels and
/// requests what its next steps need, all in this transaction.
pub(crate) fn advance(
    tx: &mut Tx<'_>,
    number: u64,
    nudge: WorkflowSignal,
    intakes: &Intakes,
) -> Result<WorkflowRow> {
    let mut row = load(tx.rows, number)?;
    let before = row.run.clone();
    accept(tx, &mut row, nudge)?;
    let mut facts: Vec<(WorkHandle, WorkOutcome)> = Vec::new();
    for handle in row.run.open_handles() {
        facts.push((handle, observe(tx, handle)?));
    }
    let known = |handle: WorkHandle| {
        let found = facts.iter().find(|(h, _)| *h == handle);
        found.map_or(WorkOutcome::Open, |(_, fact)| fact.clone())
    };
    let effects = workflow::advance(&row.workflow, &mut row.run, &known, tx.now);
    for effect in effects {
        match effect {
            WorkflowEffect::Begin(begin) => {
                let handle = begin_step(tx, &row, &begin, intakes)?;
                row.run.record_started(&begin, handle);
            }
            WorkflowEffect::Cancel(handle) => cancel_handle(tx, &row, handle)?,
        }
    }
    let expiry = |handle: WorkHandle| match handle {
        WorkHandle::Approval(n) => approval_rows::load(tx.rows, n).ok().map(|a| a.expires_at),
        WorkHandle::Task(_) => None,
    };
    let answers = row.run.open_handles().into_iter().filter_map(expiry);
    row.next_at = answers.chain(row.run.next_deadline(&row.workflow)).min();
    store_waits(tx, number, &row.run.open_handles())?;
    log_changes(tx, &row, &before)?;
    tx.execute(
        "UPDATE workflow_runs SET run = ?2, state = ?3, next_at = ?4, updated_at = ?5 WHERE number = ?1",
        params![
            number,
            serde_json::to_string(&row.run)?,
            row.run.state.name(),
            row.next_at,
            tx.now,
        ],
    )?;
    if row.run != before {
        tx.publish(Topic::Workflows);
    }
    Ok(row)
}

/// Takes a signal from outside into a run.
fn accept(tx: &mut Tx<'_>, row: &mut WorkflowRow, nudge: WorkflowSignal) -> Result<()> {
    let entity = format!("WF-{}", row.number);
    match nudge {
        WorkflowSignal::Refresh => {}
        WorkflowSignal::Cancel(by) => {
            if row.run.state.is_over() {
                return Err(over(row, "cancelled"));
            }
            if !row.run.cancel_requested {
                row.run.cancel_requested = true;
                audit_log::append(tx, &by, "workflow.cancel", &entity, json!({}))?;
            }
        }
        WorkflowSignal::Event { name, data, by } => {
            if row.run.state.is_over() {
                return Err(over(row, "sent events"));
            }
            let data: Value = tx.redact_json(&data)?;
            let mut detail = json!({ "event": name, "data": data });
            // The first report of an event that a step can use is the one that counts.
            let action = match row.run.hear(&row.workflow, name, data) {
                EventVerdict::Accepted => "workflow.event",
                EventVerdict::Known => return Ok(()),
                EventVerdict::Ignored(why) => {
                    detail["why"] = why.into();
                    "workflow.event.ignored"
                }
            };
            audit_log::append(tx, &by, action, &entity, detail)?;
        }
    }
    Ok(())
}

fn over(row: &WorkflowRow, what: &'static str) -> Error {
    Error::WorkflowOver {
        number: row.number,
        state: row.run.state.name(),
        what,
    }
}

/// What is known now of the task or approval that a step began.
fn observe(tx: &mut Tx<'_>, handle: WorkHandle) -> Result<WorkOutcome> {
    match handle {
        WorkHandle::Task(number) => match task_rows::load(tx.rows, TaskRef::Number(number)) {
            Ok(task) => Ok(fact_of_task(&task)),
            // A task that was over long ago may be removed already.
            Err(Error::NotFound { .. }) => Ok(WorkOutcome::Failed(format!(
                "TASK-{number} is not kept any more"
            ))),
            Err(error) => Err(error),
        },
        WorkHandle::Approval(number) => {
            Ok(fact_of_approval(&approvals::resolve_for_step(tx, number)?))
        }
    }
}

fn fact_of_task(task: &TaskRow) -> WorkOutcome {
    match task.state() {
        TaskState::Done | TaskState::Unverified => {
            let mut output = match task.result.as_ref().map(|r| &r.data) {
                Some(Value::Object(map)) => map.clone(),
                _ => Map::new(),
            };
            let text = task.result.as_ref().map(|r| r.text.clone());
            output.entry("text").or_insert_with(|| text.into());
            WorkOutcome::Done(Value::Object(output))
        }
        state if state.is_terminal() => {
            let why = task.failure.as_deref().unwrap_or("no reason was given");
            WorkOutcome::Failed(format!("TASK-{} is {state}: {why}", task.number))
        }
        _ => WorkOutcome::Open,
    }
}

fn fact_of_approval(row: &ApprovalRow) -> WorkOutcome {
    let note = row.note.as_deref().unwrap_or_default();
    match row.state {
        Answer::Pending => WorkOutcome::Open,
        Answer::Approved | Answer::Used => {
            WorkOutcome::Done(json!({ "by": row.decided_by, "note": note, "text": note }))
        }
        Answer::Denied | Answer::Revise | Answer::Lapsed | Answer::Expired => {
            WorkOutcome::Failed(format!("APPR-{} is {}: {note}", row.number, row.state))
        }
    }
}

/// Begins what a step asks for: an approval or a task.
fn begin_step(
    tx: &mut Tx<'_>,
    row: &WorkflowRow,
    begin: &StepStart,
    intakes: &Intakes,
) -> Result<WorkHandle> {
    let step = row.workflow.steps.get(&begin.step);
    let within = step.and_then(|s| s.within);
    let place = format!("WF-{}/{}", row.number, begin.step);
    if let StepAction::Approval { ask, silence } = &begin.act {
        let question = approval_rows::ApprovalQuestion {
            action: ask.clone(),
            args: Value::Object(begin.data.clone()),
            why: format!("{place} of the workflow {}", row.name),
            silence: match silence {
                true => Verdict::Approve,
                false => Verdict::Deny,
            },
            until: tx.now + within.unwrap_or(ANSWER_WITHIN),
        };
        let asked = approvals::request_for_step(tx, row.number, &begin.step, question)?;
        return Ok(WorkHandle::Approval(asked.number));
    }
    let (text, agent) = match &begin.act {
        StepAction::Task { text, agent } => (text.clone(), agent.clone()),
        StepAction::Skill { skill, agent } => {
            (format!("{skill}, as a step of {}", row.name), agent.clone())
        }
        StepAction::Approval { .. } | StepAction::Event { .. } | StepAction::Pause(_) => {
            (String::new(), None)
        }
    };
    let expects = step.filter(|_| !begin.undo).map(|s| &s.expects);
    let new = NewTask {
        text,
        author: Principal::House,
        assignee: agent,
        priority: Priority::P1,
        budget: BudgetAmounts {
            tokens: Tokens(step.and_then(|s| s.tokens).unwrap_or(0)),
            ..BudgetAmounts::default()
        },
        policy: None,
        idempotency: None,
        intake: intakes(begin),
        delegated: Some(DelegationRequest {
            expects: expects
                .map(|e| e.keys().cloned().collect())
                .unwrap_or_default(),
            within,
            step: Some(place),
            data: tx.redact_json(&begin.data)?,
            ..DelegationRequest::default()
        }),
    };
    Ok(WorkHandle::Task(tasks::add(tx, new)?.task.number))
}

fn cancel_handle(tx: &mut Tx<'_>, row: &WorkflowRow, handle: WorkHandle) -> Result<()> {
    match handle {
        WorkHandle::Task(number) => {
            let task = task_rows::load(tx.rows, TaskRef::Number(number))?;
            if task.state().is_terminal() {
                return Ok(());
            }
            let name = format!("WF-{}", row.number);
            let why = match &row.run.failure {
                Some(why) => format!("its workflow run {name} does not go on: {why}"),
                None => format!("its workflow run {name} does not need it any more"),
            };
            cancel_subtask(tx, task, why, json!({ "because": name }))
        }
        WorkHandle::Approval(number) => approval_rows::lapse_of_step(tx, number),
    }
}

/// Logs every step whose state changed, and the run's own.
fn log_changes(tx: &mut Tx<'_>, row: &WorkflowRow, before: &WorkflowRun) -> Result<()> {
    let entity = format!("WF-{}", row.number);
    let was =
        |step: &Slug, index: usize| -> Option<&StepItem> { before.steps.get(step)?.get(index) };
    for (step, items) in &row.run.steps {
        for (index, item) in items.iter().enumerate() {
            let old = was(step, index);
            let old_undo = old.and_then(|i| i.undo.as_ref());
            let places = [
                ("workflow.step", old.map(|i| &i.at), Some(&item.at)),
                ("workflow.undo", old_undo, item.undo.as_ref()),
            ];
            for (action, old, new) in places {
                if let Some(new) = new
                    && old != Some(new)
                {
                    let mut detail =
                        json!({ "step": step, "index": index, "attempt": item.attempts });
                    detail["state"] = json!(step_state(new));
                    detail["began"] = json!(began(new));
                    detail["why"] = match new {
                        StepProgress::Failed(why) => json!(why),
                        _ => Value::Null,
                    };
                    let failed = matches!(new, StepProgress::Failed(_));
                    audit_log::append(tx, &Principal::House, action, &entity, detail.clone())?;
                    // What it did is still there, and nothing else will undo it.
                    if failed && action == "workflow.undo" {
                        let incident = "workflow.incident";
                        audit_log::append(tx, &Principal::House, incident, &entity, detail)?;
                    }
                }
            }
        }
    }
    if before.state != row.run.state {
        let detail = json!({ "state": row.run.state, "why": row.run.failure });
        audit_log::append(tx, &Principal::House, "workflow.state", &entity, detail)?;
    }
    Ok(())
}

/// Word for a step's state in the audit log.
fn step_state(at: &StepProgress) -> &'static str {
    match at {
        StepProgress::Working(_) => "working",
        StepProgress::Waiting(_) => "waiting",
        StepProgress::Retry(_) => "retry",
        StepProgress::Done(_) => "done",
        StepProgress::Skipped => "skipped",
        StepProgress::Failed(_) => "failed",
    }
}

/// Name of the task or approval that a step began.
fn began(at: &StepProgress) -> Option<String> {
    match at {
        StepProgress::Working(Some(WorkHandle::Task(n))) => Some(format!("TASK-{n}")),
        StepProgress::Working(Some(WorkHandle::Approval(n))) => Some(format!("APPR-{n}")),
        _ => None,
    }
}
