//! Patterns of skills: regular expressions over a whole request, with typed slots.
//!
//! `restart (the )?service {service}` is a pattern with a slot. A slot is `{KIND}` or `{NAME:KIND}`; its value becomes the
//! argument NAME. A named group `(?P<NAME>…)` is a slot of no kind.

use regex::{Regex, RegexBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

/// Kinds of slots: name, what the value is, expression. All of them are ASCII, so that no look-alike letter matches.
const KINDS: [(&str, SlotKind, &str); 13] = [
    ("number", SlotKind::Number, "[0-9]{1,9}"),
    ("name", SlotKind::Name, "[a-z][a-z0-9-]{0,62}"),
    ("agent", SlotKind::Agent, "[a-z][a-z0-9-]{0,31}"),
    ("service", SlotKind::Service, "[a-z][a-z0-9-]{0,31}"),
    (
        "host",
        SlotKind::Host,
        r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?",
    ),
    (
        "version",
        SlotKind::Version,
        r"(?:v[0-9][a-z0-9._-]{0,62}|[0-9]+(?:\.[0-9]+)+(?:[-.+][a-z0-9.-]{1,40})?)",
    ),
    (
        "branch",
        SlotKind::Branch,
        r"[a-z0-9](?:[a-z0-9._/-]{0,98}[a-z0-9_])?",
    ),
    ("pull_request", SlotKind::PullRequest, "[0-9]{1,9}"),
    ("path", SlotKind::Path, r"[a-z0-9][a-z0-9._/@-]{0,199}"),
    ("file", SlotKind::File, r"[a-z0-9][a-z0-9._/@-]{0,199}"),
    (
        "url",
        SlotKind::Url,
        r"https?://[a-z0-9][a-z0-9._:/~-]{0,399}",
    ),
    ("text", SlotKind::Text, ""),
    ("quoted", SlotKind::Quoted, ""),
];

/// What a slot takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// Digits.
    Number,
    /// A name of lower-case letters, digits and hyphens.
    Name,
    /// An agent of the house.
    Agent,
    /// A service of the house.
    Service,
    /// A host name or address.
    Host,
    /// A version: with a `v`, or with a dot.
    Version,
    /// A branch of a repository.
    Branch,
    /// The number of a pull request.
    PullRequest,
    /// A relative path that does not leave its directory.
    Path,
    /// A path that has a dot, a slash or `@`, so that no plain word is taken for one.
    File,
    /// An address of the web.
    Url,
    /// Words, without quotes.
    Text,
    /// Words in quotes.
    Quoted,
    /// Whatever the named group of the pattern takes.
    Group,
}

impl SlotKind {
    /// Name in patterns.
    pub fn name(self) -> &'static str {
        let known = KINDS.iter().find(|(_, kind, _)| *kind == self);
        known.map_or("group", |(name, _, _)| name)
    }

    /// Whether the value is free text, in which anything can stand.
    const fn is_free(self) -> bool {
        matches!(self, SlotKind::Text | SlotKind::Group)
    }
}

/// Names that a request can mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownNames {
    /// Agents of the house.
    pub agents: BTreeSet<String>,
    /// Services of the house.
    pub services: BTreeSet<String>,
}

/// Value of a slot in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Name of the argument.
    pub name: String,
    /// What it takes.
    pub kind: SlotKind,
    /// Value in the request.
    pub value: String,
    /// Why the value is not accepted; none if it is.
    pub refused: Option<String>,
}

/// A compiled pattern. A clone shares what is compiled.
#[derive(Debug, Clone)]
pub struct Pattern(Arc<CompiledPattern>);

#[derive(Debug)]
struct CompiledPattern {
    text: String,
    expression: Regex,
    kinds: BTreeMap<String, SlotKind>,
}

