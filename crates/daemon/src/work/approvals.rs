//! Approvals: requests of agents and workflows that wait for the operator's decision (S4-18).

use crate::core::error::Result;
use crate::work::operations::missing_target;
use crate::work::state::WorkState;
use abbey_api::{
    ApprovalBody, ApprovalView, ApprovalsDoc, ApprovalsQuery, Problem, Silence, Time, UseBody,
    VERSION,
};
use abbey_engine::admission::skill_without_owner;
use abbey_engine::approval::{State, Verdict};
use abbey_model::{FaultKind, LeaseToken, Millis, Principal, Slug, TaskRef};
use abbey_store::{
    ApprovalFilter, ApprovalRequest, ApprovalRequester, ApprovalRow, ApprovalUse, TaskRow,
};
use std::sync::Arc;

/// Most approvals of one page.
const APPROVALS_MAX: u32 = 1000;
/// Time until a request expires if the caller names none.
const ANSWER_TIME_DEFAULT: Millis = Millis::from_secs(24 * 3600);
/// Shortest and longest time until a request expires.
const ANSWER_TIME_RANGE: (Millis, Millis) = (Millis::from_secs(1), Millis::from_secs(30 * 86_400));
/// Longest name of an action, bytes.
const ACTION_MAX: usize = 200;
/// Largest arguments of an action, and longest explanation, bytes.
const ARGS_MAX: usize = 16 << 10;

fn invalid(text: impl Into<String>) -> crate::core::error::Error {
    Problem::new(FaultKind::Invalid, text.into()).into()
}

/// Approval of the store as an API document.
pub(crate) fn approval_view(row: &ApprovalRow) -> ApprovalView {
    let (task, agent) = match &row.asker {
        ApprovalRequester::Task { task, agent } => (format!("TASK-{task}"), agent.to_string()),
        ApprovalRequester::Workflow { run, step } => (format!("WF-{run}"), format!("step {step}")),
    };
    ApprovalView {
        id: format!("APPR-{}", row.number),
        task,
        agent,
        action: row.action.clone(),
        args: row.args.clone(),
        hash: row.hash.clone(),
        why: row.why.clone(),
        state: row.state,
        silence: match row.silence {
            Verdict::Approve => Silence::Approve,
            Verdict::Deny | Verdict::Revise => Silence::Deny,
        },
        expires_at: row.good_until.unwrap_or(row.expires_at).into(),
        decided_by: row.decided_by.clone(),
        note: row.note.clone(),
        created_at: row.created_at.into(),
        decided_at: row.decided_at.map(Time),
    }
}

/// Parses the number of an approval, written `APPR-7` or `7`.
///
/// # Errors
/// `NotFound` for any other text.
pub(crate) fn parse_approval_number(text: &str) -> Result<u64> {
    let digits = text.strip_prefix("APPR-").unwrap_or(text);
    digits.parse().map_err(|_| {
        Problem::new(
            FaultKind::NotFound,
            format!("there is no approval `{text}`"),
        )
        .remedy("`abbey approvals` lists the open requests")
        .into()
    })
}

/// A page of the approvals that match a filter, newest first: those behind the one that the cursor names.
///
/// # Errors
/// `Invalid` for a cursor that names no approval.
pub(crate) async fn list_approvals(
    work: &WorkState,
    filter: ApprovalFilter,
    query: &ApprovalsQuery,
) -> Result<ApprovalsDoc> {
    let limit = query.limit.unwrap_or(APPROVALS_MAX);
    let limit = limit.clamp(1, APPROVALS_MAX);
    let before = match query.cursor.as_deref() {
        None => None,
        Some(cursor) => Some(parse_approval_number(cursor).map_err(|_| {
            let text = format!("the cursor `{cursor}` is not valid");
            Problem::new(FaultKind::Invalid, text).remedy("start again without a cursor")
        })?),
    };
    let filter = ApprovalFilter {
        all: query.all == Some(true),
        before,
        // One more tells whether this is the last page.
        limit: Some(limit + 1),
        ..filter
    };
    let rows = work.core.store.approvals(filter).await?;
    let page = rows.iter().take(limit as usize);
    let approvals: Vec<ApprovalView> = page.map(approval_view).collect();
    let more = rows.len() > approvals.len();
    let cursor = approvals.last().filter(|_| more).map(|a| a.id.clone());
    Ok(ApprovalsDoc {
        version: VERSION,
        approvals,
        cursor,
    })
}

/// Adds a request for approval by the agent that holds the task's lease (`lease`: task and token);
/// the task waits and its run ends.
///
/// # Errors
/// If the request is invalid or the lease is not held.
pub(crate) async fn request_approval(
    work: &WorkState,
    agent: Slug,
    lease: (TaskRef, LeaseToken),
    body: ApprovalBody,
) -> Result<ApprovalView> {
    let action = body.action.trim().to_owned();
    if action.is_empty() || action.len() > ACTION_MAX {
        return Err(invalid(format!(
            "`action` must have 1 to {ACTION_MAX} bytes"
        )));
    }
    if body.args.to_string().len() > ARGS_MAX || body.why.len() > ARGS_MAX {
        return Err(invalid(format!(
            "`args` and `why` must have at most {ARGS_MAX} bytes each"
        )));
    }
    let within = body.within_ms.map_or(ANSWER_TIME_DEFAULT, Millis);
    if within < ANSWER_TIME_RANGE.0 || within > ANSWER_TIME_RANGE.1 {
        return Err(invalid(
            "`within_ms`, the time to decide about the approval, must be between 1 second and 30 days",
        ));
    }
    let ask = ApprovalRequest {
        task: lease.0,
        agent,
        token: lease.1,
        action,
        args: body.args,
        why: body.why,
        within,
        // Only the operator can make silence an approval.
        silence: Verdict::Deny,
    };
    let row = work.core.store.ask_approval(ask).await?;
    Ok(approval_view(&row))
}

