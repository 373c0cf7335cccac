//! Work that is part of other work: checked against the chain that it hangs on, called off with it, charged to
//! it, and told to whoever is to hear of it (S3-21 to S3-24, S3-29).

use super::tasks::{self, load};
use super::writer::Tx;
use super::{ledger, parse};
use crate::{Delegated, Error, Link, Notice, Outcome, Result, TaskRow};
use abbey_engine::authority;
use abbey_engine::task::{self, Event};
use abbey_model::{Amounts, Millis, Principal, Recipient, Slug, TaskId, TaskRef, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

/// Most links that are followed upwards; no house allows longer chains.
const CHAIN_MAX: usize = 32;

/// Looks whether a piece may come off its parent, and says where it hangs.
pub(super) fn make(
    tx: &mut Tx<'_>,
    number: u64,
    author: &Principal,
    assignee: Option<&Slug>,
    asked: &Delegated,
) -> Result<Link> {
    let due = asked.within.map(|within| tx.now + within);
    let mut link = Link {
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
    let parent = load(tx.db, parent)?;
    // Only the live holder of the work gives on a piece of it: the question that a renewal asks.
    let alive = Event::Renew {
        token,
        ttl: Millis(0),
    };
    task::step(&tasks::machine(&parent), &alive, author, tx.now)?;
    let above = parent
        .link
        .clone()
        .unwrap_or_else(|| Link::root(parent.number));
    link.chain = above.chain;
    link.chain.extend(author.agent().cloned());
    link.parent = Some(parent.number);
    link.root = above.root;
    link.step = above.step;
    // A piece is not due after the whole.
    link.due = [link.due, above.due].into_iter().flatten().min();
    let to = assignee.ok_or_else(|| Error::Row("delegated work has no assignee".to_owned()))?;
    let open: u32 = tx
        .db
        .prepare_cached("SELECT count(*) FROM tasks WHERE parent = ?1 AND state NOT IN ('done', 'unverified', 'failed', 'timed_out', 'cancelled')")?
        .query_row([parent.number], |r| r.get(0))?;
    authority::bounded(to, &link.chain, open, asked.bounds)?;
    // What everything below it costs is counted at the root from now on.
    let root = load(tx.db, TaskRef::Number(link.root))?;
    ledger::count_task(tx, root.id)?;
    Ok(link)
}

/// Limits of a piece: what its edge grants, within what is asked.
pub(super) fn budget(asked: &Delegated, own: Amounts) -> Amounts {
    match (asked.tokens, own.tokens.0) {
        (Some(most), 0) => Amounts {
            tokens: abbey_model::Tokens(most),
            ..own
        },
        (Some(most), own_tokens) => Amounts {
            tokens: abbey_model::Tokens(most.min(own_tokens)),
            ..own
        },
        (None, _) => own,
    }
}

/// Everything that a task is part of, the nearest first.
pub(super) fn ancestors(db: &Connection, id: TaskId) -> Result<Vec<TaskId>> {
    let mut found = Vec::new();
    let mut at: Option<u64> = db
        .prepare_cached("SELECT parent FROM tasks WHERE id = ?1")?
        .query_row([id.to_string()], |r| r.get(0))
        .optional()?
        .flatten();
    while let Some(number) = at.filter(|_| found.len() < CHAIN_MAX) {
        let kept: Option<(String, Option<u64>)> = db
            .prepare_cached("SELECT id, parent FROM tasks WHERE number = ?1")?
            .query_row([number], |r| Ok((r.get(0)?, r.get(1)?)))
            .optional()?;
        // One that was over long ago may not be kept any more.
        let Some((id, above)) = kept else { break };
        found.push(parse(&id)?);
        at = above;
    }
    Ok(found)
}

/// Pieces of a task, oldest first.
pub(super) fn children(db: &Connection, number: u64) -> Result<Vec<TaskRow>> {
    tasks::select(db, "parent = ?1 ORDER BY number LIMIT 1000", [number])
}

/// A task with everything that hangs on it, depth first.
pub(super) fn tree(db: &Connection, task: TaskRef) -> Result<Vec<(u32, TaskRow)>> {
    let mut rows = Vec::new();
    let mut stack = vec![(0u32, load(db, task)?)];
    while let Some((depth, row)) = stack.pop() {
        if rows.len() >= 1000 {
            break;
        }
        let below = children(db, row.number)?;
        stack.extend(below.into_iter().rev().map(|child| (depth + 1, child)));
        rows.push((depth, row));
    }
    Ok(rows)
}

/// What a result lacks of what was asked for; everything in it is the worker's word.
pub(super) fn lacking(link: &Link, outcome: &Outcome) -> Vec<String> {
    let has = |field: &&String| {
        outcome
            .data
            .get(field.as_str())
            .is_some_and(|v| !v.is_null())
    };
    link.expects.iter().filter(|f| !has(f)).cloned().collect()
}

/// Work that is over is told to its recipient, in the same transaction as its end.
pub(super) fn over(tx: &Tx<'_>, row: &TaskRow) -> Result<()> {
    let Some(Link {
        deliver: deliver @ (Recipient::Agent(_) | Recipient::Hook(_)),
        ..
    }) = &row.link
    else {
        return Ok(());
    };
    if row.state().is_terminal() {
        tx.db
            .prepare_cached("INSERT OR IGNORE INTO outbox VALUES (?1, ?2, ?3)")?
            .execute(params![row.number, deliver.to_string(), tx.now.0])?;
    }
    Ok(())
}

/// Notices that were not delivered yet, oldest first.
pub(super) fn outbox(db: &Connection) -> Result<Vec<Notice>> {
    let mut statement =
        db.prepare_cached("SELECT task, at FROM outbox ORDER BY at, task LIMIT 100")?;
    let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?;
    let mut notices = Vec::new();
    for row in rows {
        let (task, at): (u64, i64) = row?;
        let link = load(db, TaskRef::Number(task))?.link;
        notices.push(Notice {
            task,
            recipient: link.map_or(Recipient::Kept, |l| l.deliver),
            at: Timestamp(at),
        });
    }
    Ok(notices)
}

pub(super) fn delivered(tx: &mut Tx<'_>, task: u64) -> Result<()> {
    tx.db
        .prepare_cached("DELETE FROM outbox WHERE task = ?1")?
        .execute([task])?;
    Ok(())
}
