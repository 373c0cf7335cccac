//! Decides which bytes of a work queue file change: the box, number, attributes and comment of a task, its text where the
//! house has another one, the value of a status, and lines that the house added. A pure function.

use super::document::{
    Document, HeadingPlace, LinePlace, Place, QueueItem, Source, next_line, parse_document,
};
use super::headings::status_for;
use super::lines::{render_comment, render_head, render_own_line, render_text};
use super::merge::{QueueEdit, merge_items};
use super::text::{Mark, QueueEntry};
use abbey_model::TaskState;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Most lines of ended tasks that the house added and keeps in a file.
pub(super) const ENDED_MAX: usize = 50;

/// A change of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TextEdit {
    /// Bytes that are replaced.
    pub(super) range: Range<usize>,
    pub(super) text: String,
}

/// The tasks that a file is to show.
pub(super) struct Shown<'s> {
    /// Name of the house.
    pub(super) house: &'s str,
    /// By which the house knows files that it wrote.
    pub(super) writer: &'s str,
    /// Number of the newest task of all.
    pub(super) newest: u64,
    /// Tasks that the file names, by number.
    pub(super) tasks: &'s BTreeMap<u64, QueueEntry>,
    /// Tasks that belong into the file, in the order in which they are added.
    pub(super) listed: &'s [QueueEntry],
}

/// What is known about the entries of a file after its changes were applied.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Task of each entry, by its place in the file.
    pub(super) numbers: BTreeMap<usize, u64>,
    /// Entries that stay as they are.
    pub(super) kept: BTreeSet<usize>,
    /// Entries whose change was applied or refused, so that it is no longer news.
    pub(super) settled: BTreeSet<usize>,
}

/// Applies edits that are in order and do not overlap.
pub(super) fn apply_edits(text: &str, edits: &[TextEdit]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for edit in edits {
        out.push_str(&text[at..edit.range.start]);
        out.push_str(&edit.text);
        at = edit.range.end;
    }
    out.push_str(&text[at..]);
    out
}

/// Changes of a file so that it shows the tasks. None of them lets the file be read as saying anything else than before; what
/// can't be added without that is not added.
pub(super) fn revise(
    source: &Source<'_>,
    document: &Document,
    outcome: &Outcome,
    shown: &Shown<'_>,
) -> Vec<TextEdit> {
    let text = source.text;
    let entries = entry_edits(text, document, outcome, shown);
    let missing = missing_entries(document, outcome, shown);
    let mut bound = outcome.numbers.iter();
    let concerned = document.is_blank
        || bound.any(|(index, n)| !outcome.kept.contains(index) && shown.tasks.contains_key(n));
    let header = document.header.is_none() && concerned;
    if entries.is_empty() && missing.is_empty() && !header {
        return Vec::new();
    }
    let mut ways = match missing.is_empty() && document.header.is_none() && !header {
        true => Vec::new(),
        false => additions(text, document, &missing, shown),
    };
    ways.push(Vec::new());
    let added = missing.len();
    let last = ways.len() - 1;
    let ways = ways.into_iter().enumerate();
    let mut edits = ways.map(|(index, way)| {
        let mut edits = entries.clone();
        edits.extend(way.into_iter().filter(|e| text[e.range.clone()] != e.text));
        edits.sort_by_key(|e| (e.range.start, e.range.end));
        (edits, (index != last).then_some(added))
    });
    let stable =
        edits.find(|(edits, added)| is_stable(source, document, outcome, shown, edits, *added));
    stable.map_or_else(Vec::new, |(edits, _)| edits)
}

