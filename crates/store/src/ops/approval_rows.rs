//! Rows of approvals: read, inserted, and changed to the state that the engine decided.

use crate::chain::canonical;
use crate::rows::{Columns, Query, Rows, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{ApprovalFilter, ApprovalRequester, ApprovalRow, Error, Result, TaskRow};
use abbey_engine::approval::{Approval, State, Verdict};
use abbey_model::{Millis, Principal, Slug, Timestamp};
use serde_json::{Value, json};

/// Most approvals of one list.
const LIST_MAX: u32 = 1000;
/// How long an approval that was given may be used.
const VALID_FOR: Millis = Millis::from_secs(24 * 3600);
/// Key in the table `meta` of the first instant at which a granted approval can expire, so that nothing looks for it.
const NEXT_UNUSED: &str = "approvals_unused_until";

const SELECT: &str = "SELECT number, task, agent, workflow, step, action, args, hash, why, state, silence, expires_at, decided_by, note, created_at, decided_at FROM approvals";

/// Content of a request for an approval.
pub(crate) struct ApprovalQuestion {
    pub(crate) action: String,
    pub(crate) args: Value,
    pub(crate) why: String,
    /// Decision that applies when none is made before `until`.
    pub(crate) silence: Verdict,
    pub(crate) until: Timestamp,
}

/// SHA-256, hexadecimal, of an action and its exact arguments. An approval is valid only for the action with this hash.
pub(crate) fn action_hash(action: &str, args: &Value) -> Result<String> {
    let text = canonical(&json!({ "action": action, "args": args }))?;
    Ok(abbey_support::digest::sha256_hex(&text))
}

/// Converts a row into the approval that the engine's state machine works on.
pub(crate) fn engine_approval(row: &ApprovalRow) -> Approval {
    Approval {
        number: row.number,
        state: row.state,
        hash: row.hash.clone(),
        expires_at: row.expires_at,
        silence: row.silence,
    }
}

/// Name of an approval in messages and the audit log: `APPR-7`.
pub(crate) fn approval_name(number: u64) -> String {
    format!("APPR-{number}")
}

/// Details of the audit entry `approval.ask`: number, action, hash, reason and deadline of the approval.
pub(crate) fn request_detail(row: &ApprovalRow) -> Value {
    json!({ "approval": approval_name(row.number), "action": row.action, "hash": row.hash, "why": row.why, "until": row.expires_at })
}

/// Reads one approval by number.
///
/// # Errors
/// [`Error::NotFound`].
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

/// Reads the approvals that match a filter, newest first, at most 1,000 unless it says how many.
pub(crate) fn list(rows: &dyn Rows, filter: &ApprovalFilter) -> Result<Vec<ApprovalRow>> {
    let state = if filter.all {
        ""
    } else {
        " AND state = 'pending'"
    };
    let agent = filter.agent.as_ref().map(Slug::as_str);
    rows.all(
        &format!(
            "{SELECT} WHERE (?1 IS NULL OR task = ?1) AND (?2 IS NULL OR (agent = ?2 AND workflow IS NULL)) AND number < ?3{state} ORDER BY number DESC LIMIT ?4"
        ),
        params![
            filter.task,
            agent,
            filter.before.unwrap_or(u64::MAX),
            filter.limit.unwrap_or(LIST_MAX)
        ],
        read_approval,
    )
}

/// Inserts a pending approval, with secrets redacted from its texts, and returns the stored row.
pub(crate) fn insert(
    tx: &mut Tx<'_>,
    number: u64,
    asker: &ApprovalRequester,
    question: ApprovalQuestion,
) -> Result<ApprovalRow> {
    let action = tx.redact(&question.action);
    let why = tx.redact(&question.why);
    let args = tx.redact_json(&question.args)?;
    let hash = action_hash(&action, &args)?;
    let (task, agent, run, step) = match asker {
        ApprovalRequester::Task { task, agent } => (Some(*task), Some(agent.as_str()), None, None),
        ApprovalRequester::Workflow { run, step } => (None, None, Some(*run), Some(step.as_str())),
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

/// Stores a new state of an approval.
pub(crate) fn set_state(tx: &mut Tx<'_>, number: u64, state: State) -> Result<()> {
    tx.execute(
        "UPDATE approvals SET state = ?2 WHERE number = ?1",
        params![number, state.name()],
    )?;
    tx.publish(Topic::Approvals);
    Ok(())
}

/// Stores the decision about an approval: its new state, the principal that decided, its note and the instant.
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
    if state == State::Approved && matches!(row.asker, ApprovalRequester::Task { .. }) {
        let until = tx.now + VALID_FOR;
        if next_unused(tx.rows)?.is_none_or(|at| until < at) {
            set_next_unused(tx, Some(until))?;
        }
    }
    Ok(())
}

/// First instant at which a granted approval can expire; it may have been used meanwhile.
pub(crate) fn next_unused(rows: &dyn Rows) -> Result<Option<Timestamp>> {
    let found: Option<String> = rows.value(
        "SELECT value FROM meta WHERE key = ?1",
        params![NEXT_UNUSED],
    )?;
    let millis = found.map(|text| text.parse::<i64>()).transpose();
    let millis = millis.map_err(|e| Error::Row(format!("{NEXT_UNUSED}: {e}")))?;
    Ok(millis.map(Timestamp))
}

fn set_next_unused(tx: &mut Tx<'_>, at: Option<Timestamp>) -> Result<()> {
    match at {
        Some(at) => tx.execute(
            "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2",
            params![NEXT_UNUSED, at.0.to_string()],
        )?,
        None => tx.execute("DELETE FROM meta WHERE key = ?1", params![NEXT_UNUSED])?,
    };
    tx.publish(Topic::Deadlines);
    Ok(())
}

/// Granted approvals of tasks that were not used, oldest first.
pub(crate) fn granted(rows: &dyn Rows) -> Result<Vec<ApprovalRow>> {
    rows.all(
        &format!("{SELECT} WHERE state = 'approved' AND task IS NOT NULL ORDER BY number"),
        params![],
        read_approval,
    )
}

/// Computes anew when the next granted approval can expire.
pub(crate) fn plan_next_unused(tx: &mut Tx<'_>) -> Result<()> {
    let next = granted(tx.rows)?.iter().filter_map(|a| a.good_until).min();
    match next == next_unused(tx.rows)? {
        true => Ok(()),
        false => set_next_unused(tx, next),
    }
}

/// Stores that a granted approval expired, and adds the reason to the note of whoever decided.
pub(crate) fn expire_granted(
    tx: &mut Tx<'_>,
    row: &ApprovalRow,
    state: State,
    why: &str,
) -> Result<()> {
    let note = match &row.note {
        Some(note) => format!("{note}; {why}"),
        None => why.to_owned(),
    };
    tx.execute(
        "UPDATE approvals SET state = ?2, note = ?3 WHERE number = ?1",
        params![row.number, state.name(), note],
    )?;
    tx.publish(Topic::Approvals);
    Ok(())
}

/// Marks the approval of a workflow step as lapsed, unless it was denied or used, because the workflow no longer waits
/// for it.
pub(crate) fn lapse_of_step(tx: &mut Tx<'_>, number: u64) -> Result<()> {
    tx.execute(
        "UPDATE approvals SET state = ?2 WHERE number = ?1 AND state IN ('pending', 'approved')",
        params![number, State::Lapsed.name()],
    )?;
    tx.publish(Topic::Approvals);
    Ok(())
}

/// Marks the pending and granted approvals of a task as lapsed if the task is in a terminal state.
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
    let mut row = ApprovalRow {
        number: columns.get()?,
        asker: {
            let task: Option<u64> = columns.get()?;
            let agent: Option<Slug> = columns.parse_optional()?;
            let run: Option<u64> = columns.get()?;
            let step: Option<Slug> = columns.parse_optional()?;
            match (task, agent, run, step) {
                (Some(task), Some(agent), None, None) => ApprovalRequester::Task { task, agent },
                (None, None, Some(run), Some(step)) => ApprovalRequester::Workflow { run, step },
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
        good_until: None,
    };
    row.good_until = row
        .decided_at
        .filter(|_| row.state == State::Approved)
        .map(|at| at + VALID_FOR);
    Ok(row)
}
