//! The firewall table of a house as text: pure, from what its owners hold.
//!
//! Every packet of a cell is judged on its way out, also of connections that exist already, so a
//! destination that is taken away is lost at once. Other tables of the host have their say as well.

use super::addresses::cell_mac;
use crate::HouseTag;
use crate::allocation::Allocations;
use abbey_model::{Egress, RESERVED};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Most open connections of a cell that the kernel tracks, in a table that all cells and the host share. It counts no
/// closed ones: [`CLOSED_S`] and the rate bound those.
const CONNECTIONS_MAX: u32 = 4096;
/// New connections of a cell in a second, and how many at once before that.
const CONNECTION_RATE: (u32, u32) = (200, 1000);
/// How long the kernel remembers a closed or unanswered TCP connection of a cell, seconds; its own default is 120.
const CLOSED_S: u32 = 10;

fn elements(out: &mut String, items: &BTreeSet<String>) {
    if !items.is_empty() {
        let items: Vec<&str> = items.iter().map(String::as_str).collect();
        let _cannot_fail = writeln!(out, "    elements = {{ {} }}", items.join(", "));
    }
}

/// Adds a set with these elements.
fn set(out: &mut String, name: &str, kind: &str, items: &BTreeSet<String>) {
    let _cannot_fail = writeln!(out, "  set {name} {{\n    {kind}");
    elements(out, items);
    out.push_str("  }\n");
}

/// Networks that a cell reaches only by name, as elements of a set.
fn reserved_networks() -> BTreeSet<String> {
    let all = RESERVED.iter();
    all.map(|(base, prefix)| format!("{base}/{prefix}"))
        .collect()
}

/// Text of the house's nftables table for the allocations. Packets between interfaces of others are not judged.
pub(crate) fn render_nftables(tag: HouseTag, allocations: &Allocations) -> String {
    let (table, ours) = (tag.table_name(), tag.interface_prefix());
    let (mut sources, mut doors, mut cells) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut open, mut allowed) = (BTreeSet::new(), BTreeSet::new());
    let mut ports = BTreeSet::new();
    let mut limited = Vec::new();
    for claim in allocations.owners.values() {
        let Some(subnet) = claim.subnet else { continue };
        let (cell, name) = (subnet.cell(), tag.interface_name(subnet));
        let mac: Vec<String> = cell_mac(cell).iter().map(|b| format!("{b:02x}")).collect();
        limited.push((cell.to_string(), format!("new_{name}")));
        let source = |name: &str| format!("\"{name}\" . {} . {cell}", mac.join(":"));
        // On a bridge the port tells whose it is; what comes out of the bridge was looked at there.
        if claim.bridged {
            ports.insert(source(&name));
            sources.insert(source(&tag.bridge_name()));
        } else {
            sources.insert(source(&name));
        }
        cells.insert(cell.to_string());
        if let Some(port) = claim.door {
            doors.insert(format!("{cell} . {} . {port}", subnet.gateway()));
        }
        if claim.egress == Egress::Full {
            open.insert(cell.to_string());
        }
        for (base, prefix, port) in claim.egress.nets() {
            allowed.insert(format!("{cell} . {base}/{prefix} . {port}"));
        }
    }
    let reserved = reserved_networks();
    // Declared and deleted first, so that one transaction replaces whatever was there.
    let mut out =
        format!("table inet {table} {{}}\ndelete table inet {table}\ntable inet {table} {{\n");
    set(
        &mut out,
        "sources",
        "typeof iifname . ether saddr . ip saddr",
        &sources,
    );
    set(&mut out, "cells", "type ipv4_addr", &cells);
    set(
        &mut out,
        "doors",
        "type ipv4_addr . ipv4_addr . inet_service",
        &doors,
    );
    set(&mut out, "open", "type ipv4_addr", &open);
    let kind = "type ipv4_addr . ipv4_addr . inet_service\n    flags interval";
    set(&mut out, "allowed", kind, &allowed);
    set(
        &mut out,
        "reserved",
        "type ipv4_addr\n    flags interval",
        &reserved,
    );
    let _cannot_fail = write!(
        out,
        "  chain refuse {{
    meta l4proto tcp counter reject with tcp reset
    counter reject with icmp type admin-prohibited
  }}
  chain arriving {{
    type filter hook prerouting priority raw; policy accept;
    iifname \"{ours}*\" iifname . ether saddr . ip saddr != @sources counter drop
    iifname \"{ours}*\" meta nfproto != ipv4 counter drop
  }}
  chain deciding {{
    type filter hook prerouting priority filter; policy accept;
    iifname != \"{ours}*\" accept
    ct direction reply accept
    fib daddr type local accept
    ip saddr . ip daddr . tcp dport @allowed accept
    ip daddr @reserved goto refuse
    ip saddr @open accept
    goto refuse
  }}
  chain host {{
    type filter hook input priority filter; policy accept;
    iifname \"{ours}*\" ct direction reply ct state established,related accept
    iifname \"{ours}*\" ip saddr . ip daddr . tcp dport @doors accept
    iifname \"{ours}*\" goto refuse
  }}
  chain through {{
    type filter hook forward priority filter; policy accept;
    iifname \"{ours}*\" oifname \"{ours}*\" goto refuse
    iifname \"{ours}*\" ct direction reply counter drop
    iifname \"{ours}*\" accept
    oifname \"{ours}*\" ct direction reply ct state established,related accept
    oifname \"{ours}*\" counter drop
  }}
  chain leaving {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr @cells oifname != \"{ours}*\" masquerade
  }}
