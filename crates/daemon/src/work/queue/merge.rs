//! Compares the items of a work queue file with the tasks of the store and decides the edits: a
//! pure function. In a conflict the store's version wins, and the conflict is reported with the
//! item's text.

use super::text::{QueueEntry, QueueItem, TaskFields};
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
}

/// An item whose change is refused, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MergeConflict {
    pub(super) line: usize,
    pub(super) number: Option<u64>,
    pub(super) wrote: String,
    pub(super) why: String,
}

/// Compares items with the tasks they name, by number, and returns the edits with their lines, and
/// the conflicts.
pub(super) fn merge_items(
    items: &[QueueItem],
    tasks: &BTreeMap<u64, QueueEntry>,
) -> (Vec<(usize, QueueEdit)>, Vec<MergeConflict>) {
    let (mut edits, mut conflicts) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    let mut alike: BTreeMap<String, u32> = BTreeMap::new();
    for item in items {
        let mut conflict = |why: String| {
            conflicts.push(MergeConflict {
                line: item.line,
                number: item.number,
                wrote: item.raw.clone(),
                why,
            });
        };
        let Some(number) = item.number else {
            if item.fields.text.is_empty() {
                continue;
            }
            if item.ticked {
                conflict(
                    "a line without a number adds a task, so its box must not be ticked".to_owned(),
                );
                continue;
            }
            let nth = alike.entry(item.fields.digest()).or_default();
            edits.push((item.line, QueueEdit::Add(item.fields.clone(), *nth)));
            *nth += 1;
            continue;
        };
        let Some(task) = tasks.get(&number) else {
            conflict(format!(
                "there is no TASK-{number}; remove the number to add a task"
            ));
            continue;
        };
        if !seen.insert(number) {
            conflict(format!(
                "TASK-{number} is listed twice; only the first line was applied"
            ));
            continue;
        }
        match fields_changed(item, task) {
            Ok(true) => edits.push((item.line, QueueEdit::Edit(number, item.fields.clone()))),
            Ok(false) => {}
            Err(why) => conflict(why),
        }
        match state_change(item, task) {
            Ok(Some(act)) => edits.push((item.line, act)),
            Ok(None) => {}
            Err(why) => conflict(why),
        }
    }
    (edits, conflicts)
}

/// Whether the item requests other fields.
///
/// # Errors
/// Why the change is refused.
fn fields_changed(item: &QueueItem, task: &QueueEntry) -> Result<bool, String> {
    let (wanted, is) = (item.fields.digest(), task.fields.digest());
    if wanted == is {
        return Ok(false);
    }
    match &item.mark {
        Some((was, _)) if *was == wanted => Ok(false),
        Some((was, _)) if *was == is => match task.state {
            TaskState::Pending | TaskState::Parked | TaskState::Ready
                if !item.fields.text.is_empty() =>
            {
                Ok(true)
            }
            TaskState::Pending | TaskState::Parked | TaskState::Ready => {
                Err("a task must have a text".to_owned())
            }
            state => Err(format!("it is {state}, so it can no longer be edited")),
        },
        Some(_) => Err(format!(
            "it was changed in the file and in the house; the house now has ({}, {}) {}",
            task.fields.priority,
            task.fields.assignee.as_deref().unwrap_or("-"),
            task.fields.text
        )),
        None => Err(
            "the comment at the end of the line is missing, so it is unknown which side changed it"
                .to_owned(),
        ),
    }
}

