//! Task list items of a work queue file: `- [ ] **TASK-7** (P1, name, state) text <!-- comment -->`.
//!
//! Source: CommonMark 0.31 for list items, GitHub Flavored Markdown for task list boxes.

use super::document::{LinePlace, Place, QueueItem, Source, Unclear, line_start, next_line};
use super::text::{Mark, QueueEntry, TaskFields, normalize_text, split_line_comment};
use abbey_model::Priority;
use std::ops::Range;

/// Parses a list item. `None` if it has no box; `Some(None)` if it has one and is no task: a record of what is done.
#[allow(clippy::option_option, reason = "two answers and an item")]
pub(super) fn parse_line(
    source: &Source<'_>,
    range: Range<usize>,
) -> Option<Option<Result<QueueItem, Unclear>>> {
    let text = source.text;
    let raw = text[range.clone()].trim_end();
    let marker = marker_length(raw)?;
    let after = &raw[marker..];
    let pad = after.len() - after.trim_start_matches([' ', '\t']).len();
    let bracket = marker + pad;
    let ticked = match raw.get(bracket..bracket + 3)? {
        "[ ]" => false,
        "[x]" | "[X]" => true,
        _ => return None,
    };
    let behind = &raw[bracket + 3..];
    let first_end = raw.find(['\n', '\r']).unwrap_or(raw.len());
    let space = behind.len() - behind.trim_start_matches([' ', '\t']).len();
    if pad == 0 || first_end < bracket + 3 || (space == 0 && bracket + 3 < first_end) {
        return None;
    }
    let from = (bracket + 3 + space).min(first_end);
    let line = raw[from..first_end].trim_end();
    let (body, mark) = split_line_comment(line);
    let (number, after_number) = split_number(body);
    let unclear = |why: String| Unclear {
        line: source.line_at(range.start),
        raw: raw.to_owned(),
        why,
    };
    if number.is_none() && ticked {
        return Some(None);
    }
    if let Some(why) = source.unreadable(&(range.start..range.start + raw.len())) {
        return Some(Some(Err(unclear(why))));
    }
    let (attributes, first) = match split_attributes(after_number) {
        Ok(split) => split,
        Err(why) => return Some(Some(Err(unclear(why)))),
    };
    let begin = line_start(text, range.start);
    let indent = text[begin..range.start + bracket].chars().count();
    let rest = further_lines(&raw[first_end..], indent);
    let (priority, assignee, state) = attributes.unwrap_or((Priority::P2, None, None));
    let fields = TaskFields {
        priority,
        assignee,
        text: normalize_text(&format!("{first}\n{rest}")),
    };
    if number.is_none() && first.is_empty() {
        let why = "the box has no text on its line; write what is to be done behind it, or remove the box";
        return Some(Some(Err(unclear(why.to_owned()))));
    }
    let at = |offset: usize| range.start + offset;
    let head_end = from + body.len() - first.len();
    let end = next_line(text, at(raw.len()));
    let place = LinePlace {
        tick: at(bracket + 1)..at(bracket + 2),
        head: at(from)..at(head_end),
        first: at(head_end)..at(from + body.len()),
        comment: at(from + body.len())..at(from + line.len()),
        rest: at(first_end)..at(raw.len()),
        indent,
        whole: (begin == range.start).then_some(begin..end),
    };
    Some(Some(Ok(QueueItem {
        line: source.line_at(range.start),
        ticked,
        number,
        fields,
        state,
        mark,
        raw: raw.to_owned(),
        place: Place::Line(place),
    })))
}

/// What is wrong with a list item that begins with brackets which are almost a box: `[]`, or a sign in them that means
/// nothing here. None for another item; `[-]` is a record of what was given up.
pub(super) fn parse_odd_box(source: &Source<'_>, range: Range<usize>) -> Option<Unclear> {
    let raw = source.text[range.clone()].trim_end();
    let inside = raw[marker_length(raw)?..].strip_prefix([' ', '\t'])?;
    let (sign, behind) = inside
        .trim_start_matches([' ', '\t'])
        .strip_prefix('[')?
        .split_once(']')?;
    let mut signs = sign.chars();
    let is_odd = match (signs.next(), signs.next()) {
        (None, None) => true,
        // A letter or a number in brackets is a reference.
        (Some(sign), None) => !sign.is_alphanumeric() && !matches!(sign, ' ' | '-' | '^' | '\\'),
        _ => false,
    };
    let has_text = behind.starts_with([' ', '\t']) && !behind.trim().is_empty();
    (is_odd && has_text).then(|| Unclear {
        line: source.line_at(range.start),
        raw: raw.to_owned(),
        why: format!(
            "`[{sign}]` is no box; write `[ ]` with a blank for a task, or `[x]` or `[-]` for a record"
        ),
    })
}

