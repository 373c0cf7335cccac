//! A small table of firewall rules in the two forms that are needed: as text, as `nft -f` reads it, for people; and as one
//! transaction of netlink messages for the kernel, which needs no other program. A test holds both to the same rules.
//!
//! Source of the messages: `linux/netfilter/nfnetlink.h` and `linux/netfilter/nf_tables.h`; numbers in them are
//! big-endian.

use super::link::acknowledgements;
use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST,
    NetlinkHeader,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use std::fmt;
use std::io;
use std::net::Ipv4Addr;

/// Number of the subsystem for tables in types of messages (`NFNL_SUBSYS_NFTABLES`).
pub(super) const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const TRANSACTION: (u16, u16) = (16, 17);
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = NEW_TABLE + 2;
const NEW_CHAIN: u16 = NEW_TABLE + 3;
const NEW_RULE: u16 = NEW_TABLE + 6;
/// `NFPROTO_INET`: IPv4 and IPv6.
const INET: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Table of both versions of IP that replaces the one with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RuleTable {
    pub(super) name: &'static str,
    /// Chains; a rule may go to any of them.
    pub(super) chains: Vec<Chain>,
}

/// Chain of rules, of which the first that matches decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    /// Packets that the chain sees by itself, and drops if no rule matches; none for a chain that rules go to.
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<(Vec<Match>, Verdict)>,
}

/// Packets that a chain sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// Those for this network.
    Input,
    /// Those of this network.
    Output,
}

/// Condition of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    /// Arrives by the loopback interface.
    FromLoopback,
    /// Leaves by the loopback interface.
    ToLoopback,
    /// Is IPv4.
    Ipv4,
    /// Is ICMP for IPv4.
    Icmp,
    /// Is TCP.
    Tcp,
    /// Is UDP.
    Udp,
    /// Comes from this network, given by address and length of its prefix.
    From(Ipv4Addr, u8),
    /// Goes to this network, given by address and length of its prefix.
    To(Ipv4Addr, u8),
    /// Goes to this TCP port.
    TcpPort(u16),
    /// Is TCP, but not the first packet of a connection.
    OngoingTcp,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It passes.
    Accept,
    /// The chain with this name decides.
    Goto(&'static str),
    /// It is dropped, and the sender gets a TCP reset.
    Reset,
    /// It is dropped, and the sender gets the ICMP answer that this is prohibited.
    Prohibit,
}

/// Message of a transaction.
struct Change {
    kind: u16,
    flags: u16,
    /// What it makes, for an error.
    what: String,
    attributes: Vec<u8>,
}

impl RuleTable {
    /// Replaces the table in the kernel in one transaction, in the network of the calling thread. With `new` there must be
    /// none with its name: the kernel waits for all processors after it deleted one, there or not.
    ///
    /// # Errors
    /// With what the kernel refused; then nothing was changed.
    pub(super) fn load(&self, new: bool) -> io::Result<()> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let messages = self.messages(new);
        // The begin of the transaction has number 0.
        let last = messages.len();
        let mut bytes = message(TRANSACTION.0, 0, 0, 0, &[]);
        for (change, number) in messages.iter().zip(1..) {
            // What comes before the last one is acknowledged only if it fails.
            let flags = change.flags | if number == last { NLM_F_ACK } else { 0 };
            bytes.extend(message(
                change.kind,
                flags,
                number,
                INET,
                &change.attributes,
            ));
        }
        bytes.extend(message(TRANSACTION.1, 0, last + 1, 0, &[]));
        // The kernel takes a transaction whole: a long list of destinations does not fit the usual buffer.
        rustix::net::sockopt::set_socket_send_buffer_size_force(&socket, 2 * bytes.len())?;
        socket.send(&bytes, 0)?;
        loop {
            let (received, _) = socket.recv_from_full()?;
            for (number, failure) in acknowledgements(&received)? {
                let number = number as usize;
                match failure {
                    Some(error) => {
                        let about = number.checked_sub(1).and_then(|n| messages.get(n));
                        let what = about.map_or("the transaction", |change| &change.what);
                        let text = format!("the kernel does not accept {what}: {error}");
                        return Err(io::Error::new(error.kind(), text));
                    }
                    None if number == last => return Ok(()),
                    None => {}
                }
            }
        }
    }

    /// Messages that replace the table, or create it if it is new.
    fn messages(&self, new: bool) -> Vec<Change> {
        let name = text(1, self.name);
        let change = |kind, flags, what: String, more: &[u8]| Change {
            kind,
            flags,
            what,
            attributes: [&name, more].concat(),
        };
        let table = |kind, flags| change(kind, flags, format!("table {}", self.name), &[]);
        let mut all = match new {
            true => vec![table(NEW_TABLE, NLM_F_CREATE | NLM_F_EXCL)],
            // Created first, so that it can be deleted, there or not.
            false => vec![
                table(NEW_TABLE, NLM_F_CREATE),
                table(DELETE_TABLE, 0),
                table(NEW_TABLE, NLM_F_CREATE),
            ],
        };
        for chain in &self.chains {
            let mut attributes = text(3, chain.name);
            if let Some(hook) = chain.hook {
                let place = match hook {
                    Hook::Input => 1,
                    Hook::Output => 3,
                };
                let (drop, priority) = (number(5, 0), number(2, 0));
                attributes.extend(nested(4, &[number(1, place), priority]));
                attributes.extend([text(7, "filter"), drop].concat());
            }
            let what = format!("chain {}", chain.name);
            all.push(change(NEW_CHAIN, NLM_F_CREATE, what, &attributes));
        }
        for chain in &self.chains {
            for rule in &chain.rules {
                let (matches, verdict) = rule;
                let mut expressions: Vec<Vec<u8>> =
                    matches.iter().flat_map(|m| m.expressions()).collect();
                expressions.push(verdict.expression());
                let attributes = [text(2, chain.name), nested(4, &expressions)].concat();
                let what = format!("rule `{}`", RuleText(rule));
                let flags = NLM_F_CREATE | NLM_F_APPEND;
                all.push(change(NEW_RULE, flags, what, &attributes));
            }
        }
        all
    }
}

