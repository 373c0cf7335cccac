//! Interfaces, addresses and routes by netlink (`rtnetlink(7)`): a few messages in one datagram,
//! the acknowledgements read afterwards.

use super::addresses::{bridge_mac, cell_mac, host_mac};
use super::bridge;
use crate::{CellNetwork, HouseTag};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

/// Name of the cell's end, as seen inside.
const INSIDE: &str = "eth0";
const LOOPBACK: u32 = 1;
/// Times that all interfaces of a house are removed before a failure is one.
const REMOVE_TRIES: u32 = 5;

/// A conversation with the kernel about one network namespace: that of the caller when it began.
pub(super) struct RouteSocket {
    socket: Socket,
    /// Any socket of that namespace, to ask for the numbers of interfaces.
    names: std::os::fd::OwnedFd,
    sequence: u32,
}

impl RouteSocket {
    pub(super) fn open() -> io::Result<RouteSocket> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let names = rustix::net::socket_with(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::DGRAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(RouteSocket {
            socket,
            names,
            sequence: 0,
        })
    }

    pub(super) fn index(&self, name: &str) -> io::Result<u32> {
        rustix::net::netdevice::name_to_index(&self.names, name).map_err(Into::into)
    }

    /// Sends everything at once and waits until each is done; the first failure is told with
    /// what it was about.
    pub(super) fn all(
        &mut self,
        steps: Vec<(&'static str, RouteNetlinkMessage)>,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        let first = self.sequence + 1;
        let mut pending = Vec::new();
        for (what, message) in steps {
            self.sequence += 1;
            pending.push(what);
            let mut header = NetlinkHeader::default();
            header.flags = NLM_F_REQUEST | NLM_F_ACK;
            header.flags |= match message {
                RouteNetlinkMessage::SetLink(_)
                | RouteNetlinkMessage::DelLink(_)
                | RouteNetlinkMessage::DelAddress(_) => 0,
                // On a bridge the one of the cell's last boot may be there.
                RouteNetlinkMessage::NewNeighbour(_) => NLM_F_CREATE | NLM_F_REPLACE,
                _ => NLM_F_CREATE | NLM_F_EXCL,
            };
            header.sequence_number = self.sequence;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
            message.finalize();
            let at = bytes.len();
            bytes.resize(at + message.buffer_len(), 0);
            message.serialize(&mut bytes[at..]);
        }
        self.socket.send(&bytes, 0)?;
        let mut failure = None;
        let mut answers = 0;
        while answers < pending.len() {
            let (received, _) = self.socket.recv_from_full()?;
            let mut rest = &received[..];
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(io::Error::other)?;
                let length = usize::try_from(answer.header.length).unwrap_or(usize::MAX);
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                let NetlinkPayload::Error(told) = answer.payload else {
                    continue;
                };
                answers += 1;
                let about = answer.header.sequence_number.wrapping_sub(first);
                let what = pending.get(about as usize).unwrap_or(&"");
                if let (Some(_), None) = (told.code, &failure) {
                    failure = Some(Failed::new(what, told.to_io()));
                }
            }
        }
        failure.map_or(Ok(()), |f| Err(f.into()))
    }
}

/// A step that the kernel refused.
#[derive(Debug)]
struct Failed {
    what: String,
    source: io::Error,
}

impl Failed {
    fn new(what: &str, source: io::Error) -> Failed {
        Failed {
            what: what.to_owned(),
            source,
        }
    }
}
impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "could not {}: {}", self.what, self.source)
    }
}
impl std::error::Error for Failed {}
impl From<Failed> for io::Error {
    fn from(failed: Failed) -> io::Error {
        io::Error::new(failed.source.kind(), failed)
    }
}

pub(super) fn link(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

pub(super) fn up(index: u32) -> RouteNetlinkMessage {
    let mut message = link(index);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}

/// An interface's address, to be set or to be taken away.
pub(super) fn address(index: u32, address: Ipv4Addr, prefix: u8, set: bool) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix;
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(IpAddr::V4(address)),
        AddressAttribute::Address(IpAddr::V4(address)),
    ];
    match set {
        true => RouteNetlinkMessage::NewAddress(message),
        false => RouteNetlinkMessage::DelAddress(message),
    }
}

fn route(scope: RouteScope, prefix: u8, attributes: Vec<RouteAttribute>) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: prefix,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Static,
        scope,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = attributes;
    RouteNetlinkMessage::NewRoute(message)
}

/// The other end's hardware address for good: what the cell says about itself changes nothing.
pub(super) fn neighbour(index: u32, address: Ipv4Addr, mac: [u8; 6]) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
        NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
    ];
    RouteNetlinkMessage::NewNeighbour(message)
}

