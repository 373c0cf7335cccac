//! Structure of a work queue file: its task list items, the entries of other task systems, the comment of the house, and
//! the places where lines of the house may be added, each with its byte range.
//!
//! Blocks are found by a Markdown parser, so what stands in a code block, a quotation or a table is no task.

use super::headings;
use super::lines;
use super::text::{Mark, TaskFields, is_digest};
use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag};
use std::borrow::Cow;
use std::ops::Range;

/// Most headings before which lines of the house are tried to be placed.
const PLACES_MAX: usize = 8;

/// One entry of a file: a task list item, or a heading in the style of another task system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueueItem {
    /// Line of the file, from 1.
    pub(super) line: usize,
    pub(super) ticked: bool,
    pub(super) number: Option<u64>,
    pub(super) fields: TaskFields,
    /// State in the entry: a task state, or the requested `cancelled` or `retry`.
    pub(super) state: Option<String>,
    /// What the house wrote about the entry.
    pub(super) mark: Option<Mark>,
    /// Markdown of the entry.
    pub(super) raw: String,
    pub(super) place: Place,
}

/// Byte ranges of the parts of an entry that the house may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Line(LinePlace),
    Heading(HeadingPlace),
}

/// Parts of a task list item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LinePlace {
    /// Character between the brackets.
    pub(super) tick: Range<usize>,
    /// Number and attributes, up to the text.
    pub(super) head: Range<usize>,
    /// First line of the text.
    pub(super) first: Range<usize>,
    /// Comment at the end of the first line, with the space before it.
    pub(super) comment: Range<usize>,
    /// Further lines, with the line end before them.
    pub(super) rest: Range<usize>,
    /// Indentation of further lines.
    pub(super) indent: usize,
    /// Whole lines, if nothing else is on them.
    pub(super) whole: Option<Range<usize>>,
}

/// Parts of an entry that is a heading with fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeadingPlace {
    /// Name in the other system, such as `TASK-003`.
    pub(super) name: String,
    /// Value of the field `Status`.
    pub(super) status: Range<usize>,
    /// Comment of the house; empty, at the place where it belongs, if there is none.
    pub(super) comment: Range<usize>,
}

/// An entry that is left as it is because it is not clear what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unclear {
    /// Line of the file, from 1.
    pub(super) line: usize,
    pub(super) raw: String,
    pub(super) why: String,
}

/// A parsed file.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) items: Vec<QueueItem>,
    pub(super) unclear: Vec<Unclear>,
    /// Range of the house's comment, without its line end, and the newest task when it was written.
    pub(super) header: Option<(Range<usize>, u64)>,
    /// Houses that the comments of houses name, each with the line of its comment, from 1. Those of earlier versions name
    /// none.
    pub(super) writers: Vec<(usize, String)>,
    /// Places at which a section of the house can begin, best first.
    pub(super) ends: Vec<usize>,
    /// Line end that the file uses.
    pub(super) eol: &'static str,
    /// Whether the file says nothing.
    pub(super) is_blank: bool,
}

/// A block outside all others.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) range: Range<usize>,
    pub(super) kind: BlockKind,
}

/// Kind of a [`Block`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BlockKind {
    /// A heading with its level and the range of its text.
    Heading(usize, Range<usize>),
    /// The house's comment at the beginning of its lines.
    Header(u64),
    /// A line between two parts.
    Rule,
    /// Anything else.
    Other,
}

/// Containers that decide whether an item in them is a task.
#[derive(Debug, PartialEq, Eq)]
enum Container {
    /// A quotation or an item with a box: what is in it is part of it.
    Closed,
    Open,
}

/// Text of a file, with the places where its bytes were not UTF-8.
#[derive(Debug)]
pub(super) struct Source<'t> {
    pub(super) text: &'t str,
    /// Offsets of characters that stand for other bytes, ascending.
    pub(super) undecoded: &'t [usize],
    /// Offsets at which lines begin.
    lines: Vec<usize>,
}

