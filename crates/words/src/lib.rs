//! Texts for people in five languages, and the tags of languages and locales (S1-22, S1-23).
//!
//! A [`Text`] is the id of a Fluent message with its arguments; it is rendered only when its reader's language is known.

mod locale;

pub use locale::{LocaleError, SystemLocale, normalize_language_tag};

use fluent_bundle::concurrent::FluentBundle;
use fluent_bundle::{FluentArgs, FluentResource, FluentValue};
use std::sync::OnceLock;
use unic_langid::LanguageIdentifier;

/// Language in which texts exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Language {
    /// English.
    #[default]
    English,
    /// Slovenian.
    Slovenian,
    /// German.
    German,
    /// Russian.
    Russian,
    /// Chinese.
    Chinese,
}

impl Language {
    /// Every language.
    pub const ALL: [Language; 5] = [
        Language::English,
        Language::Slovenian,
        Language::German,
        Language::Russian,
        Language::Chinese,
    ];

    /// Language tag (BCP 47) of the language.
    pub const fn tag(self) -> &'static str {
        match self {
            Language::English => "en",
            Language::Slovenian => "sl",
            Language::German => "de",
            Language::Russian => "ru",
            Language::Chinese => "zh",
        }
    }

    /// English name of the language, for the prompt of a model that must answer in it.
    pub const fn name(self) -> &'static str {
        match self {
            Language::English => "English",
            Language::Slovenian => "Slovenian",
            Language::German => "German",
            Language::Russian => "Russian",
            Language::Chinese => "Chinese",
        }
    }

    /// Language of a tag such as `sl-SI`; none when there are no texts in that language.
    pub fn from_tag(tag: &str) -> Option<Language> {
        let parsed: LanguageIdentifier = tag.parse().ok()?;
        let mut all = Language::ALL.into_iter();
        all.find(|l| l.tag() == parsed.language.as_str())
    }

    const fn source(self) -> &'static str {
        match self {
            Language::English => include_str!("../texts/en.ftl"),
            Language::Slovenian => include_str!("../texts/sl.ftl"),
            Language::German => include_str!("../texts/de.ftl"),
            Language::Russian => include_str!("../texts/ru.ftl"),
            Language::Chinese => include_str!("../texts/zh.ftl"),
        }
    }

    fn bundle(self) -> &'static FluentBundle<FluentResource> {
        static BUNDLES: [OnceLock<FluentBundle<FluentResource>>; 5] =
            [const { OnceLock::new() }; 5];
        BUNDLES[self as usize].get_or_init(|| {
            let tag = self.tag().parse().unwrap_or_default();
            let mut bundle = FluentBundle::new_concurrent(vec![tag]);
            // For terminals and files: no marks of direction around arguments.
            bundle.set_use_isolating(false);
            // The tests read every text; one that does not parse is left out, and English stands in.
            let resource = match FluentResource::try_new(self.source().to_owned()) {
                Ok(resource) | Err((resource, _)) => resource,
            };
            let _twice_the_same = bundle.add_resource(resource);
            bundle
        })
    }

    fn format_message(self, text: &Text) -> Option<String> {
        let bundle = self.bundle();
        let pattern = bundle.get_message(text.id)?.value()?;
        let mut args = FluentArgs::new();
        for (name, arg) in &text.args {
            let value = match arg {
                Arg::Number(n) => FluentValue::from(*n),
                Arg::Word(w) => FluentValue::from(w.as_str()),
                Arg::Text(t) => FluentValue::from(self.render(t)),
            };
            args.set(*name, value);
        }
        let mut errors = Vec::new();
        Some(
            bundle
                .format_pattern(pattern, Some(&args), &mut errors)
                .into_owned(),
        )
    }

    /// Renders a text in this language. A message that the language lacks is rendered in English.
    pub fn render(self, text: &Text) -> String {
        if text.id.is_empty() {
            let parts = text.args.iter().map(|(_, arg)| match arg {
                Arg::Number(n) => n.to_string(),
                Arg::Word(w) => w.clone(),
                Arg::Text(t) => self.render(t),
            });
            return parts.collect();
        }
        self.format_message(text)
            .or_else(|| Language::English.format_message(text))
            .unwrap_or_else(|| text.id.to_owned())
    }
}

/// Argument of a text.
#[derive(Debug, Clone, PartialEq)]
pub enum Arg {
    /// Number; each language chooses the plural form.
    Number(f64),
    /// Name or other words that are not translated.
    Word(String),
    /// Another text, rendered in the same language.
    Text(Text),
}

