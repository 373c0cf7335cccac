//! A second wall, inside a cell's own network: rules that are loaded before its program starts, and that the program
//! cannot change, since it has no capability there. They hold without the house's table on the host, without the control
//! plane and without hostd.
//!
//! They track no connections, so a cell cannot fill a table of the kernel with them: what is no first packet of a TCP
//! connection is harmless where no connection can begin.

use super::link::within_network;
use super::nftables::{Chain, Hook, Match, RuleTable, Verdict};
use crate::allocation::{Allocation, Allocations};
use crate::{Error, Result};
use abbey_launch::NetworkNamespace;
use abbey_model::{Egress, RESERVED};
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::Ipv4Addr;

/// Rules inside a cell; their text is as `nft -f` reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CellRules(RuleTable);

impl fmt::Display for CellRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Rules inside the cell of an owner; none if it has no network. `host` are the addresses of the host.
pub(crate) fn cell_rules(allocation: &Allocation, host: &BTreeSet<Ipv4Addr>) -> Option<CellRules> {
    const REFUSE: &str = "refuse";
    let gateway = allocation.subnet?.gateway();
    let full = allocation.egress == Egress::Full;
    let accept = |matches: &[Match]| (matches.to_vec(), Verdict::Accept);
    let refuse = |matches: &[Match]| (matches.to_vec(), Verdict::Goto(REFUSE));
    let mut leaving = vec![accept(&[Match::ToLoopback])];
    if let Some(door) = allocation.door {
        leaving.push(accept(&[Match::To(gateway, 32), Match::TcpPort(door)]));
    }
    // Answers of its own program to the host.
    leaving.push(accept(&[Match::To(gateway, 32), Match::OngoingTcp]));
    leaving.extend(host.iter().map(|a| refuse(&[Match::To(*a, 32)])));
    for (base, prefix, port) in allocation.egress.nets() {
        leaving.push(accept(&[Match::To(base, prefix), Match::TcpPort(port)]));
    }
    if full {
        let reserved = RESERVED.iter();
        leaving.extend(reserved.map(|(base, prefix)| refuse(&[Match::To(*base, *prefix)])));
        leaving.push(accept(&[Match::Ipv4]));
    }
    leaving.push(refuse(&[]));
    let mut arriving = vec![
        accept(&[Match::FromLoopback]),
        accept(&[Match::From(gateway, 32)]),
        accept(&[Match::OngoingTcp]),
        accept(&[Match::Icmp]),
    ];
    if full {
        arriving.push(accept(&[Match::Udp]));
    }
    let refusing = vec![
        (vec![Match::Tcp], Verdict::Reset),
        (Vec::new(), Verdict::Prohibit),
    ];
    let chain = |name, hook, rules| Chain { name, hook, rules };
    Some(CellRules(RuleTable {
        name: "abbey",
        chains: vec![
            chain(REFUSE, None, refusing),
            chain("leaving", Some(Hook::Output), leaving),
            chain("arriving", Some(Hook::Input), arriving),
        ],
    }))
}

/// Loads rules into a network, in one transaction: instead of those that it has, or as its first,
/// which is quicker, if it is `new`.
///
/// # Errors
/// When the network cannot be entered or the kernel refuses the rules.
pub(crate) fn load_cell_rules(
    network: NetworkNamespace<'_>,
    rules: &CellRules,
    new: bool,
) -> io::Result<()> {
    within_network(network, || rules.0.load(new))
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
    use crate::network::rules;

    #[test]
    fn the_rules_inside_a_cell_follow_from_its_allocation() {
        let host = BTreeSet::from(["203.0.113.1".parse().unwrap()]);
        let allocations = rules::tests::example();
        let mut all = String::new();
        for (owner, allocation) in &allocations.owners {
            let rules = cell_rules(allocation, &host).map(|r| r.to_string());
            all += &format!("# {owner}\n{}\n", rules.unwrap_or_default());
        }
        insta::assert_snapshot!(all);
    }

    /// Runs `nft` in the network of this thread.
    fn nft(args: &[&str], input: &str) -> String {
        crate::network::firewall::run(args, input).unwrap()
    }

    #[test]
    fn the_kernel_has_the_same_rules_of_the_messages_as_of_the_text() {
        if !rustix::process::geteuid().is_root() || crate::network::firewall::nft_path().is_none() {
            return;
        }
        let host = BTreeSet::from(["203.0.113.1".parse().unwrap()]);
        let mut allocations = rules::tests::example();
        for allocation in allocations.owners.values_mut() {
            if let Egress::List(list) = &mut allocation.egress {
                list.insert("192.0.2.128/25:53".parse().unwrap());
                list.insert("10.20.30.40:443".parse().unwrap());
            }
        }
        // The thread ends with its network.
        let compared = std::thread::spawn(move || {
            abbey_launch::unshare_network().unwrap();
            let mut compared = 0;
            for allocation in allocations.owners.values() {
                let Some(rules) = cell_rules(allocation, &host) else {
                    continue;
                };
                nft(&["-f", "-"], &rules.to_string());
                let of_text = nft(&["list", "ruleset"], "");
                for _ in 0..2 {
                    rules.0.load(false).unwrap();
                    assert_eq!(nft(&["list", "ruleset"], ""), of_text);
                }
                assert!(rules.0.load(true).is_err());
                nft(&["flush", "ruleset"], "");
                rules.0.load(true).unwrap();
                assert_eq!(nft(&["list", "ruleset"], ""), of_text);
                compared += 1;
            }
            compared
        });
        assert_eq!(compared.join().unwrap(), 2);
    }

    #[test]
    fn a_long_list_of_destinations_is_loaded_whole() {
        if !rustix::process::geteuid().is_root() || crate::network::firewall::nft_path().is_none() {
            return;
        }
        let load = || {
            abbey_launch::unshare_network().unwrap();
            let mut allocations = rules::tests::example();
            let allocation = allocations.owners.values_mut().find(|a| a.subnet.is_some());
            let allocation = allocation.unwrap();
            let address = |n: u32| format!("198.18.{}.{}:443", n / 250, n % 250 + 1);
            let all = (0..4_000).map(|n| address(n).parse().unwrap());
            allocation.egress = Egress::List(all.collect());
            let rules = cell_rules(allocation, &BTreeSet::new()).unwrap();
            rules.0.load(true).unwrap();
            let listed = nft(&["list", "ruleset"], "");
            assert_eq!(listed.matches("tcp dport 443 accept").count(), 4_000);
        };
        std::thread::spawn(load).join().unwrap();
    }

    #[test]
    fn a_refused_rule_is_named_and_changes_nothing() {
        if !rustix::process::geteuid().is_root() || crate::network::firewall::nft_path().is_none() {
            return;
        }
        let load = || {
            abbey_launch::unshare_network().unwrap();
            let allocations = rules::tests::example();
            let mut rules = allocations
                .owners
                .values()
                .find_map(|a| cell_rules(a, &BTreeSet::new()))
                .unwrap();
            rules.0.load(true).unwrap();
            let before = nft(&["list", "ruleset"], "");
            let nowhere = (vec![Match::Tcp], Verdict::Goto("nowhere"));
            rules.0.chains[1].rules.insert(3, nowhere);
            let error = rules.0.load(false).unwrap_err().to_string();
            assert!(
                error.contains("rule `meta l4proto tcp goto nowhere`"),
                "{error}"
            );
            assert_eq!(nft(&["list", "ruleset"], ""), before);
        };
        std::thread::spawn(load).join().unwrap();
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
