//! Text for people: what others wrote is made harmless, words have a tone, and lines break at the width of the terminal.

use abbey_api::{CheckState, PlanAction, PlanSeverity, WorkflowState};
use abbey_model::{ApprovalState, BudgetState, Presence, TaskState};
use anstyle::{AnsiColor, Style};
use std::fmt::Write as _;
use unicode_width::UnicodeWidthChar;

/// What a piece of text means. On a terminal each tone has a colour; the words say the same without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Nothing in particular.
    Plain,
    /// All is as it should be.
    Good,
    /// Somebody should have a look, or it will take a while.
    Attention,
    /// It failed, or something is lost.
    Bad,
    /// Of less interest than the text around it.
    Faint,
    /// Name of what follows.
    Heading,
}

impl Tone {
    /// Colour and weight on a terminal.
    pub(crate) const fn style(self) -> Style {
        match self {
            Tone::Plain => Style::new(),
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Attention => AnsiColor::Yellow.on_default(),
            Tone::Bad => AnsiColor::Red.on_default().bold(),
            Tone::Faint => Style::new().dimmed(),
            Tone::Heading => Style::new().bold(),
        }
    }
}

/// Text without anything that controls a terminal, with a tone for each character.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Text(Vec<(char, Tone)>);

impl Text {
    /// Text of one tone.
    pub(crate) fn toned(tone: Tone, text: &str) -> Text {
        Text::default().and(tone, text)
    }

    /// This text with more behind it.
    pub(crate) fn and(mut self, tone: Tone, more: &str) -> Text {
        self.0.extend(escape(more).chars().map(|c| (c, tone)));
        self
    }

    /// This text with another behind it.
    pub(crate) fn join(mut self, more: Text) -> Text {
        self.0.extend(more.0);
        self
    }

    /// This text with spaces in place of line ends and tabs.
    pub(crate) fn on_one_line(self) -> Text {
        let space = |(c, tone): (char, Tone)| (if c.is_whitespace() { ' ' } else { c }, tone);
        Text(self.0.into_iter().map(space).collect())
    }

    /// This text with its line ends visible as `\n`: whoever wrote it can't begin a line of its own below what it is part of.
    pub(crate) fn with_visible_line_ends(self) -> Text {
        let mut line = Vec::with_capacity(self.0.len());
        for (c, tone) in self.0 {
            match c {
                '\n' => line.extend([('\\', tone), ('n', tone)]),
                '\r' => {}
                c => line.push((c, tone)),
            }
        }
        Text(line)
    }

    /// This text with spaces behind it up to this many columns.
    pub(crate) fn padded(self, columns: usize) -> Text {
        let pad = columns.saturating_sub(self.width());
        self.and(Tone::Plain, &" ".repeat(pad))
    }

    /// Columns of a terminal that the text takes, on one line.
    pub(crate) fn width(&self) -> usize {
        width_of(&self.0)
    }

    /// Columns of the longest part that no space divides.
    pub(crate) fn longest_word(&self) -> usize {
        let words = self.0.split(|(c, _)| c.is_whitespace());
        words.map(width_of).max().unwrap_or(0)
    }

    /// Whether a cell of a table has this text because there is nothing to show.
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self.0.as_slice(), [] | [('-', _)])
    }

    /// Lines of at most `width` columns. They break at spaces, and within a word that is longer than a line. A character
    /// that is wider than `width` stands alone.
    pub(crate) fn wrap(&self, width: usize) -> Vec<Text> {
        let mut lines = Vec::new();
        for line in self.0.split(|(c, _)| *c == '\n') {
            let mut rest = line;
            loop {
                let fits = prefix_within(rest, width);
                if fits == rest.len() {
                    break;
                }
                let space = rest[..=fits].iter().rposition(|(c, _)| *c == ' ');
                let cut = space.filter(|at| *at > 0).unwrap_or(fits);
                lines.push(Text(trim_end(&rest[..cut]).to_vec()));
                let spaces = rest[cut..].iter().take_while(|(c, _)| *c == ' ').count();
                rest = &rest[cut + spaces..];
            }
            lines.push(Text(rest.to_vec()));
        }
        lines
    }

    /// The beginning of the text in at most `width` columns, with an ellipsis where something is left out.
    pub(crate) fn cut(&self, width: usize) -> Text {
        match self.width() <= width {
            true => self.clone(),
            false => {
                let fits = prefix_within(&self.0, width.saturating_sub(1));
                Text(self.0[..fits].to_vec()).and(Tone::Plain, "…")
            }
        }
    }

    /// This text without spaces at its end.
    pub(crate) fn trimmed(mut self) -> Text {
        self.0.truncate(trim_end(&self.0).len());
        self
    }

    /// The text with escape sequences for its tones, for a stream that removes them where they are not wanted.
    pub(crate) fn render(&self) -> String {
        let mut out = String::with_capacity(self.0.len());
        for piece in self.0.chunk_by(|(_, a), (_, b)| a == b) {
            let style = piece[0].1.style();
            let text: String = piece.iter().map(|(c, _)| c).collect();
            let _to_a_string = write!(out, "{style}{text}{style:#}");
        }
        out
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text::toned(Tone::Plain, text)
    }
}