impl fmt::Display for RuleTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = format!("table inet {}", self.name);
        write!(f, "{table} {{}}\ndelete {table}\n{table} {{\n")?;
        for chain in &self.chains {
            writeln!(f, "  chain {} {{", chain.name)?;
            if let Some(hook) = chain.hook {
                let hook = match hook {
                    Hook::Input => "input",
                    Hook::Output => "output",
                };
                writeln!(
                    f,
                    "    type filter hook {hook} priority filter; policy drop;"
                )?;
            }
            for rule in &chain.rules {
                writeln!(f, "    {}", RuleText(rule))?;
            }
            f.write_str("  }\n")?;
        }
        f.write_str("}\n")
    }
}

/// A rule as `nft` writes it.
struct RuleText<'a>(&'a (Vec<Match>, Verdict));

impl fmt::Display for RuleText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (matches, verdict) = self.0;
        matches.iter().try_for_each(|m| write!(f, "{m} "))?;
        match verdict {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Goto(chain) => write!(f, "goto {chain}"),
            Verdict::Reset => f.write_str("reject with tcp reset"),
            Verdict::Prohibit => f.write_str("reject with icmpx type admin-prohibited"),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut network = |field: &str, address: &Ipv4Addr, prefix: u8| match prefix {
            32 => write!(f, "ip {field} {address}"),
            _ => write!(f, "ip {field} {address}/{prefix}"),
        };
        match self {
            Match::From(address, prefix) => network("saddr", address, *prefix),
            Match::To(address, prefix) => network("daddr", address, *prefix),
            Match::TcpPort(port) => write!(f, "tcp dport {port}"),
            Match::FromLoopback => f.write_str("iifname \"lo\""),
            Match::ToLoopback => f.write_str("oifname \"lo\""),
            Match::Ipv4 => f.write_str("meta nfproto ipv4"),
            Match::Icmp => f.write_str("ip protocol icmp"),
            Match::Tcp => f.write_str("meta l4proto tcp"),
            Match::Udp => f.write_str("meta l4proto udp"),
            Match::OngoingTcp => f.write_str("tcp flags & (syn | ack) != syn"),
        }
    }
}

/// Properties of a packet beside its bytes: `NFT_META_…`.
#[derive(Clone, Copy)]
enum Meta {
    InputInterface = 6,
    OutputInterface = 7,
    Version = 15,
    Protocol = 16,
}

/// Headers of a packet: `NFT_PAYLOAD_…`.
#[derive(Clone, Copy)]
enum PacketHeader {
    Network = 1,
    Transport = 2,
}

