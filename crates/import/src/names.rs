//! Converts names of other installations to valid, unique names of this house (S1-04, S1-06).

use crate::{Import, ReportKind};
use abbey_model::Slug;
use std::collections::{BTreeMap, BTreeSet};

/// Names in use, of which equal ones get numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct UniqueNames {
    taken: BTreeSet<String>,
    /// Next number for a name, so that no number is tried twice.
    next: BTreeMap<String, u64>,
}

impl UniqueNames {
    /// The first of `base`, `base-2`, `base-3` that is free, which then is in use.
    pub(crate) fn take(&mut self, base: &str) -> String {
        let next = self.next.entry(base.to_owned()).or_insert(1);
        loop {
            let name = match *next {
                1 => base.to_owned(),
                number => format!("{base}-{number}"),
            };
            *next += 1;
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }
}

/// Names in use, and names assigned during an import.
#[derive(Debug)]
pub(crate) struct NameAssigner {
    used: UniqueNames,
    given: BTreeMap<String, Slug>,
}

/// The part of a text that is valid in a name, at most 24 characters and the prefix `other-` for one that begins otherwise.
pub(crate) fn valid_part(text: &str, other: &str) -> String {
    let mut out = String::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        match c {
            'a'..='z' | '0'..='9' => out.push(c),
            _ if out.ends_with('-') || out.is_empty() => {}
            _ => out.push('-'),
        }
        if out.len() >= 24 {
            break;
        }
    }
    let out = out.trim_end_matches('-');
    match out.starts_with(|c: char| c.is_ascii_lowercase()) {
        true => out.to_owned(),
        false if out.is_empty() => other.to_owned(),
        false => format!("{other}-{out}"),
    }
}

/// The text on one line without control characters, cut to 120 characters, for reports.
pub(crate) fn one_line(text: &str) -> String {
    let one: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    one.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(120)
        .collect()
}

/// A path for reports: on one line, without control characters.
pub(crate) fn shown_path(path: &str) -> String {
    path.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .take(400)
        .collect()
}

impl NameAssigner {
    /// Assigner that avoids the names in `taken`.
    pub(crate) fn new(taken: BTreeSet<Slug>) -> NameAssigner {
        NameAssigner {
            used: UniqueNames {
                taken: taken.iter().map(ToString::to_string).collect(),
                next: BTreeMap::new(),
            },
            given: BTreeMap::new(),
        }
    }

    /// Assigns a free, valid name for the original name `was`, preferably `wanted`, and reports it if it differs.
    pub(crate) fn assign(&mut self, import: &mut Import, was: &str, wanted: Option<&Slug>) -> Slug {
        let base = wanted.map_or_else(|| valid_part(was, "agent"), ToString::to_string);
        let mut named = self.used.take(&base).parse::<Slug>();
        // A base that is not valid, perhaps with a number only, is replaced.
        let slug = loop {
            match named {
                Ok(slug) => break slug,
                Err(_) => named = self.used.take("agent").parse(),
            }
        };
        self.given.insert(was.to_owned(), slug.clone());
        if slug.as_str() != was {
            import.add_report_entry(
                ReportKind::Changed,
                one_line(was),
                format!("renamed to `{slug}`"),
            );
        }
        slug
    }

    /// Name that was assigned for an original name; none if it is unknown.
    pub(crate) fn assigned(&self, was: &str) -> Option<Slug> {
        self.given.get(was).cloned()
    }
}

/// Removes `reports_to` of agents whose reporting lines form a cycle, and reports it.
pub(crate) fn remove_reporting_cycles(import: &mut Import) {
    let all: BTreeMap<Slug, Option<Slug>> = import
        .agents
        .iter()
        .map(|a| (a.slug.clone(), a.reports_to.clone()))
        .collect();
    let circular = |slug: &Slug| {
        let mut at = all.get(slug).cloned().flatten();
        for _ in 0..=all.len() {
            match at {
                Some(above) if above == *slug => return true,
                Some(above) => at = all.get(&above).cloned().flatten(),
                None => return false,
            }
        }
        true
    };
    let mut told = Vec::new();
    for agent in &mut import.agents {
        if circular(&agent.slug)
            && let Some(above) = agent.reports_to.take()
        {
            told.push((
                agent.was.clone(),
                format!("reporting to `{above}` would be a cycle"),
            ));
        }
    }
    for (place, text) in told {
        import.add_report_entry(ReportKind::Left, one_line(&place), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_become_plain_ones() {
        let mut import = Import::default();
        let mut names = NameAssigner::new(["taken".parse().unwrap()].into());
        let mut give = |was: &str| names.assign(&mut import, was, None).to_string();
        assert_eq!(give("Taken"), "taken-2");
        assert_eq!(give("../../etc/passwd"), "etc-passwd");
        assert_eq!(give("$(rm -rf /)"), "rm-rf");
        assert_eq!(give("мастер"), "agent");
        assert_eq!(give(""), "agent-2");
        assert_eq!(give("007"), "agent-007");
        assert_eq!(give("a\nb: { role: root }"), "a-b-role-root");
        assert_eq!(give(&"x".repeat(500)).len(), 24);
        assert!(import.findings.iter().all(|f| !f.place.contains('\n')));
    }
}
