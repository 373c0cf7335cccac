//! How texts are routed, as API documents and as sentences: for `abbey skill explain` and for `abbey task why`.

use crate::core::home::Home;
use crate::insight::skill_views::agents_with;
use crate::work::skills::SkillSet;
use crate::work::state::WorkState;
use abbey_api::{AgentFitView, ConsideredView, ExplainDoc, GuardView, SlotView, VERSION};
use abbey_engine::admission::{Route, admit, skill_without_owner};
use abbey_engine::matcher::{Considered, Explanation, Match, SCORE_MAX};
use abbey_engine::routing::Suitability;
use abbey_engine::task::Admission;
use abbey_model::Slug;
use abbey_store::TaskRow;

/// Agents of a ranking that are shown.
const RANKED_MAX: usize = 5;

/// What would become of a text as a task; with an assignee, as a task for it.
pub(crate) fn explain_routing(work: &WorkState, text: &str, assignee: Option<&Slug>) -> ExplainDoc {
    let routing = work.route_text(text);
    let (decision, mut route) = admit(assignee, &routing.intake.fit, &routing.intake.agents);
    route.reason = routing.intake.reason;
    let owners = |skill: &str| agents_with(work, skill);
    let mut doc = explain_doc(&routing.explanation, owners);
    doc.ranking = routing
        .ranked
        .iter()
        .take(RANKED_MAX)
        .map(fit_view)
        .collect();
    match decision {
        Admission::Offer(agents) => {
            doc.routing = match route.skill {
                Some(_) => abbey_api::Routing::Skill,
                None => abbey_api::Routing::Model,
            };
            doc.agents = agents.iter().map(ToString::to_string).collect();
            doc.agents_reason = choice_text(&route, assignee.is_some());
        }
        Admission::Park(reasons) => {
            doc.routing = abbey_api::Routing::Nobody;
            let reasons: Vec<&str> = reasons.iter().map(|r| r.text.as_str()).collect();
            doc.agents_reason = reasons.join("; ");
        }
    }
    if let (None, Match::One(found)) = (&route.skill, &routing.intake.fit) {
        let why = skill_without_owner(&found.skill, assignee, &routing.intake.agents);
        doc.reason = format!("{}, but {why}", doc.reason);
    }
    // A skill that nobody may use here does nothing.
    doc.skill = route.skill;
    doc.args = route.args;
    if doc.skill.is_none() && doc.suggested.is_empty() {
        let found = doc.skills.first().filter(|c| c.score >= SCORE_MAX);
        doc.suggested = found.map(|c| c.name.clone()).into_iter().collect();
    }
    doc
}

/// What would become of a text in a house that does not run: which skill would do it, by the files of the house.
pub fn explain_in_stopped_house(home: &Home, text: &str) -> ExplainDoc {
    let skills = SkillSet::load(&home.skills_dir());
    let mut doc = explain_doc(&skills.explain(text), |_| Vec::new());
    doc.agents_reason =
        "the house does not run, so its agents and services are not known".to_owned();
    doc
}

fn explain_doc(explained: &Explanation, owners: impl Fn(&str) -> Vec<String>) -> ExplainDoc {
    use abbey_engine::matcher::Match;
    let found = match &explained.fit {
        Match::One(found) => Some(found),
        Match::None | Match::Ambiguous(_) => None,
    };
    let guards = explained.guards.iter().map(|f| GuardView {
        guard: f.guard.name().to_owned(),
        found: f.found.clone(),
        also_reading: f.holds_back_reading,
    });
    ExplainDoc {
        version: VERSION,
        request: explained.request.clone(),
        routing: match found {
            Some(_) => abbey_api::Routing::Skill,
            None => abbey_api::Routing::Model,
        },
        skill: found.map(|f| f.skill.clone()),
        args: found.map(|f| f.args.clone()).unwrap_or_default(),
        reason: explained.reason(),
        agents: Vec::new(),
        agents_reason: String::new(),
        suggested: explained.suggestions(),
        guards: guards.collect(),
        skills: explained
            .considered
            .iter()
            .map(|c| considered_view(c, owners(&c.skill)))
            .collect(),
        ranking: Vec::new(),
    }
}

fn considered_view(one: &Considered, agents: Vec<String>) -> ConsideredView {
    let slots = one.slots.iter().map(|s| SlotView {
        name: s.name.clone(),
        kind: s.kind.name().to_owned(),
        value: s.value.clone(),
        refused: s.refused.clone(),
    });
    ConsideredView {
        name: one.skill.clone(),
        score: one.score,
        effect: one.effect,
        pattern: one.pattern.clone(),
        slots: slots.collect(),
        words: one.words.clone(),
        held_back_by: one
            .held_back_by
            .iter()
            .map(|f| f.guard.name().to_owned())
            .collect(),
        reason: one.reason(),
        agents,
    }
}

fn fit_view(fit: &Suitability) -> AgentFitView {
    AgentFitView {
        agent: fit.agent.to_string(),
        score: fit.score,
        words: fit.words.clone(),
    }
}

/// Why these agents were chosen, as a clause behind their names.
fn choice_text(route: &Route, is_named: bool) -> String {
    match (&route.skill, &route.suited) {
        _ if is_named => "named by the author".to_owned(),
        (Some(skill), _) => format!("has the skill `{skill}`"),
        (None, Some(suited)) => format!(
            "what it is for has the words {} of the task (score {})",
            suited.words.join(", "),
            suited.score
        ),
        (None, None) => "at the top of the organization".to_owned(),
    }
}

/// Why the agents that do a task were chosen, and who else could do it; none while that is undecided.
pub(crate) fn routing_text(row: &TaskRow) -> Option<String> {
    let route = &row.route;
    let agent = row.assignee.as_ref();
    if route.offered_to.is_empty() && agent.is_none() {
        return None;
    }
    let chosen = match route.offered_to.is_empty() {
        true => agent.map(ToString::to_string).unwrap_or_default(),
        false => join_with_or(&route.offered_to),
    };
    // A task of an earlier release has no reason.
    let reason = match (&route.skill, route.reason.as_str()) {
        (Some(skill), "") => format!(
            "its text matches the skill `{skill}` (score {} of {SCORE_MAX})",
            route.score
        ),
        (None, "") => "no skill matches".to_owned(),
        (_, reason) => reason.to_owned(),
    };
    let rule = match (&route.skill, row.pinned) {
        (Some(_), _) => format!("{reason}, and it went to {chosen}"),
        (None, true) => format!("{} named {chosen}, and {reason}", row.author),
        (None, false) => format!(
            "{reason}, so it went to {chosen}: {}",
            choice_text(route, false)
        ),
    };
    let suggested = match route.suggested.is_empty() {
        true => String::new(),
        false => format!("; suggested to the model: {}", route.suggested.join(", ")),
    };
    let others = match (&route.skill, route.others.is_empty()) {
        (_, true) => String::new(),
        (Some(_), false) => format!("; {} has the skill as well", join_with_or(&route.others)),
        (None, false) => format!("; {} had to wait", join_with_or(&route.others)),
    };
    Some(format!("{rule}{suggested}{others}"))
}

/// Names of agents, as alternatives.
pub(crate) fn join_with_or(slugs: &[Slug]) -> String {
    let names: Vec<&str> = slugs.iter().map(Slug::as_str).collect();
    names.join(" or ")
}
