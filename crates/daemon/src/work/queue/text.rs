//! What a work queue file says about a task: its fields, and the comments by which the house knows its own lines.

use abbey_model::{Priority, TaskState};

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

/// A task of the house.
#[derive(Debug, Clone)]
pub(super) struct QueueEntry {
    pub(super) number: u64,
    pub(super) fields: TaskFields,
    pub(super) state: TaskState,
    /// Agent that works on the task, unless it is the assignee.
    pub(super) holder: Option<String>,
}

/// What an entry and its task were when the house wrote the comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    /// Digest of the fields in the file.
    pub(super) file: String,
    /// Digest of the fields in the house; of a line it is the same.
    pub(super) house: String,
    pub(super) state: String,
    /// Whether the house added the line, so that it may remove it.
    pub(super) own: bool,
}

/// Word at the end of the comment of a line that the house added.
const OWN: &str = "abbey";

impl Mark {
    /// The comment of a line, such as `<!-- 3f2a9c1d running -->`.
    pub(super) fn line_comment(&self) -> String {
        let own = if self.own { " abbey" } else { "" };
        format!("<!-- {} {}{own} -->", self.file, self.state)
    }

    /// The comment below a heading, such as `<!-- abbey TASK-7 3f2a9c1d 3f2a9c1d running -->`.
    pub(super) fn heading_comment(&self, number: u64) -> String {
        let Mark {
            file, house, state, ..
        } = self;
        format!("<!-- abbey TASK-{number} {file} {house} {state} -->")
    }
}

/// Whether a text is a digest as comments have it: 8 hexadecimal digits.
pub(super) fn is_digest(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Splits off the comment at the end of a line.
pub(super) fn split_line_comment(text: &str) -> (&str, Option<Mark>) {
    let comment = text.strip_suffix("-->").and_then(|t| {
        let (before, comment) = t.rsplit_once("<!--")?;
        let mut words = comment.split_whitespace();
        let (digest, state) = (words.next()?, words.next()?);
        let own = words.next();
        let known = is_digest(digest) && own.is_none_or(|w| w == OWN) && words.next().is_none();
        let mark = Mark {
            file: digest.to_owned(),
            house: digest.to_owned(),
            state: state.to_owned(),
            own: own.is_some(),
        };
        known.then_some((before, mark))
    });
    match comment {
        Some((before, mark)) => (before.trim_end(), Some(mark)),
        None => (text, None),
    }
}

/// Parses the comment below a heading.
pub(super) fn parse_heading_comment(line: &str) -> Option<(u64, Mark)> {
    let inside = line.strip_prefix("<!-- abbey TASK-")?.strip_suffix("-->")?;
    let words: Vec<&str> = inside.split_whitespace().collect();
    let [number, file, house, state] = words[..] else {
        return None;
    };
    let mark = Mark {
        file: file.to_owned(),
        house: house.to_owned(),
        state: state.to_owned(),
        own: false,
    };
    let known = is_digest(file) && is_digest(house);
    Some((number.parse().ok().filter(|_| known)?, mark))
}

/// A text as it is read back from a file: with `\n` as line end, without trailing spaces and without blank lines at its
/// end.
pub(super) fn normalize_text(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let lines: Vec<&str> = text.split('\n').map(str::trim_end).collect();
    lines.join("\n").trim().to_owned()
}