/// Whether the edited file is read as the same entries, with the house's comment and `added` lines of the house more unless
/// nothing is added, and needs no further change.
fn is_stable(
    source: &Source<'_>,
    document: &Document,
    outcome: &Outcome,
    shown: &Shown<'_>,
    edits: &[TextEdit],
    added: Option<usize>,
) -> bool {
    let text = apply_edits(source.text, edits);
    let undecoded = shift(source.undecoded, edits);
    let after = parse_document(&Source::new(&text, &undecoded));
    let removed = superfluous_lines(document, outcome, shown).len();
    if added.is_some() && after.header.as_ref().map(|(_, newest)| *newest) != Some(shown.newest) {
        return false;
    }
    if after.items.len() + removed != document.items.len() + added.unwrap_or(0)
        || after.unclear.len() != document.unclear.len()
    {
        return false;
    }
    let merge = merge_items(&after, shown.tasks);
    let not_added = document.items.iter().enumerate();
    let not_added = not_added.filter(|(index, item)| {
        item.number.is_none()
            && (!outcome.numbers.contains_key(index) || outcome.kept.contains(index))
    });
    let adds = |edit: &(usize, QueueEdit)| matches!(edit.1, QueueEdit::Add(..));
    if merge.edits.len() != not_added.count()
        || !merge.edits.iter().all(adds)
        || !merge.conflicts.iter().all(|c| c.kept)
    {
        return false;
    }
    let numbers = after.items.iter().enumerate();
    let outcome = Outcome {
        numbers: numbers
            .filter_map(|(i, item)| Some((i, item.number?)))
            .collect(),
        kept: merge.kept,
        settled: BTreeSet::new(),
    };
    entry_edits(&text, &after, &outcome, shown).is_empty()
}

/// Offsets after edits.
fn shift(offsets: &[usize], edits: &[TextEdit]) -> Vec<usize> {
    let moved = offsets.iter().map(|offset| {
        let before = edits.iter().take_while(|e| e.range.end <= *offset);
        before.fold(*offset, |at, e| at + e.text.len() - e.range.len())
    });
    moved.collect()
}

/// Changes of what stands in the file: marks of entries, and lines of the house that have become superfluous.
fn entry_edits(
    text: &str,
    document: &Document,
    outcome: &Outcome,
    shown: &Shown<'_>,
) -> Vec<TextEdit> {
    let mut edits = Vec::new();
    let superfluous = superfluous_lines(document, outcome, shown);
    for (index, item) in document.items.iter().enumerate() {
        if let Some(range) = superfluous.get(&index) {
            push(&mut edits, text, range.clone(), String::new());
            continue;
        }
        let number = outcome.numbers.get(&index);
        let Some(entry) = number.and_then(|n| shown.tasks.get(n)) else {
            continue;
        };
        if outcome.kept.contains(&index) {
            continue;
        }
        match &item.place {
            Place::Line(place) => line_edits(&mut edits, text, document.eol, item, place, entry),
            Place::Heading(place) => {
                let settled = outcome.settled.contains(&index) || item.number.is_none();
                heading_edits(&mut edits, text, document.eol, item, place, entry, settled);
            }
        }
    }
    edits.sort_by_key(|e| (e.range.start, e.range.end));
    edits
}

/// Adds an edit unless it changes nothing.
fn push(edits: &mut Vec<TextEdit>, text: &str, range: Range<usize>, new: String) {
    if text[range.clone()] != new {
        edits.push(TextEdit { range, text: new });
    }
}

fn line_edits(
    edits: &mut Vec<TextEdit>,
    text: &str,
    eol: &str,
    item: &QueueItem,
    place: &LinePlace,
    entry: &QueueEntry,
) {
    if item.ticked != entry.state.is_terminal() {
        let tick = if entry.state.is_terminal() { "x" } else { " " };
        push(edits, text, place.tick.clone(), tick.to_owned());
    }
    push(edits, text, place.head.clone(), render_head(entry));
    if item.fields.text != entry.fields.text {
        let (first, rest) = render_text(&entry.fields.text, place.indent, eol);
        push(edits, text, place.first.clone(), first.to_owned());
        let mut rest = rest;
        let below = &text[next_line(text, place.rest.end)..];
        let next = &below[..next_line(below, 0)];
        if rest.is_empty() && !place.rest.is_empty() && !next.trim().is_empty() {
            // What stands below must not become a line of the paragraph.
            rest.push_str(eol);
        }
        push(edits, text, place.rest.clone(), rest);
    }
    let own = item.number.is_some() && item.mark.as_ref().is_some_and(|m| m.own);
    push(
        edits,
        text,
        place.comment.clone(),
        render_comment(entry, own),
    );
}

