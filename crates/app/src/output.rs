//! Output: tables for people, JSON documents for programs, progress on a terminal.

use comfy_table::presets;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// Prints a document as JSON.
pub(crate) fn json(document: &impl Serialize) {
    line(&serde_json::to_string_pretty(document).unwrap_or_default());
}

/// Prints one line on standard output; a reader that went away is no failure.
pub(crate) fn line(text: &str) {
    let _reader_gone = writeln!(std::io::stdout().lock(), "{text}");
}

/// Prints a message for the person at the terminal, on standard error.
pub(crate) fn say(text: &str) {
    let _reader_gone = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints a table, or one line that says what to do next when there is no row.
pub(crate) fn table(head: &[&str], rows: Vec<Vec<String>>, when_empty: &str) {
    if rows.is_empty() {
        return line(when_empty);
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(head.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for text in table.lines() {
        line(text.trim_end());
    }
}

/// The value as text, or `-` when there is none.
pub(crate) fn dash(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".to_owned(), |t| t.to_string())
}

/// Progress on one line of a terminal, and plain lines elsewhere.
pub(crate) struct Progress {
    live: bool,
    last: String,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let live = std::io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none()
            && std::env::var("TERM").is_ok_and(|t| t != "dumb");
        Progress {
            live,
            last: String::new(),
        }
    }

    pub(crate) fn show(&mut self, text: &str) {
        if text == self.last {
            return;
        }
        let mut out = std::io::stderr().lock();
        let _reader_gone = if self.live {
            write!(out, "\r\x1b[K{text}")
        } else {
            writeln!(out, "{text}")
        };
        let _reader_gone = out.flush();
        text.clone_into(&mut self.last);
    }

    pub(crate) fn end(&mut self) {
        if self.live && !self.last.is_empty() {
            let _reader_gone = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
        self.last.clear();
    }
}
