//! The plan in force: what the newest applied manifest declares, with what was allocated to it.

use crate::boot::house::House;
use crate::core::error::{Error, Result};
use abbey_model::Slug;
use abbey_plan::{Applied, Registry};
use abbey_store::{GenerationRow, allocation::Allocation};
use abbey_words::Language;
use std::collections::BTreeMap;

/// The plan that is in force.
#[derive(Debug, Clone)]
pub(crate) struct PlanInForce {
    pub(crate) house: abbey_plan::House,
    pub(crate) generation: u64,
    pub(crate) applied: Applied,
    pub(crate) registry: Registry,
    pub(crate) newest_uid: u32,
    pub(crate) charters: BTreeMap<Slug, String>,
    pub(crate) manifest: String,
    pub(crate) base_dir: String,
}

impl PlanInForce {
    /// Reads a generation back. It parsed when it was committed; a newer version may refuse it.
    pub(crate) fn from_row(row: GenerationRow) -> Result<PlanInForce> {
        let damaged = |why: String| Error::Damaged {
            path: "abbey.db (current generation)".into(),
            why,
        };
        let house = abbey_plan::parse(&row.manifest).map_err(|m| {
            damaged(
                m.iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("; "),
            )
        })?;
        let applied = serde_json::from_value(row.applied).map_err(|e| damaged(e.to_string()))?;
        let charters = serde_json::from_value(row.charters).map_err(|e| damaged(e.to_string()))?;
        Ok(PlanInForce {
            house,
            generation: row.generation,
            applied,
            registry: Registry::new(row.allocations.into_iter().filter_map(from_allocation)),
            newest_uid: row.newest_uid,
            charters,
            manifest: row.manifest,
            base_dir: row.base_dir,
        })
    }

    pub(crate) fn port(&self, owner: &str, purpose: &str) -> Option<u16> {
        self.registry.held(owner, purpose)?.value.parse().ok()
    }

    pub(crate) fn uid(&self, owner: &str) -> Option<u32> {
        self.registry.held(owner, "uid")?.value.parse().ok()
    }

    /// Number of the plan that last changed anything about an agent.
    pub(crate) fn config(&self, agent: &Slug) -> u64 {
        self.applied.versions.get(agent).copied().unwrap_or(0)
    }

    /// Text of an agent's charter.
    pub(crate) fn charter(&self, agent: &Slug) -> &str {
        self.charters.get(agent).map_or("", String::as_str)
    }
}

pub(crate) fn from_allocation(row: Allocation) -> Option<abbey_plan::Allocation> {
    let kind = serde_json::from_value(row.kind.into()).ok()?;
    Some(abbey_plan::Allocation {
        kind,
        value: row.value,
        owner: row.owner,
        purpose: row.purpose,
    })
}

pub(crate) fn to_allocation(row: &abbey_plan::Allocation) -> Allocation {
    Allocation {
        kind: row.kind.name().to_owned(),
        value: row.value.clone(),
        owner: row.owner.clone(),
        purpose: row.purpose.clone(),
    }
}

/// Whether an agent uses a service: by its own word, or because its model is there.
pub(crate) fn agent_uses_service(
    plan: &abbey_plan::House,
    agent: &abbey_plan::Agent,
    service: &Slug,
) -> bool {
    let model = agent.model.as_ref();
    let provider = model.and_then(|m| plan.providers.get(&m.provider));
    let thinks =
        provider.is_some_and(|p| p.endpoint == abbey_plan::Endpoint::Service(service.clone()));
    thinks || agent.uses.contains(service)
}

/// The language in which an agent's reports and notices are, and those of everybody where none is named.
pub(crate) fn language_of(house: &House, agent: Option<&Slug>) -> Language {
    let current = house.current();
    let display = current.as_ref().and_then(|c| match agent {
        Some(agent) => c.house.agents.get(agent)?.locale.display.clone(),
        None => c.house.display.clone(),
    });
    display
        .and_then(|tag| Language::of(&tag))
        .unwrap_or_default()
}
