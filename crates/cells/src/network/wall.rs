//! A second wall, inside a cell's own network: rules that are loaded before its program starts, and that the program
//! cannot change, since it has no capability there. They hold without the house's table on the host, without the control
//! plane and without hostd.
//!
//! They track no connections, so a cell cannot fill a table of the kernel with them: what is no first packet of a TCP
//! connection is harmless where no connection can begin.

use super::link::within_network_of;
use super::{firewall, rules};
use crate::allocation::{Allocation, Allocations};
use crate::{Error, Result};
use abbey_model::Egress;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::io;
use std::net::Ipv4Addr;

/// Text of the rules inside the cell of an owner; none if it has no network. `host` are the addresses of the host.
pub(crate) fn render_cell_rules(
    allocation: &Allocation,
    host: &BTreeSet<Ipv4Addr>,
) -> Option<String> {
    let gateway = allocation.subnet?.gateway();
    let mut out = "table inet abbey {}\ndelete table inet abbey\ntable inet abbey {\n".to_owned();
    let addresses = |all: &BTreeSet<Ipv4Addr>| all.iter().map(ToString::to_string).collect();
    rules::set(&mut out, "host", "type ipv4_addr", &addresses(host));
    rules::set(
        &mut out,
        "reserved",
        "type ipv4_addr\n    flags interval",
        &rules::reserved_networks(),
    );
    let mut line = |text: String| {
        let _cannot_fail = writeln!(out, "{text}");
    };
    line(
        "  chain refuse {
    meta l4proto tcp reject with tcp reset
    reject with icmpx type admin-prohibited
  }
  chain leaving {
    type filter hook output priority filter; policy drop;
    oifname \"lo\" accept"
            .to_owned(),
    );
    if let Some(door) = allocation.door {
        line(format!("    ip daddr {gateway} tcp dport {door} accept"));
    }
    // Answers of its own program to the host.
    line(format!(
        "    ip daddr {gateway} tcp flags & (syn | ack) != syn accept"
    ));
    line("    ip daddr @host goto refuse".to_owned());
    for (base, prefix, port) in allocation.egress.nets() {
        line(format!(
            "    ip daddr {base}/{prefix} tcp dport {port} accept"
        ));
    }
    line("    ip daddr @reserved goto refuse".to_owned());
    if allocation.egress == Egress::Full {
        line("    meta nfproto ipv4 accept".to_owned());
    }
    line(format!(
        "    goto refuse
  }}
  chain arriving {{
    type filter hook input priority filter; policy drop;
    iifname \"lo\" accept
    ip saddr {gateway} accept
    tcp flags & (syn | ack) != syn accept
    ip protocol icmp accept"
    ));
    if allocation.egress == Egress::Full {
        line("    meta l4proto udp accept".to_owned());
    }
    line("  }\n}".to_owned());
    Some(out)
}

/// Loads rules into the network of the process `pid`, in one transaction.
///
/// # Errors
/// When the network cannot be entered or the kernel refuses the rules.
pub(crate) fn load_cell_rules(pid: i32, text: &str) -> io::Result<()> {
    within_network_of(pid, || firewall::run(&["-f", "-"], text).map(drop))
}

/// Addresses of the host in the network of this process, from `/proc/net/fib_trie`, but the gateways of the house's own
/// cells: those change with every cell, and the rules refuse them with all private addresses.
pub(crate) fn host_addresses(allocations: &Allocations) -> Result<BTreeSet<Ipv4Addr>> {
    let path = "/proc/thread-self/net/fib_trie";
    let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
    let owners = allocations.owners.values();
    let own: BTreeSet<Ipv4Addr> = owners.filter_map(|o| Some(o.subnet?.gateway())).collect();
    let mut found = parse_host_addresses(&text);
    found.retain(|address| !own.contains(address));
    Ok(found)
}

/// Local addresses but loopback's in the kernel's listing of its routes, in which the kind follows the address.
fn parse_host_addresses(text: &str) -> BTreeSet<Ipv4Addr> {
    let mut found = BTreeSet::new();
    let mut last = None;
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(last.filter(|a| !a.is_loopback()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_inside_a_cell_follow_from_its_allocation() {
        let host = BTreeSet::from(["203.0.113.1".parse().unwrap()]);
        let allocations = rules::tests::example();
        let mut all = String::new();
        for (owner, allocation) in &allocations.owners {
            let text = render_cell_rules(allocation, &host);
            all += &format!("# {owner}\n{}\n", text.unwrap_or_default());
        }
        insta::assert_snapshot!(all);
    }

    #[test]
    fn addresses_of_the_host_are_read_from_the_routes_of_the_kernel() {
        let text = "Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 203.0.113.0
        /24 link UNICAST
     |-- 203.0.113.1
        /32 host LOCAL
     |-- 203.0.113.255
        /32 link BROADCAST
";
        let found: Vec<Ipv4Addr> = parse_host_addresses(text).into_iter().collect();
        assert_eq!(found, [Ipv4Addr::new(203, 0, 113, 1)]);
    }
}
