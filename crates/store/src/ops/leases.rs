//! Leases: claiming a task, keeping it, and every way in which a run ends.

use super::task_rows::{self, engine_task, store, task_name};
use super::transitions::{merge_facts, store_transition};
use super::{approvals, audit_log, delegation, ledger, runs, waits};
use crate::rows::{Query, params};
use crate::transaction::Tx;
use crate::{
    Claim, Claimed, Error, EvidenceCheck, Failure, LeaseProof, LeaseView, Outcome, Result,
    RunFacts, TaskRow,
};
use abbey_engine::run;
use abbey_engine::task::{self, Event, Phase, Refusal};
use abbey_model::{
    BudgetAmounts, CellName, EndReason, Generation, Millis, Principal, ResultSource, RunId,
    RunState, Slug, TaskRef, Verified,
};
use serde_json::{Value, json};
use std::cmp::Reverse;

/// Tasks that one pass over expired deadlines handles at most.
const EXPIRED_MAX: u32 = 500;

/// Grants the lease of a ready task to one agent, reserves the run's budget, and starts a run.
///
/// # Errors
/// When the agent is not a candidate of the task, has too many runs, saw an older version, or the budget refuses.
pub(crate) fn claim(tx: &mut Tx<'_>, claim: Claim) -> Result<Claimed> {
    let mut row = task_rows::load(tx.rows, claim.task)?;
    if let Some(seen) = claim.seen
        && seen != row.version
        && matches!(row.phase, Phase::Ready { .. })
    {
        return Err(Error::Stale {
            what: task_name(&row),
            seen,
            current: row.version,
        });
    }
    let who = Principal::Agent(claim.agent.clone());
    let run: RunId = tx.new_id()?;
    // What the caller observed may be older than the boot in which the agent claims.
    let cell = CellName::Agent(claim.agent.clone());
    let generation = super::cells::newest_boot(tx.rows, &cell)?.max(claim.generation);
    let event = Event::Claim {
        run,
        generation,
        ttl: claim.ttl,
        wall: claim.wall,
    };
    let step = task::step(&engine_task(&row), &event, &who, tx.now)?;
    let mut running: u32 = tx.rows.aggregate(
        "SELECT count(*) FROM tasks WHERE holder = ?1",
        params![claim.agent.as_str()],
    )?;
    if running >= claim.runs_max {
        // A run that waits for a subtask leaves its place to others.
        running = count_working(tx, &claim.agent)?;
    }
    if running >= claim.runs_max {
        return Err(Error::Busy {
            agent: claim.agent,
            running,
        });
    }
    let amounts = BudgetAmounts {
        runs: 1,
        seconds: u64::try_from(claim.wall.secs_ceil()).unwrap_or(0),
        ..BudgetAmounts::default()
    };
    if row.route.skill.is_none() {
        let model = claim.effective_model.as_deref();
        let provider = model.and_then(|m| m.split_once('/')).map(|(p, _)| p);
        if let Some(wait) = waits::of_model(tx, &claim.agent, provider, &[])? {
            return Err(Error::MustWait(wait));
        }
    }
    ledger::reserve_run(tx, &claim.agent, row.id, run, amounts)?;
    let state =
        run::step(RunState::Queued, run::Event::Claimed).map_err(|e| Error::Row(e.to_string()))?;
    tx.execute(
        "INSERT INTO runs (id, task, agent, generation, state, configured_model, effective_model, charter_hash, started_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            run.to_string(), row.id.to_string(), claim.agent.as_str(), generation.0, state.name(),
            &claim.configured_model, &claim.effective_model, &claim.charter_hash, tx.now,
        ],
    )?;
    row.assignee = Some(claim.agent);
    store(tx, &mut row, step.task)?;
    let detail = json!({ "run": run, "token": row.token, "generation": generation });
    audit_log::append(tx, &who, "task.claim", &task_name(&row), detail)?;
    let lease = LeaseView {
        token: row.token,
        ttl: claim.ttl,
    };
    Ok(Claimed {
        task: row,
        run,
        lease,
    })
}

