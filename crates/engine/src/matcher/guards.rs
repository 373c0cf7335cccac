//! Guards: what keeps a request from being carried out by itself, although its words are those of a skill.
//!
//! Each guard looks for one thing that changes the meaning of a request: a negation, a question about the thing, a quotation,
//! a condition, a second request, another time, words around it that make it a text about a request. The words are those of
//! English, German, Russian, Slovenian and Chinese, and a few of French, Spanish and Italian. A guard that is wrong costs a call
//! of a model; a missing one does what nobody asked for, so the lists are wide.

use super::request::Request;
use super::word_lists::*;
use abbey_model::Effect;

/// What a guard looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guard {
    /// The text is longer than what is compared.
    TooLong,
    /// Several lines, as of a letter or a form.
    Lines,
    /// Control characters, invisible ones, or a word in two alphabets.
    Hidden,
    /// Markup, code, or signs of a shell around the request or in it.
    Markup,
    /// A negation.
    Negation,
    /// A question about a thing, or whether it should be done.
    Question,
    /// Words in quotes.
    Quotation,
    /// A condition, or something imagined.
    Condition,
    /// More than one request.
    Several,
    /// A time other than now.
    Later,
    /// A text about a request: a report of it, its translation, a story.
    About,
}

impl Guard {
    /// Every guard, in the order in which they are reported.
    pub const ALL: [Guard; 11] = [
        Guard::TooLong,
        Guard::Lines,
        Guard::Hidden,
        Guard::Markup,
        Guard::Negation,
        Guard::Question,
        Guard::Quotation,
        Guard::Condition,
        Guard::Several,
        Guard::Later,
        Guard::About,
    ];

    /// Stable name of the guard.
    pub const fn name(self) -> &'static str {
        match self {
            Guard::TooLong => "too_long",
            Guard::Lines => "several_lines",
            Guard::Hidden => "hidden_characters",
            Guard::Markup => "markup",
            Guard::Negation => "negation",
            Guard::Question => "question",
            Guard::Quotation => "quotation",
            Guard::Condition => "condition",
            Guard::Several => "several_requests",
            Guard::Later => "another_time",
            Guard::About => "about_a_request",
        }
    }

    /// Whether it holds back a skill that only reads, as well.
    const fn holds_back_reading(self) -> bool {
        !matches!(self, Guard::Quotation | Guard::Later)
    }
}

/// A guard that holds a request back, and what it found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The guard.
    pub guard: Guard,
    /// What it found in the text.
    pub found: String,
    /// Whether it holds back a skill that only reads, as well.
    pub holds_back_reading: bool,
}

impl Finding {
    /// Whether it holds back a skill with this effect.
    pub const fn holds_back(&self, effect: Effect) -> bool {
        match effect {
            Effect::Reads => self.holds_back_reading,
            Effect::Changes => true,
        }
    }
}

/// Words of a text in lower case, as they are written: with hyphens, apostrophes, dots and slashes inside.
fn tokens(lower: &str) -> Vec<&str> {
    let is_part = |c: char| {
        c.is_alphanumeric()
            || matches!(
                c,
                '\'' | '-' | '_' | '.' | '/' | '@' | ':' | '#' | '~' | '+'
            )
    };
    let words = lower.split(|c: char| !is_part(c));
    let words = words.map(|w| w.trim_matches(|c: char| !c.is_alphanumeric()));
    words.filter(|w| !w.is_empty()).collect()
}

/// Everything in a request that holds a skill back. `values` are the names in it that are known, in lower case: an agent may
/// be called `never`. `quoted` says that what stands in quotes is the value of a slot.
pub(super) fn find_guards(
    request: &Request,
    values: &[String],
    quoted: Option<&str>,
) -> Vec<Finding> {
    let lower = request.plain.to_lowercase();
    let shown = match quoted.map(str::to_lowercase) {
        Some(value) => {
            let in_quotes = [format!("\"{value}\""), format!("`{value}`"), value];
            let found = in_quotes.iter().find(|text| lower.contains(text.as_str()));
            found.map_or_else(
                || lower.clone(),
                |text| lower.replacen(text.as_str(), " ", 1),
            )
        }
        None => lower,
    };
    let mut words = tokens(&shown);
    words.retain(|w| !values.iter().any(|v| v == w));
    Guard::ALL
        .iter()
        .filter_map(|guard| look_for(*guard, request, &shown, &words))
        .collect()
}

