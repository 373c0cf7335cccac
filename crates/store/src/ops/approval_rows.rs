//! Rows of approvals: read, inserted, and changed to the state that the engine decided.

use crate::chain::canonical;
use crate::rows::{Columns, Query, Rows, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{ApprovalRow, Asker, Error, Result, TaskRow};
use abbey_engine::approval::{Approval, State, Verdict};
use abbey_model::{Principal, Slug, Timestamp};
use serde_json::{Value, json};

/// Most approvals of one list.
const LIST_MAX: u32 = 500;

const SELECT: &str = "SELECT number, task, agent, workflow, step, action, args, hash, why, state, silence, expires_at, decided_by, note, created_at, decided_at FROM approvals";

/// What is asked.
pub(crate) struct Question {
    pub(crate) action: String,
    pub(crate) args: Value,
    pub(crate) why: String,
    /// What no answer until `until` means.
    pub(crate) silence: Verdict,
    pub(crate) until: Timestamp,
}

/// Digest of one exact action with its arguments.
pub(crate) fn action_hash(action: &str, args: &Value) -> Result<String> {
    let text = canonical(&json!({ "action": action, "args": args }))?;
    Ok(abbey_support::digest::sha256_hex(&text))
}

/// The approval as the engine's state machine sees it.
pub(crate) fn engine_approval(row: &ApprovalRow) -> Approval {
    Approval {
        number: row.number,
        state: row.state,
        hash: row.hash.clone(),
        expires_at: row.expires_at,
        silence: row.silence,
    }
}

pub(crate) fn approval_name(number: u64) -> String {
    format!("APPR-{number}")
}

pub(crate) fn ask_detail(row: &ApprovalRow) -> Value {
    json!({ "approval": approval_name(row.number), "action": row.action, "hash": row.hash, "why": row.why, "until": row.expires_at })
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

pub(crate) fn insert(
    tx: &mut Tx<'_>,
    number: u64,
    asker: &Asker,
    question: Question,
) -> Result<ApprovalRow> {
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

pub(crate) fn set_state(tx: &mut Tx<'_>, number: u64, state: State) -> Result<()> {
    tx.execute(
        "UPDATE approvals SET state = ?2 WHERE number = ?1",
        params![number, state.name()],
    )?;
    tx.publish(Topic::Approvals);
    Ok(())
}

pub(crate) fn store_decision(
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
