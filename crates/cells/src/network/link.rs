//! Interfaces, addresses and routes by netlink (`rtnetlink(7)`): a few messages in one datagram,
//! the acknowledgements read afterwards.

use super::addresses::{bridge_mac, cell_mac, host_mac};
use super::bridge;
use crate::{CellNetwork, HouseTag};
use abbey_launch::NetworkNamespace;
use abbey_model::Subnet;
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
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Name of the cell's end, as seen inside.
const INSIDE: &str = "eth0";
const LOOPBACK: u32 = 1;
/// Times that all interfaces of a house are removed before a failure is one.
const REMOVE_TRIES: u32 = 5;

/// Rtnetlink socket in the network namespace in which it was opened.
pub(super) struct RouteSocket {
    socket: Socket,
    /// Any socket of that namespace, to ask for the numbers of interfaces.
    names: OwnedFd,
    sequence: u32,
}

impl RouteSocket {
    /// Opens an rtnetlink socket in the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<RouteSocket> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(RouteSocket {
            socket,
            names: index_socket()?,
            sequence: 0,
        })
    }

    /// Index of the interface with this name in the socket's namespace.
    pub(super) fn interface_index(&self, name: &str) -> io::Result<u32> {
        rustix::net::netdevice::name_to_index(&self.names, name).map_err(Into::into)
    }

    /// Sends all messages in one datagram and waits until the kernel has processed them. Each message has the description
    /// of its step.
    ///
    /// # Errors
    /// The first step that the kernel refused.
    pub(super) fn send_all(
        &mut self,
        steps: Vec<(&'static str, RouteNetlinkMessage)>,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        let first = self.sequence + 1;
        let last = self.sequence + u32::try_from(steps.len()).unwrap_or(0);
        let mut pending = Vec::new();
        for (what, message) in steps {
            self.sequence += 1;
            pending.push(what);
            let mut header = NetlinkHeader::default();
            header.flags = NLM_F_REQUEST;
            // What comes before the last one is acknowledged only if it fails.
            if self.sequence == last {
                header.flags |= NLM_F_ACK;
            }
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
        let mut processed = pending.is_empty();
        while !processed {
            let (received, _) = self.socket.recv_from_full()?;
            for (number, error) in acknowledgements(&received)? {
                processed |= number == last;
                let what = pending.get(number.wrapping_sub(first) as usize);
                if let (Some(error), None) = (error, &failure) {
                    failure = Some(Failed::new(what.unwrap_or(&""), error));
                }
            }
        }
        failure.map_or(Ok(()), |f| Err(f.into()))
    }
}

/// Acknowledgements in what a netlink socket of any protocol received: number of the message, and the error if it failed.
///
/// # Errors
/// When it is no netlink message.
pub(super) fn acknowledgements(received: &[u8]) -> io::Result<Vec<(u32, Option<io::Error>)>> {
    let mut found = Vec::new();
    let mut rest = received;
    while !rest.is_empty() {
        let answer =
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
        let length = usize::try_from(answer.header.length).unwrap_or(usize::MAX);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        if let NetlinkPayload::Error(told) = answer.payload {
            let error = told.code.is_some().then(|| told.to_io());
            found.push((answer.header.sequence_number, error));
        }
    }
    Ok(found)
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

/// Empty message about the interface with this index.
pub(super) fn link_message(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

/// Message that brings the interface with this index up.
pub(super) fn set_up_message(index: u32) -> RouteNetlinkMessage {
    let mut message = link_message(index);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}

/// Message that adds (`set`) or removes an IPv4 address of an interface.
pub(super) fn address_message(
    index: u32,
    address: Ipv4Addr,
    prefix: u8,
    set: bool,
) -> RouteNetlinkMessage {
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

/// Message that adds a permanent neighbour entry, so that ARP replies of the cell cannot change it.
pub(super) fn neighbour_message(
    index: u32,
    address: Ipv4Addr,
    mac: [u8; 6],
) -> RouteNetlinkMessage {
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

/// Creates the pair of interfaces between the host and the network `namespace` of a cell, with addresses and routes of the
/// cell's subnet. `slots` are further addresses on the cell's loopback interface.
///
/// The kernel removes the pair with the namespace, that is after the cell's last process; a pair left by an earlier
/// boot is replaced.
///
/// # Errors
/// With the step that failed.
pub(crate) fn connect_cell(
    network: CellNetwork,
    slots: &[Ipv4Addr],
    namespace: NetworkNamespace<'_>,
) -> io::Result<()> {
    let CellNetwork {
        subnet,
        tag: Some(tag),
        bridged,
    } = network
    else {
        return Ok(());
    };
    let name = tag.interface_name(subnet);
    let (gateway, cell) = (subnet.gateway(), subnet.cell());
    let mut host = RouteSocket::open()?;
    // One that a crash left behind is in the way.
    if let Ok(index) = host.interface_index(&name) {
        let _gone_with_its_other_end = host.send_all(vec![(
            "",
            RouteNetlinkMessage::DelLink(link_message(index)),
        )]);
    }
    let namespace = namespace.open()?;
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(INSIDE.to_owned()),
        LinkAttribute::Address(cell_mac(cell).to_vec()),
        LinkAttribute::NetNsFd(namespace.as_raw_fd()),
    ];
    let mut pair = LinkMessage::default();
    pair.attributes = vec![
        LinkAttribute::IfName(name.clone()),
        LinkAttribute::Address(host_mac(cell).to_vec()),
        LinkAttribute::Group(tag.interface_group()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    host.send_all(vec![(
        "make its interfaces",
        RouteNetlinkMessage::NewLink(pair),
    )])?;
    disable_ipv6(&name);
    let index = host.interface_index(&name)?;
    let to = |a: Ipv4Addr| RouteAttribute::Destination(RouteAddress::Inet(a));
    let steps = match bridged {
        true => bridge::attach_port_steps(host.interface_index(&tag.bridge_name())?, index, subnet),
        false => host_steps(index, subnet),
    };
    host.send_all(steps)?;
    let gateway_mac = match bridged {
        true => bridge_mac(tag),
        false => host_mac(cell),
    };
    let mut inside = inside(namespace.as_fd())?;
    let index = inside.interface_index(INSIDE)?;
    let mut steps = vec![(
        "set the cell's address",
        address_message(index, cell, 32, true),
    )];
    steps.extend(slots.iter().map(|s| {
        (
            "set a slot's address",
            address_message(LOOPBACK, *s, 32, true),
        )
    }));
    steps.extend([
        ("bring the cell's interface up", set_up_message(index)),
        (
            "fix the gateway's neighbour",
            neighbour_message(index, gateway, gateway_mac),
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
    inside.send_all(steps)
}

/// Makes the host's end of a running cell's network as [`connect_cell`] left it, and the whole pair again if it is gone.
/// Returns whether anything was missing.
///
/// # Errors
/// With the step that failed.
pub(crate) fn reconnect_cell(network: CellNetwork, pid: i32) -> io::Result<bool> {
    let CellNetwork {
        subnet,
        tag: Some(tag),
        bridged,
    } = network
    else {
        return Ok(false);
    };
    let mut host = RouteSocket::open()?;
    let Ok(index) = host.interface_index(&tag.interface_name(subnet)) else {
        // The addresses of its services are on its loopback interface, which is still there.
        return connect_cell(network, &[], NetworkNamespace::OfProcess(pid)).map(|()| true);
    };
    if bridged {
        // What the bridge has is compared for all cells at once.
        host.send_all(vec![("bring its port up", set_up_message(index))])?;
        return Ok(false);
    }
    let mut missing = false;
    for step in host_steps(index, subnet) {
        match host.send_all(vec![step.clone()]) {
            // The others are repeated without a difference.
            Ok(()) => {
                use RouteNetlinkMessage::{NewAddress, NewRoute};
                missing |= matches!(step.1, NewAddress(_) | NewRoute(_));
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Ok(missing)
}

/// Steps that give the host's end of a routed pair its address, route and neighbour.
fn host_steps(index: u32, subnet: Subnet) -> Vec<(&'static str, RouteNetlinkMessage)> {
    let (gateway, cell) = (subnet.gateway(), subnet.cell());
    vec![
        (
            "set the gateway's address",
            address_message(index, gateway, 32, true),
        ),
        ("bring the gateway up", set_up_message(index)),
        (
            "route its address",
            route(
                RouteScope::Link,
                32,
                vec![
                    RouteAttribute::Destination(RouteAddress::Inet(cell)),
                    RouteAttribute::Oif(index),
                    RouteAttribute::PrefSource(RouteAddress::Inet(gateway)),
                ],
            ),
        ),
        (
            "fix its neighbour",
            neighbour_message(index, cell, cell_mac(cell)),
        ),
    ]
}

/// Disables IPv6 on an interface. Errors are ignored, as the kernel may have no IPv6.
pub(super) fn disable_ipv6(name: &str) {
    let _no_such_protocol =
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
}

/// Whether the network of this process has an interface with this name.
pub(super) fn has_interface(name: &str) -> io::Result<bool> {
    let socket = index_socket()?;
    Ok(rustix::net::netdevice::name_to_index(&socket, name).is_ok())
}

/// Any socket of the network of this process, to ask for the numbers of interfaces.
fn index_socket() -> io::Result<OwnedFd> {
    rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .map_err(Into::into)
}

/// A conversation about another network.
fn inside(namespace: BorrowedFd<'_>) -> io::Result<RouteSocket> {
    within_network(NetworkNamespace::Open(namespace), || {
        let _no_such_protocol = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
        RouteSocket::open()
    })
}

/// Does `work` in another network: this thread, and what it starts, is there meanwhile.
///
/// # Errors
/// That of `work`; `PermissionDenied` where this process may not enter the network.
pub(crate) fn within_network<T>(
    network: NetworkNamespace<'_>,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let own = OwnedFd::from(File::open("/proc/thread-self/ns/net")?);
    let theirs = network.open()?;
    let enter = |ns: &OwnedFd| {
        move_into_link_name_space(ns.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(io::Error::from)
    };
    enter(&theirs)?;
    let done = work();
    // A shim in the wrong network would open its doors there.
    enter(&own)?;
    done
}

/// Removes all interfaces of a house, repeating up to five times because the kernel removes those of ended cells
/// concurrently.
pub(crate) fn remove_all_interfaces(tag: HouseTag) -> io::Result<()> {
    let mut tries = 0;
    while !present(tag).is_empty() {
        let mut all = LinkMessage::default();
        all.attributes = vec![LinkAttribute::Group(tag.interface_group())];
        let step = ("remove its interfaces", RouteNetlinkMessage::DelLink(all));
        let removed = RouteSocket::open()?.send_all(vec![step]);
        tries += 1;
        if tries == REMOVE_TRIES {
            return removed;
        }
    }
    Ok(())
}

/// Interfaces of a house that are there.
fn present(tag: HouseTag) -> Vec<String> {
    let prefix = tag.interface_prefix();
    let text = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let names = text.lines().filter_map(|l| l.split_once(':'));
    names
        .map(|(name, _)| name.trim().to_owned())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}
