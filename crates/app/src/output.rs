//! Output: tables for people, JSON documents for programs, progress on a terminal.

use crate::stdout;
use crate::table::{Table, hanging};
use crate::text::{Text, escape, escape_with};
use abbey_api::{Reason, Time};
use abbey_model::{Bytes, Timestamp};
use clap::ColorChoice;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Prints a document as indented JSON on standard output.
pub(crate) fn print_json(document: &impl Serialize) {
    let text = serde_json::to_string_pretty(document);
    stdout::check(write_json(std::io::stdout().lock(), text));
}

/// Prints a document as JSON on one line of standard output.
pub(crate) fn print_json_line(document: &impl Serialize) {
    let text = serde_json::to_string(document);
    stdout::check(write_json(std::io::stdout().lock(), text));
}

/// Prints a document as JSON on one line of standard error.
pub(crate) fn print_json_error(document: &impl Serialize) {
    let text = serde_json::to_string(document);
    let _reader_gone = write_json(std::io::stderr().lock(), text);
}

fn write_json(mut out: impl Write, document: serde_json::Result<String>) -> std::io::Result<()> {
    let escaped = |c: char| format!("\\u{:04x}", u32::from(c));
    let text = escape_with(&document.unwrap_or_default(), escaped);
    writeln!(out, "{text}")
}

/// Clears the terminal on standard output; does nothing if that is something else.
pub(crate) fn clear_screen() {
    let mut out = std::io::stdout().lock();
    if out.is_terminal() {
        // ECMA-48: cursor to the first column of the first line, erase in page.
        stdout::check(out.write_all(b"\x1b[H\x1b[2J"));
    }
}

/// An amount of bytes in a unit that people use, such as `12.3 MiB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    Bytes(bytes).human()
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

/// A text of the house with its instants, which it writes as `2026-12-01T10:00:00.000Z`, in the zone of this process.
pub(crate) fn with_local_times(text: &str) -> String {
    let local = |part: &str| {
        let word = part.trim_end();
        let word = word.trim_end_matches([',', ';', ':', '.', ')']);
        let instant: jiff::Timestamp = word.ends_with('Z').then(|| word.parse().ok())??;
        let at = Time(Timestamp(instant.as_millisecond()));
        Some(format!("{}{}", local_time(at), &part[word.len()..]))
    };
    let parts = text.split_inclusive(char::is_whitespace);
    parts
        .map(|part| local(part).unwrap_or_else(|| part.to_owned()))
        .collect()
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

/// Decides whether lines for people have colours. `Auto` leaves it to the environment: they have on a terminal that knows
/// colours, without `NO_COLOR`, and with `CLICOLOR_FORCE` anywhere. Documents for programs never have.
pub(crate) fn set_colors(choice: ColorChoice) {
    let choice = match choice {
        ColorChoice::Auto => anstream::ColorChoice::Auto,
        ColorChoice::Always => anstream::ColorChoice::Always,
        ColorChoice::Never => anstream::ColorChoice::Never,
    };
    choice.write_global();
}

/// Prints one line on standard output.
pub(crate) fn print_line(text: &str) {
    print_text(&text.into());
}

/// Prints one line with tones on standard output.
pub(crate) fn print_text(text: &Text) {
    let text = text.render();
    stdout::check(writeln!(anstream::stdout().lock(), "{text}"));
}

/// Prints a line for people on standard error, so that it does not mix with output for programs.
pub(crate) fn print_message(text: &str) {
    print_notice(&text.into());
}

/// Prints a line with tones for people on standard error.
pub(crate) fn print_notice(text: &Text) {
    let text = text.render();
    let _reader_gone = writeln!(anstream::stderr().lock(), "{text}");
}

/// Prints `first` and the text behind it on standard output, as one line whatever the text has. On a terminal, lines that
/// do not fit go on below the beginning of the text.
pub(crate) fn print_hanging(first: impl Into<Text>, text: impl Into<Text>) {
    let first = first.into().with_visible_line_ends();
    let text = text.into().with_visible_line_ends();
    match terminal_width() {
        None => print_text(&first.join(text)),
        Some(width) => hanging(&first, &text, width)
            .into_iter()
            .for_each(|line| print_text(&line)),
    }
}

/// Prints why something is as it is: a line for each reason, with its code.
pub(crate) fn print_reasons(reasons: &[Reason]) {
    for Reason { code, text } in reasons {
        print_hanging("  ", format!("{code}: {}", with_local_times(text)));
    }
}

/// Prints lines on standard output; on a terminal, the parts of a line that do not fit go on below it, indented as far as
/// the line is.
pub(crate) fn print_lines(text: &str) {
    for line in text.lines() {
        let rest = line.trim_start();
        print_hanging(&line[..line.len() - rest.len()], rest);
    }
}

/// Whether standard output is a terminal.
pub(crate) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Columns of the terminal on standard output; none if that is something else.
pub(crate) fn terminal_width() -> Option<usize> {
    width_of_terminal(&std::io::stdout())
}

fn width_of_terminal(stream: &(impl IsTerminal + AsFd)) -> Option<usize> {
    if !stream.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(stream).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}

/// Prints a table on standard output, as wide as the terminal at most, or the line `when_empty` if it has no rows.
pub(crate) fn print_table<C: Into<Text>>(
    head: &[&'static str],
    rows: Vec<Vec<C>>,
    when_empty: &str,
) {
    match rows.is_empty() {
        true => print_lines(when_empty),
        false => draw_table(&Table::new(head, rows)),
    }
}

/// Prints a table on standard output, as wide as the terminal at most.
pub(crate) fn draw_table(table: &Table) {
    for line in table.lines(terminal_width()) {
        print_text(&line);
    }
}

/// The value as text, or `-` if there is none; for cells of a table.
pub(crate) fn text_or_dash(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".to_owned(), |t| t.to_string())
}

/// Whether progress is not shown.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Shows no progress from here on: who asked for JSON may read standard error, too, where failures are documents.
pub(crate) fn hide_progress() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Progress on one line of a terminal, and plain lines elsewhere.
pub(crate) struct Progress {
    shown: bool,
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
            shown: !QUIET.load(Ordering::Relaxed),
            live,
            last: String::new(),
        }
    }

    /// Shows a new text on standard error; does nothing if the text is unchanged.
    pub(crate) fn show(&mut self, text: &str) {
        if !self.shown || text == self.last {
            return;
        }
        let mut out = std::io::stderr().lock();
        let shown = match width_of_terminal(&out) {
            Some(width) => Text::from(text).cut(width).render(),
            None => escape(text),
        };
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
    fn digits_are_in_groups_of_three() {
        assert_eq!(
            [0, 999, 1000, 1_250_000].map(grouped),
            ["0", "999", "1,000", "1,250,000"]
        );
    }

    #[test]
    fn instants_in_a_text_are_local() {
        let at = |ms| local_time(Time(Timestamp(ms)));
        assert_eq!(
            with_local_times(
                "retry at 1970-01-01T00:00:01.500Z; a Z, 2026Z\nnext 1970-01-02T00:00:00Z"
            ),
            format!("retry at {}; a Z, 2026Z\nnext {}", at(1500), at(86_400_000))
        );
    }

    #[test]
    fn json_keeps_its_meaning() {
        let text = "x\x1b\u{9b}\u{202e}\"y";
        let mut out = Vec::new();
        write_json(&mut out, serde_json::to_string(text)).unwrap();
        let printed = String::from_utf8(out).unwrap();
        assert!(printed.is_ascii(), "{printed}");
        assert_eq!(serde_json::from_str::<String>(&printed).unwrap(), text);
    }
}
