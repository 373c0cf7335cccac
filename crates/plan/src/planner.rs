//! House and inventory to a numbered plan: what differs, in the order in which it is done.

use crate::allocate::{Conflict, HostFacts, Registry, footprint};
use crate::house::{Agent, Charter, House, Service, ServiceKind};
use crate::reach;
use abbey_model::{Bytes, CellKind, Generation, Millis, Slug, Subnet};
use abbey_support::digest::sha256_hex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What a step does to its resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is new.
    Create,
    /// It changes in place.
    Update,
    /// It changes and its cell is started anew.
    Restart,
    /// It goes.
    Remove,
    /// The kind of cell has no use for it (S1-02).
    NotApplicable,
}

impl Action {
    /// Word on the wire.
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

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Number, from 1.
    pub id: u32,
    /// What is done.
    pub action: Action,
    /// To what: `house`, `home`, `network`, `cell`, `service`.
    pub resource: String,
    /// Whose; empty for the house.
    pub agent: String,
    /// For people.
    pub detail: String,
}

/// Weight of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Probably not meant.
    Warning,
    /// The plan must not be carried out.
    Fatal,
}

/// Something that the checker has to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Weight.
    pub severity: Severity,
    /// About what.
    pub subject: String,
    /// For people, with the remedy.
    pub text: String,
}

/// Digest of what each thing was made from, as it was last applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Digest of the house's own settings.
    pub house: String,
    /// By agent: digests of what needs a restart and of the rest.
    pub agents: BTreeMap<Slug, (String, String)>,
    /// By service.
    pub services: BTreeMap<Slug, String>,
    /// By agent: number of the plan in which anything about it changed last.
    #[serde(default)]
    pub versions: BTreeMap<Slug, u64>,
    /// By agent: its model, and the one before that.
    #[serde(default)]
    pub models: BTreeMap<Slug, (Option<String>, Option<String>)>,
}

/// What is there.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Number of the current plan; 0 before the first.
    pub generation: Generation,
    /// What was applied.
    pub applied: Applied,
    /// Who owns what.
    pub registry: Registry,
    /// Highest uid ever given out.
    pub newest_uid: u32,
    /// What the host uses.
    pub host: HostFacts,
    /// Text of every charter, by agent.
    pub charters: BTreeMap<Slug, String>,
}

/// The validated difference between what is wanted and what is there.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Number; the current one again when nothing changes.
    pub generation: Generation,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// What the checker says.
    pub notes: Vec<Note>,
    /// What is applied once the steps are done.
    #[serde(skip)]
    pub applied: Applied,
    /// Who owns what then.
    #[serde(skip)]
    pub registry: Registry,
}

impl Plan {
    /// Whether it changes anything.
    pub fn is_empty(&self) -> bool {
        self.steps.iter().all(|s| s.action == Action::NotApplicable)
    }
    /// Whether it may be carried out.
    pub fn is_fatal(&self) -> bool {
        self.notes.iter().any(|n| n.severity == Severity::Fatal)
    }
}

/// Works out the difference. The same input gives the same bytes.
pub fn plan(house: &House, inventory: &Inventory) -> Plan {
    let mut work = Work {
        registry: inventory.registry.clone(),
        steps: Vec::new(),
        notes: Vec::new(),
    };
    let mut applied = Applied {
        house: house_digest(house),
        ..Applied::default()
    };
    if inventory.applied.house != applied.house {
        let first = inventory.generation.0 == 0;
        let action = if first {
            Action::Create
        } else {
            Action::Update
        };
        let detail = format!(
            "house `{}`: budget, network, doors, providers, terms of services",
            house.name
        );
        work.push(action, "house", "", detail);
    }
    // Gone first: what they free may be wanted by what comes.
    for slug in inventory
        .applied
        .agents
        .keys()
        .filter(|s| !house.agents.contains_key(*s))
    {
        let text =
            "stop, revoke its token, keep its files under `removed/`, release addresses and ports";
        work.push(Action::Remove, "agent", slug.as_str(), text.to_owned());
        work.registry.release(&format!("agent:{slug}"));
    }
    for slug in inventory
        .applied
        .services
        .keys()
        .filter(|s| !house.services.contains_key(*s))
    {
        work.push(
            Action::Remove,
            "service",
            slug.as_str(),
            "stop and release its port".to_owned(),
        );
        work.registry.release(&format!("service:{slug}"));
    }
    for service in house.services.values() {
        work.service(service, house, inventory, &mut applied);
    }
    for agent in house.agents.values() {
        work.agent(agent, house, inventory, &mut applied);
    }
    let mut plan = Plan {
        generation: inventory.generation,
        steps: work.steps,
        notes: work.notes,
        applied,
        registry: work.registry,
    };
    plan.notes.extend(crate::check(house, inventory));
    plan.notes.sort_by(|a, b| {
        b.severity
            .cmp(&a.severity)
            .then_with(|| a.subject.cmp(&b.subject))
    });
    if !plan.is_empty() {
        plan.generation.0 += 1;
    }
    plan
}

