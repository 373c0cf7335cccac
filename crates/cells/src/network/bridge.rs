//! One bridge for every cell of a house, for those who want the old layout of several subnets on one wire
//! (S1-03, S1-09). Its ports are isolated from each other, so cells meet no more than with pairs of their own,
//! and what a port may send is checked at the port (`rules`).

use super::addresses::{bridge_mac, cell_mac};
use super::link::{self, RouteSocket};
use crate::HouseTag;
use abbey_model::Subnet;
use abbey_plan::BRIDGE_PORTS_MAX;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridgePort, InfoKind, InfoPortData, InfoPortKind, LinkAttribute, LinkInfo,
};
use std::collections::BTreeSet;
use std::io;

/// Creates the house's bridge and sets its addresses to the gateways of exactly these subnets; removes the bridge
/// if there are none.
///
/// # Errors
/// With the step that failed.
pub(crate) fn update_bridge(tag: HouseTag, subnets: &BTreeSet<Subnet>) -> io::Result<()> {
    let name = tag.bridge_name();
    if subnets.is_empty() && !link::has_interface(&name)? {
        return Ok(());
    }
    let mut host = RouteSocket::open()?;
    if subnets.is_empty() {
        if let Ok(index) = host.interface_index(&name) {
            let gone = RouteNetlinkMessage::DelLink(link::link_message(index));
            host.send_all(vec![("remove the bridge", gone)])?;
        }
        return Ok(());
    }
    if subnets.len() > BRIDGE_PORTS_MAX {
        let text = format!("a bridge may have at most {BRIDGE_PORTS_MAX} ports");
        return Err(io::Error::other(text));
    }
    let (index, made) = match host.interface_index(&name) {
        Ok(index) => (index, false),
        Err(_) => (make(&mut host, tag)?, true),
    };
    // What it has beyond that was an owner's who is gone: routes tell its addresses.
    let here = crate::sys::host::ipv4_routes();
    let here: BTreeSet<Subnet> = here
        .into_iter()
        .filter(|(_, _, interface)| *interface == name)
        .filter_map(|(base, prefix, _)| Subnet::new(base, prefix))
        .collect();
    for gone in here.difference(subnets) {
        let address = link::address_message(index, gone.gateway(), gone.prefix(), false);
        host.send_all(vec![("take a gateway's address away", address)])?;
    }
    for new in subnets.difference(&here) {
        let address = link::address_message(index, new.gateway(), new.prefix(), true);
        match host.send_all(vec![("set a gateway's address", address)]) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    // Those that were its ports before somebody took it away.
    for subnet in subnets.iter().filter(|_| made) {
        if let Ok(port) = host.interface_index(&tag.interface_name(*subnet)) {
            host.send_all(attach_port_steps(index, port, *subnet))?;
        }
    }
    Ok(())
}

fn make(host: &mut RouteSocket, tag: HouseTag) -> io::Result<u32> {
    let name = tag.bridge_name();
    let mut bridge = link::link_message(0);
    bridge.attributes = vec![
        LinkAttribute::IfName(name.clone()),
        LinkAttribute::Address(bridge_mac(tag).to_vec()),
        LinkAttribute::Group(tag.interface_group()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ];
    match host.send_all(vec![(
        "make the bridge",
        RouteNetlinkMessage::NewLink(bridge),
    )]) {
        // Another cell that starts made it.
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    link::disable_ipv6(&name);
    let index = host.interface_index(&name)?;
    host.send_all(vec![("bring the bridge up", link::set_up_message(index))])?;
    Ok(index)
}

/// Netlink messages that attach the host's end of a pair to the bridge, isolate the port, and fix the cell's
/// neighbour entry.
pub(super) fn attach_port_steps(
    bridge: u32,
    port: u32,
    subnet: Subnet,
) -> Vec<(&'static str, RouteNetlinkMessage)> {
    let mut attached = link::link_message(port);
    attached.attributes = vec![LinkAttribute::Controller(bridge)];
    let mut isolated = link::link_message(port);
    isolated.attributes = vec![LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(
            true,
        )])),
    ])];
    let cell = subnet.cell();
    vec![
        (
            "attach it to the bridge",
            RouteNetlinkMessage::SetLink(attached),
        ),
        ("isolate its port", RouteNetlinkMessage::SetLink(isolated)),
        ("bring its port up", link::set_up_message(port)),
        (
            "fix its neighbour",
            link::neighbour_message(bridge, cell, cell_mac(cell)),
        ),
    ]
}