impl Pattern {
    /// Compiles a pattern. It ignores case, covers a request as a whole, and its compiled size is limited.
    ///
    /// # Errors
    /// The rest of a sentence that begins with the pattern: `is not a regular expression`.
    pub fn compile(text: &str) -> Result<Pattern, String> {
        let (expanded, kinds) = expand_slots(text)?;
        let wrong = || "is not a regular expression".to_owned();
        // On its own first: behind a bracket of the pattern, what makes it cover the whole request would not hold.
        regex_syntax::parse(&expanded).map_err(|_| wrong())?;
        let expression = RegexBuilder::new(&format!("^(?:{expanded})$"))
            .case_insensitive(true)
            .size_limit(1 << 20)
            .build();
        Ok(Pattern(Arc::new(CompiledPattern {
            text: text.to_owned(),
            expression: expression.map_err(|_| wrong())?,
            kinds,
        })))
    }

    /// What it was compiled from.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Whether a slot of it takes any words.
    pub fn takes_any_words(&self) -> bool {
        self.0.kinds.values().any(|kind| *kind == SlotKind::Text)
    }

    /// Slots of the pattern with their values, if it covers the request.
    pub(super) fn match_whole(
        &self,
        request: &str,
        names: Option<&KnownNames>,
    ) -> Option<Vec<Slot>> {
        let found = self.0.expression.captures(request)?;
        let names_of_groups = self.0.expression.capture_names().flatten();
        let slots = names_of_groups.filter_map(|name| {
            let value = found.name(name)?.as_str().trim();
            let kind = self.0.kinds.get(name).copied().unwrap_or(SlotKind::Group);
            let value = match kind {
                SlotKind::Agent | SlotKind::Service | SlotKind::Name | SlotKind::Host => {
                    value.to_ascii_lowercase()
                }
                _ => value.to_owned(),
            };
            Some(Slot {
                name: name.to_owned(),
                kind,
                refused: refuse_value(kind, &value, names),
                value,
            })
        });
        Some(slots.collect())
    }

    /// Whether a value of the pattern is free text.
    pub(super) fn has_free_text(slots: &[Slot]) -> bool {
        slots.iter().any(|slot| slot.kind.is_free())
    }
}

/// Why a value is none of its kind.
fn refuse_value(kind: SlotKind, value: &str, names: Option<&KnownNames>) -> Option<String> {
    let unknown = |known: &BTreeSet<String>, what: &str| {
        (!known.contains(value)).then(|| format!("this house has no {what} `{value}`"))
    };
    match kind {
        SlotKind::Agent => names.and_then(|n| unknown(&n.agents, "agent")),
        SlotKind::Service => names.and_then(|n| unknown(&n.services, "service")),
        SlotKind::Path | SlotKind::File | SlotKind::Branch
            if value.split('/').any(|part| part == "..") =>
        {
            Some(format!("`{value}` leaves its directory"))
        }
        SlotKind::File if !value.contains(['.', '/', '@']) => {
            Some(format!("`{value}` is not the name of a file"))
        }
        _ => None,
    }
}

