//! Markdown format of the work queue: one task list item for each task, with its number and a
//! comment that holds the digest and state at the time of writing.
//!
//! Source: CommonMark 0.31 for list items, GitHub Flavored Markdown for task list boxes.

use abbey_model::{Priority, TaskState};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use std::fmt::Write as _;
use std::ops::Range;

/// Editable fields of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TaskFields {
    pub(super) priority: Priority,
    /// Agent that the author named.
    pub(super) assignee: Option<String>,
    pub(super) text: String,
}

impl TaskFields {
    /// First 8 hexadecimal digits of the digest of these fields.
    pub(super) fn digest(&self) -> String {
        let who = self.assignee.as_deref().unwrap_or("-");
        let text = format!("{}\0{who}\0{}", self.priority, self.text);
        abbey_support::digest::sha256_hex(text.as_bytes())[..8].to_owned()
    }
}

/// One task list item of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueueItem {
    /// Line of the file, from 1.
    pub(super) line: usize,
    pub(super) ticked: bool,
    pub(super) number: Option<u64>,
    pub(super) fields: TaskFields,
    /// State in the item: a task state, or the requested `cancelled` or `retry`.
    pub(super) state: Option<String>,
    /// Digest and state at the time of writing, from the comment.
    pub(super) mark: Option<(String, String)>,
    /// Markdown of the item.
    pub(super) raw: String,
}

/// A task to be written to the file.
pub(super) struct QueueEntry {
    pub(super) number: u64,
    pub(super) fields: TaskFields,
    pub(super) state: TaskState,
    /// Agent that works on the task, unless it is the assignee.
    pub(super) holder: Option<String>,
}

/// Heading from which on the file belongs to its editors.
const NOTES: &str = "\n## Notes\n";

/// Splits a file into the work queue and the editors' notes.
pub(super) fn split_notes(file: &str) -> (&str, &str) {
    file.split_at(file.find(NOTES).unwrap_or(file.len()))
}

/// Renders the work queue. `version` is the number of the newest task; it distinguishes an item
/// that was added to this file from the same item in a later file.
pub(super) fn render_file(house: &str, version: u64, entries: &[QueueEntry]) -> String {
    let mut text = format!(
        "# Work queue of {house}\n\n<!-- abbey {version}. Change a text, a priority or a name; write `cancelled` or `retry` for a state; add a line without a number, as `- [ ] (P1, name) What is to be done`. What stands below `## Notes` is left alone. -->\n"
    );
    let (over, open): (Vec<_>, Vec<_>) = entries.iter().partition(|e| e.state.is_terminal());
    for (title, part) in [("Open", open), ("Over", over)] {
        if part.is_empty() {
            continue;
        }
        let _to_a_string = write!(text, "\n## {title}\n\n");
        for entry in part {
            text.push_str(&render_line(entry));
        }
    }
    text
}

fn render_line(entry: &QueueEntry) -> String {
    let TaskFields {
        priority,
        assignee,
        text,
    } = &entry.fields;
    let mut lines = text.lines();
    let holder = entry.holder.as_ref();
    let mut line = format!(
        "- [{}] **TASK-{}** ({priority}, {}, {}{}) {} <!-- {} {} -->\n",
        if entry.state.is_terminal() { 'x' } else { ' ' },
        entry.number,
        assignee.as_deref().unwrap_or("-"),
        entry.state,
        holder.map_or_else(String::new, |h| format!(" by {h}")),
        lines.next().unwrap_or_default(),
        entry.fields.digest(),
        entry.state,
    );
    for more in lines {
        match more.trim_end() {
            "" => line.push('\n'),
            more => {
                let _to_a_string = writeln!(line, "  {more}");
            }
        }
    }
    line
}

/// A text as it is read back from a file: without trailing spaces and without blank lines at its
/// end.
pub(super) fn normalize_text(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim().to_owned()
}

/// Parses a file: its version (0 if it has none) and its items.
pub(super) fn parse_file(text: &str) -> (u64, Vec<QueueItem>) {
    let mut items = Vec::new();
    let mut version = None;
    let mut depth = 0usize;
    let parser = Parser::new_ext(text, Options::ENABLE_TASKLISTS).into_offset_iter();
    for (event, range) in parser {
        match event {
            Event::Start(Tag::Item) => {
                if depth == 0 {
                    items.extend(parse_item(text, range));
                }
                depth += 1;
            }
            Event::End(TagEnd::Item) => depth = depth.saturating_sub(1),
            Event::Html(html) if depth == 0 && version.is_none() => {
                let number = html.trim().strip_prefix("<!-- abbey ");
                let number = number.and_then(|n| n.split('.').next()?.parse().ok());
                version = number;
            }
            _ => {}
        }
    }
    (version.unwrap_or(0), items)
}

/// Parses a list item with a box; `None` for other items.
fn parse_item(text: &str, range: Range<usize>) -> Option<QueueItem> {
    let line = text[..range.start].matches('\n').count() + 1;
    let raw = text[range].trim_end();
    let body = raw.trim_start_matches(['-', '*', '+']).trim_start();
    let (ticked, body) = match body.get(..3)? {
        "[ ]" => (false, &body[3..]),
        "[x]" | "[X]" => (true, &body[3..]),
        _ => return None,
    };
    let (first, rest) = body.split_once('\n').unwrap_or((body, ""));
    let (number, first) = split_number(first.trim());
    let (first, mark) = split_mark(first);
    let (attributes, first) = split_attributes(first);
    let more = rest.lines().map(|l| {
        let indent = l.len() - l.trim_start_matches(' ').len();
        l[indent.min(2)..].trim_end()
    });
    let lines: Vec<&str> = std::iter::once(first.trim()).chain(more).collect();
    let (priority, assignee, state) = attributes.unwrap_or((Priority::P2, None, None));
    Some(QueueItem {
        line,
        ticked,
        number,
        fields: TaskFields {
            priority,
            assignee,
            text: lines.join("\n").trim().to_owned(),
        },
        state,
        mark,
        raw: raw.to_owned(),
    })
}