fn look_for(guard: Guard, request: &Request, lower: &str, words: &[&str]) -> Option<Finding> {
    let finding = |found: String, holds_back_reading: bool| Finding {
        guard,
        found,
        holds_back_reading: holds_back_reading && guard.holds_back_reading(),
    };
    let word_of = |list: &WordList, joined: &WordList| {
        let word = words.iter().find(|w| list.has(w)).copied();
        word.or_else(|| {
            joined
                .entries()
                .iter()
                .find(|j| lower.contains(**j))
                .copied()
        })
        .map(str::to_owned)
    };
    match guard {
        Guard::TooLong => request.is_too_long.then(|| {
            finding(
                format!("more than {} bytes", super::request::TEXT_MAX),
                true,
            )
        }),
        Guard::Lines => request
            .has_lines
            .then(|| finding("several lines".to_owned(), true)),
        Guard::Hidden => find_hidden(&request.plain).map(|found| finding(found, true)),
        Guard::Markup => find_markup(lower).map(|found| finding(found, true)),
        Guard::Negation => word_of(&NEGATIONS, &NEGATIONS_JOINED).map(|found| finding(found, true)),
        Guard::Question => {
            find_question(request, lower).map(|(found, about)| finding(found, about))
        }
        Guard::Quotation => lower
            .contains(['"', '`'])
            .then(|| finding("words in quotes".to_owned(), false)),
        Guard::Condition => {
            // `when` and `in case` begin a condition only behind a request.
            let behind = words
                .iter()
                .skip(1)
                .any(|w| matches!(*w, "when" | "while" | "когда"));
            word_of(&CONDITIONS, &CONDITIONS_JOINED)
                .or_else(|| behind.then(|| "when".to_owned()))
                .map(|found| finding(found, true))
        }
        // A courtesy and its comma are no request of their own.
        Guard::Several => {
            find_second_request(&find_core(request, lower), words).map(|found| finding(found, true))
        }
        Guard::Later => {
            let clock = words.windows(2).find(|pair| {
                matches!(pair[0], "at" | "um" | "ob" | "в" | "in")
                    && pair[1].starts_with(|c: char| c.is_ascii_digit())
            });
            word_of(&TIMES, &TIMES_JOINED)
                .or_else(|| clock.map(|pair| pair.join(" ")))
                .map(|found| finding(found, false))
        }
        Guard::About => word_of(&ABOUT, &ABOUT_TEXT_JOINED).map(|found| finding(found, true)),
    }
}

/// Characters that are not seen, and letters of two alphabets in one word.
fn find_hidden(text: &str) -> Option<String> {
    let is_hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    if let Some(c) = text.chars().find(|c| is_hidden(*c)) {
        return Some(format!("the invisible character U+{:04X}", u32::from(c)));
    }
    let alphabet = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '\u{c0}'..='\u{24f}' => Some(0),
        '\u{370}'..='\u{3ff}' | '\u{1f00}'..='\u{1fff}' => Some(1),
        '\u{400}'..='\u{52f}' => Some(2),
        '\u{530}'..='\u{58f}' | '\u{13a0}'..='\u{13ff}' => Some(3),
        '\u{ff21}'..='\u{ff3a}'
        | '\u{ff41}'..='\u{ff5a}'
        | '\u{1d400}'..='\u{1d7ff}'
        | '\u{2100}'..='\u{214f}' => Some(4),
        _ => None,
    };
    for word in text.split(|c: char| !c.is_alphanumeric()) {
        let mut kinds = word.chars().filter_map(alphabet);
        if let Some(first) = kinds.next()
            && (first == 4 || kinds.any(|k| k != first))
        {
            return Some(format!("letters of two alphabets in `{word}`"));
        }
    }
    None
}

/// Markup, data and signs of a shell.
fn find_markup(lower: &str) -> Option<String> {
    const SIGNS: [&str; 13] = [
        "```", "<", ">", "{", "}", "$(", "${", "&&", "||", "|", ";", "\\", "[[",
    ];
    let sign = SIGNS.iter().find(|sign| lower.contains(**sign))?;
    Some(format!("`{sign}`"))
}

/// A question, and whether it is about a thing, as `why` and `how does` are.
fn find_question(request: &Request, lower: &str) -> Option<(String, bool)> {
    let begins = |text: &str, with: &str| {
        let rest = text.strip_prefix(with);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '\''))
    };
    let core = request.core.to_lowercase();
    let found = ABOUT_BEGINNINGS
        .entries()
        .iter()
        .find(|b| begins(lower, b) || begins(&core, b));
    let found = found.or_else(|| ABOUT_JOINED.entries().iter().find(|b| lower.contains(**b)));
    if let Some(found) = found {
        // `What is a …` asks what a thing is; `is it` and `what are` can ask how it is now.
        let is_about = !matches!(
            *found,
            "is it" | "what are" | "what is a" | "what is an" | "what's a"
        ) || matches!(*found, "what is a" | "what is an" | "what's a");
        return Some(((*found).to_owned(), is_about));
    }
    // Behind a courtesy a question mark asks nothing, and neither does the first word of `could you …`.
    let found = QUESTION_BEGINNINGS
        .entries()
        .iter()
        .find(|b| begins(&core, b));
    let found = found.or_else(|| {
        QUESTION_JOINED
            .entries()
            .iter()
            .find(|b| lower.contains(**b))
    });
    if let Some(found) = found {
        return Some(((*found).to_owned(), false));
    }
    let asks = lower.trim_end_matches(['"', ' ']).ends_with('?') && !request.is_polite;
    asks.then(|| ("a question mark".to_owned(), false))
}

