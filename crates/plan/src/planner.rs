//! From a house and an inventory to a numbered plan: what differs, in the order in which it is done.

use crate::agent_values::Charter;
use crate::allocate::{AllocationConflict, Registry};
use crate::boot::{Boot, agent_boot, digest, service_boot};
use crate::check::check;
use crate::house::House;
use crate::key::Effect;
use crate::keys::{Agent, Service};
use crate::named_ports::{NamedPorts, allocate_named_ports, shares_host_network};
use crate::plan::{Action, AppliedPlan, Inventory, Note, Plan, PlanStep, Severity};
use crate::reach;
use crate::service_access::{self, Loss, OwnedData};
use crate::service_kind::ServiceKind;
use crate::settings::KeyChange;
use abbey_model::{CellKind, Slug, Subnet, overlap};
use abbey_support::digest::sha256_hex;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;

/// Computes the plan that turns what exists (`inventory`) into the desired house: steps in order, findings, and new
/// allocations. The same input gives the same plan.
pub fn plan(house: &House, inventory: &Inventory) -> Plan {
    let mut work = Planner {
        registry: inventory.registry.clone(),
        steps: Vec::new(),
        notes: Vec::new(),
        named: NamedPorts::default(),
    };
    let mut applied = AppliedPlan::default();
    work.house(house, inventory, &mut applied);
    // Removals first: what they release may be allocated again.
    for slug in inventory
        .applied
        .agents
        .keys()
        .filter(|s| !house.agents.contains_key(*s))
    {
        let text = "stop, revoke its token, release its user, addresses and ports";
        work.add_step(Action::Remove, "agent", slug.as_str(), text.to_owned());
        work.note_removal(format!(
            "agent `{slug}` is removed, and its credential is revoked; its files are kept under `removed/` in the state directory until you delete them, its databases and repositories for the `grace` of their service, and `abbey agent restore {slug}` brings it back"
        ));
        work.registry.release_owner(&format!("agent:{slug}"));
    }
    let external = inventory
        .current
        .iter()
        .flat_map(|f| f.house.services.values());
    let external = external.filter(|s| s.at.is_some()).map(|s| &s.slug);
    let services: BTreeSet<&Slug> = inventory.applied.services.keys().chain(external).collect();
    for slug in services {
        if house.services.contains_key(slug) {
            continue;
        }
        let detail = match inventory.applied.services.contains_key(slug) {
            true => "stop, release its port; its files are kept for when it comes back",
            false => "external service, no longer reached",
        };
        work.add_step(Action::Remove, "service", slug.as_str(), detail.to_owned());
        work.explain(enabled(house.disabled.contains(slug), false));
        work.registry.release_owner(&format!("service:{slug}"));
    }
    work.release_subnets(house, inventory);
    work.named = allocate_named_ports(house, inventory, &mut work.registry);
    work.named_subnets(house, inventory);
    for service in house.services.values() {
        work.service(service, house, inventory, &mut applied);
    }
    for agent in house.agents.values() {
        work.agent(agent, house, inventory, &mut applied);
    }
    let owned = OwnedData::new(house, inventory);
    for loss in service_access::losses(house, inventory, &owned) {
        work.note_loss(loss);
    }
    work.notes
        .extend(service_access::returning_access(house, inventory, &owned));
    work.notes
        .extend(service_access::left_by_renaming(house, inventory, &owned));
    applied.ownership = owned.into_planned();
    let mut plan = Plan {
        generation: inventory.generation,
        steps: work.steps,
        notes: work.notes,
        applied,
        registry: work.registry,
    };
    plan.notes.extend(check(house, inventory));
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

/// A plan while it is made.
struct Planner {
    registry: Registry,
    steps: Vec<PlanStep>,
    notes: Vec<Note>,
    named: NamedPorts,
}

impl Planner {
    fn add_step(&mut self, action: Action, resource: &str, agent: &str, detail: String) {
        let id = u32::try_from(self.steps.len() + 1).unwrap_or(u32::MAX);
        self.steps.push(PlanStep {
            id,
            action,
            resource: resource.to_owned(),
            agent: agent.to_owned(),
            detail,
            removes: None,
            changes: Vec::new(),
        });
    }

    /// Adds to the last step what it removes, for which consent is required.
    fn note_removal(&mut self, text: String) {
        if let Some(step) = self.steps.last_mut() {
            step.removes = Some(text);
        }
    }

    /// Adds to the step that causes it what an agent loses in a service.
    fn note_loss(&mut self, loss: Loss) {
        let causes = |step: &PlanStep| match (&loss.agent, step.resource.as_str()) {
            (Some(agent), "agent" | "cell") => step.agent == agent.as_str(),
            (None, "service") => step.agent == loss.service.as_str(),
            _ => false,
        };
        let step = match self.steps.iter().position(causes) {
            Some(step) => step,
            None => {
                let detail = "data of agents that no longer use it".to_owned();
                self.add_step(Action::Update, "service", loss.service.as_str(), detail);
                self.steps.len() - 1
            }
        };
        if let Some(step) = self.steps.get_mut(step) {
            step.removes = Some(match step.removes.take() {
                Some(other) => format!("{other}; {}", loss.text),
                None => loss.text,
            });
        }
    }

    /// Adds changed keys to the last step.
    fn explain(&mut self, changes: Vec<KeyChange>) {
        if let Some(step) = self.steps.last_mut() {
            step.changes.extend(changes);
        }
    }

    fn house(&mut self, house: &House, inventory: &Inventory, applied: &mut AppliedPlan) {
        let Some(before) = &inventory.current else {
            applied.house = digest(house.settings.values(None));
            let detail = format!(
                "house `{}`: budget, network, operator API, providers",
                house.name
            );
            return self.add_step(Action::Create, "house", "", detail);
        };
        let changes = house.settings.changes(&before.house.settings, None);
        applied.house = inventory.applied.house.clone();
        if !changes.is_empty() {
            applied.house = digest(house.settings.values(None));
            self.add_step(Action::Update, "house", "", summary(&changes));
            self.explain(changes);
        }
    }

    fn fatal(&mut self, subject: &str, conflict: &AllocationConflict) {
        let remedy = match conflict {
            AllocationConflict::Held { .. } => "choose another one, or free this one first",
            AllocationConflict::Exhausted { .. } => "widen the range under `network`",
        };
        self.notes.push(Note {
            severity: Severity::Fatal,
            subject: subject.to_owned(),
            text: format!("{conflict}; {remedy}"),
        });
    }

    /// The step for changed keys, if any changed: a restart where a cell was started with other values, else an
    /// update. Gives the digest of what the cell is to be started with.
    fn change(
        &mut self,
        (restarts, updates): (&str, &str),
        name: &str,
        changes: Vec<KeyChange>,
        (boot, old_boot): (Boot, Boot),
        was: &str,
    ) -> String {
        let same = boot.values == old_boot.values;
        if !changes.is_empty() {
            let (action, resource) = match same {
                true => (Action::Update, updates),
                false => (Action::Restart, restarts),
            };
            self.add_step(action, resource, name, summary(&changes));
            self.explain(changes);
        }
        match same {
            true => was.to_owned(),
            false => digest(boot.values),
        }
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
        if !has_network(cell, inventory) {
            self.registry.release_purpose(owner, "subnet");
            return Some(None);
        }
        let given = self
            .registry
            .allocate_subnet(&house.network, owner, &inventory.host);
        given.map(Some).map_err(|c| self.fatal(owner, &c)).ok()
    }

    /// Releases the subnets of those whose cells have no network any more, before anybody gets one.
    fn release_subnets(&mut self, house: &House, inventory: &Inventory) {
        let agents = house.agents.values();
        let agents = agents.map(|a| (format!("agent:{}", a.slug), a.cell));
        let services = house.services.values();
        let services = services.map(|s| (format!("service:{}", s.slug), s.cell));
        for (owner, cell) in agents.chain(services) {
            if !has_network(cell, inventory) {
                self.registry.release_purpose(&owner, "subnet");
            }
        }
    }

    /// Gives the subnets that the manifest names to their agents, before anybody else gets one.
    fn named_subnets(&mut self, house: &House, inventory: &Inventory) {
        let network = &house.network;
        let mut named: Vec<(&Slug, Subnet)> = Vec::new();
        for agent in house.agents.values() {
            let Some(subnet) = agent.subnet.filter(|_| agent.cell == CellKind::Sandbox) else {
                continue;
            };
            let owner = format!("agent:{}", agent.slug);
            let pool = (network.pool, network.pool_prefix);
            let inside = subnet.prefix() == network.prefix
                && overlap(pool, (subnet.base(), subnet.prefix()));
            let other = named.iter().find(|(_, taken)| taken.overlaps(subnet));
            let text = match (inside, other) {
                (false, _) => format!(
                    "its `subnet` {subnet} is not a /{} of `network.pool`, {}/{}; write one that is, or change `network`",
                    network.prefix, network.pool, network.pool_prefix
                ),
                (true, Some((name, _))) => {
                    format!(
                        "its `subnet` {subnet} is also that of agent `{name}`; give one of them another"
                    )
                }
                (true, None) => {
                    let given =
                        self.registry
                            .allocate_named_subnet(subnet, &owner, &inventory.host);
                    if let Err(conflict) = given {
                        self.fatal(&owner, &conflict);
                    }
                    named.push((&agent.slug, subnet));
                    continue;
                }
            };
            self.notes.push(Note {
                severity: Severity::Fatal,
                subject: owner,
                text,
            });
        }
    }

    fn uid(&mut self, owner: &str, inventory: &Inventory) -> Option<u32> {
        let first = inventory.host.uid_first?;
        self.registry
            .allocate_uid(
                owner,
                first,
                inventory.newest_uid,
                &inventory.host.bound_uids,
            )
            .map_err(|c| self.fatal(owner, &c))
            .ok()
    }

    fn service(
        &mut self,
        service: &Service,
        house: &House,
        inventory: &Inventory,
        applied: &mut AppliedPlan,
    ) {
        if let Some(at) = service.at {
            return self.external_service(service, at, inventory);
        }
        let owner = format!("service:{}", service.slug);
        if let Some(conflict) = self.named.conflicts.get(&owner).cloned() {
            return self.fatal(&owner, &conflict);
        }
        let port = match service.port {
            Some(port) => Ok(port),
            None => self.registry.allocate_any_port(
                &house.network,
                &[0],
                (&owner, "port"),
                &self.named.all,
                shares_host_network(service, &inventory.host),
                &inventory.host,
            ),
        };
        let port = match port {
            Ok(port) => port,
            Err(conflict) => return self.fatal(&owner, &conflict),
        };
        self.uid(&owner, inventory);
        let Some(_) = self.subnet(service.cell, house, inventory, &owner) else {
            return;
        };
        let boot = service_boot(service, house, &self.registry);
        let was_applied = inventory.applied.services.get(&service.slug);
        let before = inventory.current.as_ref().and_then(|f| {
            let service = f.house.services.get(&service.slug)?;
            Some((
                service,
                service_boot(service, &f.house, &inventory.registry),
            ))
        });
        let name = service.slug.as_str();
        let (Some(was), Some((old, old_boot))) = (was_applied, before) else {
            let program = match service.kind {
                ServiceKind::Command | ServiceKind::Tools => service.command.join(" "),
                kind => kind.name().to_owned(),
            };
            let detail = format!(
                "{program} on port {port}, cell {}{}",
                service.cell,
                not_isolated(service.cell)
            );
            self.add_step(Action::Create, "service", name, detail);
            let was_disabled = inventory
                .current
                .as_ref()
                .is_some_and(|f| f.house.disabled.contains(&service.slug));
            self.explain(enabled(was_disabled, true));
            applied
                .services
                .insert(service.slug.clone(), digest(boot.values));
            return;
        };
        let mut changes = service.settings.changes(&old.settings, Some(service.cell));
        changes.extend(boot.changes(&old_boot));
        let digest = self.change(("service", "service"), name, changes, (boot, old_boot), was);
        applied.services.insert(service.slug.clone(), digest);
    }

    /// A service that runs outside the house: nothing is allocated or started for it.
    fn external_service(&mut self, service: &Service, at: SocketAddrV4, inventory: &Inventory) {
        let name = service.slug.as_str();
        let current = inventory.current.as_ref();
        let Some(old) = current.and_then(|f| f.house.services.get(&service.slug)) else {
            let detail = format!("external service at {at}");
            return self.add_step(Action::Create, "service", name, detail);
        };
        let changes = service.settings.changes(&old.settings, None);
        if !changes.is_empty() {
            self.add_step(Action::Update, "service", name, summary(&changes));
            self.explain(changes);
        }
    }

    /// Refuses services that an agent would reach at one address in its cell.
    fn refuse_shared_addresses(&mut self, owner: &str, reaches: &[reach::ReachableService]) {
        let mut seen = BTreeMap::new();
        for reach in reaches {
            if let Some(other) = seen.insert(reach.address, &reach.service) {
                let text = format!(
                    "it would reach its services `{other}` and `{}` both at {} in its cell; give one of them another `port` or a `slot`",
                    reach.service, reach.address
                );
                self.notes.push(Note {
                    severity: Severity::Fatal,
                    subject: owner.to_owned(),
                    text,
                });
            }
        }
    }

    fn agent(
        &mut self,
        agent: &Agent,
        house: &House,
        inventory: &Inventory,
        applied: &mut AppliedPlan,
    ) {
        let owner = format!("agent:{}", agent.slug);
        if let Some(old) = inventory.renamed.get(&agent.slug) {
            let detail = format!(
                "renamed from `{old}`: its cell restarts; its files, user, addresses, databases and history stay"
            );
            self.add_step(Action::Restart, "agent", agent.slug.as_str(), detail);
        }
        let door = self.registry.allocate_any_port(
            &house.network,
            agent.runtime.ports(),
            (&owner, "door"),
            &self.named.all,
            !agent.cell.isolates(),
            &inventory.host,
        );
        let subnet = self.subnet(agent.cell, house, inventory, &owner);
        let uid = self.uid(&owner, inventory);
        let door = door.map_err(|c| self.fatal(&owner, &c));
        let (Ok(door), Some(subnet)) = (door, subnet) else {
            return;
        };
        let reaches = reach::reachable_services(house, &self.registry, agent, subnet);
        if agent.cell.isolates() {
            self.refuse_shared_addresses(&owner, &reaches);
        }
        let name = agent.slug.as_str();
        let boot = agent_boot(agent, house, &self.registry);
        let charter = inventory.charters.get(&agent.slug);
        let rest = {
            let mut values = agent.settings.values(None);
            values.insert("charter text".to_owned(), json!(charter));
            digest(values)
        };
        let was_applied = inventory.applied.agents.get(&agent.slug);
        let before = inventory.current.as_ref().and_then(|f| {
            let agent = f.house.agents.get(&agent.slug)?;
            Some((f, agent, agent_boot(agent, &f.house, &inventory.registry)))
        });
        let mut changed = true;
        let digests = match (was_applied, before) {
            (Some((was, was_rest)), Some((current, old, old_boot))) => {
                let mut changes = agent.settings.changes(&old.settings, Some(agent.cell));
                let old_charter = current.charters.get(&agent.slug);
                if charter != old_charter && changes.iter().all(|c| c.key != "charter") {
                    let text =
                        |t: Option<&String>| t.map(|t| format!("sha256:{:.12}", sha256_hex(t)));
                    changes.push(KeyChange {
                        key: "charter".to_owned(),
                        old: text(old_charter),
                        new: text(charter),
                        effect: Effect::Live,
                        unset: "none",
                    });
                }
                changes.extend(boot.changes(&old_boot));
                changed = !changes.is_empty();
                let boot = self.change(("cell", "agent"), name, changes, (boot, old_boot), was);
                let rest = if changed { rest } else { was_rest.clone() };
                (boot, rest)
            }
            _ => {
                let user = uid.map_or_else(|| "shared user".to_owned(), |u| format!("uid {u}"));
                let charter = match &agent.charter {
                    Charter::File(path) => path.clone(),
                    Charter::Stock(name) => format!("stock `{name}`"),
                };
                self.add_step(
                    Action::Create,
                    "home",
                    name,
                    format!("private home and workspace, {user}, charter {charter}"),
                );
                let (action, detail) = network_step(agent, subnet, &reaches, inventory);
                self.add_step(action, "network", name, detail);
                let detail = format!(
                    "{} runtime, cell {}{}, agent API at 127.0.0.1:{door}",
                    agent.runtime.name(),
                    agent.cell,
                    not_isolated(agent.cell)
                );
                self.add_step(Action::Create, "cell", name, detail);
                (digest(boot.values), rest)
            }
        };
        let before = &inventory.applied;
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

/// Whether a cell of this kind has a network of its own on this host. A microVM or container has none: it has streams to
/// the house through its guest.
fn has_network(cell: CellKind, inventory: &Inventory) -> bool {
    let guest = matches!(cell, CellKind::Microvm | CellKind::Container);
    cell.isolates() && !guest && inventory.host.no_network.is_none()
}

/// The step for an agent's network; one that does not apply gives the reason (S1-02).
fn network_step(
    agent: &Agent,
    subnet: Option<Subnet>,
    reaches: &[reach::ReachableService],
    inventory: &Inventory,
) -> (Action, String) {
    let services: Vec<String> = reaches
        .iter()
        .map(|r| format!("{} at {}", r.service, r.address))
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
        (None, _) if matches!(agent.cell, CellKind::Microvm | CellKind::Container) => {
            let text = format!(
                "no interface but loopback; the agent API on its own port, other hosts by name through the egress proxy ({}){services}",
                agent.egress
            );
            (Action::NotApplicable, text)
        }
        (None, Some(reason)) if agent.cell.isolates() => {
            let text = format!(
                "loopback only, because {reason}; the agent API on its own port, other hosts through the egress proxy ({}){services}",
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

fn not_isolated(cell: CellKind) -> &'static str {
    if cell.isolates() {
        ""
    } else {
        " (not isolated)"
    }
}

/// The change of `enabled` that adds or removes a service.
fn enabled(toggled: bool, now: bool) -> Vec<KeyChange> {
    let change = KeyChange {
        key: "enabled".to_owned(),
        old: Some((!now).to_string()),
        new: Some(now.to_string()),
        effect: Effect::Restart,
        unset: "none",
    };
    toggled.then_some(change).into_iter().collect()
}

/// Changed keys in one line.
fn summary(changes: &[KeyChange]) -> String {
    let texts: Vec<String> = changes.iter().map(ToString::to_string).collect();
    texts.join("; ")
}