struct Work {
    registry: Registry,
    steps: Vec<Step>,
    notes: Vec<Note>,
}

impl Work {
    fn push(&mut self, action: Action, resource: &str, agent: &str, detail: String) {
        let id = u32::try_from(self.steps.len() + 1).unwrap_or(u32::MAX);
        self.steps.push(Step {
            id,
            action,
            resource: resource.to_owned(),
            agent: agent.to_owned(),
            detail,
        });
    }

    fn fatal(&mut self, subject: &str, conflict: &Conflict) {
        let remedy = match conflict {
            Conflict::Held { .. } => "choose another or stop the holder",
            Conflict::Exhausted { .. } => "widen the range under `network`",
        };
        self.notes.push(Note {
            severity: Severity::Fatal,
            subject: subject.to_owned(),
            text: format!("{conflict}; {remedy}"),
        });
    }

    /// The subnet of an owner whose cell has a network; none where it has none, and nothing when
    /// there is no address left.
    fn subnet(
        &mut self,
        cell: CellKind,
        house: &House,
        inventory: &Inventory,
        owner: &str,
    ) -> Option<Option<Subnet>> {
        // A machine or container has ways to the house through its guest, and no interface at all.
        let guest = matches!(cell, CellKind::Microvm | CellKind::Container);
        let networked = cell.isolates() && !guest;
        if !networked || inventory.host.no_network.is_some() {
            self.registry.yield_up(owner, "subnet");
            return Some(None);
        }
        let given = self.registry.subnet(&house.network, owner, &inventory.host);
        given.map(Some).map_err(|c| self.fatal(owner, &c)).ok()
    }

    fn uid(&mut self, owner: &str, inventory: &Inventory) -> Option<u32> {
        let first = inventory.host.uid_first?;
        self.registry
            .uid(owner, first, inventory.newest_uid)
            .map_err(|c| self.fatal(owner, &c))
            .ok()
    }

    fn service(
        &mut self,
        service: &Service,
        house: &House,
        inventory: &Inventory,
        applied: &mut Applied,
    ) {
        // Somebody else runs it.
        if service.at.is_some() {
            return;
        }
        let owner = format!("service:{}", service.slug);
        let port = match service.port {
            Some(port) => self
                .registry
                .take_port(port, &owner, "port", &inventory.host)
                .map(|()| port),
            None => self
                .registry
                .any_port(&house.network, &[0], &owner, "port", &inventory.host),
        };
        let port = match port {
            Ok(port) => port,
            Err(conflict) => return self.fatal(&owner, &conflict),
        };
        let uid = self.uid(&owner, inventory);
        let Some(subnet) = self.subnet(service.cell, house, inventory, &owner) else {
            return;
        };
        // Its slot and what belongs to whom concern those who use it, and its line nobody.
        let boot = Service {
            slot: None,
            line: 0,
            needs: BTreeSet::new(),
            names: BTreeMap::new(),
            grace: Millis(0),
            connections: 0,
            rate: 0,
            quota: Bytes(0),
            ..service.clone()
        };
        let digest = sha256_hex(format!(
            "{boot:?} {port} {uid:?} {subnet:?} {}",
            house.network.bridged
        ));
        let action = match inventory.applied.services.get(&service.slug) {
            None => Some(Action::Create),
            Some(old) if *old != digest => Some(Action::Restart),
            Some(_) => None,
        };
        if let Some(action) = action {
            let program = match service.kind {
                ServiceKind::Command | ServiceKind::Tools => service.command.join(" "),
                kind => kind.name().to_owned(),
            };
            let detail = format!(
                "{program} on port {port}, cell {}{}",
                service.cell,
                wall(service.cell)
            );
            self.push(action, "service", service.slug.as_str(), detail);
        }
        applied.services.insert(service.slug.clone(), digest);
    }