/// Number of an agent's runs that do not wait for a subtask.
fn count_working(tx: &Tx<'_>, agent: &Slug) -> Result<u32> {
    let held = task_rows::list_where(tx.rows, "holder = ?1", params![agent.as_str()])?;
    let leases = held.iter().filter_map(|row| row.phase.lease());
    let working = leases.filter(|lease| !lease.is_waiting(tx.now)).count();
    Ok(u32::try_from(working).unwrap_or(u32::MAX))
}

/// Extends the lease of a running task and stores what the worker reports about its run. Writes no audit entry.
pub(crate) fn renew(
    tx: &mut Tx<'_>,
    task: TaskRef,
    proof: &LeaseProof,
    facts: &RunFacts,
) -> Result<LeaseView> {
    let mut row = task_rows::load(tx.rows, task)?;
    let event = Event::Renew {
        token: proof.token,
        ttl: proof.ttl,
    };
    let who = Principal::Agent(proof.agent.clone());
    let step = task::step(&engine_task(&row), &event, &who, tx.now)?;
    if let Some(lease) = row.phase.lease() {
        store_report(tx, lease.run, facts)?;
    }
    store(tx, &mut row, step.task)?;
    Ok(LeaseView {
        token: proof.token,
        ttl: proof.ttl,
    })
}

/// Stores what a worker reports of its run; the first report makes the run `running`.
fn store_report(tx: &Tx<'_>, run: RunId, facts: &RunFacts) -> Result<()> {
    let row = runs::load(tx.rows, run)?;
    if row.state == RunState::Running && *facts == RunFacts::default() {
        return Ok(());
    }
    let state =
        run::step(row.state, run::Event::Reported).map_err(|e| Error::Row(e.to_string()))?;
    let facts = merge_facts(row.facts, facts);
    tx.execute(
        "UPDATE runs SET state = ?2, facts = ?3 WHERE id = ?1",
        params![
            run.to_string(),
            state.name(),
            serde_json::to_string(&facts)?
        ],
    )?;
    Ok(())
}

/// Ends a run as succeeded and stores the result of its task.
///
/// # Errors
/// [`Error::Handoff`] when the result is missing a field that the delegation requires.
pub(crate) fn complete(
    tx: &mut Tx<'_>,
    task: TaskRef,
    proof: &LeaseProof,
    (outcome, checked): (Outcome, EvidenceCheck),
    facts: &RunFacts,
) -> Result<TaskRow> {
    let mut row = task_rows::load(tx.rows, task)?;
    let declared = row.link.as_ref().is_some_and(|l| !l.evidence.is_empty());
    if let Some(link) = &row.link {
        let missing = delegation::missing_fields(link, &outcome);
        if !missing.is_empty() {
            return Err(Error::Handoff { missing });
        }
    }
    // What stands behind a result follows from its source, not from what the agent claims.
    let verified = match (outcome.source, &checked) {
        (_, EvidenceCheck::Holds) if declared => Some(Verified::Evidence),
        (_, _) if declared => None,
        (ResultSource::Skill, _) if row.route.skill.is_some() => Some(Verified::Skill),
        (ResultSource::Skill | ResultSource::Model | ResultSource::Command, _) => {
            Some(Verified::None)
        }
    };
    let who = Principal::Agent(proof.agent.clone());
    let event = Event::Complete {
        token: proof.token,
        verified,
    };
    let step = task::step(&engine_task(&row), &event, &who, tx.now)?;
    let mut detail = json!({ "verified": verified, "source": outcome.source });
    if verified.is_none() {
        let why = match checked {
            EvidenceCheck::Unknown(why) => tx.redact(&why),
            EvidenceCheck::NotRun | EvidenceCheck::Holds => "it was not checked".to_owned(),
        };
        let why = format!("the declared evidence could not be checked: {why}");
        detail["why"] = why.clone().into();
        row.failure = Some(why);
    }
    row.result = Some(redact_outcome(tx, outcome));
    let entry = ("task.complete", detail);
    store_transition(tx, &mut row, step, &who, entry, Some(facts))?;
    Ok(row)
}