impl From<&str> for Arg {
    fn from(word: &str) -> Arg {
        Arg::Word(word.to_owned())
    }
}
impl From<&String> for Arg {
    fn from(word: &String) -> Arg {
        Arg::Word(word.clone())
    }
}
impl From<String> for Arg {
    fn from(word: String) -> Arg {
        Arg::Word(word)
    }
}
impl From<Text> for Arg {
    fn from(text: Text) -> Arg {
        Arg::Text(text)
    }
}
impl From<u64> for Arg {
    fn from(n: u64) -> Arg {
        // Every number in a report is exact as a double.
        Arg::Number(n as f64)
    }
}
impl From<usize> for Arg {
    fn from(n: usize) -> Arg {
        Arg::Number(n as f64)
    }
}

/// Message with its arguments.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    id: &'static str,
    args: Vec<(&'static str, Arg)>,
}

impl Text {
    /// The message with this id in the message files, without arguments.
    pub fn new(id: &'static str) -> Text {
        Text {
            id,
            args: Vec::new(),
        }
    }

    /// Adds a named argument to the message.
    #[must_use]
    pub fn with(mut self, name: &'static str, arg: impl Into<Arg>) -> Text {
        self.args.push((name, arg.into()));
        self
    }

    /// A text that is the same in every language: a name, a number, output of a program.
    pub fn plain(words: impl Into<String>) -> Text {
        Text {
            id: "",
            args: vec![("", Arg::Word(words.into()))],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fluent_syntax::ast::{Entry, Expression, InlineExpression, Pattern, PatternElement};
    use std::collections::{BTreeMap, BTreeSet};

    fn inline(expression: &InlineExpression<&str>, names: &mut BTreeSet<String>) {
        match expression {
            InlineExpression::VariableReference { id } => drop(names.insert(id.name.to_owned())),
            InlineExpression::Placeable { expression } => walk(expression, names),
            _ => {}
        }
    }

    fn walk(expression: &Expression<&str>, names: &mut BTreeSet<String>) {
        match expression {
            Expression::Inline(i) => inline(i, names),
            Expression::Select { selector, variants } => {
                inline(selector, names);
                variants.iter().for_each(|v| pattern(&v.value, names));
            }
        }
    }

    fn pattern(pattern: &Pattern<&str>, names: &mut BTreeSet<String>) {
        for element in &pattern.elements {
            if let PatternElement::Placeable { expression } = element {
                walk(expression, names);
            }
        }
    }

    /// Every text of a language, with the names of what is put in.
    fn texts(language: Language) -> BTreeMap<String, BTreeSet<String>> {
        let parsed = fluent_syntax::parser::parse(language.source());
        let resource = parsed.unwrap_or_else(|(_, errors)| panic!("{language:?}: {errors:?}"));
        let mut all = BTreeMap::new();
        for entry in resource.body {
            if let Entry::Message(message) = entry {
                let mut names = BTreeSet::new();
                pattern(&message.value.expect("a text"), &mut names);
                let twice = all.insert(message.id.name.to_owned(), names);
                assert!(
                    twice.is_none(),
                    "{language:?}: {} is there twice",
                    message.id.name
                );
            }
        }
        all
    }

    #[test]
    fn every_language_has_every_message_with_the_same_arguments() {
        let english = texts(Language::English);
        for language in Language::ALL {
            let own = texts(language);
            assert_eq!(own, english, "{language:?}");
        }
    }

    #[test]
    fn plurals_follow_the_rules_of_each_language() {
        let tasks = |language: Language, n: u64| {
            language.render(&Text::new("waiting-for-approval").with("count", n))
        };
        assert_eq!(tasks(Language::English, 1), "1 task waits for an approval");
        assert_eq!(tasks(Language::English, 2), "2 tasks wait for an approval");
        let slovenian: BTreeSet<String> = [1, 2, 3, 5]
            .map(|n| tasks(Language::Slovenian, n).replace(char::is_numeric, ""))
            .into();
        assert_eq!(slovenian.len(), 4, "one, two, few and many: {slovenian:?}");
        let russian: BTreeSet<String> = [1, 2, 5]
            .map(|n| tasks(Language::Russian, n).replace(char::is_numeric, ""))
            .into();
        assert_eq!(russian.len(), 3, "{russian:?}");
        assert_eq!(
            tasks(Language::Russian, 21).replace("21", "1"),
            tasks(Language::Russian, 1)
        );
    }

    #[test]
    fn a_language_is_found_by_any_of_its_tags() {
        assert_eq!(Language::from_tag("sl-SI"), Some(Language::Slovenian));
        assert_eq!(Language::from_tag("zh-Hans-CN"), Some(Language::Chinese));
        assert_eq!(Language::from_tag("fr-FR"), None);
        assert_eq!(Language::from_tag("not a tag"), None);
    }
}
