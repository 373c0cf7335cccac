//! Skills as API documents.

use crate::cells::specs::catalogue_in_cell;
use crate::core::home::Home;
use crate::work::skills::SkillSet;
use crate::work::state::WorkState;
use abbey_agents::skill::{Program, Skill};
use abbey_api::{InvalidSkillView, Risk, SkillView, SkillsDoc, VERSION};
use abbey_model::{CellKind, Slug};
use abbey_plan::Agent;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A skill as an API document, with the agents that own it and its match score, if any.
fn skill_view(skill: &Skill, agents: Vec<String>, score: Option<u32>) -> SkillView {
    SkillView {
        name: skill.name.clone(),
        description: skill.description.clone(),
        hash: skill.hash.clone(),
        skill_version: skill.version.clone(),
        owner: skill.owner.clone(),
        tags: skill.tags.clone(),
        program: skill.program.as_ref().map(|p| match p {
            Program::Builtin(name) => format!("builtin:{name}"),
            Program::File(path) => {
                let dir = skill.directory.as_deref().unwrap_or(Path::new(""));
                dir.join(path).display().to_string()
            }
        }),
        patterns: skill.patterns.iter().map(|p| p.text().to_owned()).collect(),
        args: skill.args.clone(),
        grants: skill.grants.clone(),
        risk: skill.risk.parse().unwrap_or(Risk::Medium),
        effect: skill.effect,
        agents,
        score,
    }
}

/// Agents of the plan in force that have a skill.
pub(crate) fn agents_with(work: &WorkState, skill: &str) -> Vec<String> {
    work.core.plan.current().map_or_else(Vec::new, |c| {
        let agents = c.house.agents.values();
        let having = agents.filter(|a| a.skills.iter().any(|s| s == skill));
        having.map(|a| a.slug.to_string()).collect()
    })
}

/// A skill as the agent sees it that runs it: its program is named by its path in the agent's cell.
pub(crate) fn skill_of_agent(
    work: &WorkState,
    agent: &Agent,
    skill: &Skill,
    score: Option<u32>,
) -> SkillView {
    let mut view = skill_view(skill, agents_with(work, &skill.name), score);
    if let Some(Program::File(path)) = &skill.program {
        view.program = Some(match directory_in_cell(work, agent, skill) {
            Some(dir) => dir.join(path).display().to_string(),
            None => format!("skill-file:{}", path.display()),
        });
    }
    view
}

/// Directory of a skill's files in the cell of an agent; none where the cell has no mount of them.
pub(crate) fn directory_in_cell(work: &WorkState, agent: &Agent, skill: &Skill) -> Option<PathBuf> {
    let host = work.core.home.skills_dir();
    if agent.cell == CellKind::Process {
        return skill.directory.clone();
    }
    let below = abbey_agents::library::path_in_catalogue(&host, skill)?;
    Some(catalogue_in_cell(&host, agent.cell)?.join(below))
}

/// Skills for which `allowed` is true; with a query those that match it by pattern or by words,
/// best first. `view` makes the document of one.
fn find_skills(
    skills: &SkillSet,
    query: Option<&str>,
    allowed: impl Fn(&str) -> bool,
    view: impl Fn(&Skill, Option<u32>) -> SkillView,
) -> SkillsDoc {
    let all = skills.all.values().filter(|s| allowed(&s.name));
    let found: Vec<SkillView> = match query.filter(|q| !q.trim().is_empty()) {
        None => all.map(|s| view(s, None)).collect(),
        Some(query) => {
            let scores = skills.matching_skills(query);
            let score = |s: &Skill| scores.get(&s.name).copied().unwrap_or(0);
            let mut found: Vec<SkillView> = all
                .into_iter()
                .map(|s| (score(s), s))
                .filter(|(n, _)| *n > 0)
                .map(|(n, s)| view(s, Some(n)))
                .collect();
            found.sort_by(|a, b| b.score.cmp(&a.score).then_with(|| a.name.cmp(&b.name)));
            found
        }
    };
    SkillsDoc {
        version: VERSION,
        skills: found,
        cursor: None,
        changed: Vec::new(),
        invalid: Vec::new(),
    }
}

/// Skills that an agent may use; with a query those that match it, best first.
pub(crate) fn find_skills_of_agent(
    work: &WorkState,
    agent: &Agent,
    query: Option<&str>,
) -> SkillsDoc {
    let allowed = |name: &str| agent.skills.iter().any(|s| s == name);
    find_skills(&work.skills.current(), query, allowed, |skill, score| {
        skill_of_agent(work, agent, skill, score)
    })
}

/// Skills of `other` for which `agent` may delegate tasks to it.
pub(crate) fn agents_may_do<'a>(
    agent: &'a Agent,
    other: &'a Agent,
) -> impl Iterator<Item = &'a String> {
    let may = agent.slug != other.slug && agent.delegates.includes(&other.slug);
    let limits = agent.grants.get(&other.slug).map(|g| &g.skills);
    let limits = limits.filter(|skills| !skills.is_empty());
    let skills = other.skills.iter().filter(move |_| may);
    skills.filter(move |s| limits.is_none_or(|only| only.contains(s.as_str())))
}

/// Skills of other agents for which `agents` may be given tasks, or those that match a query.
pub(crate) fn find_skills_of_others(
    work: &WorkState,
    delegable: &BTreeMap<String, Vec<Slug>>,
    query: Option<&str>,
) -> SkillsDoc {
    let allowed = |name: &str| delegable.contains_key(name);
    find_skills(&work.skills.current(), query, allowed, |skill, score| {
        let agents = delegable.get(&skill.name).into_iter().flatten();
        skill_view(skill, agents.map(ToString::to_string).collect(), score)
    })
}

/// Directories that are no valid skill.
fn invalid_views(skills: &SkillSet) -> Vec<InvalidSkillView> {
    let one_line = |text: &String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let view = |invalid: &abbey_agents::skill::InvalidSkill| InvalidSkillView {
        name: invalid.name.clone(),
        mistakes: invalid.mistakes.iter().map(one_line).collect(),
    };
    skills.invalid.iter().map(view).collect()
}

/// Every skill in force, or those that match a query, and which skills differ on disk.
pub(crate) fn find_skills_in_force(work: &WorkState, query: Option<&str>) -> SkillsDoc {
    let current = work.skills.current();
    let found = find_skills(
        &current,
        query,
        |_| true,
        |skill, score| skill_view(skill, agents_with(work, &skill.name), score),
    );
    SkillsDoc {
        changed: work.skills.changed_on_disk(),
        invalid: invalid_views(&current),
        ..found
    }
}

/// Skills of a house that does not run, read from its files: the built-in ones, and its own if there are any.
pub fn find_skills_of_stopped_house(home: &Home, query: Option<&str>) -> SkillsDoc {
    let skills = SkillSet::load(&home.skills_dir());
    let found = find_skills(
        &skills,
        query,
        |_| true,
        |skill, score| skill_view(skill, Vec::new(), score),
    );
    SkillsDoc {
        invalid: invalid_views(&skills),
        ..found
    }
}