"
    );
    limit_connections(&mut out, &ours, &limited);
    out.push_str("}\n");
    if !ports.is_empty() {
        bridge(&mut out, tag, &ports);
    }
    out
}

/// Adds what holds the connections of each cell, by its address and the name of its chain, within limits: the kernel's
/// table of connections is the whole host's, and a cell fills it also through the port of its own that leads to the house.
/// Only connections that the chains before accepted arrive here.
fn limit_connections(out: &mut String, ours: &str, cells: &[(String, String)]) {
    if cells.is_empty() {
        return;
    }
    let (rate, burst) = CONNECTION_RATE;
    for (_, chain) in cells {
        let _cannot_fail = write!(
            out,
            "  chain {chain} {{
    limit rate over {rate}/second burst {burst} packets goto refuse
    ct count over {CONNECTIONS_MAX} goto refuse
  }}
"
        );
    }
    let jumps = cells
        .iter()
        .map(|(cell, chain)| format!("{cell} : goto {chain}"));
    let jumps = jumps.collect::<Vec<_>>().join(", ");
    let _cannot_fail = write!(
        out,
        "  ct timeout brief {{
    protocol tcp; l3proto ip
    policy = {{ syn_sent : {CLOSED_S}, syn_recv : {CLOSED_S}, time_wait : {CLOSED_S}, close : {CLOSED_S} }}
  }}
  chain limiting {{
    type filter hook prerouting priority filter + 10; policy accept;
    iifname != \"{ours}*\" accept
    ct state != new accept
    meta l4proto tcp ct timeout set \"brief\"
    ip saddr vmap {{ {jumps} }}
  }}
"
    );
}

/// What a port of the bridge may send: nothing but its cell's own packets. Neighbours are fixed, so nobody has to
/// ask for them.
fn bridge(out: &mut String, tag: HouseTag, ports: &BTreeSet<String>) {
    let (table, ours) = (tag.table_name(), tag.interface_prefix());
    let _cannot_fail = write!(
        out,
        "table bridge {table} {{}}\ndelete table bridge {table}\ntable bridge {table} {{\n"
    );
    set(
        out,
        "ports",
        "typeof iifname . ether saddr . ip saddr",
        ports,
    );
    let _cannot_fail = write!(
        out,
        "  chain arriving {{
    type filter hook prerouting priority -300; policy accept;
    iifname \"{ours}*\" ether type != ip counter drop
    iifname \"{ours}*\" iifname . ether saddr . ip saddr != @ports counter drop
  }}
}}
"
    );
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::allocation::Allocation;
    use abbey_model::CellName;
    use std::collections::BTreeMap;

    /// Three owners: one with a list, one with everything, one without a network.
    pub(in crate::network) fn example() -> Allocations {
        let claim = |subnet: &str, egress: &[&str]| Allocation {
            subnet: Some(subnet.parse().unwrap()),
            door: Some(18_800),
            egress: match egress {
                ["full"] => Egress::Full,
                rules => Egress::List(rules.iter().map(|r| r.parse().unwrap()).collect()),
            },
            ..Allocation::default()
        };
        let agent = |name: &str| CellName::Agent(name.parse().unwrap());
        let list = ["api.example.org:443", "198.51.100.0/24:5432"];
        let owners = [
            (agent("a"), claim("10.77.0.0/24", &list)),
            (agent("b"), claim("10.77.1.0/24", &["full"])),
            (agent("none"), Allocation::default()),
        ];
        Allocations {
            uid_first: 1,
            tag: None,
            version: 0,
            owners: BTreeMap::from(owners),
            prepared: BTreeSet::new(),
            on_drives: BTreeSet::new(),
        }
    }

    #[test]
    fn a_port_of_the_bridge_sends_its_own_packets_only() {
        let mut allocations = example();
        for claim in allocations.owners.values_mut() {
            claim.bridged = claim.subnet.is_some();
        }
        insta::assert_snapshot!(render_nftables(HouseTag::from_bits(0xabcde), &allocations));
    }

    #[test]
    fn the_table_says_what_the_owners_hold() {
        insta::assert_snapshot!(render_nftables(HouseTag::from_bits(0xabcde), &example()));
    }
}
