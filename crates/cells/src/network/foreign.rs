//! Firewalls of other programs that drop what cells send: tables of nftables, and the older tables of `iptables-legacy`,
//! which nftables does not list.

use super::firewall::{run, system_program, wanted};
use crate::HouseTag;
use crate::allocation::Allocations;
use std::process::Command;

/// The tables of `iptables-legacy` that are loaded in the network of this process.
const LEGACY_TABLES: &str = "/proc/net/ip_tables_names";

/// Chain of another program that drops forwarded packets by default and accepts none of the house's, if direct egress
/// needs forwarding: as text for people.
pub(crate) fn blocking_chain(tag: HouseTag, allocations: &Allocations) -> Option<String> {
    if !wanted(allocations) {
        return None;
    }
    let prefix = tag.interface_prefix();
    let rules = run(&["list", "ruleset"], "").unwrap_or_default();
    let found = find_blocking_chain(&rules, &prefix);
    found.or_else(|| find_blocking_legacy_chain(&legacy_rules()?, &prefix))
}

/// Searches a listing of all tables for a chain at the forward hook whose policy is to drop, in a table without a rule
/// that accepts interfaces with this prefix.
fn find_blocking_chain(ruleset: &str, prefix: &str) -> Option<String> {
    let (mut table, mut chain, mut found) = ("", "", None);
    let mut blocking: Option<(String, bool)> = None;
    for line in ruleset.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("table ") {
            // The table before is over.
            found = found.or(blocking.take().filter(|b| !b.1).map(|b| b.0));
            table = rest.trim_end_matches(['{', ' ']);
        } else if let Some(rest) = line.strip_prefix("chain ") {
            chain = rest.trim_end_matches(['{', ' ']);
        } else if line.contains("hook forward") && line.contains("policy drop") {
            let text = format!(
                "the chain `{chain}` of table `{table}` (policy drop; the interfaces of this house begin with `{prefix}`)"
            );
            blocking = blocking.or(Some((text, false)));
        }
        if line.contains(prefix)
            && line.contains("accept")
            && let Some((_, accepts)) = &mut blocking
        {
            *accepts = true;
        }
    }
    found.or(blocking.filter(|b| !b.1).map(|b| b.0))
}

/// Rules of the table `filter` of `iptables-legacy`, as `-S` prints them; none where that table is not loaded, which a look at
/// it would do, or cannot be read.
fn legacy_rules() -> Option<String> {
    let loaded = std::fs::read_to_string(LEGACY_TABLES).ok()?;
    if !loaded.lines().any(|table| table == "filter") {
        return None;
    }
    let listed = Command::new(system_program("iptables-legacy")?)
        .args(["-w", "5", "-S"])
        .env("LC_ALL", "C")
        .output();
    let listed = listed.ok().filter(|listed| listed.status.success())?;
    Some(String::from_utf8_lossy(&listed.stdout).into_owned())
}

/// As [`find_blocking_chain`], in the rules of [`legacy_rules`].
fn find_blocking_legacy_chain(rules: &str, prefix: &str) -> Option<String> {
    let drops = rules.lines().any(|line| line == "-P FORWARD DROP");
    let accepts = |line: &str| line.contains(prefix) && line.ends_with("-j ACCEPT");
    (drops && !rules.lines().any(accepts)).then(|| {
        format!(
            "the chain `FORWARD` of `iptables-legacy` (policy drop; the interfaces of this house begin with `{prefix}`)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER: &str = r#"table inet abbey_00001 {
	chain through {
		type filter hook forward priority filter; policy accept;
		iifname "ab00001*" accept
	}
}
table ip filter {
	chain DOCKER-USER {
	}
	chain FORWARD {
		type filter hook forward priority filter; policy drop;
		counter packets 0 bytes 0 jump DOCKER-USER
	}
}
table ip nat {
	chain POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
	}
}
"#;

    #[test]
    fn a_forward_policy_of_another_program_is_found_until_it_accepts_the_house() {
        let found = find_blocking_chain(DOCKER, "ab00001").unwrap();
        assert!(found.contains("`FORWARD` of table `ip filter`"), "{found}");
        let accepted = DOCKER.replace(
            "jump DOCKER-USER",
            "jump DOCKER-USER\n\t\tiifname \"ab00001*\" counter accept",
        );
        assert_eq!(find_blocking_chain(&accepted, "ab00001"), None);
        assert_eq!(find_blocking_chain("", "ab00001"), None);
    }

    /// As Docker sets it on a host whose `iptables` is the older one.
    const LEGACY: &str = "-P INPUT ACCEPT
-P FORWARD DROP
-P OUTPUT ACCEPT
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -j RETURN
";

    #[test]
    fn a_forward_policy_of_iptables_legacy_is_found_until_it_accepts_the_house() {
        let found = find_blocking_legacy_chain(LEGACY, "ab00001").unwrap();
        assert!(found.contains("`FORWARD` of `iptables-legacy`"), "{found}");
        let accepted = format!("{LEGACY}-A DOCKER-USER -i ab00001+ -j ACCEPT\n");
        assert_eq!(find_blocking_legacy_chain(&accepted, "ab00001"), None);
        let open = LEGACY.replace("FORWARD DROP", "FORWARD ACCEPT");
        assert_eq!(find_blocking_legacy_chain(&open, "ab00001"), None);
    }
}
