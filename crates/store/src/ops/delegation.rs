//! Subtasks: checked against the chain of delegations above them, charged to it, cancelled with it, and reported to
//! their recipients (S3-21 to S3-24, S3-29).

use super::tasks::{self, load};
use super::transitions::engine_task;
use super::{TERMINAL_STATES, ledger};
use crate::rows::{Query, Rows, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{DelegationLink, DelegationRequest, Error, Notice, Outcome, Result, TaskRow};
use abbey_engine::authority;
use abbey_engine::task::{self, Event};
use abbey_model::{BudgetAmounts, Millis, Principal, Recipient, Slug, TaskId, TaskRef, Tokens};

/// Most links that are followed upwards; no house allows longer chains.
const CHAIN_MAX: usize = 32;
/// Most rows of a tree of subtasks.
const TREE_MAX: usize = 1000;
/// Most notices of one reading of the outbox.
const OUTBOX_MAX: u32 = 100;

/// Checks that a subtask may be added below its parent, and returns its place in the tree.
///
/// # Errors
/// When the author does not hold the parent's lease, or the chain would be too long, circular or too wide.
pub(crate) fn link(
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
    authority::bounded(to, &link.chain, open, asked.bounds)?;
    // What everything below it costs is counted at the root from now on.
    let root = load(tx.rows, TaskRef::Number(link.root))?;
    ledger::count_task(tx, root.id)?;
    Ok(link)
}

/// Limits of a subtask: what its delegation grants, within what the caller asks for.
pub(crate) fn budget(asked: &DelegationRequest, own: BudgetAmounts) -> BudgetAmounts {
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

/// Every task that a task is part of, the nearest first.
pub(crate) fn ancestors(rows: &dyn Rows, id: TaskId) -> Result<Vec<TaskId>> {
    let mut found = Vec::new();
    let mut above: Option<u64> = rows
        .value::<Option<u64>>(
            "SELECT parent FROM tasks WHERE id = ?1",
            params![id.to_string()],
        )?
        .flatten();
    while let Some(number) = above.filter(|_| found.len() < CHAIN_MAX) {
        let kept = rows.first(
            "SELECT id, parent FROM tasks WHERE number = ?1",
            params![number],
            |c| Ok((c.parse()?, c.get()?)),
        )?;
        // An ancestor that was over long ago may be removed already.
        let Some((id, next)) = kept else { break };
        found.push(id);
        above = next;
    }
    Ok(found)
}

/// Subtasks directly below a task, oldest first.
pub(crate) fn subtasks(rows: &dyn Rows, number: u64) -> Result<Vec<TaskRow>> {
    tasks::select(
        rows,
        "parent = ?1 ORDER BY number LIMIT 1000",
        params![number],
    )
}

/// A task with every subtask below it, depth first, each with its depth.
pub(crate) fn tree(rows: &dyn Rows, task: TaskRef) -> Result<Vec<(u32, TaskRow)>> {
    let mut found = Vec::new();
    let mut stack = vec![(0u32, load(rows, task)?)];
    while let Some((depth, row)) = stack.pop() {
        if found.len() >= TREE_MAX {
            break;
        }
        let below = subtasks(rows, row.number)?;
        stack.extend(below.into_iter().rev().map(|child| (depth + 1, child)));
        found.push((depth, row));
    }
    Ok(found)
}

/// Fields that the delegation expects and the result does not have.
pub(crate) fn missing_fields(link: &DelegationLink, outcome: &Outcome) -> Vec<String> {
    let has = |field: &&String| {
        outcome
            .data
            .get(field.as_str())
            .is_some_and(|v| !v.is_null())
    };
    link.expects.iter().filter(|f| !has(f)).cloned().collect()
}

/// Puts the end of a task into the outbox for its recipient, in the same transaction.
pub(crate) fn notify_recipient(tx: &mut Tx<'_>, row: &TaskRow) -> Result<()> {
    let Some(DelegationLink {
        deliver: deliver @ (Recipient::Agent(_) | Recipient::Channel(_) | Recipient::Hook(_)),
        ..
    }) = &row.link
    else {
        return Ok(());
    };
    if row.state().is_terminal() {
        tx.execute(
            "INSERT INTO outbox VALUES (?1, ?2, ?3) ON CONFLICT (task) DO NOTHING",
            params![row.number, deliver.to_string(), tx.now],
        )?;
        tx.publish(Topic::Outbox);
    }
    Ok(())
}

/// Notices that are not delivered yet, oldest first.
pub(crate) fn outbox(rows: &dyn Rows) -> Result<Vec<Notice>> {
    let waiting = rows.all(
        "SELECT task, at FROM outbox ORDER BY at, task LIMIT ?1",
        params![OUTBOX_MAX],
        |c| Ok((c.get()?, c.get()?)),
    )?;
    let notice = |(task, at)| {
        let link = load(rows, TaskRef::Number(task))?.link;
        Ok(Notice {
            task,
            recipient: link.map_or(Recipient::Kept, |l| l.deliver),
            at,
        })
    };
    waiting.into_iter().map(notice).collect()
}

/// Removes the notice of a task from the outbox.
pub(crate) fn mark_delivered(tx: &mut Tx<'_>, task: u64) -> Result<()> {
    tx.execute("DELETE FROM outbox WHERE task = ?1", params![task])?;
    Ok(())
}
