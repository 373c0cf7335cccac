//! What agents have in the services of the house, and what a plan takes from them: databases, repositories and sites
//! that are closed, or deleted earlier than before.

use crate::house::House;
use crate::keys::Service;
use crate::ownership::{Ownership, service_with_consumers};
use crate::plan::{AccessState, Inventory, Note, Severity};
use crate::service_kind::ServiceKind;
use abbey_model::{Generation, Millis, Slug, Timestamp};
use std::collections::BTreeSet;

/// Data that a plan takes away.
pub(crate) struct Loss {
    /// Service that has the data.
    pub(crate) service: Slug,
    /// Agent that no longer uses the service; none if the service itself changes.
    pub(crate) agent: Option<Slug>,
    /// What goes, when, and where a copy is, for people.
    pub(crate) text: String,
}

/// What an agent has in a service of this kind, for people: database `ab_iris`.
pub fn describe_access(kind: ServiceKind, name: &str) -> String {
    let what = match kind {
        ServiceKind::Postgres => "database",
        ServiceKind::Git => "Git directory",
        ServiceKind::Site => "site",
        ServiceKind::Tools | ServiceKind::Command => "data",
    };
    format!("{what} `{name}`")
}

/// Names of what agents of a house use in a service.
fn used_names(house: &House, service: &Service) -> BTreeSet<String> {
    let agents = house.agents.values();
    let users = agents.filter(|a| a.uses.contains(&service.slug));
    users.map(|a| service.name_for(&a.slug)).collect()
}

/// Whose the data in services is, before a plan and after it.
pub(crate) struct OwnedData {
    before: Ownership,
    after: Ownership,
}

impl OwnedData {
    /// Whose the data is now, and whose it is once `house` is in force.
    pub(crate) fn new(house: &House, inventory: &Inventory) -> OwnedData {
        let mut before = inventory.applied.ownership.clone();
        let current = inventory.current.as_ref().map(|c| &c.house);
        before.complete(inventory.applied.agents.keys(), current, inventory.now);
        let dropped = |service: &Slug, name: &str| {
            let state = access_state(inventory, service, name);
            matches!(state, Some(AccessState::Dropped { .. }))
        };
        let next = (Generation(inventory.generation.0 + 1), inventory.now);
        OwnedData {
            after: before.after(house, &inventory.restored, next, dropped),
            before,
        }
    }

    /// What holds once the plan is in force.
    pub(crate) fn into_planned(self) -> Ownership {
        self.after
    }

    /// Data in a service that `agent` would get and that another agent has or left there; none if there is no such data, or it
    /// is the agent's own.
    fn taken<'a>(
        &'a self,
        inventory: &Inventory,
        (service, name): (&Slug, &str),
        agent: &Slug,
    ) -> Option<TakenData<'a>> {
        let owner = self.before.owner(service, name);
        if owner.is_some_and(|owner| self.after.is(agent, owner)) {
            return None;
        }
        let house = inventory.current.as_ref().map(|c| &c.house);
        let service_before = house.and_then(|h| service_with_consumers(h, service));
        let in_use = owner.is_some_and(|owner| {
            let users = house.and_then(|h| h.agents.get(&owner.agent));
            let named = service_before.is_some_and(|s| s.name_for(&owner.agent) == name);
            named && users.is_some_and(|a| a.uses.contains(service))
        });
        let closed = match access_state(inventory, service, name) {
            _ if in_use => None,
            Some(AccessState::Dropped { .. }) => return None,
            Some(AccessState::Closed { at, .. }) => Some(*at),
            Some(AccessState::Open) => None,
            // It may have been opened, and the house ended before it was logged.
            None if owner.is_none() => return None,
            None => None,
        };
        Some(TakenData {
            owner: owner.map(|owner| (&owner.agent, self.before.has(owner))),
            in_use,
            closed,
        })
    }
}

/// Data that an agent gets and that is another's.
struct TakenData<'a> {
    /// Whose it is, and whether that agent is in the plan in force; none if that is not recorded.
    owner: Option<(&'a Slug, bool)>,
    /// Whether the owner uses it.
    in_use: bool,
    /// Instant at which it was closed, if that is known.
    closed: Option<Timestamp>,
}

/// State of the access of this name in a service, if it is known.
fn access_state<'a>(
    inventory: &'a Inventory,
    service: &Slug,
    name: &str,
) -> Option<&'a AccessState> {
    let mut known = inventory.access.iter();
    let known = known.find(|a| a.service == *service && a.name == name)?;
    Some(&known.state)
}