fn split_number(text: &str) -> (Option<u64>, &str) {
    let bare = text.trim_start_matches('*');
    let Some(rest) = bare.strip_prefix("TASK-") else {
        return (None, text);
    };
    let end = rest.find(|c: char| !c.is_ascii_digit());
    let (digits, rest) = rest.split_at(end.unwrap_or(rest.len()));
    match digits.parse() {
        Ok(number) => (
            Some(number),
            rest.trim_start_matches(['*', ':']).trim_start(),
        ),
        Err(_) => (None, text),
    }
}

/// Splits off the comment at the end, such as `<!-- 3f2a9c1d running -->`.
fn split_mark(text: &str) -> (&str, Option<(String, String)>) {
    let comment = text.trim_end().strip_suffix("-->").and_then(|t| {
        let (before, comment) = t.rsplit_once("<!--")?;
        let (digest, state) = comment.trim().split_once(' ')?;
        let hex = digest.len() == 8 && digest.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| (before, (digest.to_owned(), state.trim().to_owned())))
    });
    match comment {
        Some((before, mark)) => (before.trim_end(), Some(mark)),
        None => (text, None),
    }
}

type Attributes = (Priority, Option<String>, Option<String>);

/// Splits off `(P1, name, state)`; other text in brackets is part of the task.
fn split_attributes(text: &str) -> (Option<Attributes>, &str) {
    let found = text.strip_prefix('(').and_then(|t| {
        let (inside, rest) = t.split_once(')')?;
        let mut words = inside.split(',').map(str::trim);
        let priority = words.next()?.to_uppercase().parse().ok()?;
        let assignee = words.next().filter(|w| !matches!(*w, "-" | ""));
        let state = words.next().and_then(|s| s.split_whitespace().next());
        let attributes = (
            priority,
            assignee.map(str::to_owned),
            state.map(str::to_owned),
        );
        words.next().is_none().then_some((attributes, rest))
    });
    match found {
        Some((attributes, rest)) => (Some(attributes), rest.trim_start()),
        None => (None, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(number: u64, text: &str, assignee: Option<&str>, state: TaskState) -> QueueEntry {
        QueueEntry {
            number,
            fields: TaskFields {
                priority: Priority::P1,
                assignee: assignee.map(str::to_owned),
                text: normalize_text(text),
            },
            state,
            holder: None,
        }
    }

    #[test]
    fn what_people_write_is_understood() {
        let text = "# Ours\n\nSome prose.\n\n- not a task\n- [ ] Bake bread\n- [ ] (p0, mason) Bake more\n  of it\n\n* [ ] (urgent) mend the oven\n\n```\n- [ ] in a block\n```\n- [X] TASK-7: (P3, -, retry) Sweep\n";
        let (version, items) = parse_file(text);
        assert_eq!(version, 0);
        let short: Vec<_> = items
            .iter()
            .map(|i| {
                let f = &i.fields;
                (
                    i.line,
                    i.number,
                    f.priority,
                    f.assignee.as_deref(),
                    f.text.as_str(),
                    i.state.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            short,
            [
                (6, None, Priority::P2, None, "Bake bread", None),
                (
                    7,
                    None,
                    Priority::P0,
                    Some("mason"),
                    "Bake more\nof it",
                    None
                ),
                (10, None, Priority::P2, None, "(urgent) mend the oven", None),
                (15, Some(7), Priority::P3, None, "Sweep", Some("retry")),
            ]
        );
        assert!(items[3].ticked && items[3].mark.is_none());
    }

    proptest! {
        /// Whatever a task says comes back from the file as it went in, and nothing next to it changes.
        #[test]
        fn every_text_comes_back(
            texts in prop::collection::vec("[ -~äé\n`#*<>()\\[\\]-]{1,80}", 1..6),
            owner in prop::option::of("[a-z]{1,8}"),
        ) {
            let texts: Vec<String> = texts.iter().map(|t| normalize_text(t)).filter(|t| !t.is_empty()).collect();
            let entries: Vec<QueueEntry> = texts.iter().enumerate().map(|(i, t)| {
                let state = if i % 2 == 0 { TaskState::Ready } else { TaskState::Done };
                entry(i as u64 + 1, t, owner.as_deref(), state)
            }).collect();
            let (version, items) = parse_file(&render_file("h", 41, &entries));
            prop_assert_eq!(version, 41);
            prop_assert_eq!(items.len(), entries.len());
            for entry in &entries {
                let item = items.iter().find(|i| i.number == Some(entry.number)).unwrap();
                prop_assert_eq!(&item.fields, &entry.fields);
                prop_assert_eq!(item.mark.as_ref().unwrap(), &(entry.fields.digest(), entry.state.name().to_owned()));
                prop_assert_eq!(item.ticked, entry.state.is_terminal());
            }
        }
    }
}
