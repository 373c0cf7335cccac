//! Outbox: ends of tasks that their recipients have not received yet.

use super::task_rows;
use crate::rows::{Query, Rows, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{DelegationLink, Notice, Result, TaskRow};
use abbey_model::{Recipient, TaskRef};

/// Most notices of one reading of the outbox.
const OUTBOX_MAX: u32 = 100;

/// Adds a notice to the outbox if the task is in a terminal state and its result has a recipient.
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

/// Reads the notices of finished tasks that are not delivered yet, oldest first, at most 100.
pub(crate) fn list(rows: &dyn Rows) -> Result<Vec<Notice>> {
    let waiting = rows.all(
        "SELECT task, at FROM outbox ORDER BY at, task LIMIT ?1",
        params![OUTBOX_MAX],
        |c| Ok((c.get()?, c.get()?)),
    )?;
    let notice = |(task, at)| {
        let link = task_rows::load(rows, TaskRef::Number(task))?.link;
        Ok(Notice {
            task,
            recipient: link.map_or(Recipient::Kept, |l| l.deliver),
            at,
        })
    };
    waiting.into_iter().map(notice).collect()
}

/// Removes the notice of a task from the outbox because its recipient has received it.
pub(crate) fn mark_delivered(tx: &mut Tx<'_>, task: u64) -> Result<()> {
    tx.execute("DELETE FROM outbox WHERE task = ?1", params![task])?;
    Ok(())
}