/// Replaces the slots of a pattern by named groups, and returns their kinds by name.
fn expand_slots(text: &str) -> Result<(String, BTreeMap<String, SlotKind>), String> {
    let mut expanded = String::with_capacity(text.len() * 2);
    let mut kinds = BTreeMap::new();
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        let end = from.find('}');
        let inside = end.and_then(|end| from.get(1..end)).unwrap_or_default();
        // `{2}`, `{1,3}`, `\{` and `\p{…}` are parts of the regular expression.
        let escaped = before.ends_with('\\')
            || before.ends_with(r"\p")
            || before.ends_with(r"\P")
            || before.ends_with(r"\x");
        if escaped || !inside.starts_with(|c: char| c.is_ascii_lowercase()) {
            expanded.push_str(before);
            expanded.push('{');
            rest = &from[1..];
            continue;
        }
        let (name, kind) = inside.split_once(':').unwrap_or((inside, inside));
        let Some((_, kind, expression)) = KINDS.iter().find(|(known, _, _)| *known == kind) else {
            let known: Vec<&str> = KINDS.iter().map(|(name, _, _)| *name).collect();
            return Err(format!(
                "has a slot of the unknown kind `{kind}`; kinds are {}",
                known.join(", ")
            ));
        };
        let is_name = name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !is_name {
            return Err(format!(
                "has a slot with the name `{name}`; a name has lower-case letters, digits and `_`"
            ));
        }
        if kinds.insert(name.to_owned(), *kind).is_some() {
            return Err(format!("has two slots with the name `{name}`"));
        }
        expanded.push_str(before);
        let _to_a_string = match kind {
            SlotKind::Text => write!(expanded, r#"(?P<{name}>[^"\n]{{1,200}})"#),
            SlotKind::Quoted => write!(expanded, r#"["'](?P<{name}>[^"'\n]{{1,200}})["']"#),
            _ => write!(expanded, "(?P<{name}>(?-u:{expression}))"),
        };
        rest = end.and_then(|end| from.get(end + 1..)).unwrap_or_default();
    }
    expanded.push_str(rest);
    Ok((expanded, kinds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pattern: &str, request: &str) -> Option<Vec<(String, String, bool)>> {
        let names = KnownNames {
            agents: ["atlas".to_owned()].into(),
            services: ["web".to_owned()].into(),
        };
        let found = Pattern::compile(pattern)
            .unwrap()
            .match_whole(request, Some(&names));
        found.map(|slots| {
            slots
                .into_iter()
                .map(|s| (s.name, s.value, s.refused.is_none()))
                .collect()
        })
    }

    #[test]
    fn a_pattern_covers_the_whole_request() {
        assert_eq!(values("disk", "disk"), Some(vec![]));
        assert_eq!(values("disk", "a disk"), None);
        assert_eq!(
            values("^ring (?P<times>[0-9]{1,3}) times$", "Ring 3 times"),
            Some(vec![("times".into(), "3".into(), true)])
        );
        assert_eq!(values("a|b", "ab"), None);
    }

    #[test]
    fn slots_have_kinds() {
        let one = |name: &str, value: &str, accepted| {
            Some(vec![(name.to_owned(), value.to_owned(), accepted)])
        };
        assert_eq!(
            values("restart {service}", "restart WEB"),
            one("service", "web", true)
        );
        assert_eq!(
            values("restart {service}", "restart mail"),
            one("service", "mail", false)
        );
        assert_eq!(values("restart {service}", "restart w\u{435}b"), None);
        // A Kelvin sign is no letter of a name.
        assert_eq!(values("restart {service}", "restart \u{212a}"), None);
        assert_eq!(
            values("wake {who:agent}", "wake atlas"),
            one("who", "atlas", true)
        );
        assert_eq!(
            values("from {backup:file}", "from a/../b"),
            one("backup", "a/../b", false)
        );
        assert_eq!(
            values("from {backup:file}", "from scratch"),
            one("backup", "scratch", false)
        );
        assert_eq!(
            values("tag {tag:version}", "tag v1.0"),
            one("tag", "v1.0", true)
        );
        assert_eq!(values("tag {tag:version}", "tag 3"), None);
        assert_eq!(
            values("find {query:quoted}", "find \"a b\""),
            one("query", "a b", true)
        );
        assert_eq!(values("[0-9]{2}{x:number}", "1234"), one("x", "34", true));
    }

    #[test]
    fn mistakes_are_named() {
        let wrong = |text: &str| Pattern::compile(text).unwrap_err();
        // Each of the last two would be one inside the brackets of the whole, or not end there.
        for text in ["(", "a)|(b", "(?x) a # b"] {
            assert!(wrong(text).contains("regular expression"), "{text}");
        }
        assert!(wrong("[a-z]{1000}{1000}").contains("regular expression"));
        assert!(wrong("{x:nothing}").contains("unknown kind `nothing`"));
        assert!(wrong("{number} {number}").contains("two slots"));
        assert!(Pattern::compile(r"a\{b\} [0-9]{1,}").is_ok());
    }
}
