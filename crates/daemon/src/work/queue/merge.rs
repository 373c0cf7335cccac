//! Compares the entries of a work queue file with the tasks of the store and decides the edits: a
//! pure function. In a conflict the store's version wins, and the conflict is reported with the
//! entry's text.

use super::document::{Document, QueueItem};
use super::text::{QueueEntry, TaskFields};
use abbey_model::TaskState;
use std::collections::{BTreeMap, BTreeSet};

/// A change of a task that a file requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum QueueEdit {
    /// Adds a task; the number distinguishes equal lines of one file.
    Add(TaskFields, u32),
    /// Changes the fields of a task.
    Edit(u64, TaskFields),
    Cancel(u64),
    Retry(u64),
    /// Adds a task like one that is done, which takes its place in the file.
    Again(u64, TaskFields),
}

/// An entry whose change is refused, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MergeConflict {
    /// Place among the entries of the file.
    pub(super) item: usize,
    pub(super) why: String,
    /// Whether the entry stays as it is, because it is not certain that it is the task's.
    pub(super) kept: bool,
}

/// What a file requests.
#[derive(Debug, Default)]
pub(super) struct Merge {
    /// Changes, each with the place of its entry.
    pub(super) edits: Vec<(usize, QueueEdit)>,
    pub(super) conflicts: Vec<MergeConflict>,
    /// Entries that are left as they are.
    pub(super) kept: BTreeSet<usize>,
}

/// Compares the entries of a file with the tasks they name, by number.
pub(super) fn merge_items(document: &Document, tasks: &BTreeMap<u64, QueueEntry>) -> Merge {
    let items = &document.items;
    let mut merge = Merge::default();
    let mut seen = BTreeSet::new();
    let mut alike: BTreeMap<String, u32> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        let Some(number) = item.number else {
            let nth = alike.entry(item.fields.digest()).or_default();
            let add = QueueEdit::Add(item.fields.clone(), *nth);
            merge.edits.push((index, add));
            *nth += 1;
            continue;
        };
        let task = tasks.get(&number);
        // Without the house's comment nothing says which house the numbers are of.
        let other = task.filter(|task| document.header.is_none() && was_another(item, task));
        if other.is_some() {
            merge.kept.insert(index);
            merge.conflicts.push(MergeConflict {
                item: index,
                why: format!(
                    "the comment of the house is missing in the file, so it is unknown whether this is TASK-{number}, which has other words here; remove the number to add a task"
                ),
                kept: true,
            });
            continue;
        }
        match compare(item, task, number, seen.insert(number)) {
            Compared::Unknown(why) => {
                merge.kept.insert(index);
                merge.conflicts.extend(why.map(|why| MergeConflict {
                    item: index,
                    why,
                    kept: true,
                }));
            }
            Compared::Known(changes) => {
                for change in changes {
                    match change {
                        Ok(edit) => merge.edits.push((index, edit)),
                        Err(why) => merge.conflicts.push(MergeConflict {
                            item: index,
                            why,
                            kept: false,
                        }),
                    }
                }
            }
        }
    }
    merge
}

/// Whether an entry is as a house wrote it, and the task of that number is not.
fn was_another(item: &QueueItem, task: &QueueEntry) -> bool {
    let (wanted, is) = (item.fields.digest(), task.fields.digest());
    let mark = item.mark.as_ref();
    mark.is_some_and(|m| m.file == wanted && m.house != is) && wanted != is
}

/// What comes of an entry with a number.
enum Compared {
    /// It is not certain that the entry is the task's; why, unless that is of no interest.
    Unknown(Option<String>),
    /// Changes that it requests, or why they are refused.
    Known(Vec<Result<QueueEdit, String>>),
}