fn heading_edits(
    edits: &mut Vec<TextEdit>,
    text: &str,
    eol: &str,
    item: &QueueItem,
    place: &HeadingPlace,
    entry: &QueueEntry,
    settled: bool,
) {
    let is = &text[place.status.clone()];
    let status = status_for(entry.state, is).to_owned();
    push(edits, text, place.status.clone(), status);
    let (file, house) = match item.mark.as_ref().filter(|_| !settled) {
        Some(mark) => (mark.file.clone(), mark.house.clone()),
        None => (item.fields.digest(), entry.fields.digest()),
    };
    let mark = Mark {
        file,
        house,
        state: entry.state.name().to_owned(),
        own: false,
    };
    let end = if place.comment.is_empty() { eol } else { "" };
    let comment = format!("{}{end}", mark.heading_comment(entry.number));
    push(edits, text, place.comment.clone(), comment);
}

/// Lines that the house added, of tasks that ended long ago or are no longer on record, and that nobody has changed.
fn superfluous_lines(
    document: &Document,
    outcome: &Outcome,
    shown: &Shown<'_>,
) -> BTreeMap<usize, Range<usize>> {
    let mut ended: Vec<(u64, usize, Range<usize>)> = Vec::new();
    let mut superfluous = BTreeMap::new();
    for (index, item) in document.items.iter().enumerate() {
        let (Place::Line(place), Some(mark), Some(number)) = (&item.place, &item.mark, item.number)
        else {
            continue;
        };
        let Some(whole) = place.whole.clone() else {
            continue;
        };
        if !mark.own || mark.file != item.fields.digest() {
            continue;
        }
        match shown.tasks.get(&number) {
            Some(_) if outcome.kept.contains(&index) => {}
            Some(task) if task.state.is_terminal() => ended.push((number, index, whole)),
            Some(_) => {}
            None if mark.state.parse().is_ok_and(TaskState::is_terminal) => {
                superfluous.insert(index, whole);
            }
            None => {}
        }
    }
    ended.sort_unstable_by_key(|(number, _, _)| std::cmp::Reverse(*number));
    let old = ended.into_iter().skip(ENDED_MAX);
    superfluous.extend(old.map(|(_, index, whole)| (index, whole)));
    superfluous
}

/// Tasks that belong into the file and are not in it. One that has ended is news only if it is newer than what the house
/// wrote last, so that people can tidy up.
fn missing_entries<'s>(
    document: &Document,
    outcome: &Outcome,
    shown: &Shown<'s>,
) -> Vec<&'s QueueEntry> {
    let named: BTreeSet<u64> = document
        .items
        .iter()
        .filter_map(|i| i.number)
        .chain(outcome.numbers.values().copied())
        .collect();
    let known = match &document.header {
        Some((_, version)) => *version,
        None if document.is_blank => 0,
        None => u64::MAX,
    };
    let is_news = |e: &&QueueEntry| !e.state.is_terminal() || e.number > known;
    let missing = shown.listed.iter().filter(|e| !named.contains(&e.number));
    missing.filter(is_news).collect()
}

