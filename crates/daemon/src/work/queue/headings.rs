//! Entries in the style of other task systems: a heading with a name such as `TASK-003`, fields such as `**Status:** READY`
//! below it, and then its text. The house writes nothing into them but the value of the status and a comment.

use super::document::{
    Block, BlockKind, HeadingPlace, Place, QueueItem, Source, Unclear, next_line,
};
use super::text::{Mark, TaskFields, normalize_text, parse_heading_comment};
use abbey_model::{Priority, TaskState};
use std::ops::Range;

/// What a heading is.
pub(super) enum Entry {
    Task(Box<QueueItem>),
    /// It is over and was never a task of the house.
    Record,
    Unclear(Unclear),
    /// A heading with the name of a task and no status.
    NoStatus(Unclear),
}

/// Parses the heading `blocks[index]` with its section, which ends at `end` at the latest; `None` if it names no task.
pub(super) fn parse_entry(
    source: &Source<'_>,
    blocks: &[Block],
    index: usize,
    end: usize,
) -> Option<(Range<usize>, Entry)> {
    let block = &blocks[index];
    let BlockKind::Heading(level, title) = &block.kind else {
        return None;
    };
    let (name, title) = split_name(source.text.get(title.clone())?)?;
    let section = block.range.start..section_end(&blocks[index + 1..], *level, end);
    let entry = parse_section(source, blocks, index, (name, title), &section);
    Some((section, entry))
}

/// End of the section of a heading: the next heading of its level or above it, a line across, or the house's comment.
fn section_end(after: &[Block], level: usize, end: usize) -> usize {
    let next = after.iter().find(|b| match b.kind {
        BlockKind::Heading(other, _) => other <= level,
        BlockKind::Header(_) | BlockKind::Rule => true,
        BlockKind::Other => false,
    });
    next.map_or(end, |b| b.range.start.min(end))
}

/// Splits `TASK-003: Repair the gate` into its name and the rest.
fn split_name(title: &str) -> Option<(&str, &str)> {
    let title = title.trim_start_matches(|c: char| !c.is_alphanumeric());
    let digits = title.strip_prefix("TASK-")?;
    let rest = digits.trim_start_matches(|c: char| c.is_ascii_digit());
    let length = title.len() - rest.len();
    if rest.len() == digits.len() || rest.starts_with(|c: char| c.is_alphanumeric()) {
        return None;
    }
    let rest = rest.trim_start_matches(['*', '_', '`', ']', ':', '-', '–', '—', '.', ' ', '\t']);
    Some((&title[..length], rest.trim_end()))
}

/// Fields that the house understands, and the text that is left.
#[derive(Default)]
struct Fields {
    status: Option<Range<usize>>,
    priority: Option<Range<usize>>,
    owner: Option<Range<usize>>,
    comment: Option<(Range<usize>, u64, Mark)>,
    text: String,
}

