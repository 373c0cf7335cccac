//! A plan and what it is made from: steps, notes, what exists, and what was applied before.

use crate::allocate::{HostFacts, Registry};
use crate::house::House;
use crate::node::Mistake;
use crate::ownership::Ownership;
use crate::settings::KeyChange;
use abbey_model::{Generation, Slug, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Action of a plan step on its resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The resource is new.
    Create,
    /// The resource changes while it runs.
    Update,
    /// The resource changes and its cell restarts.
    Restart,
    /// The resource is removed.
    Remove,
    /// The kind of cell does not use the resource (S1-02).
    NotApplicable,
}

impl Action {
    /// Name of the action in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Create => "create",
            Action::Update => "update",
            Action::Restart => "restart",
            Action::Remove => "remove",
            Action::NotApplicable => "not_applicable",
        }
    }
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanStep {
    /// Number, from 1.
    pub id: u32,
    /// Action on the resource.
    pub action: Action,
    /// Kind of resource: `house`, `home`, `network`, `cell`, `agent`, `service`.
    pub resource: String,
    /// Name of the agent or service; empty for the house.
    pub agent: String,
    /// Description for people.
    pub detail: String,
    /// What the step removes, where that is kept and for how long; such a step requires consent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removes: Option<String>,
    /// Keys whose effective value changes, with the value before and after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<KeyChange>,
}

/// How severe a note is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// For information only.
    Info,
    /// Probably a mistake.
    Warning,
    /// The plan is refused.
    Fatal,
}

/// A finding of the checker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Severity of the finding.
    pub severity: Severity,
    /// Object of the finding: `agent:NAME`, `service:NAME`, `network`.
    pub subject: String,
    /// For people, with the remedy.
    pub text: String,
}

/// Summary of the plan that was applied last. A digest stands for the values that a cell was started with; it is kept
/// as long as these values are equal, so a release that computes digests in another way restarts nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedPlan {
    /// Digest of the house's own settings.
    pub house: String,
    /// Two digests by agent: of the values that its cell was started with, and of all of its values.
    pub agents: BTreeMap<Slug, (String, String)>,
    /// By service: digest of what its cell was started with.
    pub services: BTreeMap<Slug, String>,
    /// By agent: number of the plan in which one of its values changed last.
    #[serde(default)]
    pub versions: BTreeMap<Slug, u64>,
    /// By agent: its model, and the model that it had before.
    #[serde(default)]
    pub models: BTreeMap<Slug, (Option<String>, Option<String>)>,
    /// Identities of agents, and whose the data in services is; empty in plans of releases that did not record it.
    #[serde(default)]
    pub ownership: Ownership,
}

/// The house of the current plan, decoded from its stored manifest by this release.
#[derive(Debug, Clone)]
pub struct CurrentHouse {
    /// The house that the current plan describes.
    pub house: House,
    /// Text of every charter, by agent.
    pub charters: BTreeMap<Slug, String>,
}

/// What an agent has or had in a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccess {
    /// Service that has it.
    pub service: Slug,
    /// Name in the service, as `Service::name_for` gives it.
    pub name: String,
    /// Whether it can be used, is kept, or is deleted.
    pub state: AccessState,
}

/// State of what an agent has in a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessState {
    /// An agent uses it.
    Open,
    /// No agent uses it; it is kept for the `grace` of its service.
    Closed {
        /// Instant from which on it is kept.
        at: Timestamp,
        /// Copy made then, as a path in the directory of the service.
        backup: Option<String>,
    },
    /// It was deleted.
    Dropped {
        /// Instant of the deletion.
        at: Timestamp,
        /// Copy made before, as a path in the directory of the service.
        backup: Option<String>,
    },
}

/// State before the plan: what was applied, what is allocated, and the facts of the host.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Number of the current plan; 0 before the first.
    pub generation: Generation,
    /// Summary of the plan that was applied last.
    pub applied: AppliedPlan,
    /// The plan in force; none before the first.
    pub current: Option<CurrentHouse>,
    /// Allocations of ports, subnets and users.
    pub registry: Registry,
    /// Highest uid ever allocated.
    pub newest_uid: u32,
    /// Resources that the host has and uses.
    pub host: HostFacts,
    /// Whether the operator API listens at another address than the manifest's.
    pub listens_elsewhere: bool,
    /// Text of every charter, by agent.
    pub charters: BTreeMap<Slug, String>,
    /// Agents that get another name, with the name before.
    pub renamed: BTreeMap<Slug, Slug>,
    /// New agents that come with the archived files of a former one, with the instant at which those were archived.
    pub restored: BTreeMap<Slug, Timestamp>,
    /// What agents have and had in the services of the house.
    pub access: Vec<ServiceAccess>,
    /// Instant of the plan.
    pub now: Timestamp,
}