/// Places at which lines of the house may be added, best first, each with the edit that adds them there. What the edit does
/// to the blocks around it is for the caller to check.
fn additions(
    text: &str,
    document: &Document,
    missing: &[&QueueEntry],
    shown: &Shown<'_>,
) -> Vec<Vec<TextEdit>> {
    let eol = document.eol;
    let lines: String = missing.iter().map(|e| render_own_line(e, eol)).collect();
    if document.is_blank {
        let title = match text.is_empty() {
            true => format!("# Work queue of {}{eol}{eol}", shown.house),
            // A byte-order mark or blank lines.
            false => eol.to_owned(),
        };
        let header = render_header(shown);
        let gap = if lines.is_empty() { "" } else { eol };
        let added = format!("{title}{header}{eol}{gap}{lines}");
        return vec![vec![insert(text.len(), added)]];
    }
    if let Some((header, _)) = &document.header {
        let comment = TextEdit {
            range: header.clone(),
            text: render_header(shown),
        };
        if lines.is_empty() {
            return vec![vec![comment]];
        }
        let after_header = next_line(text, header.end);
        let after = last_open_line(document, header.end).unwrap_or(after_header);
        let places = [after, after_header];
        let mut ways: Vec<Vec<TextEdit>> = places
            .iter()
            .map(|at| {
                let in_list = *at != after_header;
                vec![
                    comment.clone(),
                    insert(*at, surround(text, *at, &lines, eol, in_list)),
                ]
            })
            .collect();
        // As a section of its own, if people made something else of that one.
        ways.extend(
            document
                .ends
                .iter()
                .filter(|at| **at >= header.end)
                .map(|at| {
                    vec![
                        comment.clone(),
                        insert(*at, surround(text, *at, &lines, eol, false)),
                    ]
                }),
        );
        return ways;
    }
    let header = render_header(shown);
    let gap = if lines.is_empty() { "" } else { eol };
    let section = format!("{header}{eol}{gap}{lines}");
    let ways = document.ends.iter();
    ways.map(|at| vec![insert(*at, surround(text, *at, &section, eol, false))])
        .collect()
}

fn insert(at: usize, text: String) -> TextEdit {
    TextEdit {
        range: at..at,
        text,
    }
}

/// End of the last line of the house, of a task that has not ended, behind the house's comment.
fn last_open_line(document: &Document, behind: usize) -> Option<usize> {
    let own = document.items.iter().filter_map(|item| {
        let Place::Line(place) = &item.place else {
            return None;
        };
        let whole = place.whole.as_ref().filter(|w| w.start >= behind)?;
        let open = item.mark.as_ref().is_some_and(|m| m.own) && !item.ticked;
        open.then_some(whole.end)
    });
    own.max()
}

/// Lines with what they need around them: a line end before, and blank lines unless they continue a list.
fn surround(text: &str, at: usize, lines: &str, eol: &str, in_list: bool) -> String {
    let before = &text[..at];
    let mut out = String::new();
    let bare = before.trim_start_matches('\u{feff}');
    if !bare.is_empty() && !bare.ends_with(['\n', '\r']) {
        out.push_str(eol);
    }
    if bare.ends_with('\r') && eol == "\n" {
        // Together the two would be one line end.
        out.push_str(eol);
    }
    let blank_before = bare.is_empty() || {
        let line = bare.trim_end_matches([' ', '\t']);
        let line = line.strip_suffix('\n').unwrap_or(line);
        let line = line.strip_suffix('\r').unwrap_or(line);
        line.trim_end_matches([' ', '\t']).ends_with(['\n', '\r']) && out.is_empty()
    };
    if !in_list && !blank_before {
        out.push_str(eol);
    }
    out.push_str(lines);
    let after = &text[at..];
    let next = &after[..next_line(after, 0)];
    if !in_list && !next.trim().is_empty() {
        out.push_str(eol);
    }
    out
}

/// Comment with which the house's lines begin. `newest` distinguishes a line that was added to this file from the same line
/// in a later one.
fn render_header(shown: &Shown<'_>) -> String {
    let Shown { newest, writer, .. } = shown;
    format!(
        "<!-- abbey {newest}.{writer}. Change a text, a priority or a name; write `cancelled` or `retry` for a state; add a line without a number, as `- [ ] (P1, name) What is to be done`. What stands below `## Notes` is left alone. -->"
    )
}
