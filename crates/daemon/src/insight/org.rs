//! The org chart as the manifest declares it, and its single points of failure (S4-02, S2-32).

use crate::work::state::WorkState;
use abbey_api::{OrgDoc, OrgRow, VERSION};
use abbey_model::Slug;
use abbey_plan::Agent;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

type Agents = BTreeMap<Slug, Agent>;

/// Agents that work of `from` can reach by at most `depth` further delegations, leaving out
/// `without`.
fn reachable_agents(
    agents: &Agents,
    from: &Slug,
    depth: u32,
    without: Option<&Slug>,
) -> BTreeSet<Slug> {
    let mut found = BTreeSet::new();
    let mut queue = VecDeque::from([(from, 0)]);
    while let Some((at, steps)) = queue.pop_front() {
        let Some(agent) = agents.get(at).filter(|_| steps <= depth) else {
            continue;
        };
        let next = agents
            .keys()
            .filter(|to| *to != from && Some(*to) != without && agent.delegates.includes(to));
        for to in next {
            if found.insert(to.clone()) {
                queue.push_back((to, steps + 1));
            }
        }
    }
    found
}

/// Agents with their level, each superior before its subordinates.
fn top_down(agents: &Agents) -> Vec<(u32, &Agent)> {
    let mut rows = Vec::new();
    let mut stack: Vec<(u32, &Agent)> = agents
        .values()
        .rev()
        .filter(|a| a.reports_to.is_none())
        .map(|a| (1, a))
        .collect();
    while let Some((depth, agent)) = stack.pop() {
        let below = agents.values().rev();
        let below = below.filter(|a| a.reports_to.as_ref() == Some(&agent.slug));
        stack.extend(below.map(|a| (depth + 1, a)));
        rows.push((depth, agent));
    }
    rows
}

/// One sentence for each single point of failure.
fn org_findings(agents: &Agents, depth: u32) -> Vec<String> {
    let mut findings = Vec::new();
    for agent in agents.values() {
        // Agents that can be reached now but not without this agent.
        let reached = |without: Option<&Slug>| -> BTreeSet<Slug> {
            let from = agents.keys().filter(|s| Some(*s) != without);
            from.flat_map(|s| reachable_agents(agents, s, depth, without))
                .collect()
        };
        let mut lost = &reached(None) - &reached(Some(&agent.slug));
        lost.remove(&agent.slug);
        if !lost.is_empty() {
            let names: Vec<&str> = lost.iter().map(Slug::as_str).collect();
            findings.push(format!(
                "{} is a single point of failure: without it no agent can delegate to {}",
                agent.slug,
                names.join(", ")
            ));
        }
    }
    findings
}

/// The org chart as an API document: agents top down, whom each may delegate to or ask, and single
/// points of failure.
pub(crate) fn org_chart(work: &WorkState) -> OrgDoc {
    let current = work.core.plan.current();
    let empty = Agents::new();
    let agents = current.as_ref().map_or(&empty, |c| &c.house.agents);
    let depth = current.as_ref().map_or(0, |c| c.house.delegation.depth);
    let names = |slugs: &mut dyn Iterator<Item = &Slug>| slugs.map(ToString::to_string).collect();
    let row = |(depth_of, agent): (u32, &Agent)| OrgRow {
        name: agent.slug.to_string(),
        role: agent.role.clone(),
        reports_to: agent.reports_to.as_ref().map(ToString::to_string),
        depth: depth_of,
        delegates_to: names(
            &mut agents
                .keys()
                .filter(|to| **to != agent.slug && agent.delegates.includes(to)),
        ),
        asks: names(
            &mut agents
                .keys()
                .filter(|to| **to != agent.slug && agent.asks.includes(to)),
        ),
        reaches: names(&mut reachable_agents(agents, &agent.slug, depth, None).iter()),
        relations: agent
            .relations
            .iter()
            .map(|(kind, whom)| ((*kind).to_owned(), names(&mut whom.iter())))
            .collect(),
    };
    OrgDoc {
        version: VERSION,
        agents: top_down(agents).into_iter().map(row).collect(),
        findings: org_findings(agents, depth),
    }
}