/// Length of `-`, `*`, `+`, `1.` or `1)`.
fn marker_length(raw: &str) -> Option<usize> {
    if raw.starts_with(['-', '*', '+']) {
        return Some(1);
    }
    let digits = raw.len() - raw.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let ends = raw[digits..].starts_with(['.', ')']);
    (digits > 0 && ends).then_some(digits + 1)
}

/// Lines of an item after the first, without the item's indentation.
fn further_lines(rest: &str, indent: usize) -> String {
    let rest = rest.replace("\r\n", "\n").replace('\r', "\n");
    let lines: Vec<&str> = rest
        .split('\n')
        .skip(1)
        .map(|line| {
            let spaces = line.len() - line.trim_start_matches(' ').len();
            &line[spaces.min(indent)..]
        })
        .collect();
    lines.join("\n")
}

/// Splits off `**TASK-7**`. A number with leading zeros is another system's, and part of the text.
fn split_number(text: &str) -> (Option<u64>, &str) {
    let bare = text.trim_start_matches('*');
    let Some(rest) = bare.strip_prefix("TASK-") else {
        return (None, text);
    };
    let end = rest.find(|c: char| !c.is_ascii_digit());
    let (digits, rest) = rest.split_at(end.unwrap_or(rest.len()));
    if !(rest.is_empty() || rest.starts_with(['*', ':', '(', ' ', '\t', '\n'])) {
        return (None, text);
    }
    match digits.parse() {
        Ok(number) if !digits.starts_with('0') => (
            Some(number),
            rest.trim_start_matches(['*', ':']).trim_start(),
        ),
        _ => (None, text),
    }
}

type Attributes = (Priority, Option<String>, Option<String>);

/// Splits off `(P1, name, state)`; brackets without a priority are part of the text.
///
/// # Errors
/// Why the brackets are not understood.
fn split_attributes(text: &str) -> Result<(Option<Attributes>, &str), String> {
    let Some((inside, rest)) = text.strip_prefix('(').and_then(|t| t.split_once(')')) else {
        return Ok((None, text));
    };
    let words: Vec<&str> = inside.split(',').map(str::trim).collect();
    if !words.iter().any(|w| begins_with_priority(w)) {
        return Ok((None, text));
    }
    let why = |what: &str| {
        format!(
            "`({inside})` is not understood: {what}; write a priority from P0 to P3, then the name of an agent or `-`, as `(P1, name)`"
        )
    };
    let priority = words.first().copied().unwrap_or_default();
    let priority = priority
        .to_uppercase()
        .parse()
        .map_err(|_| why(&format!("`{priority}` is no priority")))?;
    if words.len() > 3 {
        return Err(why("it has more than a priority, a name and a state"));
    }
    let assignee = words.get(1).filter(|w| !matches!(**w, "-" | ""));
    let state = words.get(2).and_then(|s| s.split_whitespace().next());
    let attributes = (
        priority,
        assignee.map(|w| (*w).to_owned()),
        state.map(str::to_owned),
    );
    Ok((Some(attributes), rest.trim_start()))
}

/// Whether a word looks like `P1`, of any number and with whatever after it.
fn begins_with_priority(word: &str) -> bool {
    let Some(rest) = word.strip_prefix(['P', 'p']) else {
        return false;
    };
    let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    after.len() < rest.len() && !after.starts_with(|c: char| c.is_alphanumeric())
}

/// Number and attributes of a task, as they stand before its text.
pub(super) fn render_head(entry: &QueueEntry) -> String {
    let holder = entry.holder.as_ref();
    format!(
        "**TASK-{}** ({}, {}, {}{}) ",
        entry.number,
        entry.fields.priority,
        entry.fields.assignee.as_deref().unwrap_or("-"),
        entry.state,
        holder.map_or_else(String::new, |h| format!(" by {h}")),
    )
}

/// Comment at the end of a task's first line.
pub(super) fn render_comment(entry: &QueueEntry, own: bool) -> String {
    let digest = entry.fields.digest();
    let mark = Mark {
        file: digest.clone(),
        house: digest,
        state: entry.state.name().to_owned(),
        own,
    };
    format!(" {}", mark.line_comment())
}

/// First line of a text, and its further lines with indentation and a line end before each.
pub(super) fn render_text<'t>(text: &'t str, indent: usize, eol: &str) -> (&'t str, String) {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let mut further = String::new();
    for line in rest.split('\n').filter(|_| text.contains('\n')) {
        further.push_str(eol);
        if !line.is_empty() {
            further.extend(std::iter::repeat_n(' ', indent));
            further.push_str(line);
        }
    }
    (first, further)
}

/// A line that the house adds.
pub(super) fn render_own_line(entry: &QueueEntry, eol: &str) -> String {
    let (first, rest) = render_text(&entry.fields.text, 2, eol);
    let tick = if entry.state.is_terminal() { 'x' } else { ' ' };
    let (head, comment) = (render_head(entry), render_comment(entry, true));
    format!("- [{tick}] {head}{first}{comment}{rest}{eol}")
}
