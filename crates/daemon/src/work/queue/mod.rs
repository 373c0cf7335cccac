//! The work queue as Markdown: a file of people's own in which the house marks the tasks, while the control plane runs
//! (S2-15). The store is authoritative; a file only requests changes. Bytes of the file that are not the house's stay as they
//! are.

mod document;
mod edits;
mod headings;
mod lines;
mod merge;
mod text;

#[cfg(test)]
mod tests;

use crate::core::error::Result;
use crate::work::evidence::check_reviewers;
use crate::work::lookup::{find_agent_prefix, find_agent_slug};
use crate::work::state::WorkState;
use abbey_api::{Problem, QueueConflict, QueueDoc, QueueTextEdit, VERSION};
use abbey_model::{BudgetAmounts, FaultKind, Principal, Slug, TaskRef};
use abbey_store::{Added, NewTask, QueueFilter, TaskEdit, TaskRow};
use document::{Document, Place, QueueItem, Source, parse_document};
use edits::{ENDED_MAX, Outcome, Shown, apply_edits, revise};
use merge::QueueEdit;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use text::{QueueEntry, TaskFields};

/// Most open tasks in a file.
const OPEN_MAX: u32 = 2000;
/// Ended tasks that are read to find those that are listed.
const ENDED_READ: u32 = 1000;
/// Most entries in a file.
const ENTRIES_MAX: usize = 10_000;
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

/// Tasks as they were at one instant.
struct Tasks {
    newest: u64,
    by_number: BTreeMap<u64, QueueEntry>,
    /// Those that people added: no subtasks, and none that the control plane added. Open ones by urgency, then the newest of
    /// those that ended.
    listed: Vec<QueueEntry>,
}

async fn read_tasks(work: &WorkState, numbers: BTreeSet<u64>) -> Result<Tasks> {
    let filter = QueueFilter {
        open_max: OPEN_MAX,
        ended_max: ENDED_READ,
        numbers: numbers.into_iter().collect(),
    };
    let rows = work.core.store.queue_tasks(filter).await?;
    let is_whole = |row: &&TaskRow| {
        let link = row.link.as_ref();
        let subtask = link.is_some_and(|l| l.parent.is_some() || l.step.is_some());
        !subtask && row.author != Principal::House
    };
    let whole = rows.iter().filter(is_whole);
    let (ended, mut open): (Vec<&TaskRow>, Vec<&TaskRow>) =
        whole.partition(|r| r.state().is_terminal());
    open.sort_by_key(|r| (r.priority as u8, r.number));
    let listed = open.into_iter().chain(ended.into_iter().take(ENDED_MAX));
    Ok(Tasks {
        newest: rows.first().map_or(0, |r| r.number),
        listed: listed.map(queue_entry).collect(),
        by_number: rows.iter().map(|r| (r.number, queue_entry(r))).collect(),
    })
}

/// By which this house knows the files that it wrote: neither a new name nor a restore or another key changes it.
async fn writer(work: &WorkState) -> Result<String> {
    let key = work.core.store.first_key().await?.unwrap_or_default();
    Ok(abbey_support::digest::sha256_hex(key.as_bytes())[..8].to_owned())
}

/// Changes of a file so that it shows the tasks as they are now.
async fn revise_file(
    work: &WorkState,
    source: &Source<'_>,
    document: &Document,
    outcome: &Outcome,
) -> Result<Vec<edits::TextEdit>> {
    let tasks = read_tasks(work, outcome.numbers.values().copied().collect()).await?;
    let house = work.core.plan.current().map(|c| c.house.name.to_string());
    let shown = Shown {
        house: &house.unwrap_or_default(),
        writer: &writer(work).await?,
        newest: tasks.newest,
        tasks: &tasks.by_number,
        listed: &tasks.listed,
    };
    Ok(revise(source, document, outcome, &shown))
}

/// The work queue as Markdown, as a file would begin.
pub(crate) async fn render_queue(work: &WorkState) -> Result<String> {
    let source = Source::new("", &[]);
    let document = parse_document(&source);
    let edits = revise_file(work, &source, &document, &Outcome::default()).await?;
    Ok(apply_edits("", &edits))
}

