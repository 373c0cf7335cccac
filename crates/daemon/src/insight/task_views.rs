//! Tasks and their runs as API documents.

use crate::core::error::Result;
use crate::insight::cell_views::fleet_doc;
use crate::insight::routing_views::{join_with_or, routing_text};
use crate::work::state::WorkState;
use abbey_api::{
    LinkView, Reason, ReportedUsageView, ResultView, RunView, TaskDoc, TaskView, Time, TreeDoc,
    TreeRow, UsageSource, UsageView, VERSION, Verification, WaitingForView, WhyDoc,
};
use abbey_engine::task::Phase;
use abbey_model::{
    CellName, DesiredState, EndReason, Evidence, Millis, PastWait, Presence, Slug, TaskRef,
    Verified, WaitCode, WaitKind, WaitingFor,
};
use abbey_store::{RunRow, TaskRow};
use std::borrow::Cow;
use std::sync::Arc;

/// A task of the store as an API document, with these runs.
pub(crate) fn task_view(work: &WorkState, row: &TaskRow, runs: Vec<RunView>) -> TaskView {
    let verified = match &row.phase {
        Phase::Done { verified } => Some(verification_view(*verified, row)),
        Phase::Unverified => Some(Verification::Unverified),
        _ => None,
    };
    let details = match &row.phase {
        Phase::Parked { reasons } => reasons.first().map(|r| r.text.as_str()),
        Phase::Blocked { why, .. } => Some(why.as_str()),
        _ => None,
    };
    let stopped = stopped_candidates(work, row);
    let details = match &stopped {
        Some((_, why)) => Some(why.as_str()),
        None => details,
    };
    let waiting_for = row.phase.waiting_for();
    let mut waiting_for = waiting_for.map(|w| waiting_for_view(row, &w, details));
    if let (Some(waiting_for), Some((agents, _))) = (&mut waiting_for, &stopped) {
        waiting_for.stopped_agents = agents.iter().map(ToString::to_string).collect();
    }
    TaskView {
        id: row.id.to_string(),
        number: format!("TASK-{}", row.number),
        title: row.text.clone(),
        state: row.state(),
        assignee: row.assignee.as_ref().map(ToString::to_string),
        priority: row.priority,
        author: row.author.to_string(),
        attempts: row.attempts,
        verified,
        waiting_for,
        skill: row.route.skill.clone(),
        suggested_skills: row.route.suggested.clone(),
        result: row.result.as_ref().map(|r| ResultView {
            text: r.text.clone(),
            source: r.source,
            data: r.data.clone(),
        }),
        failure: row.failure.clone(),
        trace: work.traces.trace_of_task(row),
        link: row.link.as_ref().map(|l| LinkView {
            parent: l.parent.map(|p| format!("TASK-{p}")),
            root: format!("TASK-{}", l.root),
            chain: l.chain.iter().map(ToString::to_string).collect(),
            expects: l.expects.clone(),
            deliver: l.deliver.to_string(),
            due_at: l.due.map(Time),
            step: l.step.clone(),
            data: l.data.clone(),
            evidence: l
                .evidence
                .iter()
                .map(crate::work::evidence::evidence_view)
                .collect(),
        }),
        runs,
        revision: row.version,
        created_at: row.created_at.into(),
        updated_at: row.updated_at.into(),
    }
}

/// Owner of a budget that a task waits for: people know a task by its number.
fn budget_owner<'n>(row: &TaskRow, scope: &'n str) -> Cow<'n, str> {
    match scope.strip_prefix("task:") {
        Some(id) if id == row.id.to_string() => format!("TASK-{}", row.number).into(),
        Some(_) => "a task above it".into(),
        None => scope.into(),
    }
}

/// What a task waits for, as an API document with details in words where there are some.
fn waiting_for_view(row: &TaskRow, wait: &WaitingFor, details: Option<&str>) -> WaitingForView {
    let name = match wait.kind {
        WaitKind::Budget => budget_owner(row, &wait.name).into_owned(),
        _ => wait.name.clone(),
    };
    let named = WaitingFor {
        name,
        ..wait.clone()
    };
    WaitingForView {
        name: wait.name.clone(),
        ..WaitingForView::new(&named, details)
    }
}