fn redact_outcome(tx: &Tx<'_>, outcome: Outcome) -> Outcome {
    let redactor = tx.redactor();
    let data = outcome.data.to_string();
    let data = match redactor.clean(&data) {
        std::borrow::Cow::Borrowed(_) => outcome.data,
        std::borrow::Cow::Owned(clean) => serde_json::from_str(&clean).unwrap_or(Value::Null),
    };
    Outcome {
        text: redactor.clean(&outcome.text).into_owned(),
        data,
        ..outcome
    }
}

/// Ends a run as failed; the task is queued for another attempt or fails, as the reason permits. A run whose last model
/// call was refused for now, and that failed for no other reason, lets its task wait.
pub(crate) fn fail(
    tx: &mut Tx<'_>,
    task: TaskRef,
    proof: &LeaseProof,
    failure: &Failure,
    facts: &RunFacts,
) -> Result<TaskRow> {
    let mut row = task_rows::load(tx.rows, task)?;
    let who = Principal::Agent(proof.agent.clone());
    let text = tx.redact(&failure.text);
    let token = proof.token;
    let reason = failure.reason;
    let run = row.phase.lease().map(|l| l.run);
    let wait = match run {
        Some(run) if may_be_a_wait(reason) => runs::wait(tx.rows, run)?,
        _ => None,
    };
    let (event, action) = match wait {
        Some(wait) => {
            let reasons = vec![wait];
            let event = Event::Wait {
                token,
                reason,
                reasons,
            };
            (event, "task.wait")
        }
        None => (Event::Fail { token, reason }, "task.fail"),
    };
    let step = task::step(&engine_task(&row), &event, &who, tx.now)?;
    if let Some(run) = run {
        tx.execute(
            "UPDATE runs SET failure = ?2 WHERE id = ?1",
            params![run.to_string(), &text],
        )?;
    }
    let detail =
        json!({ "reason": reason, "text": text, "waiting_for": step.task.phase.waiting_for() });
    if matches!(event, Event::Fail { .. }) {
        row.failure = Some(text);
    }
    store_transition(tx, &mut row, step, &who, (action, detail), Some(facts))?;
    waits::wake_if_room(tx, &row)?;
    Ok(row)
}

/// Whether a worker may give this reason when a model call was refused to it. Other runtimes than the native one know
/// no better than that their program failed.
const fn may_be_a_wait(reason: EndReason) -> bool {
    matches!(
        reason,
        EndReason::ProviderError | EndReason::BudgetExhausted | EndReason::AgentError
    )
}

/// Ends a run because its task waits for something outside: `on` names it, `why` gives the reason.
pub(crate) fn block(
    tx: &mut Tx<'_>,
    task: TaskRef,
    proof: &LeaseProof,
    (on, why): (&str, &str),
) -> Result<TaskRow> {
    let (on, why) = (tx.redact(on), tx.redact(why));
    let mut row = task_rows::load(tx.rows, task)?;
    let who = Principal::Agent(proof.agent.clone());
    let detail = json!({ "on": on, "why": why });
    let event = Event::Block {
        token: proof.token,
        on,
        why,
    };
    let step = task::step(&engine_task(&row), &event, &who, tx.now)?;
    store_transition(tx, &mut row, step, &who, ("task.block", detail), None)?;
    Ok(row)
}

/// Revokes every lease that an agent took in boots before generation `keep`, or all of its leases without one. `by_order`
/// says that the agent was stopped by order, which costs no attempt. Returns the tasks.
pub(crate) fn revoke(
    tx: &mut Tx<'_>,
    agent: &Slug,
    keep: Option<Generation>,
    by_order: bool,
) -> Result<Vec<TaskRow>> {
    let held = task_rows::list_where(tx.rows, "holder = ?1", params![agent.as_str()])?;
    let who = Principal::House;
    let mut changed = Vec::new();
    for row in held {
        // The end of one can have cancelled another.
        let mut row = task_rows::load(tx.rows, TaskRef::Id(row.id))?;
        let Some(lease) = row.phase.lease() else {
            continue;
        };
        if keep.is_some_and(|keep| lease.generation >= keep) {
            continue;
        }
        let event = Event::HolderLost {
            token: lease.token,
            by_order,
        };
        let step = task::step(&engine_task(&row), &event, &who, tx.now)?;
        let detail = json!({ "holder": agent, "by_order": by_order });
        let entry = ("task.holder_lost", detail);
        store_transition(tx, &mut row, step, &who, entry, None)?;
        changed.push(row);
    }
    Ok(changed)
}

