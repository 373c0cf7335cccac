//! Counts for metrics: open tasks by what they wait for, ends of tasks, pending approvals, the newest backup.

use super::task_rows;
use crate::rows::{Columns, Query, Rows, params, parse};
use crate::transaction::Tx;
use crate::{Error, HouseCounts, OpenTasks, Result};
use abbey_model::{TaskState, Timestamp, WaitKind};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Prefix of the keys in the table `meta` that count ends of tasks, before the state.
const ENDED: &str = "tasks_ended/";
/// Key in the table `meta` of the instant of the newest backup.
const LAST_BACKUP: &str = "last_backup";

/// Conditions for the open tasks; each part uses an index of its own.
const OPEN: [&str; 4] = [
    "state IN ('pending', 'parked', 'blocked')",
    "state = 'ready'",
    "holder IS NOT NULL",
    "deadline IS NOT NULL AND state = 'awaiting_approval'",
];

/// Of a route, what the counts need.
#[derive(Deserialize)]
struct Start {
    since: Option<Timestamp>,
}

/// Kind of what a task waits for, from its state and the column `waiting`; of several things the first one counts.
fn wait_kind(state: TaskState, waiting: Option<&str>) -> Option<WaitKind> {
    Some(match state {
        TaskState::Pending => WaitKind::Retry,
        TaskState::Ready => WaitKind::Claim,
        TaskState::Blocked => WaitKind::Blocked,
        TaskState::AwaitingApproval => WaitKind::Approval,
        TaskState::Parked => {
            let first = waiting.map(task_rows::first_wait).unwrap_or_default();
            match first.split(' ').next() {
                Some("budget") => WaitKind::Budget,
                Some("provider") => WaitKind::Provider,
                _ => WaitKind::Agent,
            }
        }
        _ => return None,
    })
}

/// Counts the open tasks by state and by what they wait for, with the instant since which the first one is so.
fn count_open(rows: &dyn Rows) -> Result<Vec<OpenTasks>> {
    let mut found: BTreeMap<(TaskState, Option<WaitKind>), OpenTasks> = BTreeMap::new();
    for condition in OPEN {
        let sql = format!("SELECT state, waiting, route, updated_at FROM tasks WHERE {condition}");
        rows.visit(&sql, params![], &mut |row| {
            let mut columns = Columns::of(row);
            let state: TaskState = columns.parse()?;
            let waiting: Option<String> = columns.get()?;
            let start: Start = columns.json()?;
            let changed: Timestamp = columns.get()?;
            let since = start.since.unwrap_or(changed);
            let wait = wait_kind(state, waiting.as_deref());
            let open = found.entry((state, wait)).or_insert(OpenTasks {
                state,
                wait,
                count: 0,
                oldest: None,
            });
            open.count += 1;
            open.oldest = Some(open.oldest.map_or(since, |oldest| oldest.min(since)));
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(found.into_values().collect())
}

/// Counts that a task ended in a state.
pub(crate) fn count_end(tx: &Tx<'_>, state: TaskState) -> Result<()> {
    tx.execute(
        "INSERT INTO meta VALUES (?1, '1') ON CONFLICT (key) DO UPDATE SET value = CAST(CAST(meta.value AS BIGINT) + 1 AS TEXT)",
        params![format!("{ENDED}{state}")],
    )?;
    Ok(())
}

/// Records that a backup was written now.
pub(crate) fn record_backup(tx: &Tx<'_>) -> Result<()> {
    tx.execute(
        "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2",
        params![LAST_BACKUP, tx.now.0.to_string()],
    )?;
    Ok(())
}

/// Reads all counts.
pub(crate) fn read(rows: &dyn Rows) -> Result<HouseCounts> {
    let open = count_open(rows)?;
    let ended = rows.all(
        "SELECT key, value FROM meta WHERE key >= ?1 AND key < ?2",
        // The character after the slash ends the range of keys with this prefix.
        params![ENDED, "tasks_ended0"],
        |c| Ok((c.get::<String>()?, c.parse::<u64>()?)),
    )?;
    let ended: Result<BTreeMap<TaskState, u64>> = ended
        .into_iter()
        .map(|(key, count)| Ok((parse(key.strip_prefix(ENDED).unwrap_or(&key))?, count)))
        .collect();
    let approvals = rows.first(
        "SELECT count(*), min(created_at) FROM approvals WHERE state = 'pending'",
        params![],
        |c| Ok((c.get::<u64>()?, c.get::<Option<Timestamp>>()?)),
    )?;
    let (approvals_pending, oldest_approval) = approvals.unwrap_or_default();
    let backup: Option<String> = rows.value(
        "SELECT value FROM meta WHERE key = ?1",
        params![LAST_BACKUP],
    )?;
    let backup = backup.map(|text| text.parse::<i64>()).transpose();
    let backup = backup.map_err(|e| Error::Row(format!("{LAST_BACKUP}: {e}")))?;
    Ok(HouseCounts {
        open,
        ended: ended?,
        approvals_pending,
        oldest_approval,
        last_backup: backup.map(Timestamp),
    })
}
