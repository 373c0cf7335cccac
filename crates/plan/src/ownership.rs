//! Which agent the data in services belongs to. A name is no proof: it can be given to another agent, by a renaming, by
//! `names`, or to a new one. So each agent has an identity, which it keeps when it is renamed or restored, and data is kept
//! together with the identity that used it last.

use crate::house::House;
use crate::keys::Service;
use abbey_model::{Generation, Slug, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Agent of the plan in force: who it is, and since when it has its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    /// Name and number of the plan that made it; no two agents of a house have the same.
    id: String,
    since: Timestamp,
}

/// Agent that was removed, under its last name. Its archived files may bring it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FormerAgent {
    name: Slug,
    #[serde(flatten)]
    identity: Identity,
}

/// Agent that data in a service belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DataOwner {
    id: String,
    /// Its newest name.
    pub(crate) agent: Slug,
}

/// Identities of agents, and whose the data in services is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    agents: BTreeMap<Slug, Identity>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    former: Vec<FormerAgent>,
    /// By service, and by name in it.
    data: BTreeMap<Slug, BTreeMap<String, DataOwner>>,
}

/// Service of a house in which agents have something of their own.
pub(crate) fn service_with_consumers<'a>(house: &'a House, slug: &Slug) -> Option<&'a Service> {
    let service = house.services.get(slug)?;
    (service.kind.has_consumers() && service.at.is_none()).then_some(service)
}

/// What agents of a house use: service, name of the data in it, agent.
fn used_data(house: &House) -> impl Iterator<Item = (&Slug, String, &Slug)> {
    let services = house.services.keys();
    let services = services.filter_map(|slug| service_with_consumers(house, slug));
    services.flat_map(move |service| {
        let users = house.agents.values();
        let users = users.filter(|a| a.uses.contains(&service.slug));
        users.map(|a| (&service.slug, service.name_for(&a.slug), &a.slug))
    })
}