fn parse_section(
    source: &Source<'_>,
    blocks: &[Block],
    index: usize,
    (name, title): (&str, &str),
    section: &Range<usize>,
) -> Entry {
    let text = source.text;
    let raw = text[section.clone()].trim_end();
    let line = source.line_at(section.start);
    let unclear = |why: String| Unclear {
        line,
        raw: raw.to_owned(),
        why,
    };
    let heading = &text[blocks[index].range.clone()];
    let below = next_line(text, section.start + heading.trim_end().len()).min(section.end);
    let fields = read_fields(text, below..section.end);
    let Some(status) = fields.status.clone() else {
        return Entry::NoStatus(unclear(format!(
            "{name} has no line such as `**Status:** READY` below its heading, so it is no task; add one, or rename the heading"
        )));
    };
    let word = &text[status.clone()];
    let class = Class::of_word(word);
    let mark = fields
        .comment
        .as_ref()
        .map(|(_, number, mark)| (*number, mark.clone()));
    if mark.is_none() && matches!(class, Some(Class::Ended(_))) {
        return Entry::Record;
    }
    if let Some(why) = source.unreadable(section) {
        return Entry::Unclear(unclear(why));
    }
    let Some(class) = class else {
        return Entry::Unclear(unclear(format!(
            "the status `{word}` of {name} is not understood; write READY, IN_PROGRESS, BLOCKED, COMPLETE, FAILED or CANCELLED"
        )));
    };
    if mark.is_none() && matches!(class, Class::Running | Class::Blocked) {
        return Entry::Unclear(unclear(format!(
            "{name} is {word} in the file, so somebody else has it; write READY for its status to have the house do it"
        )));
    }
    let priority = match &fields.priority {
        Some(range) => match parse_priority(&text[range.clone()]) {
            Some(priority) => priority,
            None => {
                return Entry::Unclear(unclear(format!(
                    "the priority `{}` of {name} is not understood; write one from P0 to P3",
                    &text[range.clone()]
                )));
            }
        },
        None => group_priority(text, blocks, index).unwrap_or(Priority::P2),
    };
    let state = mark.as_ref().map(|(_, mark)| class.state(word, mark));
    let place = HeadingPlace {
        name: name.to_owned(),
        status,
        comment: fields.comment.map_or(below..below, |(range, _, _)| range),
    };
    let over = mark.as_ref().is_some_and(|(_, m)| is_over(&m.state));
    Entry::Task(Box::new(QueueItem {
        line,
        ticked: over,
        number: mark.as_ref().map(|(number, _)| *number),
        fields: TaskFields {
            priority,
            assignee: fields.owner.and_then(|range| parse_owner(&text[range])),
            text: normalize_text(&format!("{title}\n{}", fields.text)),
        },
        state,
        mark: mark.map(|(_, mark)| mark),
        raw: raw.to_owned(),
        place: Place::Heading(place),
    }))
}

/// Reads the fields below a heading, up to the first line that is none, and the text.
fn read_fields(text: &str, range: Range<usize>) -> Fields {
    let mut fields = Fields::default();
    let mut at = range.start;
    let mut leading = true;
    while at < range.end {
        let next = next_line(text, at).min(range.end);
        let line = &text[at..next];
        let trimmed = line.trim();
        let begin = at + (line.len() - line.trim_start().len());
        at = next;
        if leading
            && fields.comment.is_none()
            && let Some((number, mark)) = parse_heading_comment(trimmed)
        {
            fields.comment = Some((begin..begin + trimmed.len(), number, mark));
            continue;
        }
        if leading && let Some((name, value)) = split_field(trimmed) {
            let value = begin + value.start..begin + value.end;
            let place = match name.to_lowercase().as_str() {
                "status" | "state" => Some(&mut fields.status),
                "priority" => Some(&mut fields.priority),
                "assigned" | "assigned to" | "assignee" | "owner" | "agent" => {
                    Some(&mut fields.owner)
                }
                _ => None,
            };
            if let Some(place @ None) = place {
                *place = Some(value);
                continue;
            }
        } else if !trimmed.is_empty() {
            leading = false;
        }
        fields.text.push_str(line);
    }
    fields
}

/// Splits `**Status:** READY`, also with a bullet before it, into its name and the range of its value without marks.
fn split_field(line: &str) -> Option<(&str, Range<usize>)> {
    let bare = line.strip_prefix(['-', '*', '+']);
    let bare = bare.filter(|t| t.starts_with(' ')).unwrap_or(line);
    let (name, value) = bare.split_once(':')?;
    let name = name.trim_matches(['*', '_', ' ']);
    let is_name = name.chars().all(|c| c.is_alphabetic() || c == ' ');
    if name.is_empty() || name.len() > 24 || !is_name {
        return None;
    }
    let core = value.trim_matches(|c: char| !c.is_alphanumeric());
    let begin = value.trim_start_matches(|c: char| !c.is_alphanumeric());
    let start = line.len() - begin.len();
    Some((name, start..start + core.len()))
}