impl From<&String> for Text {
    fn from(text: &String) -> Text {
        Text::from(text.as_str())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text::from(text.as_str())
    }
}

/// Gives each word of a closed set its tone.
macro_rules! tones {
    ($($word:ident => $tone:expr;)*) => {$(
        impl From<$word> for Text {
            fn from(word: $word) -> Text {
                let tone: fn($word) -> Tone = $tone;
                Text::toned(tone(word), &word.to_string())
            }
        }
    )*};
}

tones! {
    Presence => |presence| match presence {
        Presence::Ready => Tone::Good,
        Presence::Starting | Presence::Stopping | Presence::Paused | Presence::Unknown => Tone::Attention,
        Presence::WorkerOnly | Presence::IngressOnly | Presence::Down | Presence::Degraded => Tone::Bad,
        Presence::Stopped | Presence::Idle => Tone::Faint,
    };
    TaskState => |state| match state {
        TaskState::Done => Tone::Good,
        TaskState::Pending | TaskState::Ready | TaskState::Running => Tone::Plain,
        TaskState::Parked | TaskState::Blocked | TaskState::AwaitingApproval => Tone::Attention,
        TaskState::Unverified | TaskState::Failed | TaskState::TimedOut => Tone::Bad,
        TaskState::Cancelled => Tone::Faint,
    };
    CheckState => |state| match state {
        CheckState::Ok => Tone::Good,
        CheckState::Attention => Tone::Attention,
        CheckState::Failed => Tone::Bad,
    };
    BudgetState => |state| match state {
        BudgetState::Unlimited => Tone::Plain,
        BudgetState::Ok => Tone::Good,
        BudgetState::Warning => Tone::Attention,
        BudgetState::Exhausted => Tone::Bad,
    };
    ApprovalState => |state| match state {
        ApprovalState::Pending | ApprovalState::Revise => Tone::Attention,
        ApprovalState::Approved | ApprovalState::Used => Tone::Good,
        ApprovalState::Denied => Tone::Bad,
        ApprovalState::Lapsed | ApprovalState::Expired => Tone::Faint,
    };
    WorkflowState => |state| match state {
        WorkflowState::Running => Tone::Plain,
        WorkflowState::Done => Tone::Good,
        WorkflowState::Undoing => Tone::Attention,
        WorkflowState::Failed => Tone::Bad,
        WorkflowState::Cancelled => Tone::Faint,
    };
    PlanSeverity => |severity| match severity {
        PlanSeverity::Info => Tone::Faint,
        PlanSeverity::Warning => Tone::Attention,
        PlanSeverity::Fatal => Tone::Bad,
    };
}

impl From<PlanAction> for Text {
    fn from(action: PlanAction) -> Text {
        let (tone, sign) = match action {
            PlanAction::Create => (Tone::Good, "+ "),
            PlanAction::Update => (Tone::Attention, "~ "),
            PlanAction::Restart => (Tone::Attention, "± "),
            PlanAction::Remove => (Tone::Bad, "− "),
            PlanAction::NotApplicable => (Tone::Faint, "· "),
        };
        Text::toned(tone, &format!("{sign}{action}"))
    }
}

fn width_of(text: &[(char, Tone)]) -> usize {
    text.iter().map(|(c, _)| c.width().unwrap_or(0)).sum()
}

