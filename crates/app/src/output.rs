//! Output: tables for people, JSON documents for programs, progress on a terminal.

use comfy_table::presets;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// Prints a document as indented JSON on standard output.
pub(crate) fn print_json(document: &impl Serialize) {
    print_line(&serde_json::to_string_pretty(document).unwrap_or_default());
}

/// Prints one line on standard output; a closed pipe is no failure.
pub(crate) fn print_line(text: &str) {
    let _reader_gone = writeln!(std::io::stdout().lock(), "{text}");
}

/// Prints a line for people on standard error, so that it does not mix with output for programs.
pub(crate) fn print_message(text: &str) {
    let _reader_gone = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints a table on standard output, or the line `when_empty` if it has no rows.
pub(crate) fn print_table(head: &[&str], rows: Vec<Vec<String>>, when_empty: &str) {
    if rows.is_empty() {
        return print_line(when_empty);
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
        print_line(text.trim_end());
    }
}

/// The value as text, or `-` if there is none; for cells of a table.
pub(crate) fn text_or_dash(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".to_owned(), |t| t.to_string())
}

/// Progress on one line of a terminal, and plain lines elsewhere.
pub(crate) struct Progress {
    live: bool,
    last: String,
}

impl Progress {
    /// Progress without text. It is updated in place if standard error is a terminal without `NO_COLOR`.
    pub(crate) fn new() -> Self {
        let live = std::io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none()
            && std::env::var("TERM").is_ok_and(|t| t != "dumb");
        Progress {
            live,
            last: String::new(),
        }
    }

    /// Shows a new text on standard error; does nothing if the text is unchanged.
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

    /// Clears the progress line on a terminal.
    pub(crate) fn end(&mut self) {
        if self.live && !self.last.is_empty() {
            let _reader_gone = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
        self.last.clear();
    }
}
