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

/// The bridge of a house, with the gateway of each of these subnets and of no other.
///
/// # Errors
/// With the step.
pub(crate) fn stand(tag: HouseTag, subnets: &BTreeSet<Subnet>) -> io::Result<()> {
    let name = tag.bridge();
    let mut host = RouteSocket::open()?;
    if subnets.is_empty() {
        if let Ok(index) = host.index(&name) {
            let gone = RouteNetlinkMessage::DelLink(link::link(index));
            host.all(vec![("remove the bridge", gone)])?;
        }
        return Ok(());
    }
    if subnets.len() > BRIDGE_PORTS_MAX {
        let text = format!("a bridge has {BRIDGE_PORTS_MAX} ports at most");
        return Err(io::Error::other(text));
    }
    let (index, made) = match host.index(&name) {
        Ok(index) => (index, false),
        Err(_) => (make(&mut host, tag)?, true),
    };
    // What it has beyond that was an owner's who is gone: routes tell its addresses.
    let here = crate::sys::host::routes();
    let here: BTreeSet<Subnet> = here
        .into_iter()
        .filter(|(_, _, interface)| *interface == name)
        .filter_map(|(base, prefix, _)| Subnet::new(base, prefix))
        .collect();
    for gone in here.difference(subnets) {
        let address = link::address(index, gone.gateway(), gone.prefix(), false);
        host.all(vec![("take a gateway's address away", address)])?;
    }
    for new in subnets.difference(&here) {
        let address = link::address(index, new.gateway(), new.prefix(), true);
        match host.all(vec![("set a gateway's address", address)]) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    // Those that were its ports before somebody took it away.
    for subnet in subnets.iter().filter(|_| made) {
        if let Ok(port) = host.index(&tag.interface(*subnet)) {
            host.all(plug(index, port, *subnet))?;
        }
    }
    Ok(())
}

fn make(host: &mut RouteSocket, tag: HouseTag) -> io::Result<u32> {
    let name = tag.bridge();
    let mut bridge = link::link(0);
    bridge.attributes = vec![
        LinkAttribute::IfName(name.clone()),
        LinkAttribute::Address(bridge_mac(tag).to_vec()),
        LinkAttribute::Group(tag.group()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ];
    match host.all(vec![(
        "make the bridge",
        RouteNetlinkMessage::NewLink(bridge),
    )]) {
        // Another cell that starts made it.
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    link::without_ipv6(&name);
    let index = host.index(&name)?;
    host.all(vec![("bring the bridge up", link::up(index))])?;
    Ok(index)
}

/// Makes the host's end of a pair a port, isolated from all others, and fixes where the cell is.
pub(super) fn plug(
    bridge: u32,
    port: u32,
    subnet: Subnet,
) -> Vec<(&'static str, RouteNetlinkMessage)> {
    let mut attached = link::link(port);
    attached.attributes = vec![LinkAttribute::Controller(bridge)];
    let mut isolated = link::link(port);
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
        ("bring its port up", link::up(port)),
        (
            "fix its neighbour",
            link::neighbour(bridge, cell, cell_mac(cell)),
        ),
    ]
}
