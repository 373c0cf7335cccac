//! Where an agent meets the services of the house (S1-08).

use crate::allocate::Registry;
use crate::house::{House, Service};
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
}

/// The subnet of an owner.
pub fn subnet(registry: &Registry, owner: &str) -> Option<Subnet> {
    registry.held(owner, "subnet")?.value.parse().ok()
}

/// Where a service answers on the host: in its own network, or on loopback.
pub fn endpoint(registry: &Registry, service: &Slug) -> Option<SocketAddrV4> {
    let owner = format!("service:{service}");
    let port = registry.held(&owner, "port")?.value.parse().ok()?;
    let address = subnet(registry, &owner).map_or(Ipv4Addr::LOCALHOST, Subnet::cell);
    Some(SocketAddrV4::new(address, port))
}

/// Every shared service that has a slot, at its place in `subnet`; on loopback in a cell without
/// a network of its own.
pub fn reaches(house: &House, registry: &Registry, subnet: Option<Subnet>) -> Vec<Reach> {
    let place = |service: &Service| {
        let offset = house.network.slots.get(service.slot.as_ref()?)?;
        let address = match subnet {
            Some(subnet) => subnet.address(*offset)?,
            None => Ipv4Addr::LOCALHOST,
        };
        let to = endpoint(registry, &service.slug)?;
        Some(Reach {
            service: service.slug.clone(),
            at: SocketAddrV4::new(address, to.port()),
            to,
        })
    };
    let shared = house.services.values().filter(|s| s.shared);
    shared.filter_map(place).collect()
}