/// Edit of the task's state that the item requests, if any.
///
/// # Errors
/// Why the change is refused.
fn state_change(item: &QueueItem, task: &QueueEntry) -> Result<Option<QueueEdit>, String> {
    let was = item.mark.as_ref().map(|(_, state)| state.as_str());
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
            _ => Err(format!(
                "it is {}; the only states that can be written here are `cancelled` and `retry`",
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

#[cfg(test)]
mod tests {
    use super::super::text::parse_file;
    use super::*;
    use abbey_model::Priority;

    fn task(number: u64, text: &str, state: TaskState) -> QueueEntry {
        QueueEntry {
            number,
            fields: TaskFields {
                priority: Priority::P2,
                assignee: None,
                text: text.to_owned(),
            },
            state,
            holder: None,
        }
    }

    /// Every edit of a line as the house wrote it, and what comes of it.
    #[test]
    fn each_edit_is_done_or_told() {
        let before = || {
            [
                task(1, "bake", TaskState::Ready),
                task(2, "sweep", TaskState::Failed),
                task(3, "sing", TaskState::Running),
            ]
        };
        let written = super::super::text::render_file("h", 1, &before());
        let tasks: BTreeMap<u64, QueueEntry> =
            before().into_iter().map(|t| (t.number, t)).collect();
        let outcome = |from: &str, to: &str| {
            assert!(written.contains(from), "{written}");
            let (edits, conflicts) =
                merge_items(&parse_file(&written.replacen(from, to, 1)).1, &tasks);
            let edits = edits
                .into_iter()
                .map(|(_, a)| format!("{a:?}"))
                .collect::<Vec<_>>()
                .join(" ");
            let told = conflicts
                .into_iter()
                .map(|c| c.why)
                .collect::<Vec<_>>()
                .join(" ");
            (edits, told)
        };
        for (from, to, edits, told) in [
            ("bake", "bake", "", ""),
            ("bake", "bake bread", "Edit(1", ""),
            ("(P2, -, ready)", "(P0, mason, ready)", "Edit(1", ""),
            ("(P2, -, ready)", "(P2, -, cancelled)", "Cancel(1)", ""),
            (
                "- [ ] **TASK-1",
                "- [x] **TASK-1",
                "",
                "only the agent that holds",
            ),
            ("sing", "sing loud", "", "it is running"),
            ("(P2, -, running)", "(P2, -, cancelled)", "Cancel(3)", ""),
            (
                "(P2, -, running)",
                "(P2, -, done)",
                "",
                "the only states that can be written here",
            ),
            ("(P2, -, failed)", "(P2, -, retry)", "Retry(2)", ""),
            ("- [x] **TASK-2", "- [ ] **TASK-2", "", "write `retry`"),
            ("**TASK-2**", "**TASK-9**", "", "there is no TASK-9"),
            ("**TASK-2**", "**TASK-1**", "", "is listed twice"),
            (
                "## Over",
                "- [ ] new work\n- [ ] new work\n\n## Over",
                "Add(TaskFields { priority: P2, assignee: None, text: \"new work\" }, 0) Add(TaskFields { priority: P2, assignee: None, text: \"new work\" }, 1)",
                "",
            ),
            (
                "## Over",
                "- [x] done work\n\n## Over",
                "",
                "must not be ticked",
            ),
            ("## Over", "", "", ""),
        ] {
            let (did, said) = outcome(from, to);
            assert!(
                did.starts_with(edits) && did.is_empty() == edits.is_empty(),
                "{to}: {did}"
            );
            assert!(
                said.contains(told) && said.is_empty() == told.is_empty(),
                "{to}: {said}"
            );
        }
    }

    /// The house's side moved on: a line that nobody edited is only old; one that was edited is told.
    #[test]
    fn an_old_line_is_no_wish() {
        let written = super::super::text::render_file("h", 1, &[task(1, "bake", TaskState::Ready)]);
        let moved: BTreeMap<u64, QueueEntry> = [(1, task(1, "bake rye", TaskState::Done))].into();
        let (edits, conflicts) = merge_items(&parse_file(&written).1, &moved);
        assert!(
            edits.is_empty() && conflicts.is_empty(),
            "{edits:?} {conflicts:?}"
        );
        let edited = written.replace("bake", "bake wheat");
        let (edits, conflicts) = merge_items(&parse_file(&edited).1, &moved);
        assert!(edits.is_empty());
        assert!(
            conflicts[0].why.contains("in the file and in the house"),
            "{conflicts:?}"
        );
        let stripped = "- [ ] **TASK-1** (P2, -) bake wheat\n";
        let (edits, conflicts) = merge_items(&parse_file(stripped).1, &moved);
        assert!(edits.is_empty());
        assert!(
            conflicts[0].why.contains("comment at the end"),
            "{conflicts:?}"
        );
    }
}