/// Extends the leases and run times that had not ended when the clock jumped by `jump`: nobody could work or renew in
/// time that did not pass. Logs the jump.
pub(crate) fn extend_by_clock_jump(tx: &mut Tx<'_>, jump: Millis) -> Result<()> {
    let held = task_rows::list_where(tx.rows, "holder IS NOT NULL", params![])?;
    let before = tx.now - jump;
    let mut extended = 0;
    for mut row in held {
        let mut task = engine_task(&row);
        if let Phase::Running { lease } = &mut task.phase
            && lease.expires_at > before
        {
            lease.expires_at = lease.expires_at + jump;
            lease.wall_ends_at = lease.wall_ends_at + jump;
            if let Some(wait) = &mut lease.waits {
                wait.until = wait.until + jump;
                wait.still_since = wait.still_since.map(|since| since + jump);
            }
            store(tx, &mut row, task)?;
            extended += 1;
        }
    }
    let detail = json!({ "ms": jump.0, "leases": extended });
    audit_log::append(tx, &Principal::House, "clock.jump", "house", detail)?;
    Ok(())
}

/// Applies every deadline that is over: leases, run times, approvals and due times. Returns the changed tasks, and
/// those whose pause before another attempt is over.
pub(crate) fn expire(tx: &mut Tx<'_>) -> Result<Vec<TaskRow>> {
    let mut expired = task_rows::list_where(
        tx.rows,
        "deadline <= ?1 ORDER BY deadline LIMIT ?2",
        params![tx.now, EXPIRED_MAX],
    )?;
    // What is due at the same time as its parent ends for its own reason.
    expired.sort_by_key(|row| {
        let parent = row.link.as_ref().and_then(|l| l.parent);
        (parent.is_none(), parent.map(|_| Reverse(row.number)))
    });
    approvals::expire_unused(tx)?;
    let who = Principal::House;
    let mut changed = Vec::new();
    for row in expired {
        // The end of one can have cancelled others, or given their runs time.
        let mut row = task_rows::load(tx.rows, TaskRef::Id(row.id))?;
        if row.state().is_terminal() {
            continue;
        }
        let due = row.link.as_ref().and_then(|l| l.due);
        let overdue = due.is_some_and(|due| due <= tx.now);
        if let Phase::AwaitingApproval { approval, .. } = row.phase
            && !overdue
        {
            approvals::apply_timeout_to_task(tx, approval, &mut row)?;
            changed.push(row);
            continue;
        }
        let event = match &row.phase {
            _ if overdue => Event::Overdue,
            Phase::Running { lease } if tx.now >= lease.wall_deadline() => Event::WallTime,
            Phase::Running { .. } => Event::Expire,
            // A pause or a wait is over: the caller, who knows the agents, admits the task again.
            Phase::Pending { .. } | Phase::Parked { .. } => {
                changed.push(row);
                continue;
            }
            _ => continue,
        };
        match task::step(&engine_task(&row), &event, &who, tx.now) {
            Ok(step) => {
                let action = format!("task.{}", event.name());
                if event == Event::Overdue {
                    let earlier = row.failure.take();
                    let earlier = earlier.map_or_else(String::new, |text| format!("; {text}"));
                    row.failure = Some(format!("its deadline is over{earlier}"));
                }
                store_transition(tx, &mut row, step, &who, (&action, json!({})), None)?;
                changed.push(row);
            }
            Err(Refusal::NotDue) => {}
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Ok(changed)
}
