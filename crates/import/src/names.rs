//! Names of somewhere else become names of this house: plain, short, and each of one agent alone (S1-04, S1-06).

use crate::{Import, Kind};
use abbey_model::Slug;
use std::collections::{BTreeMap, BTreeSet};

/// Names that are given.
#[derive(Debug)]
pub(crate) struct Names {
    taken: BTreeSet<Slug>,
    given: BTreeMap<String, Slug>,
}

/// As much of a text as can be a name.
fn plain(text: &str) -> String {
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
        false if out.is_empty() => "agent".to_owned(),
        false => format!("agent-{out}"),
    }
}

/// A text that people read, on one line and not too long.
pub(crate) fn shown(text: &str) -> String {
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

impl Names {
    pub(crate) fn new(taken: BTreeSet<Slug>) -> Names {
        Names {
            taken,
            given: BTreeMap::new(),
        }
    }

    /// A name for what is called so there; another than that is told.
    pub(crate) fn give(&mut self, import: &mut Import, was: &str, wanted: Option<&Slug>) -> Slug {
        let base = wanted.map_or_else(|| plain(was), ToString::to_string);
        let numbered = (2u32..).map(|n| format!("{base}-{n}"));
        let free = std::iter::once(base.clone())
            .chain(numbered)
            .filter_map(|name| name.parse::<Slug>().ok())
            .find(|slug| !self.taken.contains(slug));
        // A base that is no name even with a number would be one of the house's own making.
        let slug = free.unwrap_or_else(|| unnamed(&self.taken));
        self.taken.insert(slug.clone());
        self.given.insert(was.to_owned(), slug.clone());
        if slug.as_str() != was {
            import.found(
                Kind::Changed,
                shown(was),
                format!("it is called `{slug}` here"),
            );
        }
        slug
    }

    /// What was given to a name of there.
    pub(crate) fn of(&self, was: &str) -> Option<Slug> {
        self.given.get(was).cloned()
    }
}

fn unnamed(taken: &BTreeSet<Slug>) -> Slug {
    let mut n = 1u64;
    loop {
        if let Ok(slug) = format!("agent-{n}").parse::<Slug>()
            && !taken.contains(&slug)
        {
            return slug;
        }
        n += 1;
    }
}

/// Takes out of the chart what would go in a circle, or leads to nobody, and puts everybody behind whom they report to.
pub(crate) fn chart(import: &mut Import) {
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
                format!("that it reports to `{above}`, as that goes in a circle"),
            ));
        }
    }
    for (place, text) in told {
        import.found(Kind::Left, shown(&place), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_become_plain_ones() {
        let mut import = Import::default();
        let mut names = Names::new(["taken".parse().unwrap()].into());
        let mut give = |was: &str| names.give(&mut import, was, None).to_string();
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
