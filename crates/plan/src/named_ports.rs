//! Ports that a manifest names: they are given first, and the network's range around them.

use crate::allocate::{AllocationConflict, HostFacts, Registry, ResourceKind};
use crate::house::House;
use crate::keys::Service;
use crate::plan::Inventory;
use std::collections::{BTreeMap, BTreeSet};

/// Holder of the port of the operator API in messages.
const OPERATOR_API: &str = "the operator API (`listen.address`)";

/// Ports that the manifest names.
#[derive(Debug, Default)]
pub(crate) struct NamedPorts {
    /// All of them; none is given to an owner that names none.
    pub(crate) all: BTreeSet<u16>,
    /// By service whose port cannot be given: why.
    pub(crate) conflicts: BTreeMap<String, AllocationConflict>,
}

/// Whether a service's program listens on the host's own network.
pub(crate) fn shares_host_network(service: &Service, host: &HostFacts) -> bool {
    !service.cell.isolates() || host.no_network.is_some()
}

/// Gives every port that the manifest names to its service, once all that it names no more are released.
pub(crate) fn allocate_named_ports(
    house: &House,
    inventory: &Inventory,
    registry: &mut Registry,
) -> NamedPorts {
    let mut named = NamedPorts::default();
    let mut holders: BTreeMap<u16, String> = BTreeMap::new();
    let host = &inventory.host;
    let listen = house.listen.address.port();
    if !inventory.listens_elsewhere && listen != 0 {
        holders.insert(listen, OPERATOR_API.to_owned());
    }
    let mut on_host = Vec::new();
    for service in house.services.values() {
        let owner = format!("service:{}", service.slug);
        if let Some(at) = service.at {
            registry.release_purpose(&owner, "port");
            registry.release_purpose(&owner, "expose");
            let current = inventory.current.as_ref();
            let before = current.and_then(|c| c.house.services.get(&service.slug)?.at);
            registry.keep_inside_port(&service.slug, before.unwrap_or(at).port());
            continue;
        }
        match service.port {
            Some(port) if shares_host_network(service, host) => {
                on_host.push((port, owner.clone(), "port"));
            }
            Some(port) => {
                registry.allocate_own_port(&service.slug, port);
                named.all.insert(port);
            }
            None => {}
        }
        match service.expose {
            Some(port) => on_host.push((port, owner, "expose")),
            None => registry.release_purpose(&owner, "expose"),
        }
    }
    for (_, owner, purpose) in &on_host {
        registry.release_purpose(owner, purpose);
    }
    for (port, owner, purpose) in on_host {
        let holder = holders.get(&port).or_else(|| host.ports.get(&port));
        if let Some(holder) = holder {
            let conflict = AllocationConflict::Held {
                kind: ResourceKind::Port,
                value: port.to_string(),
                holder: holder.clone(),
            };
            named.conflicts.insert(owner, conflict);
            continue;
        }
        registry.allocate_named_port(port, &owner, purpose);
        holders.insert(port, owner);
    }
    named.all.extend(holders.into_keys());
    named.all.extend(registry.inside_ports());
    named
}
