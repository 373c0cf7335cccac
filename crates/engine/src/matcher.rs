//! Matching a task to a skill: data in, score out, no model asked (S4-23, S4-24).
//!
//! A skill brings patterns. A pattern that is found in the text scores by how much of the text it
//! explains; named groups become arguments. Two skills within [`AMBIGUITY`] of each other are
//! ambiguous, and nothing is executed on a guess.

use regex::{Regex, RegexBuilder};
use std::collections::BTreeMap;

/// Highest score.
pub const SCORE_MAX: u32 = 1000;
/// Least score that counts as a match.
pub const THRESHOLD: u32 = 500;
/// Distance below which the two best skills are ambiguous.
pub const AMBIGUITY: u32 = 60;
/// Longest text that is matched, in bytes; the rest is ignored.
pub const TEXT_MAX: usize = 2000;

/// Patterns of one skill.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Name of the skill.
    pub skill: String,
    patterns: Vec<Regex>,
}

/// A pattern that does not compile.
#[derive(Debug, Clone, thiserror::Error)]
#[error("skill `{skill}`: pattern {line} is not a regular expression")]
pub struct PatternError {
    /// Name of the skill.
    pub skill: String,
    /// Number of the pattern, from 1.
    pub line: usize,
    /// Error of the regular expression compiler.
    #[source]
    pub source: regex::Error,
}

impl Rule {
    /// Whether this was compiled from these patterns of this skill.
    pub fn is_compiled_from(&self, skill: &str, patterns: &[String]) -> bool {
        self.skill == skill && self.patterns.iter().map(Regex::as_str).eq(patterns)
    }

    /// Compiles the patterns of a skill. They ignore case; their compiled size is limited.
    ///
    /// # Errors
    /// [`PatternError`] for the first pattern that does not compile.
    pub fn new(skill: &str, patterns: &[String]) -> Result<Rule, PatternError> {
        let compile = |(i, text): (usize, &String)| {
            RegexBuilder::new(text)
                .case_insensitive(true)
                .size_limit(1 << 20)
                .build()
                .map_err(|source| PatternError {
                    skill: skill.to_owned(),
                    line: i + 1,
                    source,
                })
        };
        let patterns = patterns
            .iter()
            .enumerate()
            .map(compile)
            .collect::<Result<_, _>>()?;
        Ok(Rule {
            skill: skill.to_owned(),
            patterns,
        })
    }
}

/// A skill that matches a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Name of the skill.
    pub skill: String,
    /// Quality of the match, from 0 to [`SCORE_MAX`].
    pub score: u32,
    /// Arguments of the skill, from the named groups of its pattern.
    pub args: BTreeMap<String, String>,
}

/// Result of matching a text with the skills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// No skill matches.
    None,
    /// One skill matches best.
    One(Candidate),
    /// Several skills match about equally well, best first.
    Ambiguous(Vec<Candidate>),
}

/// Scores every skill that matches a text, best first, ties by name.
pub fn score_skills(rules: &[Rule], text: &str) -> Vec<Candidate> {
    let text = normal(text);
    let mut found: Vec<Candidate> = rules.iter().filter_map(|rule| best(rule, &text)).collect();
    found.sort_by(|a, b| b.score.cmp(&a.score).then_with(|| a.skill.cmp(&b.skill)));
    found
}

/// Finds the skill that matches a text best; ambiguous when two score about equally.
pub fn match_skill(rules: &[Rule], text: &str) -> Match {
    let mut found = score_skills(rules, text);
    found.retain(|c| c.score >= THRESHOLD);
    match found.len() {
        0 => Match::None,
        1 => Match::One(found.remove(0)),
        _ if found[0].score - found[1].score > AMBIGUITY => Match::One(found.remove(0)),
        _ => {
            let best = found[0].score;
            found.retain(|c| best - c.score <= AMBIGUITY);
            Match::Ambiguous(found)
        }
    }
}

fn normal(text: &str) -> String {
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let words: Vec<&str> = text[..end].split_whitespace().collect();
    words
        .join(" ")
        .trim_end_matches(['?', '!', '.', ' '])
        .to_owned()
}

fn best(rule: &Rule, text: &str) -> Option<Candidate> {
    let score_of = |pattern: &Regex| {
        let found = pattern.captures(text)?;
        let whole = found.get(0).filter(|m| !m.is_empty())?;
        let share = u32::try_from(whole.len() * 500 / text.len().max(1)).unwrap_or(0);
        let args = pattern
            .capture_names()
            .flatten()
            .filter_map(|name| Some((name.to_owned(), found.name(name)?.as_str().to_owned())))
            .collect();
        Some(Candidate {
            skill: rule.skill.clone(),
            score: THRESHOLD + share.min(500),
            args,
        })
    };
    rule.patterns
        .iter()
        .filter_map(score_of)
        .max_by_key(|c| c.score)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Vec<Rule> {
        let rule = |name: &str, patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
            Rule::new(name, &patterns).unwrap()
        };
        vec![
            rule(
                "disk-usage",
                &[r"(how much )?(free )?disk (space|usage)( is (there|free|left))?"],
            ),
            rule(
                "git-merge",
                &[
                    r"merge (the )?(branch )?(?P<source>\S+) into (?P<target>\S+) in (?P<repository>\S+)",
                ],
            ),
        ]
    }

    #[test]
    fn a_question_finds_its_skill_with_arguments() {
        let Match::One(c) = match_skill(&rules(), "How much free disk space is there?") else {
            panic!()
        };
        assert_eq!((c.skill.as_str(), c.score), ("disk-usage", 1000));
        let Match::One(c) = match_skill(&rules(), "Merge branch topic into main in demo") else {
            panic!()
        };
        assert_eq!(c.args["source"], "topic");
        assert_eq!(c.args["repository"], "demo");
    }

    #[test]
    fn nothing_is_guessed() {
        assert_eq!(
            match_skill(&rules(), "write a poem about winter"),
            Match::None
        );
        assert_eq!(match_skill(&rules(), ""), Match::None);
        let twice = [
            rules().remove(0),
            Rule::new("df", &["disk space".to_owned()]).unwrap(),
        ];
        assert!(matches!(match_skill(&twice, "disk space"), Match::Ambiguous(c) if c.len() == 2));
    }
}
