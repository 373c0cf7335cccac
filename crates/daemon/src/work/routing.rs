//! How a text is routed: the skills and agents that it is compared with, and the decision, of which admission and
//! `abbey skill explain` have the same.

use crate::core::plan::PlanInForce;
use crate::work::skills::SkillSet;
use crate::work::state::WorkState;
use abbey_agents::arguments::convert_arguments;
use abbey_agents::skill::Skill;
use abbey_engine::admission::{AgentFact, skill_without_owner};
use abbey_engine::matcher::{Candidate, Explanation, KnownNames, Match, explain};
use abbey_engine::routing::{Profile, Staff, Suitability, clear_choice, rank_agents};
use abbey_model::{FaultKind, Slug};
use abbey_plan::Agent;
use abbey_store::Intake;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What texts are compared with, made once for a plan and a reading of the skills.
pub(crate) struct Directory {
    plan: Option<Arc<PlanInForce>>,
    pub(crate) skills: Arc<SkillSet>,
    names: KnownNames,
    staff: Staff,
}

impl Directory {
    fn new(plan: Option<Arc<PlanInForce>>, skills: Arc<SkillSet>) -> Directory {
        let house = plan.as_ref().map(|p| &p.house);
        let mut names = KnownNames::default();
        let mut staff = Staff::default();
        if let (Some(house), Some(plan)) = (house, &plan) {
            names.agents = house.agents.keys().map(ToString::to_string).collect();
            names.services = house.services.keys().map(ToString::to_string).collect();
            let profiles = house.agents.values().map(|agent| {
                let charter = plan.charter_of(&agent.slug);
                profile_of(agent, charter, &skills)
            });
            staff = Staff::new(profiles);
        }
        Directory {
            plan,
            skills,
            names,
            staff,
        }
    }

    fn is_of(&self, plan: Option<&Arc<PlanInForce>>, skills: &Arc<SkillSet>) -> bool {
        let is_same_plan = match (&self.plan, plan) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        is_same_plan && Arc::ptr_eq(&self.skills, skills)
    }
}

/// What an agent is for, by its role, template, skills and charter.
fn profile_of<'t>(agent: &'t Agent, charter: &'t str, skills: &SkillSet) -> Profile<'t> {
    let template = agent.template.as_deref();
    let summary = template
        .and_then(abbey_plan::templates::find)
        .map_or("", |t| t.summary);
    let mut capabilities = format!("{} {summary}", template.unwrap_or_default());
    for skill in agent.skills.iter().filter_map(|name| skills.all.get(name)) {
        capabilities.push(' ');
        capabilities.push_str(&skill.name);
        capabilities.push(' ');
        capabilities.push_str(&skill.description);
    }
    Profile {
        agent: &agent.slug,
        role: &agent.role,
        capabilities,
        charter,
    }
}

/// How a text is routed, before budgets are looked at.
pub(crate) struct Routing {
    /// How it was matched with the skills.
    pub(crate) explanation: Explanation,
    /// How well it fits the agents, best first; empty if a skill does it.
    pub(crate) ranked: Vec<Suitability>,
    /// Input of admission.
    pub(crate) intake: Intake,
}

impl WorkState {
    /// What texts are compared with now.
    pub(crate) fn directory(&self) -> Arc<Directory> {
        let (plan, skills) = (self.core.plan.current(), self.skills.current());
        let known = self.directory.read().clone();
        if let Some(known) = known.filter(|d| d.is_of(plan.as_ref(), &skills)) {
            return known;
        }
        let fresh = Arc::new(Directory::new(plan, skills));
        *self.directory.write() = Some(Arc::clone(&fresh));
        fresh
    }

    /// Routes a text: no model is asked, and nothing is changed.
    pub(crate) fn route_text(&self, text: &str) -> Routing {
        let directory = self.directory();
        let mut explanation = explain(&directory.skills.rules, text, Some(&directory.names));
        let found: &mut [Candidate] = match &mut explanation.fit {
            Match::None => &mut [],
            Match::One(found) => std::slice::from_mut(found),
            Match::Ambiguous(found) => found,
        };
        for found in found {
            let args = std::mem::take(&mut found.args);
            found.args = directory.skills.convert_arguments(&found.skill, args);
        }
        let mut agents = self.agent_facts();
        let has = |skill: &str| agents.iter().any(|a| a.skills.iter().any(|s| s == skill));
        let is_done_by_skill = matches!(&explanation.fit, Match::One(found) if has(&found.skill));
        let ranked = match is_done_by_skill {
            true => Vec::new(),
            false => rank_agents(text, &directory.staff),
        };
        mark_suited_agent(&mut agents, &ranked);
        Routing {
            intake: Intake {
                fit: explanation.fit.clone(),
                reason: explanation.reason(),
                suggested: explanation.suggestions(),
                agents,
            },
            ranked,
            explanation,
        }
    }

    /// Checks that a skill that is named can run: there is one with a program, these are its arguments, and somebody has it.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` or `Conflict`, with what to do.
    pub(crate) fn check_named_skill(
        &self,
        name: &str,
        args: &BTreeMap<String, Value>,
        assignee: Option<&Slug>,
    ) -> Result<(), abbey_api::Problem> {
        use abbey_api::Problem;
        let skills = self.skills.current();
        let skill: &Skill = skills.all.get(name).ok_or_else(|| {
            Problem::new(FaultKind::NotFound, format!("there is no skill `{name}`"))
                .remedy("`abbey skill list` lists the skills")
        })?;
        if skill.program.is_none() {
            let text = format!("skill `{name}` has no program, only instructions for a model");
            return Err(Problem::new(FaultKind::Invalid, text)
                .remedy("describe the work in words: `abbey task add \"…\" --to AGENT`"));
        }
        let args = convert_arguments(&skill.args, args.clone());
        abbey_agents::skill::check_arguments(&skill.args, &serde_json::json!(args)).map_err(
            |why| {
                let text = format!("the arguments are not valid for skill `{name}`: {why}");
                Problem::new(FaultKind::Invalid, text)
            },
        )?;
        let agents = self.agent_facts();
        let mut asked = agents
            .iter()
            .filter(|a| assignee.is_none_or(|to| a.slug == *to));
        if asked.any(|a| a.skills.iter().any(|s| s == name)) {
            return Ok(());
        }
        let text = skill_without_owner(name, assignee, &agents);
        Err(Problem::new(FaultKind::Conflict, text))
    }
}

/// Marks the agent that the work is made for, if that is clear.
fn mark_suited_agent(agents: &mut [AgentFact], ranked: &[Suitability]) {
    let Some(best) = clear_choice(ranked) else {
        return;
    };
    if let Some(agent) = agents.iter_mut().find(|a| a.slug == best.agent) {
        agent.suited = Some(best.clone());
    }
}
