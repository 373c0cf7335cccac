//! Skills as API documents.

use crate::work::state::WorkState;
use abbey_agents::skill::{Program, Skill};
use abbey_api::{Risk, SkillView, SkillsDoc, VERSION};
use std::collections::BTreeMap;

/// A skill as an API document, with the agents that own it and its match score, if any.
pub(crate) fn skill_view(work: &WorkState, skill: &Skill, score: Option<u32>) -> SkillView {
    let owners = work.core.plan.current().map_or_else(Vec::new, |c| {
        c.house
            .agents
            .values()
            .filter(|a| a.skills.contains(&skill.name))
            .map(|a| a.slug.to_string())
            .collect()
    });
    SkillView {
        name: skill.name.clone(),
        description: skill.description.clone(),
        hash: skill.hash.clone(),
        skill_version: skill.version.clone(),
        owner: skill.owner.clone(),
        tags: skill.tags.clone(),
        program: skill.program.as_ref().map(|p| match p {
            Program::Builtin(name) => format!("builtin:{name}"),
            Program::File(path) => path.display().to_string(),
        }),
        patterns: skill.patterns.clone(),
        args: skill.args.clone(),
        grants: skill.grants.clone(),
        risk: skill.risk.parse().unwrap_or(Risk::Medium),
        agents: owners,
        score,
    }
}

/// Words that a skill is found by: of its name, description and tags, in lower case.
fn words_of(skill: &Skill) -> Vec<String> {
    let text = format!(
        "{} {} {}",
        skill.name,
        skill.description,
        skill.tags.join(" ")
    );
    words_in(&text)
}

fn words_in(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '\'');
    words
        .filter(|w| !w.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// Whether one of the words is this one, or begins with it if it has three letters or more.
fn has_word(words: &[String], word: &str) -> bool {
    let is_begin = word.chars().count() >= 3;
    words
        .iter()
        .any(|w| w == word || is_begin && w.starts_with(word))
}

/// Words of a query but those that most skills have, like `the`: they tell none from another.
fn distinctive_words(query: &str, skills: &[&Skill]) -> Vec<String> {
    let all: Vec<Vec<String>> = skills.iter().map(|s| words_of(s)).collect();
    let mut words = words_in(query);
    words.retain(|word| {
        let having = all.iter().filter(|known| has_word(known, word)).count();
        having * 2 <= all.len() || all.len() < 4
    });
    words
}

/// Skills for which `allowed` is true; with a query those that match it by pattern or by words,
/// best first.
pub(crate) fn find_skills(
    work: &WorkState,
    query: Option<&str>,
    allowed: impl Fn(&str) -> bool,
) -> SkillsDoc {
    let skills = work.skills.current();
    let all = skills.all.values().filter(|s| allowed(&s.name));
    let found: Vec<SkillView> = match query.filter(|q| !q.trim().is_empty()) {
        None => all.map(|s| skill_view(work, s, None)).collect(),
        Some(query) => {
            let scores: BTreeMap<String, u32> = skills
                .matching_skills(query)
                .into_iter()
                .map(|c| (c.skill, c.score))
                .collect();
            let all: Vec<&Skill> = all.collect();
            let words = distinctive_words(query, &all);
            let score = |s: &Skill| {
                let known = words_of(s);
                let hits = words.iter().filter(|w| has_word(&known, w)).count();
                let by_words = u32::try_from(hits * 400 / words.len().max(1)).unwrap_or(0);
                scores.get(&s.name).copied().unwrap_or(0).max(by_words)
            };
            let mut found: Vec<SkillView> = all
                .into_iter()
                .map(|s| (score(s), s))
                .filter(|(n, _)| *n > 0)
                .map(|(n, s)| skill_view(work, s, Some(n)))
                .collect();
            found.sort_by(|a, b| b.score.cmp(&a.score).then_with(|| a.name.cmp(&b.name)));
            found
        }
    };
    SkillsDoc {
        version: VERSION,
        skills: found,
        cursor: None,
    }
}