/// Number of characters from the front that take at most `width` columns; at least one of several.
fn prefix_within(text: &[(char, Tone)], width: usize) -> usize {
    let mut taken = 0;
    let over = |(c, _): &(char, Tone)| {
        taken += c.width().unwrap_or(0);
        taken > width
    };
    text.iter()
        .position(over)
        .map_or(text.len(), |at| at.max(1))
}

fn trim_end(text: &[(char, Tone)]) -> &[(char, Tone)] {
    let kept = text.iter().rposition(|(c, _)| *c != ' ');
    &text[..kept.map_or(0, |at| at + 1)]
}

/// Text as it may go to a terminal, whoever wrote it: characters that control the terminal or the direction of writing
/// become visible as `\u{1b}`. Line ends and tabs stay.
pub(crate) fn escape(text: &str) -> String {
    escape_with(text, |c| c.escape_unicode().to_string())
}

/// Text in which `escaped` stands for each character that controls a terminal.
pub(crate) fn escape_with(text: &str, escaped: impl Fn(char) -> String) -> String {
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
/// Sources: ECMA-48 (C0 and C1), Unicode Standard Annex #9 (explicit directional formatting), and of the characters that
/// Unicode calls default ignorable those that no script needs.
fn is_hidden_control(c: char) -> bool {
    let control = c.is_control() && !matches!(c, '\n' | '\t');
    control
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
        || matches!(
            c,
            '\u{ad}' | '\u{115f}' | '\u{1160}' | '\u{180b}'..='\u{180f}' | '\u{200b}' | '\u{2060}'..='\u{206f}'
                | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_controls_a_terminal_passes() {
        assert_eq!(escape("one\r\ntwo\rthree"), "one\r\ntwo\\u{d}three");
        let hostile = "a\x1b]0;owned\x07\x1b[2J\u{9b}0m\r\u{202e}b\tc\nd\x7f";
        let harmless = "a\\u{1b}]0;owned\\u{7}\\u{1b}[2J\\u{9b}0m\\u{d}\\u{202e}b\tc\nd\\u{7f}";
        assert_eq!(escape(hostile), harmless);
        assert_eq!(Text::from(hostile).render(), harmless);
        assert_eq!(
            escape("a\u{200b}b\u{feff}c\u{e0041}"),
            "a\\u{200b}b\\u{feff}c\\u{e0041}"
        );
        for c in "\u{115f}\u{1160}\u{3164}\u{ffa0}\u{fff9}\u{fffb}\u{fe00}\u{180b}\u{e0100}".chars()
        {
            assert_eq!(escape(&c.to_string()), c.escape_unicode().to_string());
        }
        assert_eq!(
            Text::from("one\r\ntwo\n").with_visible_line_ends().render(),
            "one\\ntwo\\n"
        );
        assert_eq!(
            escape("Zürich, Ljubljana č, 東京"),
            "Zürich, Ljubljana č, 東京"
        );
    }

    #[test]
    fn lines_break_at_spaces_and_count_wide_characters_twice() {
        let wrapped = |text: &str, width| -> Vec<String> {
            let lines = Text::from(text).wrap(width);
            lines.iter().map(Text::render).collect()
        };
        assert_eq!(wrapped("", 5), [""]);
        assert_eq!(wrapped("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrapped("a\nb c", 9), ["a", "b c"]);
        assert_eq!(wrapped("abcdefgh i", 3), ["abc", "def", "gh", "i"]);
        assert_eq!(wrapped("東京都庁", 5), ["東京", "都庁"]);
        assert_eq!(wrapped("東京", 1), ["東", "京"]);
        assert_eq!(Text::from("東京都").cut(5).render(), "東京…");
        assert_eq!(Text::from("e\u{301}a").width(), 2);
    }

    #[test]
    fn a_tone_is_around_its_words_only() {
        let text = Text::toned(Tone::Good, "ok").and(Tone::Plain, " then");
        assert_eq!(text.render(), "\x1b[32mok\x1b[0m then");
        assert_eq!(text.width(), 7);
        let lines = Text::toned(Tone::Good, "one two").wrap(4);
        assert_eq!(lines[1].render(), "\x1b[32mtwo\x1b[0m");
    }
}
