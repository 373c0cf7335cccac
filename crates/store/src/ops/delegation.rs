//! Subtasks: checked against the chain of delegations above them, charged to it, cancelled with it, and reported to
//! their recipients (S3-21 to S3-24, S3-29).

use super::task_rows::{self, engine_task, list_where, load};
use super::{TERMINAL_STATES, ledger, transitions};
use crate::rows::{Query, params};
use crate::transaction::Tx;
use crate::{DelegationLink, DelegationRequest, Error, Outcome, Result, TaskRow};
use abbey_engine::authority;
use abbey_engine::task::{self, Event, Phase};
use abbey_engine::waiting::{HeldTask, Waits, describe_ring};
use abbey_model::{BudgetAmounts, Millis, Principal, Slug, TaskRef, Tokens};
use serde_json::json;
use std::collections::BTreeSet;

/// Time for which what an agent worked on counts as what made it act, once it works on nothing.
const INITIATIVE_MEMORY: Millis = Millis::from_secs(600);
/// Newest runs of the house among which those of an agent are looked for.
const RUNS_LOOKED_AT_MAX: u32 = 5000;

/// Checks that a subtask may be added below its parent, and returns its place in the tree of tasks.
///
/// # Errors
/// When the author does not hold the parent's lease, or the chain of delegations would be too long, circular or too
/// wide.
pub(crate) fn link_subtask(
    tx: &mut Tx<'_>,
    number: u64,
    author: &Principal,
    assignee: Option<&Slug>,
    asked: &DelegationRequest,
) -> Result<DelegationLink> {
    let due = asked.within.map(|within| tx.now + within);
    let mut link = DelegationLink {
        parent: None,
        root: number,
        cause: None,
        chain: Vec::new(),
        expects: asked.expects.clone(),
        deliver: asked.deliver.clone(),
        due,
        step: asked.step.clone(),
        data: asked.data.clone(),
        evidence: asked.evidence.clone(),
        hook: asked.hook.clone(),
    };
    let Some((parent, token)) = asked.parent else {
        if let (true, Some(from)) = (asked.own_initiative, author.agent()) {
            let origin = origin_of_initiative(tx, from, assignee, asked)?;
            link.chain = origin.chain;
            if let Some(cause) = origin.cause {
                let above = cause
                    .link
                    .unwrap_or_else(|| DelegationLink::root(cause.number));
                link.cause = Some(cause.number);
                link.root = above.root;
                link.due = [link.due, above.due].into_iter().flatten().min();
                count_at_root(tx, link.root)?;
            }
        }
        return Ok(link);
    };
    let parent = load(tx.rows, parent)?;
    // Only the live holder of a task delegates a part of it: the check that a renewal makes.
    let alive = Event::Renew {
        token,
        ttl: Millis(0),
    };
    task::step(&engine_task(&parent), &alive, author, tx.now)?;
    let above = parent
        .link
        .clone()
        .unwrap_or_else(|| DelegationLink::root(parent.number));
    link.chain = above.chain;
    link.chain.extend(author.agent().cloned());
    link.parent = Some(parent.number);
    link.root = above.root;
    link.step = above.step;
    // A subtask is not due after its parent.
    link.due = [link.due, above.due].into_iter().flatten().min();
    let to = assignee.ok_or_else(|| Error::Row("delegated work has no assignee".to_owned()))?;
    let open: u32 = tx.rows.aggregate(
        &format!(
            "SELECT count(*) FROM tasks WHERE parent = ?1 AND state NOT IN ({TERMINAL_STATES})"
        ),
        params![parent.number],
    )?;
    authority::check_bounds(to, &link.chain, open, asked.bounds)?;
    count_at_root(tx, link.root)?;
    Ok(link)
}

