//! What an agent learns about itself: the one document from which its prompt is made.

use crate::core::plan::PlanInForce;
use crate::insight::skill_views::agents_may_do;
use abbey_api::ColleagueView;
use abbey_model::{Slug, Timestamp};
use abbey_plan::Agent;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;

/// Most colleagues that are listed.
const COLLEAGUES_MAX: usize = 64;
/// Most skills of one of them.
const SKILLS_MAX: usize = 32;

/// Other agents of the house as an agent sees them, those first that it has most to do with, and how many are left out.
pub(crate) fn colleagues_of(current: &PlanInForce, agent: &Agent) -> (Vec<ColleagueView>, u32) {
    let others = current.house.agents.values();
    let others = others.filter(|other| other.slug != agent.slug);
    let mut views: Vec<ColleagueView> = others.map(|other| colleague_view(agent, other)).collect();
    // By name within each class, as they are in the plan.
    views.sort_by_key(|c| !(c.may_delegate || c.may_ask || !c.relations.is_empty()));
    let left_out = views.len().saturating_sub(COLLEAGUES_MAX);
    views.truncate(COLLEAGUES_MAX);
    (views, u32::try_from(left_out).unwrap_or(u32::MAX))
}

fn colleague_view(agent: &Agent, other: &Agent) -> ColleagueView {
    let mut relations = Vec::new();
    if agent.reports_to.as_ref() == Some(&other.slug) {
        relations.push("you report to it".to_owned());
    }
    if other.reports_to.as_ref() == Some(&agent.slug) {
        relations.push("it reports to you".to_owned());
    }
    let declared = agent.relations.iter();
    let declared = declared.filter(|(_, whom)| whom.contains(&other.slug));
    relations.extend(declared.map(|(kind, _)| format!("relation: {kind}")));
    let grant = agent.grants.get(&other.slug);
    ColleagueView {
        name: other.slug.to_string(),
        display_name: other.display_name.clone(),
        role: other.role.clone(),
        relations,
        may_delegate: agent.delegates.includes(&other.slug),
        may_ask: agent.asks.includes(&other.slug),
        only_skills: grant.is_some_and(|g| !g.skills.is_empty()),
        skills: agents_may_do(agent, other)
            .take(SKILLS_MAX)
            .cloned()
            .collect(),
    }
}

/// Agents to which `agent` may delegate tasks for a skill, by skill.
pub(crate) fn delegable_skills(
    current: &PlanInForce,
    agent: &Agent,
) -> BTreeMap<String, Vec<Slug>> {
    let mut skills: BTreeMap<String, Vec<Slug>> = BTreeMap::new();
    for other in current.house.agents.values() {
        for skill in agents_may_do(agent, other) {
            skills
                .entry(skill.clone())
                .or_default()
                .push(other.slug.clone());
        }
    }
    skills
}

/// An instant as an agent reads it, in a time zone by its name in the database of IANA; in UTC if that is not known.
pub(crate) fn local_time(at: Timestamp, zone: &str) -> String {
    let zone = TimeZone::get(zone).unwrap_or(TimeZone::UTC);
    let instant = jiff::Timestamp::from_millisecond(at.0).unwrap_or_default();
    let local = instant.to_zoned(zone);
    local.strftime("%A, %Y-%m-%d %H:%M %:z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_time_has_day_zone_and_offset() {
        let at = Timestamp(1_795_948_800_000);
        assert_eq!(local_time(at, "UTC"), "Sunday, 2026-11-29 10:40 +00:00");
        assert_eq!(
            local_time(at, "Europe/Ljubljana"),
            "Sunday, 2026-11-29 11:40 +01:00"
        );
        assert_eq!(local_time(at, "Mars/Base"), local_time(at, "UTC"));
    }
}