/// Agents to which a task is offered and what holds it up, if an operator stopped or paused each of them; none if one
/// of them may claim it, perhaps after a restart.
fn stopped_candidates<'r>(work: &WorkState, row: &'r TaskRow) -> Option<(&'r [Slug], String)> {
    let Phase::Ready { candidates } = &row.phase else {
        return None;
    };
    let mut stopped = Vec::new();
    for agent in candidates {
        let cell = CellName::Agent(agent.clone());
        match work.cells.desired.state_of(&cell) {
            DesiredState::Up => return None,
            DesiredState::Down => stopped.push(format!("{agent} is stopped")),
            DesiredState::Paused => stopped.push(format!("{agent} is paused")),
        }
    }
    let until = match stopped.len() {
        0 => return None,
        1 => "it is started",
        _ => "one of them is started",
    };
    let names = stopped.join(" and ");
    let text = format!("{names} by the operator, and nothing is done before {until}");
    Some((candidates.as_slice(), text))
}

/// What stands behind a task that is done.
fn verification_view(verified: Verified, row: &TaskRow) -> Verification {
    let declared = row.link.as_ref().map_or(&[][..], |l| &l.evidence);
    let reviewed = |e: &Evidence| matches!(e, Evidence::Review(_));
    match verified {
        Verified::Skill => Verification::Skill,
        Verified::Evidence if !declared.is_empty() && declared.iter().all(reviewed) => {
            Verification::Review
        }
        Verified::Evidence => Verification::Evidence,
        Verified::None => Verification::None,
    }
}

/// A task of the store as an API document, with all its runs.
pub(crate) async fn task_doc(work: &WorkState, row: TaskRow) -> Result<TaskDoc> {
    let runs = work
        .core
        .store
        .runs(row.id)
        .await?
        .iter()
        .map(run_view)
        .collect();
    Ok(TaskDoc {
        version: VERSION,
        task: task_view(work, &row, runs),
    })
}

/// A run of a task as an API document.
pub(crate) fn run_view(row: &RunRow) -> RunView {
    let known = row.usage_source != "unknown";
    RunView {
        id: row.id.to_string(),
        state: row.state,
        reason: row.reason,
        agent: row.agent.to_string(),
        configured_model: row.configured_model.clone(),
        effective_model: row.effective_model.clone(),
        actual_model: row.actual_model.clone(),
        usage: UsageView {
            input: known.then_some(row.input),
            output: known.then_some(row.output),
            cached: known.then_some(row.cached),
            source: row.usage_source.parse().unwrap_or(UsageSource::Unknown),
        },
        reported_usage: row.facts.reported_usage.map(|u| ReportedUsageView {
            input: u.input,
            output: u.output,
            cached: u.cached,
        }),
        cost_nano_usd: (!row.cost_unknown).then_some(row.cost_nano_usd),
        charter_hash: row.charter_hash.clone(),
        prompt_hash: row.facts.prompt_hash.clone(),
        session: row
            .facts
            .session_start
            .zip(row.facts.session_end)
            .map(|(a, b)| vec![a, b]),
        receipts: row.facts.receipts,
        flagged: row.facts.flagged.unwrap_or(false),
        claims: row.facts.claims.clone().unwrap_or_default(),
        started_at: row.started_at.into(),
        ended_at: row.ended_at.map(Time),
    }
}

