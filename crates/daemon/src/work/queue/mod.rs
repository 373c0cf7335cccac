//! The work queue as Markdown: a view of the tasks that people may edit while the control plane
//! runs (S2-15). The store is authoritative; a file only requests changes.

mod merge;
mod text;

use crate::core::error::Result;
use crate::work::lookup::{find_agent_prefix, find_agent_slug};
use crate::work::state::WorkState;
use abbey_api::{Problem, QueueConflict, QueueDoc, VERSION};
use abbey_model::{BudgetAmounts, FaultKind, Principal, TaskRef, TaskState};
use abbey_store::{NewTask, TaskEdit, TaskFilter, TaskRow};
use merge::QueueEdit;
use std::collections::BTreeMap;
use std::sync::Arc;
use text::{QueueEntry, TaskFields};

/// Most open tasks in a file.
const OPEN_MAX: u32 = 2000;
/// Most ended tasks in a file.
const OVER_MAX: usize = 50;
/// Ended tasks that are read to find those that are listed.
const LOOKED_AT: u32 = 1000;
/// Longest file, bytes.
const TEXT_MAX: usize = 2 << 20;

/// A task as an entry of the file.
fn queue_entry(row: &TaskRow) -> QueueEntry {
    let named = row.assignee.as_ref().filter(|_| row.pinned);
    let holder = row.phase.lease().map(|l| &l.holder);
    QueueEntry {
        number: row.number,
        fields: TaskFields {
            priority: row.priority,
            assignee: named.map(ToString::to_string),
            text: text::normalize_text(&row.text),
        },
        state: row.state(),
        holder: holder
            .filter(|h| named != Some(*h))
            .map(ToString::to_string),
    }
}

/// Tasks that people added: no subtasks, and none that the control plane added.
async fn listed_tasks(work: &WorkState) -> Result<Vec<TaskRow>> {
    let whole = |row: &TaskRow| {
        let link = row.link.as_ref();
        let piece = link.is_some_and(|l| l.parent.is_some() || l.step.is_some());
        !piece && row.author != Principal::House
    };
    let (over, open): (Vec<TaskState>, Vec<TaskState>) =
        TaskState::ALL.iter().partition(|s| s.is_terminal());
    let mut rows = Vec::new();
    for (states, looked_at, most) in [(open, OPEN_MAX, usize::MAX), (over, LOOKED_AT, OVER_MAX)] {
        let filter = TaskFilter {
            states,
            limit: looked_at,
            ..TaskFilter::default()
        };
        let mut part = work.core.store.tasks(filter).await?;
        part.retain(whole);
        part.truncate(most);
        part.sort_by_key(|r| match r.state().is_terminal() {
            true => (0, u64::MAX - r.number),
            false => (r.priority as u8, r.number),
        });
        rows.append(&mut part);
    }
    Ok(rows)
}

/// The work queue as Markdown. If `before` (version and text) shows the same tasks, its text is
/// returned unchanged.
pub(crate) async fn render_queue(work: &WorkState, before: Option<(u64, &str)>) -> Result<String> {
    let rows = listed_tasks(work).await?;
    let name = work.core.plan.current().map(|c| c.house.name.to_string());
    let name = name.unwrap_or_default();
    let entries: Vec<QueueEntry> = rows.iter().map(queue_entry).collect();
    // Do not write the file again for a change that it does not show.
    if let Some((version, file)) = before
        && text::render_file(&name, version, &entries) == file
    {
        return Ok(file.to_owned());
    }
    let newest = TaskFilter {
        limit: 1,
        ..TaskFilter::default()
    };
    let newest = work.core.store.tasks(newest).await?;
    let version = newest.first().map_or(0, |r| r.number);
    Ok(text::render_file(&name, version, &entries))
}