impl Ownership {
    /// Adds what a release before did not record of the plan in force, with the agents `agents` and the house `current`:
    /// identities of agents, and that they own what they use.
    pub(crate) fn complete<'a>(
        &mut self,
        agents: impl Iterator<Item = &'a Slug>,
        current: Option<&House>,
        now: Timestamp,
    ) {
        for agent in agents {
            let identity = || Identity {
                id: format!("{agent}@0"),
                since: now,
            };
            self.agents.entry(agent.clone()).or_insert_with(identity);
        }
        self.give_used_data(current);
    }

    /// Makes each agent of a house the owner of what it uses.
    fn give_used_data(&mut self, house: Option<&House>) {
        for (service, name, agent) in house.into_iter().flat_map(used_data) {
            let Some(identity) = self.agents.get(agent) else {
                continue;
            };
            let owner = DataOwner {
                id: identity.id.clone(),
                agent: agent.clone(),
            };
            let of_service = self.data.entry(service.clone()).or_default();
            of_service.insert(name, owner);
        }
    }

    /// The same agent has another name from now on.
    pub(crate) fn rename(&mut self, old: &Slug, new: &Slug, now: Timestamp) {
        let known = self.agents.remove(old).map(|identity| identity.id);
        let id = known.unwrap_or_else(|| format!("{old}@0"));
        for owner in self.data.values_mut().flat_map(BTreeMap::values_mut) {
            if owner.id == id {
                owner.agent = new.clone();
            }
        }
        self.agents.insert(new.clone(), Identity { id, since: now });
    }

    /// What holds once `house` is in force as generation `generation`. `restored` has the new agents that come with archived
    /// files, and the instants at which those were archived; `dropped` says which data a service has deleted.
    pub(crate) fn after(
        &self,
        house: &House,
        restored: &BTreeMap<Slug, Timestamp>,
        (generation, now): (Generation, Timestamp),
        dropped: impl Fn(&Slug, &str) -> bool,
    ) -> Ownership {
        let mut next = Ownership::default();
        let mut former = self.former.clone();
        for (name, identity) in &self.agents {
            match house.agents.contains_key(name) {
                true => drop(next.agents.insert(name.clone(), identity.clone())),
                false => former.push(FormerAgent {
                    name: name.clone(),
                    identity: identity.clone(),
                }),
            }
        }
        for agent in house.agents.keys() {
            if next.agents.contains_key(agent) {
                continue;
            }
            let archived = restored.get(agent).copied();
            // An archive is younger than the agent whose files it has, and older than the next one of that name.
            let back = archived.and_then(|at| {
                let named = former.iter().filter(|f| f.name == *agent);
                named
                    .filter(|f| f.identity.since <= at)
                    .max_by_key(|f| f.identity.since)
            });
            let id = match back {
                Some(back) => back.identity.id.clone(),
                None => format!("{agent}@{}", generation.0),
            };
            former.retain(|f| f.identity.id != id);
            let identity = Identity { id, since: now };
            next.agents.insert(agent.clone(), identity);
        }
        next.data = self.data.clone();
        for (service, names) in &mut next.data {
            names.retain(|name, _| !dropped(service, name));
        }
        next.data.retain(|_, names| !names.is_empty());
        next.give_used_data(Some(house));
        for (name, identity) in &next.agents {
            for owner in next.data.values_mut().flat_map(BTreeMap::values_mut) {
                if owner.id == identity.id {
                    owner.agent = name.clone();
                }
            }
        }
        // Where none of a name owns anything, none of them has to be told from another.
        let owners = next.data.values().flat_map(BTreeMap::values);
        let owners: BTreeSet<&str> = owners.map(|o| o.id.as_str()).collect();
        let owning = former.iter();
        let owning = owning.filter(|f| owners.contains(f.identity.id.as_str()));
        let names: BTreeSet<Slug> = owning.map(|f| f.name.clone()).collect();
        former.retain(|f| names.contains(&f.name));
        next.former = former;
        next
    }

    /// Agent that the data of a name in a service belongs to; none if nobody ever used it, or it is not recorded who did.
    pub(crate) fn owner(&self, service: &Slug, name: &str) -> Option<&DataOwner> {
        self.data.get(service)?.get(name)
    }

    /// Names, as `names` of a service has them, of what an agent of the plan in force owns, by service, whether it uses them or
    /// not. Where it owns several in one, the one that it would use there in `house`, or none.
    pub fn data_names(&self, house: &House, agent: &Slug) -> BTreeMap<Slug, String> {
        let Some(identity) = self.agents.get(agent) else {
            return BTreeMap::new();
        };
        let named = self.data.iter().filter_map(|(slug, names)| {
            let own = names.iter().filter(|(_, o)| o.id == identity.id);
            let own: Vec<&String> = own.map(|(name, _)| name).collect();
            let usual = house.services.get(slug).map(|s| s.name_for(agent));
            let name = match own.as_slice() {
                [only] => only,
                several => several.iter().find(|name| usual.as_ref() == Some(name))?,
            };
            Some((slug.clone(), name.replace('_', "-")))
        });
        named.collect()
    }

    /// Services and names of what the last agent of a name owned there, which the plan does not have any more.
    pub fn left_by<'a>(&'a self, agent: &'a Slug) -> impl Iterator<Item = (&'a Slug, &'a str)> {
        let services = self.data.iter();
        services.flat_map(move |(service, names)| {
            let left = names.iter();
            let left = left.filter(move |(_, o)| o.agent == *agent && !self.has(o));
            left.map(move |(name, _)| (service, name.as_str()))
        })
    }

    /// Whether an agent is the owner, and not only of the same name.
    pub(crate) fn is(&self, agent: &Slug, owner: &DataOwner) -> bool {
        let identity = self.agents.get(agent);
        identity.is_some_and(|identity| identity.id == owner.id)
    }

    /// Whether an agent of the plan owns it, under any name.
    pub(crate) fn has(&self, owner: &DataOwner) -> bool {
        self.agents.values().any(|identity| identity.id == owner.id)
    }
}