/// Applies the changes that an edited work queue file requests, as `by`, and returns the new file, what was
/// done, and the conflicts. `undecoded` are the offsets of characters that stand for bytes which are not UTF-8.
///
/// # Errors
/// If the file is too large or the store fails.
pub(crate) async fn merge_queue_file(
    work: &Arc<WorkState>,
    file: &str,
    undecoded: &[u64],
    by: &Principal,
) -> Result<QueueDoc> {
    if file.len() > TEXT_MAX {
        let text = format!("a work queue file may have at most {TEXT_MAX} bytes");
        return Err(Problem::new(FaultKind::TooLarge, text).into());
    }
    let mut undecoded: Vec<usize> = undecoded
        .iter()
        .filter_map(|at| usize::try_from(*at).ok())
        .collect();
    undecoded.sort_unstable();
    let source = Source::new(file, &undecoded);
    let document = parse_document(&source);
    let items = &document.items;
    let numbers: BTreeSet<u64> = items.iter().filter_map(|i| i.number).collect();
    if items.len() > ENTRIES_MAX {
        let text = format!("a work queue file may have at most {ENTRIES_MAX} tasks");
        return Err(Problem::new(FaultKind::TooLarge, text).into());
    }
    let own = writer(work).await?;
    if let Some((line, _)) = document.writers.iter().find(|(_, named)| *named != own) {
        return Ok(foreign_file(file, *line));
    }
    let before = read_tasks(work, numbers.clone()).await?;
    let merge = merge::merge_items(&document, &before.by_number);
    let mut merging = Merging {
        work,
        by,
        version: document.header.as_ref().map_or(0, |(_, version)| *version),
        numbers,
        outcome: Outcome {
            kept: merge.kept,
            ..Outcome::default()
        },
        doc: QueueDoc {
            version: VERSION,
            text: String::new(),
            edits: Vec::new(),
            done: Vec::new(),
            known: Vec::new(),
            conflicts: Vec::new(),
        },
    };
    for (index, item) in items.iter().enumerate() {
        let number = item.number.map(|number| (index, number));
        merging.outcome.numbers.extend(number);
    }
    for found in &document.unclear {
        let conflict = queue_conflict(found.line, None, &found.raw, found.why.clone(), true);
        merging.doc.conflicts.push(conflict);
    }
    for c in merge.conflicts {
        merging.refuse(c.item, &items[c.item], c.why, c.kept);
    }
    for (index, edit) in merge.edits {
        merging.apply(index, &items[index], edit).await;
    }
    let Merging {
        outcome, mut doc, ..
    } = merging;
    let edits = revise_file(work, &source, &document, &outcome).await?;
    doc.conflicts.sort_by_key(|c| c.line);
    doc.text = apply_edits(file, &edits);
    let number = |at: usize| u64::try_from(at).unwrap_or(u64::MAX);
    doc.edits = edits
        .into_iter()
        .map(|e| QueueTextEdit {
            start: number(e.range.start),
            end: number(e.range.end),
            text: e.text,
        })
        .collect();
    Ok(doc)
}

/// Answer to a file with tasks of another house, whose numbers are those of other tasks here.
fn foreign_file(file: &str, line: usize) -> QueueDoc {
    let why = "this is the work queue of another house, so nothing was read from it and nothing was written into it; to add its tasks to this house, remove this comment and the numbers, such as `**TASK-7**`";
    QueueDoc {
        version: VERSION,
        text: file.to_owned(),
        edits: Vec::new(),
        done: Vec::new(),
        known: Vec::new(),
        conflicts: vec![queue_conflict(line, None, "", why.to_owned(), true)],
    }
}

fn queue_conflict(
    line: usize,
    number: Option<u64>,
    wrote: &str,
    why: String,
    kept: bool,
) -> QueueConflict {
    QueueConflict {
        line: u64::try_from(line).unwrap_or(0),
        task: number.map(|n| format!("TASK-{n}")),
        wrote: wrote.to_owned(),
        why,
        kept,
    }
}

/// Refuses a text that begins with an agent's name in brackets: without a priority they are part of the text, which was
/// hardly meant.
///
/// # Errors
/// `Invalid`, with what to write.
fn refuse_agent_without_priority(work: &WorkState, text: &str) -> Result<()> {
    let inside = text.strip_prefix('(').and_then(|t| t.split_once(')'));
    let words = inside.into_iter().flat_map(|(inside, _)| inside.split(','));
    let named = words
        .filter_map(|word| word.trim().parse::<Slug>().ok())
        .find(|name| find_agent_slug(work, name.as_str()).is_ok());
    match (named, inside) {
        (Some(name), Some((inside, _))) => {
            let text = format!(
                "`({inside})` is not understood: a priority is missing; write `(P2, {name})` for agent `{name}`"
            );
            Err(Problem::new(FaultKind::Invalid, text).into())
        }
        _ => Ok(()),
    }
}

/// A file whose changes are being applied.
struct Merging<'m> {
    work: &'m Arc<WorkState>,
    by: &'m Principal,
    /// Newest task when the house wrote the file; 0 if it never did.
    version: u64,
    /// Tasks that the file names.
    numbers: BTreeSet<u64>,
    outcome: Outcome,
    doc: QueueDoc,
}

