//! A request as it is compared with patterns: without courtesies, and with plain blanks, quotes and punctuation.

use super::word_lists::*;

/// Longest text that is compared, bytes.
pub const TEXT_MAX: usize = 2000;

/// Most courtesies that are taken off at either side.
const COURTESIES: usize = 4;

/// A text, ready to be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// The whole text with plain blanks, quotes and punctuation.
    pub(super) plain: String,
    /// The whole text without the punctuation at its end, for patterns that have courtesies of their own.
    pub(super) whole: String,
    /// The request in it, without courtesies and the punctuation at its end.
    pub(super) core: String,
    /// Whether it is put as a courtesy like `could you …`, so that its question mark asks nothing.
    pub(super) is_polite: bool,
    /// Whether it is longer than what is compared.
    pub(super) is_too_long: bool,
    /// Whether it has several lines.
    pub(super) has_lines: bool,
}

impl Request {
    pub(super) fn read(text: &str) -> Request {
        let mut end = text.len().min(TEXT_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let trimmed = text[..end].trim();
        let words: Vec<&str> = trimmed.split_whitespace().collect();
        let plain: String = words.join(" ").chars().map(plain_character).collect();
        let whole = trim_end(&plain).to_owned();
        let mut core = whole.as_str();
        let mut is_polite = false;
        for _ in 0..COURTESIES {
            let Some((rest, asks)) = strip_before(core) else {
                break;
            };
            is_polite |= asks;
            core = rest;
        }
        for _ in 0..COURTESIES {
            let Some(rest) = strip_after(core) else { break };
            core = trim_end(rest);
        }
        Request {
            core: core.to_owned(),
            whole,
            is_polite,
            is_too_long: text.len() > TEXT_MAX,
            has_lines: trimmed.contains(['\n', '\r', '\u{2028}', '\u{2029}']),
            plain,
        }
    }
}

/// One character of another keyboard as the plain one.
const fn plain_character(c: char) -> char {
    match c {
        '“' | '”' | '„' | '«' | '»' | '‟' | '「' | '」' => '"',
        '‘' | '’' | '‚' | '‛' => '\'',
        '？' => '?',
        '！' => '!',
        '。' => '.',
        '，' | '、' => ',',
        '；' => ';',
        '：' => ':',
        c => c,
    }
}

fn trim_end(text: &str) -> &str {
    text.trim_end_matches(['?', '!', '.', '…', ',', ' '])
}

/// The rest of a text that begins with this, whatever its case; `None` if it doesn't.
fn strip_start<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    let mut rest = text.chars();
    for wanted in start.chars() {
        let c = rest.next()?;
        if !c.to_lowercase().eq(std::iter::once(wanted)) {
            return None;
        }
    }
    Some(rest.as_str())
}

/// What follows a courtesy, and whether the courtesy is a question by its form.
fn strip_before(text: &str) -> Option<(&str, bool)> {
    let strip = |list: &WordList| {
        list.entries().iter().find_map(|start| {
            let rest = strip_start(text, start)?;
            let bare = rest.trim_start_matches([' ', ',', '!']);
            (bare.len() < rest.len()).then_some(bare)
        })
    };
    if let Some(rest) = strip(&QUESTIONS_BEFORE).filter(|rest| !rest.is_empty()) {
        return Some((rest, true));
    }
    let rest = strip(&COURTESIES_BEFORE);
    let joined = || {
        COURTESIES_BEFORE_JOINED
            .entries()
            .iter()
            .find_map(|start| text.strip_prefix(start))
    };
    let rest = rest.or_else(joined).filter(|rest| !rest.is_empty())?;
    Some((rest, false))
}

fn strip_after(text: &str) -> Option<&str> {
    let rest = COURTESIES_AFTER.entries().iter().find_map(|end| {
        // No courtesy has a letter whose upper case has another number of characters.
        let from = text
            .char_indices()
            .rev()
            .nth(end.chars().count().checked_sub(1)?)?
            .0;
        let (rest, last) = text.split_at(from);
        let bare = rest.trim_end_matches([' ', ',']);
        let is_end = strip_start(last, end).is_some_and(str::is_empty);
        (is_end && bare.len() < rest.len()).then_some(bare)
    });
    let joined = || {
        COURTESIES_AFTER_JOINED
            .entries()
            .iter()
            .find_map(|end| text.strip_suffix(end))
    };
    rest.or_else(joined).filter(|rest| !rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn courtesies_are_no_part_of_a_request() {
        for (text, core) in [
            ("  Please   back up the database. ", "back up the database"),
            ("restart the web service, please", "restart the web service"),
            (
                "Could you please restart the web service?",
                "restart the web service",
            ),
            (
                "Hi, can you check the network for me, thanks!",
                "check the network",
            ),
            (
                "Bitte starte den Dienst web neu",
                "starte den Dienst web neu",
            ),
            ("请重启服务 web", "重启服务 web"),
            (
                "ПОЖАЛУЙСТА, перезапусти сервис web",
                "перезапусти сервис web",
            ),
            ("please", "please"),
            ("pleased to meet you", "pleased to meet you"),
            ("", ""),
        ] {
            assert_eq!(Request::read(text).core, core, "{text}");
        }
        assert!(Request::read("could you go?").is_polite);
        assert!(!Request::read("restart web").is_polite);
        // A greeting asks nothing, so its question mark does.
        assert!(!Request::read("okay, restart web?").is_polite);
        assert!(Request::read("a\nb").has_lines && !Request::read("a\n").has_lines);
        assert!(Request::read(&"é".repeat(TEXT_MAX)).is_too_long);
        assert_eq!(Request::read("„x“").plain, "\"x\"");
    }
}