/// Gives the network of process `pid` an address of this subnet, and the host its gateway.
/// `slots` are further addresses that are the cell's own.
///
/// The pair goes with the cell's network, which goes with its last process: the kernel sees to it in
/// its own time, and nobody waits. What a boot before this one has not left yet makes room.
///
/// # Errors
/// With the step.
pub(crate) fn connect(network: CellNetwork, slots: &[Ipv4Addr], pid: i32) -> io::Result<()> {
    let CellNetwork {
        subnet,
        tag: Some(tag),
        bridged,
    } = network
    else {
        return Ok(());
    };
    let name = tag.interface(subnet);
    let (gateway, cell) = (subnet.gateway(), subnet.cell());
    let mut host = RouteSocket::open()?;
    // One that a crash left behind is in the way.
    if let Ok(index) = host.index(&name) {
        let _gone_with_its_other_end =
            host.all(vec![("", RouteNetlinkMessage::DelLink(link(index)))]);
    }
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(INSIDE.to_owned()),
        LinkAttribute::Address(cell_mac(cell).to_vec()),
        LinkAttribute::NetNsPid(pid.cast_unsigned()),
    ];
    let mut pair = LinkMessage::default();
    pair.attributes = vec![
        LinkAttribute::IfName(name.clone()),
        LinkAttribute::Address(host_mac(cell).to_vec()),
        LinkAttribute::Group(tag.group()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    host.all(vec![(
        "make its interfaces",
        RouteNetlinkMessage::NewLink(pair),
    )])?;
    without_ipv6(&name);
    let index = host.index(&name)?;
    let to = |a: Ipv4Addr| RouteAttribute::Destination(RouteAddress::Inet(a));
    let steps = match bridged {
        true => bridge::plug(host.index(&tag.bridge())?, index, subnet),
        false => vec![
            (
                "set the gateway's address",
                address(index, gateway, 32, true),
            ),
            ("bring the gateway up", up(index)),
            (
                "route its address",
                route(
                    RouteScope::Link,
                    32,
                    vec![
                        to(cell),
                        RouteAttribute::Oif(index),
                        RouteAttribute::PrefSource(RouteAddress::Inet(gateway)),
                    ],
                ),
            ),
            ("fix its neighbour", neighbour(index, cell, cell_mac(cell))),
        ],
    };
    host.all(steps)?;
    let gateway_mac = match bridged {
        true => bridge_mac(tag),
        false => host_mac(cell),
    };
    let mut inside = inside(pid)?;
    let index = inside.index(INSIDE)?;
    let mut steps = vec![("set the cell's address", address(index, cell, 32, true))];
    steps.extend(
        slots
            .iter()
            .map(|s| ("set a slot's address", address(LOOPBACK, *s, 32, true))),
    );
    steps.extend([
        ("bring the cell's interface up", up(index)),
        (
            "fix the gateway's neighbour",
            neighbour(index, gateway, gateway_mac),
        ),
        (
            "route the gateway",
            route(
                RouteScope::Link,
                32,
                vec![to(gateway), RouteAttribute::Oif(index)],
            ),
        ),
        (
            "route everything else",
            route(
                RouteScope::Universe,
                0,
                vec![
                    RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
                    RouteAttribute::Oif(index),
                ],
            ),
        ),
    ]);
    inside.all(steps)
}

/// Nothing of the next protocol: rules and addresses are of IPv4 (absent without that module).
pub(super) fn without_ipv6(name: &str) {
    let _no_such_protocol =
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
}

/// A conversation about the network of another process.
fn inside(pid: i32) -> io::Result<RouteSocket> {
    let own = File::open("/proc/self/ns/net")?;
    let theirs = File::open(format!("/proc/{pid}/ns/net"))?;
    let enter = |ns: &File| {
        move_into_link_name_space(ns.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(io::Error::from)
    };
    enter(&theirs)?;
    let _no_such_protocol = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    let route = RouteSocket::open();
    // A shim in the wrong network would open its doors there.
    enter(&own)?;
    route
}

/// Removes whatever interfaces of a house are left, in one message. The kernel takes those of ended
/// cells away at the same time, so one that vanishes under our hands is as good as removed.
pub(crate) fn disconnect_all(tag: HouseTag) -> io::Result<()> {
    let mut tries = 0;
    while !present(tag).is_empty() {
        let mut all = LinkMessage::default();
        all.attributes = vec![LinkAttribute::Group(tag.group())];
        let step = ("remove its interfaces", RouteNetlinkMessage::DelLink(all));
        let removed = RouteSocket::open()?.all(vec![step]);
        tries += 1;
        if tries == REMOVE_TRIES {
            return removed;
        }
    }
    Ok(())
}

/// Interfaces of a house that are there.
fn present(tag: HouseTag) -> Vec<String> {
    let prefix = tag.prefix();
    let text = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let names = text.lines().filter_map(|l| l.split_once(':'));
    names
        .map(|(name, _)| name.trim().to_owned())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}