/// What the house `house` closes, or deletes earlier than the plan in force does.
pub(crate) fn losses(house: &House, inventory: &Inventory, owned: &OwnedData) -> Vec<Loss> {
    let old_house = inventory.current.as_ref().map(|c| &c.house);
    let mut losses = Vec::new();
    for service in house.services.values() {
        if service_with_consumers(house, &service.slug).is_none() {
            continue;
        }
        let old = old_house.and_then(|h| service_with_consumers(h, &service.slug));
        // Another kind keeps its own data, and closes nothing of what the former one has.
        if old.is_some_and(|old| old.kind != service.kind) {
            continue;
        }
        let used_before = match (old_house, old) {
            (Some(house), Some(old)) => used_names(house, old),
            _ => BTreeSet::new(),
        };
        let known = inventory.access.iter();
        let kept = known
            .filter(|a| {
                a.service == service.slug && !matches!(a.state, AccessState::Dropped { .. })
            })
            .map(|a| a.name.clone());
        let used = used_names(house, service);
        losses.extend(taken_data(house, service, inventory, owned));
        let names: BTreeSet<String> = kept.chain(used_before.iter().cloned()).collect();
        for name in names.difference(&used) {
            let closed = closed_since(inventory, &service.slug, name);
            let since = closed.unwrap_or(inventory.now);
            let remaining = (since + service.grace).since(inventory.now);
            // What the plan in force deletes as early is no news.
            let known_already = match old {
                Some(old) => !used_before.contains(name) && old.grace <= service.grace,
                None => closed.is_some() && remaining > Millis(0),
            };
            if known_already {
                continue;
            }
            let agents = old_house.map(|h| h.agents.values()).into_iter().flatten();
            let agent = agents
                .filter(|a| a.uses.contains(&service.slug))
                .find(|a| old.is_some_and(|s| s.name_for(&a.slug) == *name))
                .map(|a| a.slug.clone());
            let data = describe_access(service.kind, name);
            let slug = &service.slug;
            let copies = format!("`services/{slug}/backups/` in the state directory");
            let end = match remaining {
                Millis(0) => "deleted at once".to_owned(),
                left => format!("deleted {} from now", left.human()),
            };
            let renamed = |agent: &&Slug| {
                house
                    .agents
                    .get(*agent)
                    .is_some_and(|a| a.uses.contains(slug))
            };
            let text = match (&agent, closed) {
                (Some(agent), _) if renamed(&agent) => format!(
                    "agent `{agent}` has the name `{}` in `{slug}` from now on: its {data} is closed, and {end} unless `names` of `{slug}` says `{}` again before (`grace` of `{slug}`); a copy stays under {copies}",
                    service.name_for(agent),
                    name.replace('_', "-")
                ),
                (Some(agent), _) => format!(
                    "agent `{agent}` no longer uses `{slug}`: its {data} is closed, and {end} unless `uses` names `{slug}` again before (`grace` of `{slug}`); a copy stays under {copies}"
                ),
                (None, Some(_)) => {
                    let before = match old.map(|o| (since + o.grace).since(inventory.now)) {
                        Some(left) => format!(", {} earlier", Millis(left.0 - remaining.0).human()),
                        None => String::new(),
                    };
                    format!(
                        "the {data} in `{slug}`, which no agent uses, is {end}{before} (`grace` of `{slug}`); its last copy stays under {copies}"
                    )
                }
                (None, None) => format!(
                    "the {data} in `{slug}`, which no agent uses any more, is closed, and {end} (`grace` of `{slug}`); a copy stays under {copies}"
                ),
            };
            losses.push(Loss {
                service: slug.clone(),
                agent,
                text,
            });
        }
    }
    losses
}

/// Data in a service that agents have or left there, and that other agents get. A name alone gives nobody what is another's.
fn taken_data(
    house: &House,
    service: &Service,
    inventory: &Inventory,
    owned: &OwnedData,
) -> Vec<Loss> {
    let slug = &service.slug;
    let users = house.agents.values().filter(|a| a.uses.contains(slug));
    let taken = users.filter_map(|user| {
        let agent = &user.slug;
        let name = service.name_for(agent);
        let taken = owned.taken(inventory, (slug, &name), agent)?;
        let who = match taken.owner {
            Some((owner, true)) => format!("agent `{owner}`"),
            Some((owner, false)) if house.agents.contains_key(owner) => {
                format!("the former agent `{owner}`, another one of that name,")
            }
            Some((owner, false)) => format!("the former agent `{owner}`"),
            None => "an agent that is not recorded".to_owned(),
        };
        let has = match (taken.in_use, taken.closed) {
            (true, _) => format!("{who} has in it"),
            (false, Some(at)) => format!(
                "{who} left in it {} ago",
                inventory.now.since(at).human()
            ),
            (false, None) => format!("{who} left in it"),
        };
        let text = format!(
            "agent `{agent}` gets the {} in `{slug}` with everything that {has}; another name for `{agent}` in `names` of `{slug}` begins empty",
            describe_access(service.kind, &name)
        );
        Some(Loss {
            service: slug.clone(),
            agent: Some(agent.clone()),
            text,
        })
    });
    taken.collect()
}

/// Instant at which the access of this name was closed; none if it is open or unknown.
fn closed_since(inventory: &Inventory, service: &Slug, name: &str) -> Option<Timestamp> {
    match access_state(inventory, service, name)? {
        AccessState::Closed { at, .. } => Some(*at),
        AccessState::Open | AccessState::Dropped { .. } => None,
    }
}

