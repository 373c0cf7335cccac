//! Subtasks: checked against the chain of delegations above them, charged to it, cancelled with it, and reported to
//! their recipients (S3-21 to S3-24, S3-29).

use super::task_rows::{self, engine_task, list_where, load, task_name};
use super::{TERMINAL_STATES, ledger, transitions};
use crate::rows::{Query, params};
use crate::transaction::Tx;
use crate::{DelegationLink, DelegationRequest, Error, Outcome, Result};
use abbey_engine::authority;
use abbey_engine::task::{self, Event, Phase};
use abbey_engine::waiting::{HeldTask, Waits, describe_ring};
use abbey_model::{BudgetAmounts, Millis, Principal, Slug, TaskRef, Tokens};
use serde_json::json;
use std::collections::BTreeSet;

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
            link.chain = chain_of_initiative(tx, from, assignee, asked)?;
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
    // What everything below it costs is counted at the root from now on.
    let root = load(tx.rows, TaskRef::Number(link.root))?;
    ledger::open_task_account(tx, root.id)?;
    Ok(link)
}

/// Records that the holder of a subtask's parent waits for it until `patience` is over, and ends a wait that would never
/// end: the subtask is cancelled, with the ring of agents that wait for each other as the reason. `asking` are the agents
/// whose workers ask for work now, and can take a task although a run of theirs waits.
pub(crate) fn await_subtask(
    tx: &mut Tx<'_>,
    subtask: TaskRef,
    agent: &Slug,
    patience: Millis,
    asking: BTreeSet<Slug>,
) -> Result<()> {
    let subtask = load(tx.rows, subtask)?;
    let Some(parent) = subtask.link.as_ref().and_then(|l| l.parent) else {
        return Ok(());
    };
    if subtask.state().is_terminal() {
        return Ok(());
    }
    let mut row = load(tx.rows, TaskRef::Number(parent))?;
    let mut task = engine_task(&row);
    match &mut task.phase {
        Phase::Running { lease } if lease.holder == *agent && tx.now < lease.expires_at => {
            let worked_on = subtask.phase.is_worked_on();
            lease.begin_wait(subtask.number, tx.now + patience, worked_on, tx.now);
        }
        _ => return Ok(()),
    }
    task_rows::store(tx, &mut row, task)?;
    let Some(ring) = find_waits(tx, asking)?.ring(parent) else {
        return Ok(());
    };
    let ring = describe_ring(&ring);
    let why = format!("waiting for it would never end: {ring}; do it without that agent");
    let detail = json!({ "because": task_name(&row), "ring": ring });
    transitions::cancel_subtask(tx, subtask, why, detail)
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

/// Agents that are above a task that `from` gives on its own initiative. What the agent works on now may have made it do
/// so: the longest chain above that is the chain of the new task, so that no agent escapes the bounds by naming no parent.
///
/// # Errors
/// When the chain would be too long or circular, or too many such tasks of the agent have not ended.
fn chain_of_initiative(
    tx: &Tx<'_>,
    from: &Slug,
    assignee: Option<&Slug>,
    asked: &DelegationRequest,
) -> Result<Vec<Slug>> {
    let to = assignee.ok_or_else(|| Error::Row("delegated work has no assignee".to_owned()))?;
    let open: u32 = tx.rows.aggregate(
        &format!(
            "SELECT count(*) FROM tasks WHERE author = ?1 AND parent IS NULL AND link IS NOT NULL AND state NOT IN ({TERMINAL_STATES})"
        ),
        params![Principal::Agent(from.clone()).to_string()],
    )?;
    let held = list_where(tx.rows, "holder = ?1", params![from.as_str()])?;
    let chains = held
        .into_iter()
        .map(|task| task.link.map(|link| link.chain).unwrap_or_default());
    let mut longest = vec![from.clone()];
    authority::check_bounds(to, &longest, open, asked.bounds)?;
    for mut chain in chains {
        chain.push(from.clone());
        authority::check_bounds(to, &chain, open, asked.bounds)?;
        if chain.len() > longest.len() {
            longest = chain;
        }
    }
    Ok(longest)
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