/// Explains what a task waits for or how it ended (`abbey task why`).
pub(crate) async fn explain_task(work: &Arc<WorkState>, row: &TaskRow) -> Result<WhyDoc> {
    let runs = work.core.store.runs(row.id).await?;
    let mut reasons = Vec::new();
    let mut say = |code: WaitCode, text: String| {
        reasons.push(Reason {
            code: code.name().to_owned(),
            text,
        })
    };
    match &row.phase {
        Phase::Pending { not_before } => {
            let last = row
                .failure
                .as_deref()
                .unwrap_or("the last attempt was interrupted");
            say(
                WaitCode::Backoff,
                format!("next attempt at {}; {last}", Time(*not_before)),
            );
        }
        Phase::Parked { reasons } => {
            for reason in reasons {
                let text = match &reason.waiting_for {
                    Some(w) => {
                        let waits = waiting_for_view(row, w, Some(&reason.text));
                        format!("it waits for the {}", waits.text)
                    }
                    None => reason.text.clone(),
                };
                say(reason.code, text);
            }
        }
        Phase::Ready { candidates } => {
            say(
                WaitCode::Offered,
                format!("offered to {}", join_with_or(candidates)),
            );
            let fleet = fleet_doc(work).await?;
            for agent in fleet
                .agents
                .iter()
                .filter(|a| candidates.iter().any(|c| c.as_str() == a.name))
            {
                if agent.presence != Presence::Ready {
                    say(
                        WaitCode::AgentDown,
                        format!(
                            "{} is {}; see `abbey why {}`",
                            agent.name, agent.presence, agent.name
                        ),
                    );
                } else if let Some(task) = &agent.task {
                    say(
                        WaitCode::AgentBusy,
                        format!("{} works on {task}", agent.name),
                    );
                }
            }
        }
        Phase::Running { lease } => {
            let works = match &lease.waits {
                Some(wait) => format!("waits for TASK-{} as it works on it", wait.on),
                None => "works on it".to_owned(),
            };
            say(
                WaitCode::Leased,
                format!(
                    "{} {works} (run {}); its lease ends at {} unless renewed",
                    lease.holder,
                    lease.run,
                    Time(lease.expires_at)
                ),
            );
        }
        Phase::Blocked { on, why } => say(
            WaitCode::BlockedOn,
            format!(
                "{on} must act: {why}; then `abbey task unblock TASK-{}`",
                row.number
            ),
        ),
        Phase::AwaitingApproval { approval, until } => say(
            WaitCode::BlockedOn,
            format!(
                "it waits until {} for the approval of APPR-{approval}; `abbey approvals` shows it",
                Time(*until)
            ),
        ),
        Phase::Failed {
            reason,
            quarantined,
        } => {
            let text = row.failure.clone().unwrap_or_else(|| reason.to_string());
            if *quarantined {
                say(
                    WaitCode::Quarantined,
                    format!("gave up after {} attempts: {text}", row.attempts),
                );
            } else {
                say(WaitCode::Terminal, format!("failed ({reason}): {text}"));
            }
        }
        Phase::Done { verified } => {
            let verified = verification_view(*verified, row);
            say(WaitCode::Terminal, format!("done; verified by: {verified}"))
        }
        Phase::Unverified => {
            let why = row.failure.as_deref();
            let why = why.unwrap_or("the declared evidence could not be checked");
            say(WaitCode::Terminal, format!("it is unverified: {why}"))
        }
        Phase::TimedOut | Phase::Cancelled => {
            let why = row.failure.clone();
            let why = why.or_else(|| runs.last().and_then(|run| time_limit_text(work, run)));
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            say(WaitCode::Terminal, format!("it is {}{why}", row.state()))
        }
    }
    let may_be_retried = matches!(
        row.phase,
        Phase::Failed { .. } | Phase::TimedOut | Phase::Cancelled | Phase::Unverified
    );
    if may_be_retried {
        say(
            WaitCode::Terminal,
            format!("`abbey task retry TASK-{}` tries it again", row.number),
        );
    }
    if !row.state().is_terminal() {
        for (_, subtask) in work.core.store.task_tree(TaskRef::Id(row.id)).await? {
            let parent = subtask.link.as_ref().and_then(|link| link.parent);
            if parent == Some(row.number) && !subtask.state().is_terminal() {
                say(WaitCode::Subtask, subtask_text(work, &subtask));
            }
        }
    }
    if let Some(text) = routing_text(row) {
        say(WaitCode::Routed, text);
    }
    for wait in &row.route.waits {
        say(WaitCode::Waited, past_wait_text(row, wait));
    }
    let ended: Vec<&RunRow> = runs.iter().filter(|r| r.ended_at.is_some()).collect();
    if let Some(earlier) = ended.len().checked_sub(ATTEMPTS_SHOWN).filter(|n| *n > 0) {
        say(
            WaitCode::Attempt,
            format!("{earlier} earlier runs are left out"),
        );
    }
    let shown = ended.len().saturating_sub(ATTEMPTS_SHOWN);
    for run in &ended[shown..] {
        say(WaitCode::Attempt, attempt_text(run));
    }
    Ok(WhyDoc {
        version: VERSION,
        task: format!("TASK-{}", row.number),
        state: row.state(),
        reasons,
    })
}