/// What an agent that gets another name leaves in services that it does not use any more: its data has the former name.
pub(crate) fn left_by_renaming(
    house: &House,
    inventory: &Inventory,
    owned: &OwnedData,
) -> Vec<Note> {
    let mut notes = Vec::new();
    for (new, old) in &inventory.renamed {
        let services = house.services.values().filter(|s| s.kind.has_consumers());
        for service in services {
            let uses = house
                .agents
                .get(new)
                .is_none_or(|a| a.uses.contains(&service.slug));
            let name = service.name_for(old);
            let owner = owned.before.owner(&service.slug, &name);
            let is_own = owner.is_some_and(|owner| owned.before.is(new, owner));
            if uses || !is_own || closed_since(inventory, &service.slug, &name).is_none() {
                continue;
            }
            let (slug, data) = (&service.slug, describe_access(service.kind, &name));
            notes.push(Note {
                severity: Severity::Warning,
                subject: format!("agent:{new}"),
                text: format!(
                    "its {data} in `{slug}` is closed and keeps that name; `names: {{ {new}: {} }}` at `{slug}` keeps it for when the agent uses `{slug}` again",
                    name.replace('_', "-")
                ),
            });
        }
    }
    notes
}

/// Names, quoted, of closed data in a service that belongs to no agent of the house.
fn unclaimed(house: &House, inventory: &Inventory, service: &Service) -> Vec<String> {
    let claimed: BTreeSet<String> = house.agents.keys().map(|a| service.name_for(a)).collect();
    let of_service = inventory
        .access
        .iter()
        .filter(|a| a.service == service.slug);
    let closed = of_service.filter(|a| matches!(a.state, AccessState::Closed { .. }));
    let names = closed.filter(|a| !claimed.contains(&a.name));
    names.map(|a| format!("`{}`", a.name)).collect()
}

/// Database of the agent whose name `names` gives the database of another one, while databases have `ab_` before it.
fn usual_database(inventory: &Inventory, service: &Service, agent: &Slug) -> Option<String> {
    let own = service.names.get(agent)?;
    let usual = own.postgres_name();
    let there = !matches!(
        access_state(inventory, &service.slug, &usual)?,
        AccessState::Dropped { .. }
    );
    (there && service.kind == ServiceKind::Postgres).then_some(usual)
}

/// What an agent finds in a service that it uses from now on, unless it is another's: its own, or nothing.
pub(crate) fn returning_access(
    house: &House,
    inventory: &Inventory,
    owned: &OwnedData,
) -> Vec<Note> {
    let old_house = inventory.current.as_ref().map(|c| &c.house);
    let mut notes = Vec::new();
    for agent in house.agents.values() {
        let before = old_house.and_then(|h| h.agents.get(&agent.slug));
        for slug in &agent.uses {
            let Some(service) = service_with_consumers(house, slug) else {
                continue;
            };
            let name = service.name_for(&agent.slug);
            let named_so = |house: &House| {
                service_with_consumers(house, slug).is_some_and(|s| s.name_for(&agent.slug) == name)
            };
            let used = before.is_some_and(|a| a.uses.contains(slug));
            if (used && old_house.is_some_and(named_so))
                || owned.taken(inventory, (slug, &name), &agent.slug).is_some()
            {
                continue;
            }
            let data = describe_access(service.kind, &name);
            let ago = |at: Timestamp| inventory.now.since(at).human();
            let (severity, text) = match access_state(inventory, slug, &name) {
                Some(AccessState::Closed { at, .. }) => (
                    Severity::Info,
                    format!(
                        "its {data} in `{slug}` was closed {} ago and comes back with its data",
                        ago(*at)
                    ),
                ),
                Some(AccessState::Dropped { at, backup }) => (
                    Severity::Warning,
                    format!(
                        "its {data} in `{slug}` begins empty: the former one was deleted {} ago{}",
                        ago(*at),
                        match backup {
                            Some(path) => format!(
                                "; its last copy is `services/{slug}/{path}` in the state directory"
                            ),
                            None => String::new(),
                        }
                    ),
                ),
                Some(AccessState::Open) => continue,
                None if let Some(other) = usual_database(inventory, service, &agent.slug) => (
                    Severity::Warning,
                    format!(
                        "its {data} in `{slug}` begins empty; `{slug}` has `{other}`, which `names: {{ {}: {} }}` gives it",
                        agent.slug,
                        other.replace('_', "-")
                    ),
                ),
                None => match unclaimed(house, inventory, service).as_slice() {
                    [] => continue,
                    kept => (
                        Severity::Warning,
                        format!(
                            "its {data} in `{slug}` begins empty; `{slug}` keeps {} of agents that use it no more: an entry in `names` of `{slug}` gives it one of them",
                            kept.join(", ")
                        ),
                    ),
                },
            };
            notes.push(Note {
                severity,
                subject: format!("agent:{}", agent.slug),
                text,
            });
        }
    }
    notes
}
