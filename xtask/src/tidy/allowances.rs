//! Known exceptions to the rules, which may only shrink.
//!
//! `xtask/allowances.txt` has one exception a line: rule, subject, number. More than the number is an error; less is one
//! as well, until the number is lowered (`cargo xtask tidy --lower` does that), so an exception can't come back.

use super::findings::Findings;
use super::sources::read;
use std::collections::BTreeMap;
use std::path::Path;

const FILE: &str = "xtask/allowances.txt";

/// Numbers of known violations by rule and subject.
#[derive(Debug, Default)]
pub(crate) struct Allowances {
    comments: Vec<String>,
    allowed: BTreeMap<(String, String), usize>,
    found: BTreeMap<(String, String), usize>,
}

impl Allowances {
    /// Reads the list of the repository in `top`; a missing file allows nothing.
    pub(crate) fn read(top: &Path) -> Result<Allowances, String> {
        let path = top.join(FILE);
        match path.exists() {
            true => Allowances::parse(&read(&path)?),
            false => Ok(Allowances::default()),
        }
    }

    fn parse(text: &str) -> Result<Allowances, String> {
        let mut list = Allowances::default();
        for line in text.lines().filter(|l| !l.trim().is_empty()) {
            if line.starts_with('#') {
                list.comments.push(line.to_owned());
                continue;
            }
            let entry = line.split_once(' ').and_then(|(rule, rest)| {
                let (subject, number) = rest.rsplit_once(' ')?;
                Some(((rule.to_owned(), subject.to_owned()), number.parse().ok()?))
            });
            let (key, number) =
                entry.ok_or_else(|| format!("{FILE}: `{line}` is not `RULE SUBJECT NUMBER`"))?;
            list.allowed.insert(key, number);
        }
        Ok(list)
    }

    /// Whether this many violations are no more than the list allows. Call it for every subject of a rule, with 0 as
    /// well.
    pub(crate) fn permit(&mut self, rule: &str, subject: &str, number: usize) -> bool {
        let key = (rule.to_owned(), subject.to_owned());
        let allowed = self.allowed.get(&key).copied().unwrap_or(0);
        if number > 0 {
            self.found.insert(key, number);
        }
        number <= allowed
    }

    /// Adds an error for every entry that allows more than is needed.
    pub(crate) fn report(&self, findings: &mut Findings) {
        for ((rule, subject), allowed) in &self.allowed {
            let found = self.needed(rule, subject);
            if found < *allowed {
                findings.error(format!(
                    "{FILE}: `{rule} {subject}` allows {allowed}, but only {found} are needed; run `cargo xtask tidy --lower`"
                ));
            }
        }
    }

    fn needed(&self, rule: &str, subject: &str) -> usize {
        let key = (rule.to_owned(), subject.to_owned());
        self.found.get(&key).copied().unwrap_or(0)
    }

    /// Writes the list with every number lowered to what is needed.
    pub(crate) fn lower(&self, top: &Path) -> Result<(), String> {
        let mut text: String = self.comments.iter().map(|c| format!("{c}\n")).collect();
        for ((rule, subject), allowed) in &self.allowed {
            let number = self.needed(rule, subject).min(*allowed);
            if number > 0 {
                text.push_str(&format!("{rule} {subject} {number}\n"));
            }
        }
        std::fs::write(top.join(FILE), text).map_err(|e| format!("`{FILE}`: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_may_only_shrink() {
        let mut list =
            Allowances::parse("# why\ncycle daemon 5\nclock a/b.rs 2\n").expect("a list");
        assert!(list.permit("cycle", "daemon", 5));
        assert!(!list.permit("cycle", "daemon", 6));
        assert!(!list.permit("cycle", "cells", 4));
        assert!(list.permit("clock", "a/b.rs", 1));
        let mut findings = Findings::default();
        list.report(&mut findings);
        assert_eq!(findings.errors.len(), 1, "{:?}", findings.errors);
        assert!(findings.errors[0].contains("`clock a/b.rs` allows 2, but only 1"));
        assert!(Allowances::parse("cycle daemon many\n").is_err());
    }
}
