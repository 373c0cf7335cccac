//! Rows of tasks: read by number, identifier or condition, and written after a step of the engine's state machine.

use super::{TERMINAL_STATES, approval_rows, draining};
use crate::rows::{Columns, Query, Row, Rows, Scalar, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{DelegationLink, Error, QueueFilter, Result, TaskFilter, TaskRow};
use abbey_engine::task::{Phase, Task};
use abbey_model::{LeaseToken, Slug, TaskId, TaskRef, Timestamp, WaitKind};
use std::ops::ControlFlow;

const SELECT: &str = "SELECT number, id, text, phase, assignee, pinned, priority, author, attempts, token, route, policy, result, failure, version, created_at, updated_at, link FROM tasks";
/// Place of the phase among the columns of [`SELECT`].
const PHASE_COLUMN: usize = 3;

/// Most links that are followed upwards; no house allows longer chains.
const CHAIN_MAX: usize = 32;
/// Most rows of a tree of subtasks.
const TREE_MAX: usize = 1000;

fn read_task(columns: &mut Columns<'_>) -> Result<TaskRow> {
    Ok(TaskRow {
        number: columns.get()?,
        id: columns.parse()?,
        text: columns.get()?,
        phase: columns.json()?,
        assignee: columns.parse_optional()?,
        pinned: columns.get()?,
        priority: columns.parse()?,
        author: columns.parse()?,
        attempts: columns.get()?,
        token: LeaseToken(columns.get()?),
        route: columns.json()?,
        policy: columns.json_optional()?,
        result: columns.json_optional()?,
        failure: columns.get()?,
        version: columns.get()?,
        created_at: columns.get()?,
        updated_at: columns.get()?,
        link: columns.json_optional()?,
    })
}

/// Reads one task by number or identifier.
///
/// # Errors
/// [`Error::NotFound`].
pub(crate) fn load(rows: &dyn Rows, task: TaskRef) -> Result<TaskRow> {
    let found = match task {
        TaskRef::Number(number) => rows.first(
            &format!("{SELECT} WHERE number = ?1"),
            params![number],
            read_task,
        )?,
        TaskRef::Id(id) => rows.first(
            &format!("{SELECT} WHERE id = ?1"),
            params![id.to_string()],
            read_task,
        )?,
    };
    found.ok_or_else(|| Error::NotFound {
        what: "task",
        name: task.to_string(),
    })
}

/// Reads the tasks that fulfil a condition in SQL (the part after `WHERE`).
pub(crate) fn list_where(
    rows: &dyn Rows,
    condition: &str,
    parameters: &[Scalar<'_>],
) -> Result<Vec<TaskRow>> {
    rows.all(
        &format!("{SELECT} WHERE {condition}"),
        parameters,
        read_task,
    )
}

/// Reads the tasks that match a filter, newest first.
pub(crate) fn list(rows: &dyn Rows, filter: &TaskFilter) -> Result<Vec<TaskRow>> {
    let author = filter.author.as_ref().map(ToString::to_string);
    let mut parameters = vec![
        Scalar::from(filter.assignee.as_ref().map(Slug::as_str)),
        Scalar::from(filter.before.unwrap_or(u64::MAX)),
        Scalar::from(filter.limit),
        Scalar::from(author.as_deref()),
    ];
    let mut states = String::new();
    if !filter.states.is_empty() {
        let first = parameters.len() + 1;
        let places: Vec<String> = (first..first + filter.states.len())
            .map(|n| format!("?{n}"))
            .collect();
        states = format!("state IN ({}) AND ", places.join(", "));
        parameters.extend(filter.states.iter().map(|s| Scalar::from(s.name())));
    }
    let condition = format!(
        "{states}(?1 IS NULL OR assignee = ?1) AND (?4 IS NULL OR author = ?4) AND number < ?2 ORDER BY number DESC LIMIT ?3"
    );
    list_where(rows, &condition, &parameters)
}

/// Reads the tasks that a filter names, and the newest of all, newest first. One statement, so that a task which ends at the
/// same moment is in the answer once, and is not missing from it.
pub(crate) fn list_for_queue(rows: &dyn Rows, filter: &QueueFilter) -> Result<Vec<TaskRow>> {
    let ended = TERMINAL_STATES;
    let mut parameters = vec![
        Scalar::from(filter.open_max),
        Scalar::from(filter.ended_max),
    ];
    parameters.extend(filter.numbers.iter().map(|n| Scalar::from(*n)));
    let places: Vec<String> = (3..=parameters.len()).map(|n| format!("?{n}")).collect();
    let condition = format!(
        "number IN (SELECT number FROM tasks WHERE state NOT IN ({ended}) ORDER BY number DESC LIMIT ?1)
         OR number IN (SELECT number FROM tasks WHERE state IN ({ended}) ORDER BY number DESC LIMIT ?2)
         OR number IN ({})
         OR number = (SELECT max(number) FROM tasks)
         ORDER BY number DESC",
        places.join(", ")
    );
    list_where(rows, &condition, &parameters)
}

/// Reads the ready tasks that an agent may claim, most urgent first, at most `limit`; none while the agent is draining.
pub(crate) fn list_claimable(rows: &dyn Rows, agent: &Slug, limit: u32) -> Result<Vec<TaskRow>> {
    if draining::is_draining(rows, agent)? {
        return Ok(Vec::new());
    }
    let quoted = format!("\"{agent}\"");
    // A row whose text does not name the agent is passed over without being read as JSON.
    let may_claim = |row: &dyn Row| -> Result<bool> {
        let Scalar::Text(phase) = row.scalar(PHASE_COLUMN)? else {
            return Ok(false);
        };
        let named = phase.contains(&quoted);
        Ok(named
            && matches!(serde_json::from_str(&phase)?, Phase::Ready { candidates } if candidates.contains(agent)))
    };
    let mut found = Vec::new();
    let sql = format!("{SELECT} WHERE state = 'ready' ORDER BY queue_key, number");
    rows.visit(&sql, params![], &mut |row| {
        if found.len() >= limit as usize {
            return Ok(ControlFlow::Break(()));
        }
        if may_claim(row)? {
            found.push(read_task(&mut Columns::of(row))?);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// Earliest instant at which a lease, run time, pause, approval or due time of any task ends.
pub(crate) fn next_deadline(rows: &dyn Rows) -> Result<Option<Timestamp>> {
    let of_tasks = rows.aggregate(
        "SELECT min(deadline) FROM tasks WHERE deadline IS NOT NULL",
        params![],
    )?;
    Ok(earlier_of(of_tasks, approval_rows::next_unused(rows)?))
}

/// Identifiers of the tasks above a task, to which it is charged as well, the nearest first, at most 32: its parent, or what
/// caused it, and so on.
pub(crate) fn ancestors(rows: &dyn Rows, id: TaskId) -> Result<Vec<TaskId>> {
    let above = |c: &mut Columns<'_>| -> Result<Option<u64>> {
        let link: Option<DelegationLink> = c.json_optional()?;
        Ok(link.and_then(|l| l.above()))
    };
    let mut found = Vec::new();
    let mut next = rows
        .first(
            "SELECT link FROM tasks WHERE id = ?1",
            params![id.to_string()],
            above,
        )?
        .flatten();
    while let Some(number) = next.filter(|_| found.len() < CHAIN_MAX) {
        let kept = rows.first(
            "SELECT id, link FROM tasks WHERE number = ?1",
            params![number],
            |c| Ok((c.parse()?, above(c)?)),
        )?;
        // An ancestor that was over long ago may be removed already.
        let Some((id, above)) = kept else { break };
        found.push(id);
        next = above;
    }
    Ok(found)
}

/// Reads the direct subtasks of a task, oldest first.
pub(crate) fn subtasks(rows: &dyn Rows, number: u64) -> Result<Vec<TaskRow>> {
    list_where(
        rows,
        "parent = ?1 ORDER BY number LIMIT 1000",
        params![number],
    )
}

/// Reads a task and all subtasks below it, depth first, each with its depth, at most 1,000.
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

/// Converts a row into the task that the engine's state machine works on.
pub(crate) fn engine_task(row: &TaskRow) -> Task {
    Task {
        phase: row.phase.clone(),
        token: row.token,
        attempts: row.attempts,
        author: row.author.clone(),
    }
}

/// Name of a task in messages and the audit log: `TASK-12`.
pub(crate) fn task_name(row: &TaskRow) -> String {
    format!("TASK-{}", row.number)
}

/// Stores the task that the state machine returned, with a new version. Publishes [`Topic::Work`] unless only the lease
/// was renewed, and [`Topic::Deadlines`] when the task's next deadline is nearer than before.
/// The run that waits for it is told whether somebody works on it.
pub(crate) fn store(tx: &mut Tx<'_>, row: &mut TaskRow, next: Task) -> Result<()> {
    let before = (row.phase.is_worked_on(), row.state().is_terminal());
    write_row(tx, row, next)?;
    let after = (row.phase.is_worked_on(), row.state().is_terminal());
    match row.link.is_some() && before != after {
        true => tell_waiting_run(tx, row),
        false => Ok(()),
    }
}

/// Ends or changes the waits of runs for a task that changed: that of its parent, or of its author, who gave it on its own
/// initiative.
fn tell_waiting_run(tx: &mut Tx<'_>, changed: &TaskRow) -> Result<()> {
    let waiting = match (
        changed.link.as_ref().and_then(|l| l.parent),
        changed.author.agent(),
    ) {
        (Some(parent), _) => list_where(tx.rows, "number = ?1", params![parent])?,
        (None, Some(author)) => list_where(tx.rows, "holder = ?1", params![author.as_str()])?,
        (None, None) => return Ok(()),
    };
    for mut row in waiting {
        let mut task = engine_task(&row);
        let Phase::Running { lease } = &mut task.phase else {
            continue;
        };
        if lease.waits.as_ref().is_none_or(|w| w.on != changed.number) {
            continue;
        }
        match changed.state().is_terminal() {
            true => lease.end_wait(tx.now),
            false => lease.set_worked_on(changed.number, changed.phase.is_worked_on(), tx.now),
        }
        store(tx, &mut row, task)?;
    }
    Ok(())
}

fn write_row(tx: &mut Tx<'_>, row: &mut TaskRow, next: Task) -> Result<()> {
    let earlier = deadline(row);
    let same_run = match (row.phase.lease(), next.phase.lease()) {
        (Some(old), Some(new)) => old.run == new.run,
        _ => false,
    };
    row.route
        .record_change(&row.phase, &next.phase, row.updated_at, tx.now);
    row.phase = next.phase;
    row.token = next.token;
    row.attempts = next.attempts;
    row.version += 1;
    row.updated_at = tx.now;
    let deadline = deadline(row);
    if !same_run {
        tx.publish(Topic::Work);
    }
    // A deadline that has passed (that of a new task is its first instant) no longer wakes anybody.
    let earlier = earlier.filter(|old| *old > tx.now);
    let nearer = deadline.is_some_and(|new| earlier.is_none_or(|old| new < old));
    if nearer {
        tx.publish(Topic::Deadlines);
    }
    tx.execute(
        "UPDATE tasks SET state = ?2, phase = ?3, holder = ?4, assignee = ?5, attempts = ?6, token = ?7, route = ?8, result = ?9, failure = ?10, version = ?11, deadline = ?12, updated_at = ?13, waiting = ?14 WHERE number = ?1",
        params![
            row.number, row.state().name(), serde_json::to_string(&row.phase)?,
            row.phase.lease().map(|l| l.holder.as_str()), row.assignee.as_ref().map(Slug::as_str),
            row.attempts, row.token.0, serde_json::to_string(&row.route)?,
            row.result.as_ref().map(serde_json::to_string).transpose()?, &row.failure,
            row.version, deadline, tx.now, waiting_key(row),
        ],
    )?;
    Ok(())
}

/// Everything that a parked task waits for, as the end of a wait looks for it: `budget house`, or for several things
/// `several |budget house|provider cloud|`, which [`PARKED_FOR_SEVERAL`] finds.
fn waiting_key(row: &TaskRow) -> Option<String> {
    let Phase::Parked { reasons } = &row.phase else {
        return None;
    };
    let mut keys: Vec<String> = Vec::new();
    for waiting_for in reasons.iter().filter_map(|r| r.waiting_for.as_ref()) {
        let key = waiting_for.key();
        let ends_elsewhere = !matches!(waiting_for.kind, WaitKind::Budget | WaitKind::Provider);
        if !ends_elsewhere && !keys.contains(&key) {
            keys.push(key);
        }
    }
    match keys.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        several => Some(format!("{SEVERAL}|{}|", several.join("|"))),
    }
}

/// Beginning of what several things are stored under.
const SEVERAL: &str = "several ";

/// Condition in SQL for the tasks that are parked for several things, one of which is parameter 1. It uses the index of what
/// tasks wait for. A name with a character that `LIKE` reads as any other finds too many, which are then admitted in vain.
pub(crate) const PARKED_FOR_SEVERAL: &str =
    "waiting >= 'several ' AND waiting < 'several!' AND waiting LIKE '%|' || ?1 || '|%'";

/// The first thing of those that a parked task waits for, from its stored key.
pub(crate) fn first_wait(waiting: &str) -> &str {
    let several = waiting.strip_prefix(SEVERAL);
    several.map_or(waiting, |keys| {
        keys.split('|').find(|key| !key.is_empty()).unwrap_or(keys)
    })
}

/// Sets the deadline of a task again that was made due and stays as it is, so that it is not due for ever.
pub(crate) fn restore_deadline(tx: &Tx<'_>, row: &TaskRow) -> Result<()> {
    let own = match &row.phase {
        Phase::Parked { .. } => row.phase.parked_until_after(tx.now),
        _ => own_deadline(row).filter(|at| *at > tx.now),
    };
    let next = earlier_of(own, due(row));
    tx.execute(
        "UPDATE tasks SET deadline = ?2 WHERE number = ?1 AND deadline <= ?3",
        params![row.number, next, tx.now],
    )?;
    Ok(())
}

/// When the house must act on a task by itself: its wait, lease, wall time, pause, approval or due time is over.
fn deadline(row: &TaskRow) -> Option<Timestamp> {
    earlier_of(own_deadline(row), due(row))
}

fn earlier_of(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    [one, other].into_iter().flatten().min()
}

/// When a subtask must be over.
fn due(row: &TaskRow) -> Option<Timestamp> {
    let due = row.link.as_ref().and_then(|l| l.due);
    due.filter(|_| !row.state().is_terminal())
}

fn own_deadline(row: &TaskRow) -> Option<Timestamp> {
    match &row.phase {
        Phase::Pending { not_before } => Some(*not_before),
        Phase::Running { lease } => Some(lease.expires_at.min(lease.wall_deadline())),
        Phase::AwaitingApproval { until, .. } => Some(*until),
        Phase::Parked { .. } => row.phase.parked_until(),
        Phase::Ready { .. }
        | Phase::Blocked { .. }
        | Phase::Done { .. }
        | Phase::Unverified
        | Phase::Failed { .. }
        | Phase::TimedOut
        | Phase::Cancelled => None,
    }
}