fn compare(item: &QueueItem, task: Option<&QueueEntry>, number: u64, first: bool) -> Compared {
    let Some(task) = task else {
        let over = |state: &str| state.parse().is_ok_and(TaskState::is_terminal);
        // Records of tasks are deleted after a while.
        if item.mark.as_ref().is_some_and(|m| over(&m.state)) {
            return Compared::Unknown(None);
        }
        return Compared::Unknown(Some(format!(
            "there is no TASK-{number}; remove the number to add a task"
        )));
    };
    if !first {
        return Compared::Unknown(Some(format!(
            "TASK-{number} is listed twice; only the first line was applied"
        )));
    }
    if item.mark.is_none() && item.fields.digest() != task.fields.digest() {
        return Compared::Unknown(Some(format!(
            "the comment at the end of the line is missing, so it is unknown whether this is TASK-{number}; remove the number to add a task"
        )));
    }
    if asks_for_another(item, task) {
        let again = QueueEdit::Again(number, item.fields.clone());
        return Compared::Known(vec![Ok(again)]);
    }
    let mut changes = Vec::new();
    match fields_changed(item, task) {
        Ok(true) => changes.push(Ok(QueueEdit::Edit(number, item.fields.clone()))),
        Ok(false) => {}
        Err(why) => changes.push(Err(why)),
    }
    match state_change(item, task) {
        Ok(Some(edit)) => changes.push(Ok(edit)),
        Ok(None) => {}
        Err(why) => changes.push(Err(why)),
    }
    Compared::Known(changes)
}

/// Whether the entry requests that what is done is done once more. What is done stays done, so that is another task, with
/// the words that the file has now.
fn asks_for_another(item: &QueueItem, task: &QueueEntry) -> bool {
    let was = item.mark.as_ref().map(|m| m.state.as_str());
    item.state.as_deref() == Some("retry")
        && was != Some("retry")
        && task.state == TaskState::Done
        && !item.fields.text.is_empty()
}

/// Whether the entry requests other fields.
///
/// # Errors
/// Why the change is refused.
fn fields_changed(item: &QueueItem, task: &QueueEntry) -> Result<bool, String> {
    let (wanted, is) = (item.fields.digest(), task.fields.digest());
    let Some(mark) = &item.mark else {
        return Ok(false);
    };
    if wanted == mark.file || wanted == is {
        return Ok(false);
    }
    if mark.house != is {
        return Err(format!(
            "it was changed in the file and in the house; the house now has ({}, {}) {}",
            task.fields.priority,
            task.fields.assignee.as_deref().unwrap_or("-"),
            task.fields.text
        ));
    }
    match task.state {
        TaskState::Pending | TaskState::Parked | TaskState::Ready => {
            match item.fields.text.is_empty() {
                true => Err("a task must have a text".to_owned()),
                false => Ok(true),
            }
        }
        state => Err(format!("it is {state}, so it can no longer be edited")),
    }
}

/// Edit of the task's state that the entry requests, if any.
///
/// # Errors
/// Why the change is refused.
fn state_change(item: &QueueItem, task: &QueueEntry) -> Result<Option<QueueEdit>, String> {
    let was = item.mark.as_ref().map(|m| m.state.as_str());
    let wanted = item.state.as_deref();
    let over = |state: &str| {
        let parsed = state.parse::<TaskState>();
        parsed.is_ok_and(|s| s.is_terminal())
    };
    if wanted.is_some() && wanted != was && wanted != Some(task.state.name()) {
        return match (wanted, task.state.is_terminal()) {
            (Some("cancelled"), false) => Ok(Some(QueueEdit::Cancel(task.number))),
            (Some("retry"), true) if task.state != TaskState::Done => {
                Ok(Some(QueueEdit::Retry(task.number)))
            }
            (_, false) => Err(format!(
                "it is {}; the only state that can be written here now is `cancelled`",
                task.state
            )),
            (_, true) => Err(format!(
                "it is {}; the only state that can be written here now is `retry`",
                task.state
            )),
        };
    }
    let was_over = was.map_or(task.state.is_terminal(), over);
    match (item.ticked, was_over) {
        (true, false) if !task.state.is_terminal() => Err(format!(
            "it is {}, and only the agent that holds its lease can complete it; write `cancelled` to cancel it",
            task.state
        )),
        (false, true) if task.state.is_terminal() => Err(format!(
            "it is {}; write `retry` to have it done again",
            task.state
        )),
        _ => Ok(None),
    }
}
