//! Output: tables for people, JSON documents for programs, progress on a terminal.

use abbey_api::Time;
use comfy_table::presets;
use comfy_table::{ContentArrangement, Table};
use jiff::tz::TimeZone;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;

/// Prints a document as indented JSON on standard output.
pub(crate) fn print_json(document: &impl Serialize) {
    write_json(
        std::io::stdout().lock(),
        serde_json::to_string_pretty(document),
    );
}

/// Prints a document as JSON on one line of standard output.
pub(crate) fn print_json_line(document: &impl Serialize) {
    write_json(std::io::stdout().lock(), serde_json::to_string(document));
}

/// Prints a document as JSON on one line of standard error.
pub(crate) fn print_json_error(document: &impl Serialize) {
    write_json(std::io::stderr().lock(), serde_json::to_string(document));
}

fn write_json(mut out: impl Write, document: serde_json::Result<String>) {
    let escaped = |c: char| format!("\\u{:04x}", u32::from(c));
    let text = escape_with(&document.unwrap_or_default(), escaped);
    let _reader_gone = writeln!(out, "{text}");
}

/// Clears the terminal on standard output; does nothing if that is something else.
pub(crate) fn clear_screen() {
    let mut out = std::io::stdout().lock();
    if out.is_terminal() {
        // ECMA-48: cursor to the first column of the first line, erase in page.
        let _reader_gone = out.write_all(b"\x1b[H\x1b[2J");
    }
}

/// An amount of bytes in a unit that people use, such as `12.3 MiB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let (mut amount, mut unit) = (bytes as f64 / 1024.0, 0);
    while amount >= 1023.95 && unit + 1 < units.len() {
        amount /= 1024.0;
        unit += 1;
    }
    match bytes {
        0..1024 => format!("{bytes} B"),
        _ => format!("{amount:.1} {}", units[unit]),
    }
}

/// A number with its digits in groups of three, such as `1,250,000`.
pub(crate) fn grouped(number: impl ToString) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// An instant in the zone of this process (`TZ`, or that of the host), to the second.
pub(crate) fn local_time(at: Time) -> String {
    let instant = jiff::Timestamp::from_millisecond(at.0.0).unwrap_or_default();
    let local = instant.to_zoned(local_zone().clone());
    local.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn local_zone() -> &'static TimeZone {
    static ZONE: OnceLock<TimeZone> = OnceLock::new();
    ZONE.get_or_init(|| {
        let given = std::env::var("TZ").ok().filter(|zone| !zone.is_empty());
        // The host's zone is what `/etc/localtime` leads to below `zoneinfo`, see localtime(5).
        let of_host = || {
            let link = std::fs::canonicalize("/etc/localtime").ok()?;
            let text = link.to_str()?;
            text.split_once("/zoneinfo/")
                .map(|(_, name)| name.to_owned())
        };
        let name = given.or_else(of_host).unwrap_or_default();
        TimeZone::get(name.trim_start_matches(':')).unwrap_or(TimeZone::UTC)
    })
}

/// Prints one line on standard output; a closed pipe is no failure.
pub(crate) fn print_line(text: &str) {
    let _reader_gone = writeln!(std::io::stdout().lock(), "{}", escape(text));
}

/// Prints a line for people on standard error, so that it does not mix with output for programs.
pub(crate) fn print_message(text: &str) {
    let _reader_gone = writeln!(std::io::stderr().lock(), "{}", escape(text));
}

/// Text as it may go to a terminal, whoever wrote it: characters that control the terminal or the direction of writing
/// become visible as `\u{1b}`. Line ends and tabs stay.
fn escape(text: &str) -> String {
    escape_with(text, |c| c.escape_unicode().to_string())
}

fn escape_with(text: &str, escaped: impl Fn(char) -> String) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        // A line end of another system has no effect of its own.
        let line_end = c == '\r' && chars.peek() == Some(&'\n');
        match is_hidden_control(c) && !line_end {
            true => safe.push_str(&escaped(c)),
            false => safe.push(c),
        }
    }
    safe
}

/// Whether a character has an effect on a terminal or on the order of the characters around it, and no shape of its own.
/// Sources: ECMA-48 (C0 and C1) and Unicode Standard Annex #9 (explicit directional formatting).
fn is_hidden_control(c: char) -> bool {
    let control = c.is_control() && !matches!(c, '\n' | '\t');
    control
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// Width of the terminal on standard output; none if that is something else.
fn terminal_width() -> Option<u16> {
    let out = std::io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&out).ok()?;
    (size.ws_col > 0).then_some(size.ws_col)
}

/// Prints a table on standard output, as wide as the terminal at most, or the line `when_empty` if it has no rows.
pub(crate) fn print_table(head: &[&str], rows: Vec<Vec<String>>, when_empty: &str) {
    if rows.is_empty() {
        return print_line(when_empty);
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(head.to_vec());
    if let Some(width) = terminal_width() {
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width);
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| escape(cell)));
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
        let shown = escape(text);
        let _reader_gone = if self.live {
            write!(out, "\r\x1b[K{shown}")
        } else {
            writeln!(out, "{shown}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_controls_a_terminal_passes() {
        assert_eq!(escape("one\r\ntwo\rthree"), "one\r\ntwo\\u{d}three");
        let hostile = "a\x1b]0;owned\x07\x1b[2J\u{9b}0m\r\u{202e}b\tc\nd\x7f";
        assert_eq!(
            escape(hostile),
            "a\\u{1b}]0;owned\\u{7}\\u{1b}[2J\\u{9b}0m\\u{d}\\u{202e}b\tc\nd\\u{7f}"
        );
        assert_eq!(
            escape("Zürich, Ljubljana č, 東京"),
            "Zürich, Ljubljana č, 東京"
        );
    }

    #[test]
    fn amounts_have_units_that_people_use() {
        let all = [0, 1023, 1024, 12_900_000, 1 << 30, 5 << 40].map(human_bytes);
        assert_eq!(
            all,
            ["0 B", "1023 B", "1.0 KiB", "12.3 MiB", "1.0 GiB", "5.0 TiB"]
        );
        assert_eq!(
            [0, 999, 1000, 1_250_000].map(grouped),
            ["0", "999", "1,000", "1,250,000"]
        );
    }

    #[test]
    fn json_keeps_its_meaning() {
        let text = "x\x1b\u{9b}\u{202e}\"y";
        let mut out = Vec::new();
        write_json(&mut out, serde_json::to_string(text));
        let printed = String::from_utf8(out).unwrap();
        assert!(printed.is_ascii(), "{printed}");
        assert_eq!(serde_json::from_str::<String>(&printed).unwrap(), text);
    }
}