impl<'t> Source<'t> {
    /// A text, and the offsets of characters in it that stand for other bytes, ascending.
    pub(super) fn new(text: &'t str, undecoded: &'t [usize]) -> Source<'t> {
        let mut lines = Vec::new();
        let mut at = 0;
        while at < text.len() {
            lines.push(at);
            at = next_line(text, at);
        }
        Source {
            text,
            undecoded,
            lines,
        }
    }

    /// Number of the line at an offset, from 1.
    pub(super) fn line_at(&self, offset: usize) -> usize {
        self.lines.partition_point(|at| *at <= offset)
    }

    /// Why a part of the file can't be read, if it can't.
    pub(super) fn unreadable(&self, range: &Range<usize>) -> Option<String> {
        let first = self.undecoded.partition_point(|at| *at < range.start);
        let at = *self.undecoded.get(first).filter(|at| **at < range.end)?;
        Some(format!(
            "line {} has bytes that are not UTF-8, so the task is left as it is; save the file as UTF-8",
            self.line_at(at)
        ))
    }
}

/// Parses a file.
pub(super) fn parse_document(source: &Source<'_>) -> Document {
    let text = source.text;
    let start = body_start(text);
    let (blocks, found) = scan(source, start);
    let notes = notes(text, &blocks);
    let private = |at: usize| notes.iter().any(|n| n.contains(&at));
    let end = notes
        .iter()
        .find(|n| n.end == text.len())
        .map_or(text.len(), |n| n.start);
    let mut unclear = Vec::new();
    let mut items = Vec::new();
    let mut taken: Vec<Range<usize>> = Vec::new();
    for (index, block) in blocks.iter().enumerate() {
        if private(block.range.start) {
            continue;
        }
        if let Some((section, entry)) = headings::parse_entry(source, &blocks, index, end) {
            if taken.iter().any(|t| t.contains(&section.start)) {
                continue;
            }
            match entry {
                headings::Entry::Task(item) => items.push(*item),
                headings::Entry::Unclear(found) => unclear.push(found),
                headings::Entry::Record => {}
                headings::Entry::NoStatus(found) => {
                    // Its boxes are tasks like others.
                    unclear.push(found);
                    continue;
                }
            }
            taken.push(section);
        }
    }
    for (at, line) in found {
        if private(at) || taken.iter().any(|t| t.contains(&at)) {
            continue;
        }
        match line {
            Ok(item) => items.push(item),
            Err(found) => unclear.push(found),
        }
    }
    items.sort_by_key(|i| i.line);
    let header = blocks.iter().find_map(|b| match b.kind {
        BlockKind::Header(version) if !private(b.range.start) => {
            let length = text[b.range.clone()].trim_end().len();
            Some((b.range.start..b.range.start + length, version))
        }
        _ => None,
    });
    let comments = blocks
        .iter()
        .filter(|b| matches!(b.kind, BlockKind::Header(_)));
    let comments = comments.filter(|b| !private(b.range.start));
    let writer = |b: &Block| {
        let named = named_house(&text[b.range.clone()])?;
        Some((source.line_at(b.range.start), named.to_owned()))
    };
    let writers = comments.filter_map(writer).collect();
    let before_end = blocks.iter().rev().filter(|b| b.range.start < end);
    let last = before_end.clone().take(1);
    let headings = before_end.filter(|b| matches!(b.kind, BlockKind::Heading(..)));
    let begins = last.chain(headings.take(PLACES_MAX));
    let begins = begins.map(|b| line_start(text, b.range.start).max(start));
    let mut ends = vec![end];
    ends.extend(begins);
    ends.push(start);
    Document {
        items,
        unclear,
        header,
        writers,
        ends,
        eol: line_end(text),
        is_blank: text.trim_start_matches('\u{feff}').trim().is_empty(),
    }
}

type Found = (usize, Result<QueueItem, Unclear>);

/// Finds the outermost blocks and the items with a box.
fn scan(source: &Source<'_>, start: usize) -> (Vec<Block>, Vec<Found>) {
    let (mut blocks, mut found): (Vec<Block>, Vec<Found>) = (Vec::new(), Vec::new());
    let mut containers: Vec<Container> = Vec::new();
    let parsed = with_line_feeds(source.text);
    let parser = Parser::new_ext(&parsed[start..], Options::ENABLE_TASKLISTS);
    for (event, range) in parser.into_offset_iter() {
        let range = range.start + start..range.end + start;
        if let Some(Block {
            kind: BlockKind::Heading(_, title),
            ..
        }) = blocks.last_mut()
            && !containers.is_empty()
            && !matches!(event, Event::End(_))
        {
            title.start = title.start.min(range.start);
            title.end = title.end.max(range.end);
        }
        match event {
            Event::Start(tag) => {
                if containers.is_empty() {
                    let kind = block_kind(&tag, source.text, &range);
                    blocks.push(Block {
                        range: range.clone(),
                        kind,
                    });
                }
                let mut container = Container::Open;
                match tag {
                    Tag::Item if !containers.contains(&Container::Closed) => {
                        if let Some(line) = lines::parse_line(source, range.clone()) {
                            container = Container::Closed;
                            found.extend(line.map(|line| (range.start, line)));
                        } else if let Some(odd) = lines::parse_odd_box(source, range.clone()) {
                            found.push((range.start, Err(odd)));
                        }
                    }
                    Tag::BlockQuote(_) => container = Container::Closed,
                    _ => {}
                }
                containers.push(container);
            }
            Event::End(_) => drop(containers.pop()),
            Event::Rule if containers.is_empty() => blocks.push(Block {
                range,
                kind: BlockKind::Rule,
            }),
            _ => {}
        }
    }
    (blocks, found)
}

