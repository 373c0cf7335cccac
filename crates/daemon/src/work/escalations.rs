//! Escalation: a task without an eligible agent is assigned to the agent that the manifest names,
//! and ends at its deadline (S4-24).

use crate::core::error::Result;
use crate::work::evidence::is_reviewer;
use crate::work::state::WorkState;
use abbey_engine::matcher::NAMED;
use abbey_engine::task::Phase;
use abbey_model::{Slug, TaskRef, TaskState, WaitCode};
use abbey_store::{NewEscalation, TaskEdit, TaskFilter, TaskRow, Topic};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Least pause between two passes.
const PASS_INTERVAL: Duration = Duration::from_millis(500);
/// Longest pause while no escalation is open.
const IDLE: Duration = Duration::from_secs(3600);
/// Most parked tasks of one pass.
const TASKS_MAX: u32 = 1000;

/// Escalates parked tasks and closes overdue escalations until the control plane stops.
pub(crate) async fn run_escalations(work: Arc<WorkState>) {
    let mut plans = work.core.plan.subscribe();
    let mut tasks = work.core.store.subscribe(Topic::Work);
    loop {
        let next = match escalate_and_close(&work).await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(
                    error = error.chain(),
                    "cannot escalate tasks without an eligible agent; retrying"
                );
                PASS_INTERVAL * 10
            }
        };
        tokio::select! {
            () = work.core.rt.stopped() => return,
            _ = tasks.changed() => {}
            gone = plans.changed() => if gone.is_err() { return },
            () = work.core.rt.sleep(next) => {}
        }
        tokio::select! {
            () = work.core.rt.stopped() => return,
            () = work.core.rt.sleep(PASS_INTERVAL) => {}
        }
    }
}

/// Why a parked task needs a decision; `None` if it waits for something else.
fn escalation_reason(task: &TaskRow) -> Option<String> {
    let Phase::Parked { reasons } = &task.phase else {
        return None;
    };
    let stuck = |code| {
        matches!(
            code,
            WaitCode::NoCapableAgent | WaitCode::AmbiguousSkill | WaitCode::NoModel
        )
    };
    let found = reasons.iter().find(|w| stuck(w.code))?;
    Some(found.text.clone())
}

/// Escalates parked tasks, closes overdue escalations, and returns the time until the next
/// deadline.
pub(crate) async fn escalate_and_close(work: &Arc<WorkState>) -> Result<Duration> {
    let Some(current) = work.core.plan.current() else {
        return Ok(IDLE);
    };
    let Some(declared) = &current.house.escalation else {
        return Ok(IDLE);
    };
    let parked = TaskFilter {
        states: vec![TaskState::Parked],
        limit: TASKS_MAX,
        ..TaskFilter::default()
    };
    let known = work.core.store.escalations().await?;
    let mut seen: BTreeSet<u64> = known.iter().map(|e| e.task).collect();
    for task in work.core.store.tasks(parked).await? {
        let Some(why) = escalation_reason(&task).filter(|_| seen.insert(task.number)) else {
            continue;
        };
        // A skill that was named runs where somebody has it, so no agent can do it in its place: the operator decides.
        // Nor does an agent review its own work.
        let decider = declared.to.as_ref();
        let decider = decider.filter(|to| task.route.score < NAMED && !is_reviewer(&task, to));
        let edit = decider.map(|to| edit_for_decider(work, &task, to));
        let new = NewEscalation {
            task: TaskRef::Number(task.number),
            within: declared.within,
            edit,
            why,
        };
        work.core.store.escalate(new).await?;
    }
    let now = work.core.store.now();
    let mut next = IDLE;
    for open in work.core.store.escalations().await? {
        let Some(until) = open.until else {
            continue;
        };
        if until > now {
            next = next.min(until.since(now).to_std());
            continue;
        }
        work.core
            .store
            .close_escalation(open.task, declared.cancels)
            .await?;
    }
    Ok(next.max(Duration::from_millis(10)))
}

/// Edit that assigns the unchanged task to the agent that decides.
fn edit_for_decider(work: &WorkState, task: &TaskRow, to: &Slug) -> TaskEdit {
    TaskEdit {
        text: task.text.clone(),
        priority: task.priority,
        assignee: Some(to.clone()),
        intake: work.intake_for_new_agent(task),
    }
}
