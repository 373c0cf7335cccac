//! Matching a request to a skill: data in, an explanation out, no model asked (S4-23, S4-24).
//!
//! A skill brings patterns with typed slots. Only a pattern that covers the whole request counts, and guards hold the
//! request back where its words mean something else. What fits partly is a suggestion for a model; nothing is executed on a
//! guess. The same [`Explanation`] decides at admission and is shown by `abbey skill explain`.

mod guards;
mod named;
mod pattern;
mod request;
mod word_lists;

pub use guards::{Finding, Guard};
pub use pattern::{KnownNames, Pattern, Slot, SlotKind};
pub use request::TEXT_MAX;

use crate::terms::{distinctive_terms, has_term, stems_of};
use abbey_model::Effect;
use request::Request;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Score of a pattern that covers the whole request.
pub const SCORE_MAX: u32 = 1000;
/// Score of a skill that the request names; higher than that of every pattern.
pub const NAMED: u32 = SCORE_MAX + 1;
/// Score of a pattern that covers the request while a guard or a slot holds it back.
pub const HELD_BACK: u32 = 500;
/// Highest score of a skill that has words of the request and no pattern that covers it.
pub const WORDS_MAX: u32 = 400;
/// Least score of a skill that is suggested to a model.
pub const SUGGESTED: u32 = 130;
/// Most skills that are suggested to a model.
const SUGGESTIONS_MAX: usize = 3;

/// What matching needs to know of a skill.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Name of the skill.
    pub skill: String,
    /// What running it does.
    pub effect: Effect,
    /// Whether it has a program.
    pub runs: bool,
    /// Whether it can run without arguments.
    pub needs_arguments: bool,
    words: BTreeSet<String>,
    patterns: Vec<Pattern>,
}

impl Rule {
    /// What is known of a skill with these patterns that has a program and changes something.
    pub fn new(skill: &str, patterns: Vec<Pattern>) -> Rule {
        Rule {
            skill: skill.to_owned(),
            effect: Effect::Changes,
            runs: true,
            needs_arguments: false,
            words: BTreeSet::new(),
            patterns,
        }
    }

    /// The rule with the words of a text by which the skill is found.
    #[must_use]
    pub fn found_by(mut self, text: &str) -> Rule {
        self.words = stems_of(text);
        self
    }
}

/// A skill that matches a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Name of the skill.
    pub skill: String,
    /// [`SCORE_MAX`] for a pattern that covers the whole request, [`NAMED`] for a skill that is named.
    pub score: u32,
    /// Arguments of the skill, from the slots of its pattern.
    pub args: BTreeMap<String, Value>,
}

/// Result of matching a text with the skills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// No skill may run by itself.
    None,
    /// One skill covers the request.
    One(Candidate),
    /// Several skills cover the request.
    Ambiguous(Vec<Candidate>),
}

/// A skill that a text has to do with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Considered {
    /// Name of the skill.
    pub skill: String,
    /// What running it does.
    pub effect: Effect,
    /// Quality of the match, from 1 to [`NAMED`].
    pub score: u32,
    /// Pattern that covers the request; none where only words agree.
    pub pattern: Option<String>,
    /// Values of the pattern's slots.
    pub slots: Vec<Slot>,
    /// Words of the request that the skill has.
    pub words: Vec<String>,
    /// Guards that hold it back.
    pub held_back_by: Vec<Finding>,
}

impl Considered {
    /// Whether it may run by itself, if no other skill may as well.
    pub const fn may_run(&self) -> bool {
        self.score >= SCORE_MAX
    }

    fn candidate(&self) -> Candidate {
        let args = self.slots.iter();
        let args = args.map(|s| (s.name.clone(), Value::from(s.value.clone())));
        Candidate {
            skill: self.skill.clone(),
            score: self.score,
            args: args.collect(),
        }
    }