/// The text with a line feed for each carriage return that is a line end of its own, since the parser does not know that in
/// all places. Offsets stay the same.
fn with_line_feeds(text: &str) -> Cow<'_, str> {
    if !text.contains('\r') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\r' if chars.peek() != Some(&'\n') => '\n',
            c => c,
        });
    }
    Cow::Owned(out)
}

fn block_kind(tag: &Tag<'_>, text: &str, range: &Range<usize>) -> BlockKind {
    match tag {
        Tag::Heading { level, .. } => {
            // Widened by what is in it.
            BlockKind::Heading(depth(*level), range.end..range.start)
        }
        Tag::HtmlBlock => {
            let number = text[range.clone()].trim().strip_prefix("<!-- abbey ");
            let number = number.and_then(|n| n.split('.').next()?.parse().ok());
            number.map_or(BlockKind::Other, BlockKind::Header)
        }
        _ => BlockKind::Other,
    }
}

/// House that a comment of a house names behind the number: `<!-- abbey 7.3f2a9c1d. `.
fn named_house(comment: &str) -> Option<&str> {
    let named = comment.trim_start().split('.').nth(1)?;
    is_digest(named).then_some(named)
}

fn depth(level: HeadingLevel) -> usize {
    level as usize
}

/// Where the Markdown begins: after a byte-order mark and a block of YAML.
fn body_start(text: &str) -> usize {
    let mark = text.len() - text.trim_start_matches('\u{feff}').len();
    let mut at = mark;
    for (index, line) in text[mark..].split_inclusive('\n').enumerate() {
        at += line.len();
        let line = line.trim_end();
        match index {
            0 if line != "---" => return mark,
            // A line between two parts begins no block of YAML.
            1 if line.starts_with(['-', '#', ' ']) || !line.contains(':') => return mark,
            0 | 1 => {}
            _ if matches!(line, "---" | "...") => return at,
            _ => {}
        }
    }
    mark
}

/// Parts of the file that belong to its editors alone: from a heading `Notes` to the end of the file, or, below the second
/// level, to the next heading of its level.
fn notes(text: &str, blocks: &[Block]) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    for (index, block) in blocks.iter().enumerate() {
        let BlockKind::Heading(level, title) = &block.kind else {
            continue;
        };
        let named = text.get(title.clone()).unwrap_or_default();
        if !named
            .trim()
            .trim_end_matches(':')
            .eq_ignore_ascii_case("notes")
        {
            continue;
        }
        let next = blocks[index + 1..].iter().find(|b| match b.kind {
            BlockKind::Heading(other, _) => *level > 2 && other <= *level,
            BlockKind::Header(_) => *level > 2,
            _ => false,
        });
        let end = next.map_or(text.len(), |b| b.range.start);
        parts.push(line_start(text, block.range.start)..end);
    }
    parts
}

/// Offset of the first character of the line at `offset`.
pub(super) fn line_start(text: &str, offset: usize) -> usize {
    text[..offset].rfind(['\n', '\r']).map_or(0, |at| at + 1)
}

/// Offset behind the line end that comes at or after `offset`.
pub(super) fn next_line(text: &str, offset: usize) -> usize {
    let Some(at) = text[offset..].find(['\n', '\r']) else {
        return text.len();
    };
    let at = offset + at;
    match text[at..].starts_with("\r\n") {
        true => at + 2,
        false => at + 1,
    }
}

/// Line end that a text uses first; a carriage return only if it uses no other.
fn line_end(text: &str) -> &'static str {
    match text.find(['\n', '\r']) {
        Some(at) if text[at..].starts_with("\r\n") => "\r\n",
        Some(_) if !text.contains('\n') => "\r",
        _ => "\n",
    }
}
