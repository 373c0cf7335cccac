//! Counts for metrics: open tasks by what they wait for, ends of tasks, pending approvals, the newest backup.

use crate::rows::{Query, Rows, params, parse};
use crate::transaction::Tx;
use crate::{Error, HouseCounts, OpenTasks, Result};
use abbey_model::{TaskState, Timestamp, WaitKind};
use std::collections::BTreeMap;

/// Prefix of the keys in the table `meta` that count ends of tasks, before the state.
const ENDED: &str = "tasks_ended/";
/// Key in the table `meta` of the instant of the newest backup.
const LAST_BACKUP: &str = "last_backup";

/// Open tasks by state and by the kind of what a parked one waits for; each part uses an index of its own.
const OPEN: &str = "
  SELECT state, CASE WHEN state <> 'parked' THEN NULL WHEN waiting LIKE 'budget %' THEN 'budget' WHEN waiting LIKE 'provider %' THEN 'provider' ELSE 'agent' END, count(*), min(updated_at)
    FROM tasks WHERE state IN ('pending', 'parked', 'blocked') GROUP BY 1, 2
  UNION ALL SELECT 'ready', NULL, count(*), min(updated_at) FROM tasks WHERE state = 'ready'
  UNION ALL SELECT 'running', NULL, count(*), min(updated_at) FROM tasks WHERE holder IS NOT NULL
  UNION ALL SELECT 'awaiting_approval', NULL, count(*), min(updated_at) FROM tasks WHERE deadline IS NOT NULL AND state = 'awaiting_approval'";

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
    let open = rows.all(OPEN, params![], |c| {
        let (state, wait) = (c.parse::<TaskState>()?, c.parse_optional::<WaitKind>()?);
        let wait = wait.or(match state {
            TaskState::Pending => Some(WaitKind::Retry),
            TaskState::Ready => Some(WaitKind::Claim),
            TaskState::Blocked => Some(WaitKind::Blocked),
            TaskState::AwaitingApproval => Some(WaitKind::Approval),
            _ => None,
        });
        Ok(OpenTasks {
            state,
            wait,
            count: c.get()?,
            oldest: c.get()?,
        })
    })?;
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