impl Match {
    /// Expressions of which each leads to the next only if the condition holds, as `nft` would make them.
    fn expressions(self) -> Vec<Vec<u8>> {
        let is = |property: Meta, value: &[u8]| vec![meta(property), compare(true, value)];
        let ipv4 = || is(Meta::Version, &[2]);
        let protocol = |protocol: u8| is(Meta::Protocol, &[protocol]);
        let network = |offset, address: Ipv4Addr, prefix: u8| {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            let base = Ipv4Addr::from_bits(address.to_bits() & mask).octets();
            let mut all = ipv4();
            all.push(load(PacketHeader::Network, offset, 4));
            if prefix < 32 {
                all.push(mask_bits(&mask.to_be_bytes()));
            }
            all.push(compare(true, &base));
            all
        };
        // The kernel compares a name with its zeros.
        let mut loopback = [0; 16];
        loopback[..2].copy_from_slice(b"lo");
        match self {
            Match::FromLoopback => is(Meta::InputInterface, &loopback),
            Match::ToLoopback => is(Meta::OutputInterface, &loopback),
            Match::Ipv4 => ipv4(),
            Match::Tcp => protocol(TCP),
            Match::Udp => protocol(UDP),
            Match::Icmp => {
                let header = [load(PacketHeader::Network, 9, 1), compare(true, &[1])];
                ipv4().into_iter().chain(header).collect()
            }
            Match::From(address, prefix) => network(12, address, prefix),
            Match::To(address, prefix) => network(16, address, prefix),
            Match::TcpPort(port) => {
                let port = compare(true, &port.to_be_bytes());
                let header = [load(PacketHeader::Transport, 2, 2), port];
                protocol(TCP).into_iter().chain(header).collect()
            }
            Match::OngoingTcp => {
                let flags = [mask_bits(&[SYN | ACK]), compare(false, &[SYN])];
                let header = [load(PacketHeader::Transport, 13, 1)];
                let all = protocol(TCP).into_iter().chain(header);
                all.chain(flags).collect()
            }
        }
    }
}

impl Verdict {
    fn expression(self) -> Vec<u8> {
        let code = |code: u32| vec![number(1, code)];
        let immediate = |verdict: Vec<Vec<u8>>| {
            let verdict = nested(2, &[nested(2, &verdict)]);
            expression("immediate", &[number(1, 0), verdict])
        };
        let reject = |kind: u32, code: u8| {
            expression("reject", &[number(1, kind), attribute(2, vec![code])])
        };
        match self {
            Verdict::Accept => immediate(code(1)),
            // `NFT_GOTO` is -4.
            Verdict::Goto(chain) => {
                immediate([code((-4i32).cast_unsigned()), vec![text(2, chain)]].concat())
            }
            Verdict::Reset => reject(1, 0),
            Verdict::Prohibit => reject(2, 3),
        }
    }
}

/// Register in which an expression leaves its value for the next one.
const REGISTER: u32 = 1;

fn meta(property: Meta) -> Vec<u8> {
    let parts = [number(2, property as u32), number(1, REGISTER)];
    expression("meta", &parts)
}

fn load(header: PacketHeader, offset: u32, length: u32) -> Vec<u8> {
    let place = [
        number(2, header as u32),
        number(3, offset),
        number(4, length),
    ];
    expression("payload", &[number(1, REGISTER), place.concat()])
}

fn mask_bits(mask: &[u8]) -> Vec<u8> {
    let length = u32::try_from(mask.len()).unwrap_or(0);
    let registers = [number(1, REGISTER), number(2, REGISTER), number(3, length)];
    let (mask, flip) = (data(4, mask), data(5, &vec![0; mask.len()]));
    expression("bitwise", &[registers.concat(), mask, flip])
}

fn compare(equal: bool, value: &[u8]) -> Vec<u8> {
    let parts = [number(1, REGISTER), number(2, u32::from(!equal))];
    expression("cmp", &[parts.concat(), data(3, value)])
}

fn expression(name: &str, parts: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[text(1, name), nested(2, parts)])
}

fn data(kind: u16, value: &[u8]) -> Vec<u8> {
    nested(kind, &[attribute(1, value.to_vec())])
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, [value.as_bytes(), b"\0"].concat())
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, value.to_be_bytes().to_vec())
}

fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    /// `NLA_F_NESTED`.
    const NESTED: u16 = 1 << 15;
    attribute(kind | NESTED, parts.concat())
}

fn attribute(kind: u16, value: Vec<u8>) -> Vec<u8> {
    let attribute = DefaultNla::new(kind, value);
    let mut bytes = vec![0; attribute.buffer_len()];
    attribute.emit(&mut bytes);
    bytes
}

fn message(kind: u16, flags: u16, sequence: usize, family: u8, attributes: &[u8]) -> Vec<u8> {
    // Family, version 0, and the subsystem of a transaction.
    let resource = if family == 0 { SUBSYSTEM } else { 0 };
    let [high, low] = resource.to_be_bytes();
    let mut header = NetlinkHeader::default();
    let length = header.buffer_len() + 4 + attributes.len();
    header.length = u32::try_from(length).unwrap_or(u32::MAX);
    header.message_type = kind;
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = u32::try_from(sequence).unwrap_or(u32::MAX);
    let mut bytes = vec![0; header.buffer_len()];
    header.emit(&mut bytes);
    [&bytes, &[family, 0, high, low][..], attributes].concat()
}