/// An open subtask, for its parent: who is to do it, and what it waits for.
fn subtask_text(work: &WorkState, subtask: &TaskRow) -> String {
    let view = task_view(work, subtask, Vec::new());
    let agent = view
        .assignee
        .map_or_else(String::new, |a| format!(" for {a}"));
    let waits = match view.waiting_for {
        Some(waits) => format!(", and waits for {}", waits.text),
        None => String::new(),
    };
    format!(
        "its subtask {}{agent} is {}{waits}",
        view.number, view.state
    )
}

/// What a task waited for, from when and until when.
fn past_wait_text(row: &TaskRow, wait: &PastWait) -> String {
    let name = &wait.name;
    let thing = match wait.kind {
        WaitKind::Budget => {
            let owner = budget_owner(row, name);
            format!("the budget of {}", owner.replace(':', " "))
        }
        WaitKind::Provider => format!("the provider {name}"),
        WaitKind::Approval => format!("the approval of {name}"),
        WaitKind::Agent => "an eligible agent".to_owned(),
        WaitKind::Subtask => name.clone(),
        WaitKind::Blocked | WaitKind::Claim | WaitKind::Retry => name.clone(),
    };
    let (since, ended) = (Time(wait.since), Time(wait.ended));
    format!("it waited for {thing} from {since} to {ended}")
}

/// Runs that are explained at most, the newest ones.
const ATTEMPTS_SHOWN: usize = 20;

/// Which limit of time ended a task with this run.
fn time_limit_text(work: &WorkState, run: &RunRow) -> Option<String> {
    match run.reason? {
        EndReason::Overdue => Some("it was not done when it was due".to_owned()),
        EndReason::WallTime => {
            let current = work.core.plan.current();
            let agent = current.as_ref();
            let agent = agent.and_then(|c| c.house.agents.get(&run.agent));
            let limit = agent.map(|a| format!(" of {}", Millis(a.tools.wall_ms_max).human()));
            Some(format!(
                "its run took longer than `tools.wall`{} of {} allows",
                limit.unwrap_or_default(),
                run.agent
            ))
        }
        _ => None,
    }
}

/// How a run ended, and why.
fn attempt_text(run: &RunRow) -> String {
    let reason = run.reason.map_or_else(String::new, |r| format!(" ({r})"));
    let by_order = "its agent was stopped or restarted, which costs no attempt";
    let failure = match run.reason {
        Some(EndReason::Stopped) => Some(by_order),
        _ => run.failure.as_deref(),
    };
    let failure = failure.map_or_else(String::new, |f| format!(": {f}"));
    let started = Time(run.started_at);
    format!(
        "{} ran it at {started}: {}{reason}{failure}",
        run.agent, run.state
    )
}

/// A task with all its subtasks as an API document, each with its depth.
pub(crate) async fn task_tree_doc(work: &WorkState, root: TaskRef) -> Result<TreeDoc> {
    let rows = work.core.store.task_tree(root).await?;
    let row = |(depth, row): (u32, TaskRow)| TreeRow {
        depth,
        task: task_view(work, &row, Vec::new()),
    };
    Ok(TreeDoc {
        version: VERSION,
        rows: rows.into_iter().map(row).collect(),
    })
}