    /// Why it has its score, as a clause: `its pattern … covers the whole request`.
    pub fn reason(&self) -> String {
        let refused = self.slots.iter().find_map(|s| s.refused.as_deref());
        match (&self.pattern, self.held_back_by.first(), refused) {
            (None, ..) if self.may_run() => "the request names it".to_owned(),
            (Some(_), Some(first), _) => format!(
                "a pattern of it covers the request, but the guard `{}` holds it back: {}",
                first.guard.name(),
                first.found
            ),
            (Some(_), None, Some(refused)) => {
                format!("a pattern of it covers the request, but {refused}")
            }
            (Some(_), None, None) => "a pattern of it covers the whole request".to_owned(),
            (None, guard, _) => {
                let words = self.words.join(", ");
                let guard = guard.map_or_else(String::new, |f| {
                    format!(
                        "; the guard `{}` holds it back as well: {}",
                        f.guard.name(),
                        f.found
                    )
                });
                format!("it has the words {words}, and no pattern of it covers the request{guard}")
            }
        }
    }
}

/// How a text was matched, and why so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The request without courtesies, as it is compared.
    pub request: String,
    /// Everything in it that can hold a skill back.
    pub guards: Vec<Finding>,
    /// Skills that it has to do with, best first.
    pub considered: Vec<Considered>,
    /// The outcome.
    pub fit: Match,
}

impl Explanation {
    /// Skills that are suggested to a model, best first, where none runs by itself.
    pub fn suggestions(&self) -> Vec<String> {
        if matches!(self.fit, Match::One(_)) {
            return Vec::new();
        }
        let fitting = self.considered.iter().filter(|c| c.score >= SUGGESTED);
        fitting
            .take(SUGGESTIONS_MAX)
            .map(|c| c.skill.clone())
            .collect()
    }

    /// Why a skill runs, or none does, in one sentence without its end.
    pub fn reason(&self) -> String {
        let pattern = |c: &&Considered| c.pattern.is_some();
        match (&self.fit, self.considered.first()) {
            (Match::One(found), best) if best.filter(pattern).is_none() => {
                format!("the request names the skill `{}`", found.skill)
            }
            (Match::One(found), _) => format!(
                "a pattern of the skill `{}` covers the whole request (score {})",
                found.skill, found.score
            ),
            (Match::Ambiguous(found), _) => {
                let names: Vec<String> = found.iter().map(|c| format!("`{}`", c.skill)).collect();
                format!(
                    "patterns of the skills {} cover the request, so none runs by itself",
                    names.join(", ")
                )
            }
            (Match::None, Some(best)) if best.score >= SUGGESTED => {
                format!(
                    "no skill runs by itself; nearest is `{}` (score {}): {}",
                    best.skill,
                    best.score,
                    best.reason()
                )
            }
            (Match::None, _) => "no skill matches".to_owned(),
        }
    }
}

/// Matches a text with the skills. `names` are the names that slots can mean; without them every name is accepted.
pub fn explain(rules: &[Rule], text: &str, names: Option<&KnownNames>) -> Explanation {
    let request = Request::read(text);
    let named = named::find_named_skill(rules, &request);
    let mut considered: Vec<Considered> = match &named {
        Some(found) => vec![named::considered(rules, found)],
        None => rules
            .iter()
            .filter_map(|rule| cover(rule, &request, names))
            .collect(),
    };
    let covering: Vec<Candidate> = considered
        .iter()
        .filter(|c| c.may_run())
        .map(Considered::candidate)
        .collect();
    let fit = match (named, covering.len()) {
        (Some(found), _) => Match::One(found),
        (None, 0) => Match::None,
        (None, 1) => covering.into_iter().next().map_or(Match::None, Match::One),
        (None, _) => Match::Ambiguous(covering),
    };
    let guards = guards::find_guards(&request, &[], None);
    if !matches!(fit, Match::One(_)) {
        add_skills_with_words(rules, &request, &guards, &mut considered);
    }
    considered.sort_by(|a, b| b.score.cmp(&a.score).then_with(|| a.skill.cmp(&b.skill)));
    Explanation {
        guards,
        request: request.core,
        considered,
        fit,
    }
}

/// Skills by the words of a query, best first, with scores up to [`WORDS_MAX`]; used by searches as well as by suggestions.
pub fn score_by_words(rules: &[Rule], query: &str) -> Vec<(String, u32)> {
    let terms = distinctive_terms(query, rules.iter().map(|r| &r.words));
    let mut found: Vec<(String, u32)> = Vec::new();
    for rule in rules {
        let hits = terms
            .iter()
            .filter(|t| has_term(&rule.words, &t.stem))
            .count();
        let score = hits * WORDS_MAX as usize / terms.len().max(1);
        if score > 0 {
            found.push((
                rule.skill.clone(),
                u32::try_from(score).unwrap_or(WORDS_MAX),
            ));
        }
    }
    found.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    found
}

