//! The plan in force: the newest applied manifest with the resources allocated to it.

use crate::core::error::{Error, Result};
use abbey_api::{ManifestDoc, Problem, VERSION};
use abbey_model::{FaultKind, Slug};
use abbey_plan::{AppliedPlan, Registry};
use abbey_store::{GenerationRow, allocation::Allocation};
use abbey_words::Language;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Mutex, MutexGuard, watch};

/// An applied manifest, its allocations, and its charters.
#[derive(Debug, Clone)]
pub(crate) struct PlanInForce {
    /// The parsed manifest.
    pub(crate) house: abbey_plan::House,
    /// Number of this plan; each applied change increments it.
    pub(crate) generation: u64,
    /// Digests and versions of each agent and service as applied.
    pub(crate) applied: AppliedPlan,
    /// Users, ports and subnets allocated to each owner.
    pub(crate) registry: Registry,
    /// Largest user id that was ever allocated, so that none is reused.
    pub(crate) newest_uid: u32,
    /// Charter texts by agent.
    pub(crate) charters: BTreeMap<Slug, String>,
    /// Source text of the manifest.
    pub(crate) manifest: String,
    /// Directory to which relative paths of the manifest refer.
    pub(crate) base_dir: String,
    /// What this version refuses in the manifest that an earlier one put in force, and leaves out, each with its place.
    pub(crate) left_out: Vec<String>,
}

impl PlanInForce {
    /// The manifest of a plan that may be in force, as the API has it.
    ///
    /// # Errors
    /// `NotFound` if no manifest has been applied yet.
    pub(crate) fn manifest_doc(current: Option<&PlanInForce>) -> Result<ManifestDoc> {
        let current = current.ok_or_else(|| {
            Problem::new(FaultKind::NotFound, "no manifest has been applied yet")
                .remedy("`abbey up` applies a manifest")
        })?;
        Ok(ManifestDoc {
            version: VERSION,
            generation: current.generation,
            manifest: current.manifest.clone(),
            base_dir: current.base_dir.clone(),
        })
    }

    /// Restores a plan from its stored generation by parsing its manifest again. What this version refuses of a manifest
    /// that an earlier one accepted is left out.
    ///
    /// # Errors
    /// [`Error::Damaged`] if there is no house without what this version refuses.
    pub(crate) fn from_row(row: GenerationRow) -> Result<PlanInForce> {
        let damaged = |why: String| Error::Damaged {
            path: "abbey.db (current generation)".into(),
            why,
        };
        let (house, left_out) = abbey_plan::parse_stored(&row.manifest).map_err(|m| {
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
            registry: Registry::new(row.allocations.into_iter().filter_map(plan_allocation)),
            newest_uid: row.newest_uid,
            charters,
            manifest: row.manifest,
            base_dir: row.base_dir,
            left_out: left_out.iter().map(ToString::to_string).collect(),
        })
    }

    /// The declared agent with this slug.
    ///
    /// # Errors
    /// `NotFound` if the plan declares no such agent.
    pub(crate) fn find_agent(&self, slug: &Slug) -> Result<&abbey_plan::Agent> {
        Ok(self.house.agents.get(slug).ok_or_else(|| {
            Problem::new(
                FaultKind::NotFound,
                format!("agent `{slug}` is not in the plan; `abbey ps` lists the agents"),
            )
        })?)
    }

    /// Port allocated to an owner (`agent:NAME` or `service:NAME`) for a purpose (`door` or
    /// `port`).
    pub(crate) fn port_of(&self, owner: &str, purpose: &str) -> Option<u16> {
        self.registry.find_allocation(owner, purpose)?.port()
    }

    /// User id allocated to an owner (`agent:NAME` or `service:NAME`).
    pub(crate) fn uid_of(&self, owner: &str) -> Option<u32> {
        self.registry
            .find_allocation(owner, "uid")?
            .value
            .parse()
            .ok()
    }

    /// Generation in which an agent's configuration last changed; 0 for an unknown agent.
    pub(crate) fn config_generation_of(&self, agent: &Slug) -> u64 {
        self.applied.versions.get(agent).copied().unwrap_or(0)
    }

    /// Text of an agent's charter; empty for an unknown agent.
    pub(crate) fn charter_of(&self, agent: &Slug) -> &str {
        self.charters.get(agent).map_or("", String::as_str)
    }
}

