//! Retired terms, which must not come back (`docs/glossary.md` explains each once).

use super::findings::Findings;
use super::sources::Source;
use regex::Regex;

/// The terms, one a line, with what to write instead.
const TERMS: &str = include_str!("retired-terms.txt");

/// A file that has to use retired terms.
struct Exemption {
    /// Path from the root of the repository.
    path: &'static str,
    /// Terms that it may use; every one when empty.
    terms: &'static [&'static str],
}

const EXEMPTIONS: &[Exemption] = &[
    // Definition, check and history of the terms.
    Exemption::all("xtask/src/tidy/retired-terms.txt"),
    Exemption::all("xtask/src/tidy/language.rs"),
    Exemption::all("docs/glossary.md"),
    Exemption::all("docs/decisions/0012-vocabulary.md"),
    Exemption::all("CHANGELOG.md"),
    // Filters of the API accept the presences of earlier versions: this table is the only place that names them.
    Exemption {
        path: "crates/model/src/filter_aliases.rs",
        terms: &["robed", "unrobed", "lobster"],
    },
    // Key of workflow runs in state files of earlier versions.
    Exemption {
        path: "crates/engine/src/workflow.rs",
        terms: &["called off"],
    },
    // Reads the output of the earlier version that it runs.
    Exemption {
        path: "crates/app/tests/fixtures/home-4e628c9/make",
        terms: &["robed"],
    },
];

impl Exemption {
    const fn all(path: &'static str) -> Exemption {
        Exemption { path, terms: &[] }
    }

    fn covers(&self, path: &str, term: &str) -> bool {
        self.path == path && (self.terms.is_empty() || self.terms.contains(&term))
    }
}

/// Reports retired terms in every file that is not exempt.
pub(super) fn check(sources: &[Source], findings: &mut Findings) -> Result<(), String> {
    let terms = terms()?;
    for source in sources {
        let text = source.text.as_deref().unwrap_or_default();
        for (pattern, term, instead) in &terms {
            if EXEMPTIONS.iter().any(|e| e.covers(&source.path, term)) {
                continue;
            }
            for (number, _) in text
                .lines()
                .enumerate()
                .filter(|(_, line)| pattern.is_match(line))
            {
                findings.error(format!(
                    "{}:{}: retired term `{term}`; write {instead}",
                    source.path,
                    number + 1
                ));
            }
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
    fn whole_words_are_refused_outside_exempted_files() {
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
                "crates/model/src/filter_aliases.rs",
                "(\"robed\", Presence::Ready)\nkeeper\n",
            ),
            source("docs/glossary.md", "robed\n"),
        ];
        let mut findings = Findings::default();
        check(&sources, &mut findings).expect("a list");
        assert_eq!(findings.errors.len(), 3, "{:?}", findings.errors);
        assert!(
            findings.errors[0].starts_with("crates/app/src/a.rs:2: retired term `outside door`")
        );
        assert!(
            findings.errors[2]
                .starts_with("crates/model/src/filter_aliases.rs:2: retired term `keeper`")
        );
    }
}