/// Marks an approval as used by the agent that holds the task's lease, just before it does the
/// approved action.
///
/// # Errors
/// If action or arguments differ from the approved ones, or it was used before.
pub(crate) async fn use_approval(
    work: &WorkState,
    agent: Slug,
    token: LeaseToken,
    number: u64,
    body: UseBody,
) -> Result<ApprovalView> {
    let take = ApprovalUse {
        number,
        agent: agent.clone(),
        token,
        action: body.action.trim().to_owned(),
        args: body.args,
    };
    Ok(approval_view(&work.core.store.use_approval(take).await?))
}

/// Records the operator's decision about an approval, and admits its task again.
///
/// # Errors
/// If it is unknown or already decided.
pub(crate) async fn decide_approval(
    work: &Arc<WorkState>,
    number: u64,
    verdict: Verdict,
    note: Option<String>,
    by: Principal,
) -> Result<ApprovalView> {
    match verdict {
        Verdict::Approve => check_action_is_possible(work, number).await?,
        Verdict::Revise => check_somebody_revises(work, number).await?,
        Verdict::Deny => {}
    }
    let decided = work.core.store.decide_approval(number, verdict, note, by);
    let (row, task) = decided.await?;
    if let Some(task) = task {
        work.readmit_task(&task).await?;
    }
    Ok(approval_view(&row))
}

/// Skill that the task of an open request is to run by itself, without a model; none for other requests.
async fn skill_of_task(work: &WorkState, row: &ApprovalRow) -> Result<Option<(String, TaskRow)>> {
    let ApprovalRequester::Task { task, .. } = &row.asker else {
        return Ok(None);
    };
    let Some(skill) = row.action.strip_prefix("skill:") else {
        return Ok(None);
    };
    let task = work.core.store.task(TaskRef::Number(*task)).await?;
    let is_its = row.state == State::Pending && task.route.skill.as_deref() == Some(skill);
    Ok(is_its.then(|| (skill.to_owned(), task)))
}

/// Checks that whoever asked could ask for something else: a task that runs a skill with given values can't.
///
/// # Errors
/// `Conflict` with what to do instead.
async fn check_somebody_revises(work: &WorkState, number: u64) -> Result<()> {
    let row = work.core.store.approval(number).await?;
    let Some((skill, task)) = skill_of_task(work, &row).await? else {
        return Ok(());
    };
    let text = format!(
        "APPR-{number} can't be revised: TASK-{} runs the skill `{skill}` with these values, and nobody would change them",
        task.number
    );
    Err(Problem::new(FaultKind::Conflict, text)
        .remedy(format!(
            "deny it with `abbey approvals deny APPR-{number}`, and add a task with other values"
        ))
        .into())
}

/// Checks that a skill for whose run an approval is asked can still run, so that the person who decides is told: an
/// agent or service can have been removed since.
///
/// # Errors
/// `Conflict` with the reason.
async fn check_action_is_possible(work: &Arc<WorkState>, number: u64) -> Result<()> {
    let row = work.core.store.approval(number).await?;
    let Some((skill, task)) = skill_of_task(work, &row).await? else {
        return Ok(());
    };
    let skill = skill.as_str();
    let assignee = task.assignee.as_ref().filter(|_| task.pinned);
    let agents = work.agent_facts();
    let mut eligible = agents
        .iter()
        .filter(|agent| assignee.is_none_or(|to| *to == agent.slug));
    let why = match eligible.any(|agent| agent.skills.iter().any(|name| name == skill)) {
        false => Some(skill_without_owner(skill, assignee, &agents)),
        true => missing_target(work, skill, &row.args),
    };
    let Some(why) = why else {
        return Ok(());
    };
    let text = format!("APPR-{number} approves the skill `{skill}`, which can't run: {why}");
    Err(Problem::new(FaultKind::Conflict, text)
        .remedy(format!(
            "deny it with `abbey approvals deny APPR-{number}`, or restore what is missing and approve it then"
        ))
        .into())
}

/// Decided approvals of a task, oldest first, for the agent that works on it.
pub(crate) async fn decided_approvals_of_task(
    work: &WorkState,
    task: u64,
) -> Result<Vec<ApprovalView>> {
    let filter = ApprovalFilter {
        task: Some(task),
        all: true,
        ..ApprovalFilter::default()
    };
    let rows = work.core.store.approvals(filter).await?;
    let decided = |r: &&ApprovalRow| r.state != State::Pending;
    Ok(rows
        .iter()
        .rev()
        .filter(decided)
        .map(approval_view)
        .collect())
}
