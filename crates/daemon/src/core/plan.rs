//! The plan in force: what the newest applied manifest declares, with what was allocated to it.

use crate::core::error::{Error, Result};
use abbey_api::Problem;
use abbey_model::{FaultKind, Slug};
use abbey_plan::{Applied, Registry};
use abbey_store::{GenerationRow, allocation::Allocation};
use abbey_words::Language;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Mutex, MutexGuard, watch};

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

    /// An agent of the plan.
    ///
    /// # Errors
    /// When the plan has none of that name.
    pub(crate) fn agent(&self, slug: &Slug) -> Result<&abbey_plan::Agent> {
        Ok(self.house.agents.get(slug).ok_or_else(|| {
            Problem::new(
                FaultKind::NotFound,
                format!("agent `{slug}` is not part of the house any more"),
            )
        })?)
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

/// The plan in force, and the lock under which it changes.
pub(crate) struct PlanState {
    current: RwLock<Option<Arc<PlanInForce>>>,
    generations: watch::Sender<u64>,
    changes: Mutex<()>,
}

impl PlanState {
    pub(crate) fn new(current: Option<PlanInForce>) -> PlanState {
        PlanState {
            current: RwLock::new(current.map(Arc::new)),
            generations: watch::Sender::new(0),
            changes: Mutex::new(()),
        }
    }

    /// The plan in force; none before the first manifest was applied.
    pub(crate) fn current(&self) -> Option<Arc<PlanInForce>> {
        self.current.read().clone()
    }

    /// The same, for callers that cannot do without a plan.
    pub(crate) fn require(&self) -> Result<Arc<PlanInForce>> {
        let none = || Problem::new(FaultKind::Unavailable, "the house has no plan yet");
        Ok(self.current().ok_or_else(none)?)
    }

    pub(crate) fn set(&self, plan: PlanInForce) {
        let generation = plan.generation;
        *self.current.write() = Some(Arc::new(plan));
        self.generations.send_replace(generation);
    }

    /// Receives the generation of each new plan.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.generations.subscribe()
    }

    /// Holds off every other change of the plan, and of what is made from it, while the guard lives.
    pub(crate) async fn lock_changes(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().await
    }

    /// The same, if nobody holds the lock.
    pub(crate) fn try_lock_changes(&self) -> Option<MutexGuard<'_, ()>> {
        self.changes.try_lock().ok()
    }

    /// Language of an agent's reports and notices; the house's own without an agent.
    pub(crate) fn language_of(&self, agent: Option<&Slug>) -> Language {
        let current = self.current();
        let display = current.as_ref().and_then(|c| match agent {
            Some(agent) => c.house.agents.get(agent)?.locale.display.clone(),
            None => c.house.display.clone(),
        });
        display
            .and_then(|tag| Language::of(&tag))
            .unwrap_or_default()
    }
}