/// Applies the changes that an edited work queue file requests, as `by`, and returns the new file, what was
/// done, and the conflicts.
///
/// # Errors
/// If the file is too large or the store fails.
pub(crate) async fn merge_queue_file(
    work: &Arc<WorkState>,
    file: &str,
    by: &Principal,
) -> Result<QueueDoc> {
    if file.len() > TEXT_MAX {
        let text = format!("a work queue file may have at most {TEXT_MAX} bytes");
        return Err(Problem::new(FaultKind::TooLarge, text).into());
    }
    let (file, notes) = text::split_notes(file);
    let (version, items) = text::parse_file(file);
    let mut tasks = BTreeMap::new();
    for number in items.iter().filter_map(|i| i.number) {
        match work.core.store.task(TaskRef::Number(number)).await {
            Ok(row) => {
                tasks.insert(number, queue_entry(&row));
            }
            Err(abbey_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let (edits, conflicts) = merge::merge_items(&items, &tasks);
    let mut doc = QueueDoc {
        version: VERSION,
        text: String::new(),
        done: Vec::new(),
        conflicts: Vec::new(),
    };
    let told = |line, number: Option<u64>, wrote: &str, why: String| QueueConflict {
        line: u64::try_from(line).unwrap_or(0),
        task: number.map(|n| format!("TASK-{n}")),
        wrote: wrote.to_owned(),
        why,
    };
    for c in conflicts {
        doc.conflicts.push(told(c.line, c.number, &c.wrote, c.why));
    }
    for (line, act) in edits {
        match apply_edit(work, by, version, act).await {
            Ok(done) => doc.done.push(done),
            // The task changed meanwhile, or does not exist: the conflict is reported, the rest goes on.
            Err(error) => {
                let item = items.iter().find(|i| i.line == line);
                let wrote = item.map_or("", |i| i.raw.as_str());
                let number = item.and_then(|i| i.number);
                doc.conflicts.push(told(line, number, wrote, error.chain()));
            }
        }
    }
    doc.conflicts.sort_by_key(|c| c.line);
    doc.text = format!(
        "{}{notes}",
        render_queue(work, Some((version, file))).await?
    );
    Ok(doc)
}

/// Applies one edit, and returns a sentence that says what was done.
async fn apply_edit(
    work: &Arc<WorkState>,
    by: &Principal,
    version: u64,
    act: QueueEdit,
) -> Result<String> {
    let assignee = |fields: &TaskFields| {
        let name = fields.assignee.as_deref();
        name.map(|name| find_agent_slug(work, name)).transpose()
    };
    match act {
        QueueEdit::Add(fields, nth) => {
            let assignee = match assignee(&fields)? {
                None => find_agent_prefix(work, &fields.text)?,
                named => named,
            };
            // The same line of the same file is the same task, also when its number did not get into the file.
            let key = format!("queue {version} {} {nth}", fields.digest());
            let new = NewTask {
                author: by.clone(),
                assignee,
                priority: fields.priority,
                budget: BudgetAmounts::default(),
                policy: None,
                idempotency: Some((key, fields.digest())),
                intake: work.intake_for_text(&fields.text),
                delegated: None,
                text: fields.text,
            };
            let added = work.core.store.add_task(new).await?;
            Ok(format!("TASK-{} was added", added.task.number))
        }
        QueueEdit::Edit(number, fields) => {
            let edit = TaskEdit {
                assignee: assignee(&fields)?,
                priority: fields.priority,
                intake: work.intake_for_text(&fields.text),
                text: fields.text,
            };
            let task = TaskRef::Number(number);
            work.core.store.edit_task(task, edit, by.clone()).await?;
            Ok(format!("TASK-{number} was changed"))
        }
        QueueEdit::Cancel(number) => {
            let task = TaskRef::Number(number);
            work.core.store.cancel_task(task, by.clone()).await?;
            Ok(format!("TASK-{number} was cancelled"))
        }
        QueueEdit::Retry(number) => {
            let task = TaskRef::Number(number);
            let row = work.core.store.retry_task(task, by.clone()).await?;
            work.readmit_task(&row).await?;
            Ok(format!("TASK-{number} is done again"))
        }
    }
}