/// Refuses the value of a slot that takes anything. Words like `tomorrow`, `by no means` or a second request fit there as well,
/// and no list of them is complete, so a skill that changes something doesn't run on them by itself.
fn refuse_free_text(slot: &mut Slot) {
    let is_free = match slot.kind {
        SlotKind::Text => true,
        SlotKind::Group => slot.value.contains(' '),
        _ => false,
    };
    if is_free && slot.refused.is_none() {
        slot.refused = Some(format!(
            "`{}` takes any words, and it changes something: a model decides, or `abbey skill run` names it",
            slot.name
        ));
    }
}

/// The skill with the best of its patterns that cover the request.
fn cover(rule: &Rule, request: &Request, names: Option<&KnownNames>) -> Option<Considered> {
    if !rule.runs || request.core.is_empty() {
        return None;
    }
    let tried = rule.patterns.iter().filter_map(|pattern| {
        let mut slots = pattern.match_whole(&request.core, names).or_else(|| {
            let has_more = request.whole != request.core;
            has_more.then(|| pattern.match_whole(&request.whole, names))?
        })?;
        if rule.effect == Effect::Changes {
            slots.iter_mut().for_each(refuse_free_text);
        }
        // A value that was given a slot of its own says nothing about the rest of the request, unless it can be any word.
        let is_word = |s: &&Slot| {
            let is_plain = || s.value.chars().all(char::is_alphabetic);
            s.refused.is_none()
                && match s.kind {
                    SlotKind::Text | SlotKind::Group => false,
                    SlotKind::Name | SlotKind::Host | SlotKind::Branch | SlotKind::Path => {
                        !is_plain()
                    }
                    _ => !s.value.contains(' '),
                }
        };
        let values: Vec<String> = slots
            .iter()
            .filter(is_word)
            .map(|s| s.value.to_lowercase())
            .collect();
        let quoted = slots.iter().find(|s| s.kind == SlotKind::Quoted);
        let quoted = quoted.map(|s| s.value.as_str());
        let mut held_back_by = guards::find_guards(request, &values, quoted);
        held_back_by.retain(|f| f.holds_back(rule.effect));
        let is_clear = held_back_by.is_empty() && slots.iter().all(|s| s.refused.is_none());
        Some(Considered {
            skill: rule.skill.clone(),
            effect: rule.effect,
            score: if is_clear { SCORE_MAX } else { HELD_BACK },
            pattern: Some(pattern.text().to_owned()),
            slots,
            words: Vec::new(),
            held_back_by,
        })
    });
    // Of two patterns the one without free text knows better what it takes; of equals the first.
    let quality = |c: &Considered| (c.score, !Pattern::has_free_text(&c.slots));
    tried.reduce(|best, next| {
        if quality(&next) > quality(&best) {
            next
        } else {
            best
        }
    })
}

/// Adds the skills that have words of the request, where they are not there yet.
fn add_skills_with_words(
    rules: &[Rule],
    request: &Request,
    guards: &[Finding],
    considered: &mut Vec<Considered>,
) {
    let terms = distinctive_terms(&request.core, rules.iter().map(|r| &r.words));
    for (skill, score) in score_by_words(rules, &request.core) {
        let rule = rules.iter().find(|r| r.skill == skill);
        let Some(rule) = rule.filter(|_| considered.iter().all(|c| c.skill != skill)) else {
            continue;
        };
        let words = terms.iter().filter(|t| has_term(&rule.words, &t.stem));
        considered.push(Considered {
            skill,
            effect: rule.effect,
            score,
            pattern: None,
            slots: Vec::new(),
            words: words.map(|t| t.word.clone()).collect(),
            held_back_by: guards
                .iter()
                .filter(|f| f.holds_back(rule.effect))
                .cloned()
                .collect(),
        });
    }
}

#[cfg(test)]
mod tests;
