//! Addresses at which an agent reaches services (S1-08).

use crate::allocate::{INSIDE_PORT, Registry};
use crate::house::House;
use crate::keys::{Agent, Service};
use crate::service_kind::ServiceKind;
use abbey_model::{Slug, Subnet};
use std::net::{Ipv4Addr, SocketAddrV4};

/// A service that an agent can reach, with its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReachableService {
    /// Name of the service.
    pub service: Slug,
    /// Address of the service inside the agent's cell.
    pub address: SocketAddrV4,
    /// Address of the service on the host.
    pub host_address: SocketAddrV4,
    /// Whether the service runs outside the house. Then `host_address` may change while the cell runs.
    pub external: bool,
    /// Kind of the service.
    pub kind: ServiceKind,
    /// Name of the agent's database or folder in the service; none when the agent does not use it.
    pub name_in_service: Option<String>,
}

/// Subnet that is allocated to an owner: `agent:NAME` or `service:NAME`.
pub fn allocated_subnet(registry: &Registry, owner: &str) -> Option<Subnet> {
    registry
        .find_allocation(owner, "subnet")?
        .value
        .parse()
        .ok()
}

/// Port inside cells of a service outside the house: its first port, so that cells keep it when the service moves.
fn inside_port(registry: &Registry, service: &Slug) -> Option<u16> {
    let held = registry.find_allocation(&format!("service:{service}"), INSIDE_PORT)?;
    held.value.rsplit(':').next()?.parse().ok()
}

/// Address and port at which the host reaches a service: in the service's own network, on loopback, or outside the
/// house.
pub fn host_endpoint(house: &House, registry: &Registry, service: &Slug) -> Option<SocketAddrV4> {
    if let Some(at) = house.services.get(service).and_then(|s| s.at) {
        return Some(at);
    }
    let owner = format!("service:{service}");
    let port = registry.find_allocation(&owner, "port")?.port()?;
    let address = allocated_subnet(registry, &owner).map_or(Ipv4Addr::LOCALHOST, Subnet::cell);
    Some(SocketAddrV4::new(address, port))
}

/// Whether programs of an agent can connect to a service: one that the agent uses, or a shared one at a slot.
pub fn can_reach(house: &House, agent: &Agent, service: &Service) -> bool {
    let used = agent.uses.contains(&service.slug);
    let met = service.shared && service.slot.is_some() && agent.cell.isolates();
    // Only the control plane calls a tool server, and logs each call.
    // A model provider is called through the gateway, which meters it.
    let bypasses = house.provider_of(&service.slug).is_some() && !service.unmetered;
    (used || met) && service.kind != ServiceKind::Tools && !bypasses
}

/// Services that an agent can reach, each with its address as the agent's cell and as the host see it. These are the
/// shared services with a slot and those that the agent uses; `subnet` is the subnet of the agent's cell.
pub fn reachable_services(
    house: &House,
    registry: &Registry,
    agent: &Agent,
    subnet: Option<Subnet>,
) -> Vec<ReachableService> {
    let isolated = agent.cell.isolates();
    let place = |service: &Service| {
        let used = agent.uses.contains(&service.slug);
        if !can_reach(house, agent, service) {
            return None;
        }
        let to = host_endpoint(house, registry, &service.slug)?;
        let offset = service
            .slot
            .as_ref()
            .and_then(|s| house.network.slots.get(s));
        let address = match (isolated, subnet, offset) {
            (false, ..) => *to.ip(),
            (true, Some(subnet), Some(offset)) => subnet.address(*offset)?,
            _ => Ipv4Addr::LOCALHOST,
        };
        let port = match isolated && service.at.is_some() {
            true => inside_port(registry, &service.slug).unwrap_or(to.port()),
            false => to.port(),
        };
        Some(ReachableService {
            service: service.slug.clone(),
            address: SocketAddrV4::new(address, port),
            host_address: to,
            external: service.at.is_some(),
            kind: service.kind,
            name_in_service: used.then(|| service.name_for(&agent.slug)),
        })
    };
    house.services.values().filter_map(place).collect()
}