    fn agent(
        &mut self,
        agent: &Agent,
        house: &House,
        inventory: &Inventory,
        applied: &mut Applied,
    ) {
        let owner = format!("agent:{}", agent.slug);
        let door = self.registry.any_port(
            &house.network,
            footprint(agent.runtime),
            &owner,
            "door",
            &inventory.host,
        );
        let subnet = self.subnet(agent.cell, house, inventory, &owner);
        let uid = self.uid(&owner, inventory);
        let door = door.map_err(|c| self.fatal(&owner, &c));
        let (Ok(door), Some(subnet)) = (door, subnet) else {
            return;
        };
        let reaches = reach::reaches(house, &self.registry, agent, subnet);
        let name = agent.slug.as_str();
        // What only a new boot can change, and what the running agent asks the house for each time.
        let machine = matches!(agent.cell, CellKind::Microvm | CellKind::Container).then_some((
            &agent.image,
            agent.drives,
            agent.vmm,
        ));
        let boot = sha256_hex(format!(
            "{:?} {:?} {:?} {:?} {:?} {} {} {door} {uid:?} {subnet:?} {reaches:?} {machine:?} {} {:?} {:?}",
            agent.runtime,
            agent.cell,
            agent.limits,
            agent.waived,
            agent.profile,
            agent.slug,
            agent.terminal,
            house.network.bridged,
            agent.disks(),
            agent.locale.system
        ));
        let charter = inventory
            .charters
            .get(&agent.slug)
            .map_or("", String::as_str);
        let rest = sha256_hex(format!(
            "{} {} {:?} {} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {} {} {} {:?}",
            agent.display_name,
            agent.role,
            agent.charter,
            charter,
            agent.reports_to,
            (
                &agent.delegates,
                &agent.asks,
                &agent.grants,
                &agent.relations,
                &agent.files,
                &agent.schedules,
                (&agent.locale.display, &agent.locale.assistant),
            ),
            agent.model.as_ref().map(ToString::to_string),
            agent.skills,
            agent.budget,
            agent.wake,
            agent.tools,
            agent.max_concurrent_runs,
            agent.charter_writable,
            agent.egress,
            agent.egress_bytes
        ));
        match inventory.applied.agents.get(&agent.slug) {
            None => {
                let user = uid.map_or_else(|| "shared user".to_owned(), |u| format!("uid {u}"));
                let charter = match &agent.charter {
                    Charter::File(path) => path.clone(),
                    Charter::Stock(name) => format!("stock `{name}`"),
                };
                self.push(
                    Action::Create,
                    "home",
                    name,
                    format!("private home and workspace, {user}, charter {charter}"),
                );
                let (action, detail) = network_step(agent, subnet, &reaches, inventory);
                self.push(action, "network", name, detail);
                let detail = format!(
                    "{} runtime, cell {}{}, door 127.0.0.1:{door}",
                    agent.runtime.name(),
                    agent.cell,
                    wall(agent.cell)
                );
                self.push(Action::Create, "cell", name, detail);
            }
            Some((old_boot, _)) if *old_boot != boot => {
                self.push(
                    Action::Restart,
                    "cell",
                    name,
                    format!(
                        "new boot with changed cell settings, cell {}{}",
                        agent.cell,
                        wall(agent.cell)
                    ),
                );
            }
            Some((_, old_rest)) if *old_rest != rest => {
                self.push(
                    Action::Update,
                    "agent",
                    name,
                    "charter, model, budget, skills or policy".to_owned(),
                );
            }
            Some(_) => {}
        }
        let digests = (boot, rest);
        let before = &inventory.applied;
        let changed = before.agents.get(&agent.slug) != Some(&digests);
        let version = match before.versions.get(&agent.slug) {
            Some(version) if !changed => *version,
            _ => inventory.generation.0 + 1,
        };
        let model = agent.model.as_ref().map(ToString::to_string);
        let models = match before.models.get(&agent.slug) {
            Some((last, previous)) if *last == model => (model, previous.clone()),
            Some((last, _)) => (model, last.clone()),
            None => (model, None),
        };
        applied.versions.insert(agent.slug.clone(), version);
        applied.models.insert(agent.slug.clone(), models);
        applied.agents.insert(agent.slug.clone(), digests);
    }
}

/// What becomes of an agent's network; a step that is not needed says why (S1-02).
fn network_step(
    agent: &Agent,
    subnet: Option<Subnet>,
    reaches: &[reach::Reach],
    inventory: &Inventory,
) -> (Action, String) {
    let services: Vec<String> = reaches
        .iter()
        .map(|r| format!("{} at {}", r.service, r.at))
        .collect();
    let services = match services.is_empty() {
        true => String::new(),
        false => format!(", {}", services.join(", ")),
    };
    match (subnet, &inventory.host.no_network) {
        (Some(subnet), _) => {
            let (gateway, cell) = (subnet.gateway(), subnet.cell());
            let text = format!(
                "subnet {subnet}, gateway {gateway}, cell {cell}, egress {}{services}",
                agent.egress
            );
            (Action::Create, text)
        }
        (None, Some(reason)) if agent.cell.isolates() => {
            let text = format!(
                "loopback only, because {reason}; the house by its door, the outside by the egress proxy ({}){services}",
                agent.egress
            );
            (Action::NotApplicable, text)
        }
        (None, _) => {
            let text = "a process cell shares the host's network".to_owned();
            (Action::NotApplicable, text)
        }
    }
}

fn wall(cell: CellKind) -> &'static str {
    if cell.isolates() {
        ""
    } else {
        " (not isolated)"
    }
}

fn house_digest(house: &House) -> String {
    // What of services concerns nobody's boot.
    let terms = |s: &Service| {
        let names = (&s.needs, &s.names, s.at, &s.probe, s.shared);
        format!(
            "{} {names:?} {:?} {} {} {:?}",
            s.slug, s.grace, s.connections, s.rate, s.quota
        )
    };
    let terms: Vec<String> = house.services.values().map(terms).collect();
    sha256_hex(format!(
        "{} {:?} {:?} {:?} {:?} {:?}",
        house.name,
        house.listen,
        house.network,
        house.budget,
        house.providers,
        (
            house.memory_reserve,
            house.delegation,
            &house.workflows,
            &house.hooks,
            &house.documents,
            &house.controlplane_secret,
            (&house.escalation, &house.display, terms),
        )
    ))
}
