//! Retired terms, which must not come back (`docs/glossary.md` explains each once).

use super::allowances::Allowances;
use super::findings::Findings;
use super::sources::Source;
use regex::Regex;
use std::collections::BTreeMap;

/// The terms, one a line, with what to write instead.
const TERMS: &str = include_str!("retired-terms.txt");
/// Files that have to name them.
const MAY_NAME: &[&str] = &[
    "xtask/src/tidy/retired-terms.txt",
    "xtask/src/tidy/language.rs",
    "docs/glossary.md",
    "CHANGELOG.md",
    "docs/decisions/0012-vocabulary.md",
    // Generated: it says which aliases the filters accept.
    "docs/reference/openapi-operator.json",
];
/// A line with this mark declares a filter alias or tests one.
const ALIAS_MARK: &str = "retired term";

pub(super) fn check(
    sources: &[Source],
    allowances: &mut Allowances,
    findings: &mut Findings,
) -> Result<(), String> {
    let terms = terms()?;
    let mut by_crate: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for source in sources
        .iter()
        .filter(|s| !MAY_NAME.contains(&s.path.as_str()))
    {
        let Some(text) = &source.text else { continue };
        let found = by_crate.entry(source.crate_name()).or_default();
        for (number, line) in text.lines().enumerate() {
            let aliases = line.contains(ALIAS_MARK);
            for (_, term, instead) in terms
                .iter()
                .filter(|(p, _, _)| !aliases && p.is_match(line))
            {
                found.push(format!(
                    "{}:{}: retired term `{term}`; write {instead}",
                    source.path,
                    number + 1
                ));
            }
        }
    }
    for (name, found) in by_crate {
        if allowances.permit("retired", name, found.len()) {
            if !found.is_empty() {
                findings.warning(format!("{name}: {} retired terms", found.len()));
            }
        } else {
            found.into_iter().for_each(|text| findings.error(text));
        }
    }
    Ok(())
}

/// Patterns of whole words, the term, and what to write instead. A blank also matches `_` and `-`, so identifiers and
/// file names count.
fn terms() -> Result<Vec<(Regex, &'static str, &'static str)>, String> {
    let lines = TERMS
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| {
            let (term, instead) = line
                .split_once(" = ")
                .ok_or_else(|| format!("`{line}` is not `TERM = INSTEAD`"))?;
            let words: Vec<String> = term.split(' ').map(regex::escape).collect();
            let pattern = format!(
                "(?i)(?:^|[^[:alnum:]]){}(?:[^[:alnum:]]|$)",
                words.join("[ _-]")
            );
            Ok((
                Regex::new(&pattern).map_err(|e| e.to_string())?,
                term,
                instead,
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_are_refused_and_aliases_are_not() {
        let source = |path: &str, text: &str| Source {
            path: path.to_owned(),
            text: Some(text.to_owned()),
            size: 0,
        };
        let sources = [
            source(
                "crates/app/src/a.rs",
                "the outside\n// the Outside door\nfn outside_door() {}\ncommended\n",
            ),
            source(
                "crates/model/src/cell.rs",
                "\"robed\" => Ready, // retired term, accepted as a filter alias\n",
            ),
            source("docs/glossary.md", "robed\n"),
        ];
        let mut findings = Findings::default();
        check(&sources, &mut Allowances::default(), &mut findings).expect("a list");
        assert_eq!(findings.errors.len(), 2, "{:?}", findings.errors);
        assert!(
            findings.errors[0].starts_with("crates/app/src/a.rs:2: retired term `outside door`")
        );
    }
}