/// Converts a stored allocation into the planner's; `None` if its kind is unknown.
pub(crate) fn plan_allocation(row: Allocation) -> Option<abbey_plan::Allocation> {
    let kind = serde_json::from_value(row.kind.into()).ok()?;
    Some(abbey_plan::Allocation {
        kind,
        value: row.value,
        owner: row.owner,
        purpose: row.purpose,
    })
}

/// Converts an allocation of the planner into the store's.
pub(crate) fn stored_allocation(row: &abbey_plan::Allocation) -> Allocation {
    Allocation {
        kind: row.kind.name().to_owned(),
        value: row.value.clone(),
        owner: row.owner.clone(),
        purpose: row.purpose.clone(),
    }
}

/// Whether an agent uses a service: it is listed in the agent's `uses`, or it serves the agent's
/// model.
pub(crate) fn agent_uses_service(
    plan: &abbey_plan::House,
    agent: &abbey_plan::Agent,
    service: &Slug,
) -> bool {
    let model = agent.model.as_ref();
    let provider = model.and_then(|m| plan.providers.get(&m.provider));
    let serves_model =
        provider.is_some_and(|p| p.endpoint == abbey_plan::Endpoint::Service(service.clone()));
    serves_model || agent.uses.contains(service)
}

/// The plan in force, a channel that announces new generations, and the lock for changing it.
pub(crate) struct PlanState {
    current: RwLock<Option<Arc<PlanInForce>>>,
    generations: watch::Sender<u64>,
    changes: Mutex<()>,
    activity: RwLock<Option<String>>,
}

/// Forgets what is being done for a plan once that has ended, however it ended.
pub(crate) struct ActivityEnds<'a>(&'a PlanState);

impl Drop for ActivityEnds<'_> {
    fn drop(&mut self) {
        *self.0.activity.write() = None;
    }
}

impl PlanState {
    /// State with the plan that was in force when the control plane started, if any.
    pub(crate) fn new(current: Option<PlanInForce>) -> PlanState {
        PlanState {
            current: RwLock::new(current.map(Arc::new)),
            generations: watch::Sender::new(0),
            changes: Mutex::new(()),
            activity: RwLock::new(None),
        }
    }

    /// The plan in force; `None` before the first manifest was applied.
    pub(crate) fn current(&self) -> Option<Arc<PlanInForce>> {
        self.current.read().clone()
    }

    /// The plan in force.
    ///
    /// # Errors
    /// `Unavailable` before the first manifest was applied.
    pub(crate) fn require(&self) -> Result<Arc<PlanInForce>> {
        let none = || {
            Problem::new(
                FaultKind::Unavailable,
                "no manifest has been applied yet; apply one with `abbey up`",
            )
        };
        Ok(self.current().ok_or_else(none)?)
    }

    /// Puts a plan in force and announces its generation to subscribers.
    pub(crate) fn replace(&self, plan: PlanInForce) {
        let generation = plan.generation;
        *self.current.write() = Some(Arc::new(plan));
        self.generations.send_replace(generation);
    }

    /// Receiver that gets the generation of each plan that is put in force.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.generations.subscribe()
    }

    /// Waits for the lock on plan changes, and blocks every other change of the plan and of its
    /// files until the guard is dropped.
    pub(crate) async fn lock_changes(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().await
    }

    /// Takes the lock on plan changes if it is free; `None` while another task holds it.
    pub(crate) fn try_lock_changes(&self) -> Option<MutexGuard<'_, ()>> {
        self.changes.try_lock().ok()
    }

    /// What is being done for a plan that is being applied; none if nothing is.
    pub(crate) fn activity(&self) -> Option<String> {
        self.activity.read().clone()
    }

    /// Says what is being done for a plan from now on, for whoever waits for it.
    pub(crate) fn report_activity(&self, text: impl Into<String>) {
        *self.activity.write() = Some(text.into());
    }

    /// As [`PlanState::report_activity`], until what is returned is dropped.
    pub(crate) fn begin_activity(&self, text: &str) -> ActivityEnds<'_> {
        self.report_activity(text);
        ActivityEnds(self)
    }

    /// Language of an agent's reports and notices; the house's own for `None`.
    pub(crate) fn language_of(&self, agent: Option<&Slug>) -> Language {
        let current = self.current();
        let display = current.as_ref().and_then(|c| match agent {
            Some(agent) => c.house.agents.get(agent)?.locale.display.clone(),
            None => c.house.display.clone(),
        });
        display
            .and_then(|tag| Language::from_tag(&tag))
            .unwrap_or_default()
    }
}