/// Counts at the root of a tree from now on what everything below it costs.
fn count_at_root(tx: &mut Tx<'_>, root: u64) -> Result<()> {
    match load(tx.rows, TaskRef::Number(root)) {
        Ok(root) => ledger::open_task_account(tx, root.id),
        // A root that was over long ago may be removed already.
        Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Records that an agent waits for a task that it gave until `patience` is over, and ends a wait that would never end: the
/// newest task of the ring of waits is cancelled, with the agents that wait for each other as the reason. `asking` are the agents whose workers
/// ask for work now, and can take a task although a run of theirs waits; none while that is not known, and then no wait is
/// judged.
pub(crate) fn await_subtask(
    tx: &mut Tx<'_>,
    subtask: TaskRef,
    agent: &Slug,
    patience: Millis,
    asking: Option<BTreeSet<Slug>>,
) -> Result<()> {
    let subtask = load(tx.rows, subtask)?;
    if subtask.state().is_terminal() {
        return Ok(());
    }
    let Some(mut row) = waiting_run(tx, &subtask, agent)? else {
        return Ok(());
    };
    let mut task = engine_task(&row);
    match &mut task.phase {
        Phase::Running { lease } if tx.now < lease.expires_at => {
            let worked_on = subtask.phase.is_worked_on();
            lease.begin_wait(subtask.number, tx.now + patience, worked_on, tx.now);
        }
        _ => return Ok(()),
    }
    let waits = row.number;
    task_rows::store(tx, &mut row, task)?;
    let Some(asking) = asking else {
        return Ok(());
    };
    let Some(ring) = find_waits(tx, asking)?.ring(waits) else {
        return Ok(());
    };
    let agents = describe_ring(&ring.agents);
    let why = format!("waiting for it would never end: {agents}; do it without that agent");
    let detail = json!({ "because": format!("TASK-{}", ring.run), "ring": agents });
    let newest = load(tx.rows, TaskRef::Number(ring.newest))?;
    transitions::cancel_subtask(tx, newest, why, detail)
}

/// Ends the wait of an agent for a task that it gave: nobody asks for its end any more.
pub(crate) fn end_wait(tx: &mut Tx<'_>, subtask: TaskRef, agent: &Slug) -> Result<()> {
    let number = match load(tx.rows, subtask) {
        Ok(row) => row.number,
        Err(Error::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    for mut row in list_where(tx.rows, "holder = ?1", params![agent.as_str()])? {
        let mut task = engine_task(&row);
        if let Phase::Running { lease } = &mut task.phase
            && lease.waits.as_ref().is_some_and(|w| w.on == number)
        {
            lease.end_wait(tx.now);
            task_rows::store(tx, &mut row, task)?;
        }
    }
    Ok(())
}

/// The task whose run waits when an agent waits for a task that it gave: the parent, or what caused it, if the agent holds
/// that; for what it gave on its own initiative otherwise the only task that it holds. None when no run can be named.
fn waiting_run(tx: &Tx<'_>, subtask: &TaskRow, agent: &Slug) -> Result<Option<TaskRow>> {
    let Some(link) = &subtask.link else {
        return Ok(None);
    };
    let mut held = list_where(tx.rows, "holder = ?1", params![agent.as_str()])?;
    // A run that waits for it already goes on with that, whatever else the agent has claimed meanwhile.
    let waits = |row: &TaskRow| {
        let lease = row.phase.lease();
        lease
            .and_then(|l| l.waits.as_ref())
            .is_some_and(|w| w.on == subtask.number)
    };
    if let Some(at) = held.iter().position(waits) {
        return Ok(Some(held.swap_remove(at)));
    }
    if let Some(above) = link.above()
        && let Some(at) = held.iter().position(|row| row.number == above)
    {
        return Ok(Some(held.swap_remove(at)));
    }
    let own = subtask.author.agent() == Some(agent) && link.parent.is_none();
    Ok(match (own, held.len()) {
        (true, 1) => held.pop(),
        _ => None,
    })
}

/// Every run of the house, and who may take what runs wait for.
fn find_waits(tx: &Tx<'_>, asking: BTreeSet<Slug>) -> Result<Waits> {
    let mut waits = Waits {
        asking,
        ..Waits::default()
    };
    for row in list_where(tx.rows, "holder IS NOT NULL", params![])? {
        let Some(lease) = row.phase.lease() else {
            continue;
        };
        let wait = lease.waits.as_ref().filter(|_| lease.is_waiting(tx.now));
        let held = HeldTask {
            agent: lease.holder.clone(),
            waits_for: wait.map(|w| w.on),
        };
        waits.held.insert(row.number, held);
    }
    let wanted: BTreeSet<u64> = waits.held.values().filter_map(|t| t.waits_for).collect();
    for number in wanted {
        match load(tx.rows, TaskRef::Number(number)) {
            Ok(row) => {
                if let Phase::Ready { candidates } = row.phase {
                    waits.offered.insert(number, candidates);
                }
            }
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(waits)
}

/// Where a task comes from that an agent gives on its own initiative.
struct InitiativeOrigin {
    /// Agents above it.
    chain: Vec<Slug>,
    /// Task on which the agent works, if it works on one.
    cause: Option<TaskRow>,
}

/// Where a task comes from that `from` gives on its own initiative. What the agent works on may have made it do so: of the
/// tasks that it holds, the one with the longest chain above it (the newest of several) is the cause of the new task, which
/// is charged to it, is due no later and continues its chain. An agent that holds none has ended its last runs a moment ago
/// or acts by itself: the longest chain above the tasks whose runs ended within [`INITIATIVE_MEMORY`] is continued. So agents
/// that name no parent stay within the bounds of depth and width, and what comes back to an agent within that time is a circle.
///
/// # Errors
/// When the chain would be too long or circular, or too many such tasks of the agent have not ended.
fn origin_of_initiative(
    tx: &Tx<'_>,
    from: &Slug,
    assignee: Option<&Slug>,
    asked: &DelegationRequest,
) -> Result<InitiativeOrigin> {
    let to = assignee.ok_or_else(|| Error::Row("delegated work has no assignee".to_owned()))?;
    let open: u32 = tx.rows.aggregate(
        &format!(
            "SELECT count(*) FROM tasks WHERE author = ?1 AND parent IS NULL AND link IS NOT NULL AND state NOT IN ({TERMINAL_STATES})"
        ),
        params![Principal::Agent(from.clone()).to_string()],
    )?;
    let held = list_where(tx.rows, "holder = ?1", params![from.as_str()])?;
    let is_held = !held.is_empty();
    let before = match is_held {
        true => held,
        false => tasks_run_lately(tx, from)?,
    };
    let mut origin = InitiativeOrigin {
        chain: vec![from.clone()],
        cause: None,
    };
    authority::check_bounds(to, &origin.chain, open, asked.bounds)?;
    for task in before {
        let mut chain = task
            .link
            .as_ref()
            .map_or_else(Vec::new, |l| l.chain.clone());
        chain.push(from.clone());
        authority::check_bounds(to, &chain, open, asked.bounds)?;
        let length = |origin: &InitiativeOrigin| {
            let number = origin.cause.as_ref().map_or(0, |c| c.number);
            (origin.chain.len(), number)
        };
        if (chain.len(), task.number) > length(&origin) {
            let cause = is_held.then_some(task);
            origin = InitiativeOrigin { chain, cause };
        }
    }
    Ok(origin)
}

/// Tasks of which a run of this agent ended within [`INITIATIVE_MEMORY`].
fn tasks_run_lately(tx: &Tx<'_>, agent: &Slug) -> Result<Vec<TaskRow>> {
    let since = tx.now - INITIATIVE_MEMORY;
    // Identifiers of runs are in the order of their starts.
    list_where(
        tx.rows,
        "id IN (SELECT task FROM (SELECT task, agent, ended_at FROM runs ORDER BY id DESC LIMIT ?3) AS newest WHERE agent = ?1 AND ended_at >= ?2) ORDER BY number",
        params![agent.as_str(), since, RUNS_LOOKED_AT_MAX],
    )
}

/// Token limit of a new subtask: the smaller of what the delegation grants and what the caller requests.
pub(crate) fn subtask_budget(asked: &DelegationRequest, own: BudgetAmounts) -> BudgetAmounts {
    match (asked.tokens, own.tokens.0) {
        (Some(most), 0) => BudgetAmounts {
            tokens: Tokens(most),
            ..own
        },
        (Some(most), own_tokens) => BudgetAmounts {
            tokens: Tokens(most.min(own_tokens)),
            ..own
        },
        (None, _) => own,
    }
}

/// Names of the result fields that the delegation requires and the result lacks.
pub(crate) fn missing_fields(link: &DelegationLink, outcome: &Outcome) -> Vec<String> {
    let has = |field: &&String| {
        outcome
            .data
            .get(field.as_str())
            .is_some_and(|v| !v.is_null())
    };
    link.expects.iter().filter(|f| !has(f)).cloned().collect()
}
