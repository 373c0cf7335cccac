//! Subtasks: checked against the chain of delegations above them, charged to it, cancelled with it, and reported to
//! their recipients (S3-21 to S3-24, S3-29).

use super::task_rows::{engine_task, list_where, load};
use super::{TERMINAL_STATES, ledger};
use crate::rows::{Query, params};
use crate::transaction::Tx;
use crate::{DelegationLink, DelegationRequest, Error, Outcome, Result};
use abbey_engine::authority;
use abbey_engine::task::{self, Event};
use abbey_model::{BudgetAmounts, Millis, Principal, Slug, TaskRef, Tokens};

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
