//! Where an agent meets the services of the house (S1-08).

use crate::allocate::Registry;
use crate::house::{Agent, House, Service, ServiceKind};
use abbey_model::{Slug, Subnet};
use std::net::{Ipv4Addr, SocketAddrV4};

/// One service as one agent sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Which.
    pub service: Slug,
    /// Address in the eyes of the agent.
    pub at: SocketAddrV4,
    /// Address on the host.
    pub to: SocketAddrV4,
    /// What it is.
    pub kind: ServiceKind,
    /// What belongs to the agent in it, if anything does.
    pub own: Option<String>,
}

/// The subnet of an owner.
pub fn subnet(registry: &Registry, owner: &str) -> Option<Subnet> {
    registry.held(owner, "subnet")?.value.parse().ok()
}

/// Where a service answers on the host: in its own network, or on loopback; or wherever somebody else runs it.
pub fn endpoint(house: &House, registry: &Registry, service: &Slug) -> Option<SocketAddrV4> {
    if let Some(at) = house.services.get(service).and_then(|s| s.at) {
        return Some(at);
    }
    let owner = format!("service:{service}");
    let port = registry.held(&owner, "port")?.value.parse().ok()?;
    let address = subnet(registry, &owner).map_or(Ipv4Addr::LOCALHOST, Subnet::cell);
    Some(SocketAddrV4::new(address, port))
}

/// Every shared service that has a slot, and what the agent uses: at its place in `subnet`; on loopback where it
/// has none, or the cell has no network of its own; and where it is in a cell without walls.
pub fn reaches(
    house: &House,
    registry: &Registry,
    agent: &Agent,
    subnet: Option<Subnet>,
) -> Vec<Reach> {
    let walled = agent.cell.isolates();
    let place = |service: &Service| {
        let used = agent.uses.contains(&service.slug);
        let met = service.shared && service.slot.is_some() && walled;
        // A tool server is asked by the house alone, which enters each call.
        if (!used && !met) || service.kind == ServiceKind::Tools {
            return None;
        }
        let to = endpoint(house, registry, &service.slug)?;
        let offset = service
            .slot
            .as_ref()
            .and_then(|s| house.network.slots.get(s));
        let address = match (walled, subnet, offset) {
            (false, ..) => *to.ip(),
            (true, Some(subnet), Some(offset)) => subnet.address(*offset)?,
            _ => Ipv4Addr::LOCALHOST,
        };
        Some(Reach {
            service: service.slug.clone(),
            at: SocketAddrV4::new(address, to.port()),
            to,
            kind: service.kind,
            own: used.then(|| service.name_for(&agent.slug)),
        })
    };
    house.services.values().filter_map(place).collect()
}