/// Priority of the heading above, such as `## P0 - CRITICAL`.
fn group_priority(text: &str, blocks: &[Block], index: usize) -> Option<Priority> {
    let BlockKind::Heading(mut level, _) = blocks[index].kind else {
        return None;
    };
    for block in blocks[..index].iter().rev() {
        let BlockKind::Heading(other, title) = &block.kind else {
            continue;
        };
        if *other < level {
            level = *other;
            let title = text.get(title.clone()).unwrap_or_default();
            let title = title.trim_start_matches(|c: char| !c.is_alphanumeric());
            let word = title.split(|c: char| !c.is_alphanumeric()).next();
            if let Some(priority) = word.and_then(|w| w.parse().ok()) {
                return Some(priority);
            }
        }
    }
    None
}

fn parse_priority(value: &str) -> Option<Priority> {
    let word = value.split(|c: char| !c.is_alphanumeric()).next()?;
    match word.to_lowercase().as_str() {
        "critical" | "urgent" => Some(Priority::P0),
        "high" => Some(Priority::P1),
        "medium" | "normal" => Some(Priority::P2),
        "low" => Some(Priority::P3),
        _ => word.to_uppercase().parse().ok(),
    }
}

fn parse_owner(value: &str) -> Option<String> {
    let name = value.to_lowercase();
    let nobody = ["", "none", "unassigned", "nobody", "anyone", "tbd"];
    (!nobody.contains(&name.as_str())).then_some(name)
}

/// Meaning of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Waiting,
    Running,
    Blocked,
    Ended(TaskState),
    Retry,
}

impl Class {
    fn of_word(word: &str) -> Option<Class> {
        let word = word.to_uppercase().replace([' ', '-'], "_");
        Some(match word.as_str() {
            "READY" | "PENDING" | "TODO" | "OPEN" | "QUEUED" | "NEW" | "BACKLOG" => Class::Waiting,
            "IN_PROGRESS" | "RUNNING" | "ACTIVE" | "STARTED" | "CLAIMED" | "DOING" | "WIP" => {
                Class::Running
            }
            "BLOCKED" | "ON_HOLD" | "WAITING" => Class::Blocked,
            "COMPLETE" | "COMPLETED" | "DONE" | "CLOSED" | "FINISHED" => {
                Class::Ended(TaskState::Done)
            }
            "UNVERIFIED" => Class::Ended(TaskState::Unverified),
            "FAILED" => Class::Ended(TaskState::Failed),
            "TIMED_OUT" => Class::Ended(TaskState::TimedOut),
            "CANCELLED" | "CANCELED" => Class::Ended(TaskState::Cancelled),
            "RETRY" => Class::Retry,
            _ => return None,
        })
    }

    const fn of_state(state: TaskState) -> Class {
        match state {
            TaskState::Pending | TaskState::Parked | TaskState::Ready => Class::Waiting,
            TaskState::Running => Class::Running,
            TaskState::Blocked | TaskState::AwaitingApproval => Class::Blocked,
            ended => Class::Ended(ended),
        }
    }

    /// State that a status of this class requests of a task whose state was written before: none other, if it means the
    /// same.
    fn state(self, word: &str, mark: &Mark) -> String {
        let was = mark.state.parse().ok().map(Class::of_state);
        match self {
            same if was == Some(same) => mark.state.clone(),
            Class::Ended(TaskState::Cancelled) => "cancelled".to_owned(),
            Class::Retry => "retry".to_owned(),
            Class::Waiting if is_over(&mark.state) => "retry".to_owned(),
            _ => word.to_lowercase(),
        }
    }
}

fn is_over(state: &str) -> bool {
    state.parse::<TaskState>().is_ok_and(TaskState::is_terminal)
}

/// Status for a task in this state, or the one that is there if it means the same.
pub(super) fn status_for(state: TaskState, is: &str) -> &str {
    let class = Class::of_state(state);
    if Class::of_word(is) == Some(class) {
        return is;
    }
    match class {
        Class::Waiting | Class::Retry => "READY",
        Class::Running => "IN_PROGRESS",
        Class::Blocked => "BLOCKED",
        Class::Ended(TaskState::Done) => "COMPLETE",
        Class::Ended(TaskState::Unverified) => "UNVERIFIED",
        Class::Ended(TaskState::TimedOut) => "TIMED_OUT",
        Class::Ended(TaskState::Cancelled) => "CANCELLED",
        Class::Ended(_) => "FAILED",
    }
}