impl Merging<'_> {
    fn refuse(&mut self, index: usize, item: &QueueItem, why: String, kept: bool) {
        match kept {
            true => self.outcome.kept.insert(index),
            false => self.outcome.settled.insert(index),
        };
        // A heading keeps its words in any case.
        let stays = kept || matches!(item.place, Place::Heading(_));
        let conflict = queue_conflict(item.line, item.number, &item.raw, why, stays);
        self.doc.conflicts.push(conflict);
    }

    /// Applies one change. If the task changed meanwhile, or does not exist, the conflict is reported, and the rest goes on.
    async fn apply(&mut self, index: usize, item: &QueueItem, edit: QueueEdit) {
        let changed = match edit {
            QueueEdit::Add(fields, nth) => {
                let key = format!("queue {} {} {nth}", self.version, fields.digest());
                return match self.add(fields, key).await {
                    Ok(added) => self.bind(index, item, &added),
                    Err(error) => self.refuse(index, item, error.chain(), true),
                };
            }
            QueueEdit::Again(number, fields) => {
                let key = format!("queue again {number} {}", fields.digest());
                self.outcome.settled.insert(index);
                return match self.add(fields, key).await {
                    Ok(added) => self.bind(index, item, &added),
                    Err(error) => self.refuse(index, item, error.chain(), false),
                };
            }
            QueueEdit::Edit(number, fields) => self.edit(number, fields).await,
            QueueEdit::Cancel(number) => self.cancel(number).await,
            QueueEdit::Retry(number) => self.retry(number).await,
        };
        match changed {
            Ok(done) => {
                self.outcome.settled.insert(index);
                self.doc.done.push(done);
            }
            Err(error) => self.refuse(index, item, error.chain(), false),
        }
    }

    /// Records the task that an entry without a number is now, or was already.
    fn bind(&mut self, index: usize, item: &QueueItem, added: &Added) {
        let (number, state) = (added.task.number, added.task.state());
        let is_listed = !self.numbers.insert(number);
        if is_listed {
            let why = format!(
                "a line with these words was added before as TASK-{number}, which is listed too; change the words to add another task"
            );
            return self.refuse(index, item, why, true);
        }
        self.outcome.numbers.insert(index, number);
        let from = match &item.place {
            Place::Heading(place) => format!(" from {}", place.name),
            Place::Line(_) => String::new(),
        };
        match (added.new, state.is_terminal()) {
            (true, _) => self.doc.done.push(format!("TASK-{number} was added{from}")),
            (false, false) => {
                let text = format!("TASK-{number} was added{from} before");
                self.doc.known.push(text);
            }
            (false, true) => self.doc.known.push(format!(
                "TASK-{number} was added{from} before and is {state}; write `retry` for its state to have it done again"
            )),
        }
    }

    fn assignee(&self, fields: &TaskFields) -> Result<Option<Slug>> {
        let name = fields.assignee.as_deref();
        name.map(|name| find_agent_slug(self.work, name))
            .transpose()
    }

    /// Adds a task. The same key with the same fields is the same task, also when its number did not get into the file.
    async fn add(&self, fields: TaskFields, key: String) -> Result<Added> {
        let digest = fields.digest();
        let assignee = match self.assignee(&fields)? {
            None => {
                refuse_agent_without_priority(self.work, &fields.text)?;
                find_agent_prefix(self.work, &fields.text)?
            }
            named => named,
        };
        let new = NewTask {
            author: self.by.clone(),
            assignee,
            priority: fields.priority,
            budget: BudgetAmounts::default(),
            policy: None,
            idempotency: Some((key, digest)),
            intake: self.work.intake_for_text(&fields.text),
            delegated: None,
            text: fields.text,
        };
        Ok(self.work.core.store.add_task(new).await?)
    }

    async fn edit(&self, number: u64, fields: TaskFields) -> Result<String> {
        let (task, by) = (TaskRef::Number(number), self.by.clone());
        let mut row = self.work.core.store.task(task).await?;
        let assignee = self.assignee(&fields)?;
        (row.pinned, row.assignee) = (assignee.is_some(), assignee.clone());
        // With the same text it stays what it was accepted as.
        let mut intake = match row.text == fields.text {
            true => self.work.intake_for_task(&row),
            false => self.work.intake_for_text(&fields.text),
        };
        if let Some(link) = &row.link {
            check_reviewers(&mut intake, &link.evidence, assignee.as_ref())?;
        }
        let edit = TaskEdit {
            assignee,
            priority: fields.priority,
            intake,
            text: fields.text,
        };
        self.work.core.store.edit_task(task, edit, by).await?;
        Ok(format!("TASK-{number} was changed"))
    }

    async fn cancel(&self, number: u64) -> Result<String> {
        let (task, by) = (TaskRef::Number(number), self.by.clone());
        self.work.core.store.cancel_task(task, by).await?;
        Ok(format!("TASK-{number} was cancelled"))
    }

    async fn retry(&self, number: u64) -> Result<String> {
        let (task, by) = (TaskRef::Number(number), self.by.clone());
        let row = self.work.core.store.retry_task(task, by).await?;
        self.work.readmit_task(&row).await?;
        Ok(format!("TASK-{number} is done again"))
    }
}
