//! Requests that name their skill: `run skill NAME KEY=VALUE …`, or the name alone.

use super::request::Request;
use super::{Candidate, Considered, NAMED, Rule, SCORE_MAX, SlotKind};
use crate::matcher::Slot;
use abbey_model::Effect;
use serde_json::Value;
use std::collections::BTreeMap;

/// The skill that a request names, with its arguments. `run skill NAME` names a skill also where there is none of this name, so
/// that it is reported and no model guesses what was meant.
pub(super) fn find_named_skill(rules: &[Rule], request: &Request) -> Option<Candidate> {
    if request.has_lines || request.is_too_long {
        return None;
    }
    let is_name = |word: &str| {
        word.len() <= 64
            && word
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !word.is_empty()
    };
    let named = |skill: &str, args: BTreeMap<String, Value>| Candidate {
        skill: skill.to_owned(),
        score: NAMED,
        args,
    };
    let mut words = request.core.split(' ');
    let first = words.next()?;
    if is_name(first) && words.clone().next().is_none() {
        // `backup-db?` asks about it.
        if request.plain.trim_end_matches(['"', ' ']).ends_with('?') {
            return None;
        }
        // A name alone is a request only if the skill needs no more.
        let found = rules
            .iter()
            .find(|r| r.skill == first && r.runs && !r.needs_arguments);
        return found.map(|r| Candidate {
            score: SCORE_MAX,
            ..named(&r.skill, BTreeMap::new())
        });
    }
    if !first.eq_ignore_ascii_case("run") {
        return None;
    }
    let mut next = words.next()?;
    if next.eq_ignore_ascii_case("the") {
        next = words.next()?;
    }
    if !next.eq_ignore_ascii_case("skill") {
        return None;
    }
    let skill = words.next()?.trim_matches(['`', '"', '\'']);
    let mut args = BTreeMap::new();
    for word in words {
        // Any other word makes it a sentence about the skill.
        let (key, value) = word.split_once('=')?;
        args.insert(key.to_owned(), Value::from(value));
    }
    let skill = skill.to_ascii_lowercase();
    is_name(&skill).then(|| named(&skill, args))
}

/// A named skill among those that are considered.
pub(super) fn considered(rules: &[Rule], found: &Candidate) -> Considered {
    let rule = rules.iter().find(|r| r.skill == found.skill);
    let slot = |(name, value): (&String, &Value)| Slot {
        name: name.clone(),
        kind: SlotKind::Group,
        value: value.as_str().unwrap_or_default().to_owned(),
        refused: None,
    };
    Considered {
        skill: found.skill.clone(),
        effect: rule.map_or(Effect::Changes, |r| r.effect),
        score: found.score,
        pattern: None,
        slots: found.args.iter().map(slot).collect(),
        words: Vec::new(),
        held_back_by: Vec::new(),
    }
}