/// The request without courtesies in a text that was made of it, in lower case; the text itself where it is not in it.
fn find_core(request: &Request, lower: &str) -> String {
    let core = request.core.to_lowercase();
    match lower.contains(&core) {
        true => core,
        false => lower.to_owned(),
    }
}

/// Signs of a second request: another sentence, or a verb behind a conjunction or a comma.
fn find_second_request(lower: &str, words: &[&str]) -> Option<String> {
    if let Some(word) = words.iter().find(|w| SEVERAL.has(w)) {
        return Some((*word).to_owned());
    }
    if let Some(word) = SEVERAL_JOINED
        .entries()
        .iter()
        .find(|w| lower.contains(**w))
    {
        return Some((*word).to_owned());
    }
    let pair = words
        .windows(2)
        .find(|pair| CONJUNCTIONS.has(pair[0]) && VERBS.has(pair[1]));
    if let Some(pair) = pair {
        return Some(pair.join(" "));
    }
    for (at, sign) in lower.match_indices(['.', '!', '?', ':', '-', ',']) {
        let rest = &lower[at + sign.len()..];
        let spaced = rest.starts_with(' ') && lower[..at].chars().any(char::is_alphanumeric);
        let next = tokens(rest).first().copied().unwrap_or_default();
        let ends_sentence = matches!(sign, "." | "!" | "?") && !next.is_empty();
        let is_dash = sign == "-" && lower[..at].ends_with(' ');
        let is_verb = sign == "," && VERBS.has(next);
        if spaced && (ends_sentence || is_dash || is_verb || sign == ":") {
            return Some(format!("`{sign}` and what follows it"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guards(text: &str) -> Vec<&'static str> {
        let found = find_guards(&Request::read(text), &[], None);
        found.iter().map(|f| f.guard.name()).collect()
    }

    #[test]
    fn plain_requests_have_no_guards() {
        for text in [
            "Please back up the database and keep 14",
            "Merge branch no-cache into main in demo",
            "Could you restart the web service, please?",
            "Starte den Dienst web neu",
            "Перезапусти сервис web",
            "Naredi varnostno kopijo baze",
            "重启服务 web",
            "Restore our database from backups/db/main@2026.dump",
        ] {
            assert_eq!(guards(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn each_guard_has_words_of_five_languages() {
        for (guard, texts) in [
            (
                "negation",
                [
                    "Do not restart web",
                    "Starte web nicht neu",
                    "Не перезапускай web",
                    "Ne zaženi web",
                    "不要重启 web",
                ],
            ),
            (
                "question",
                [
                    "Why did web restart",
                    "Warum startet web neu",
                    "Почему web стоит",
                    "Zakaj web stoji",
                    "为什么重启 web",
                ],
            ),
            (
                "condition",
                [
                    "Restart web if it hangs",
                    "Starte web neu, falls es hängt",
                    "Перезапусти web, если он висит",
                    "Zaženi web, če visi",
                    "如果 web 挂了重启",
                ],
            ),
            (
                "several_requests",
                [
                    "Restart web and then db",
                    "Starte web neu und dann db",
                    "Перезапусти web, потом db",
                    "Zaženi web in potem db",
                    "重启 web 然后重启 db",
                ],
            ),
            (
                "another_time",
                [
                    "Restart web tomorrow",
                    "Starte web morgen neu",
                    "Перезапусти web завтра",
                    "Zaženi web jutri",
                    "明天重启 web",
                ],
            ),
            (
                "about_a_request",
                [
                    "Translate restart web",
                    "Übersetze starte web",
                    "Переведи restart web",
                    "Prevedi restart web",
                    "翻译 restart web",
                ],
            ),
        ] {
            for text in texts {
                assert!(
                    guards(text).contains(&guard),
                    "{guard}: {text}: {:?}",
                    guards(text)
                );
            }
        }
        for (guard, text) in [
            ("quotation", "Restart “web”"),
            ("markup", "<b>restart web</b>"),
            ("markup", "restart web; reboot"),
            ("hidden_characters", "restart w\u{435}b"),
            ("hidden_characters", "restart web\u{202e}"),
            ("hidden_characters", "restart \u{212a}"),
            ("several_lines", "Hi\nrestart web"),
            ("several_requests", "Restart web. Reboot"),
            ("question", "restart web?"),
        ] {
            assert!(
                guards(text).contains(&guard),
                "{guard}: {text}: {:?}",
                guards(text)
            );
        }
    }
}