impl Inventory {
    /// Changes the state to what it would be if an agent had had another name from the start; the plan from there says
    /// that it is renamed. `manifest` is the text of the plan in force.
    ///
    /// # Errors
    /// As [`crate::rename::rename_agent`].
    pub fn rename_agent(
        &mut self,
        old: &Slug,
        new: &Slug,
        manifest: &str,
    ) -> Result<(), Vec<Mistake>> {
        let house = self.current.as_ref().map(|c| &c.house);
        let data = house.map(|house| self.applied.ownership.data_names(house, old));
        let data = data.unwrap_or_default();
        let renamed = crate::rename::rename_agent(manifest, old, new, &data)?;
        let house = crate::parse(&renamed)?;
        if let Some(current) = &mut self.current {
            current.house = house;
            rename_key(&mut current.charters, old, new);
        }
        rename_key(&mut self.applied.agents, old, new);
        rename_key(&mut self.applied.versions, old, new);
        rename_key(&mut self.applied.models, old, new);
        self.applied.ownership.rename(old, new, self.now);
        let (before, after) = (format!("agent:{old}"), format!("agent:{new}"));
        self.registry.rename_owner(&before, &after);
        if let Some(uid) = self.host.bound_uids.remove(&before) {
            self.host.bound_uids.insert(after.clone(), uid);
        }
        if let Some(sizes) = self.host.files_off_drives.remove(&before) {
            self.host.files_off_drives.insert(after.clone(), sizes);
        }
        if let Some(taken) = self.host.space_of_drives.remove(&before) {
            self.host.space_of_drives.insert(after, taken);
        }
        self.renamed.insert(new.clone(), old.clone());
        Ok(())
    }

    /// Agents of a house that the plan in force does not have, under any name.
    pub fn new_agents(&self, house: &House) -> Vec<Slug> {
        let agents = house.agents.keys();
        let new = agents.filter(|agent| !self.applied.agents.contains_key(*agent));
        new.cloned().collect()
    }

    /// Makes the facts of the host call agents as the plan in force does. The host follows a renaming after it is in
    /// force; until then it binds the agent's user to a name that the plan does not have any more. `pending` has those
    /// renamings as old and new name, oldest first; the host may have followed some of them.
    pub fn settle_pending_renames(&mut self, pending: &[(Slug, Slug)]) {
        for (owner, uid) in self.host.bound_uids.clone() {
            let mut name = owner.clone();
            for (old, new) in pending {
                if name == format!("agent:{old}") {
                    name = format!("agent:{new}");
                }
            }
            let planned = self.registry.find_allocation(&name, "uid");
            // Another agent may have the old name by now.
            let same = planned.is_some_and(|row| row.value == uid.to_string());
            if same && !self.host.bound_uids.contains_key(&name) {
                self.host.bound_uids.remove(&owner);
                self.host.bound_uids.insert(name, uid);
            }
        }
    }
}

fn rename_key<T>(map: &mut BTreeMap<Slug, T>, old: &Slug, new: &Slug) {
    if let Some(value) = map.remove(old) {
        map.insert(new.clone(), value);
    }
}

/// The validated difference between the desired house and what exists.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Number; the current one again when nothing changes.
    pub generation: Generation,
    /// Steps in the order in which they are done.
    pub steps: Vec<PlanStep>,
    /// Findings of the checker.
    pub notes: Vec<Note>,
    /// Summary to store once the steps are done.
    #[serde(skip)]
    pub applied: AppliedPlan,
    /// Allocations to store once the steps are done.
    #[serde(skip)]
    pub registry: Registry,
}

impl PlanStep {
    /// Name of what the step is about, as a consent names it: `agent:NAME`, `service:NAME`.
    pub fn subject(&self) -> String {
        format!("{}:{}", self.resource, self.agent)
    }
}

impl Plan {
    /// Whether the plan changes nothing.
    pub fn is_empty(&self) -> bool {
        self.steps.iter().all(|s| s.action == Action::NotApplicable)
    }
    /// Makes a plan that changes nothing replace the text of the manifest in force, for this reason.
    pub fn replace_text(&mut self, why: &str) {
        self.generation.0 += 1;
        self.steps.push(PlanStep {
            id: u32::try_from(self.steps.len() + 1).unwrap_or(u32::MAX),
            action: Action::Update,
            resource: "house".to_owned(),
            agent: String::new(),
            detail: why.to_owned(),
            removes: None,
            changes: Vec::new(),
        });
    }
    /// Whether a fatal finding forbids applying the plan.
    pub fn is_fatal(&self) -> bool {
        self.notes.iter().any(|n| n.severity == Severity::Fatal)
    }
}
