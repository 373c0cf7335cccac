//! The same networks on FreeBSD: rules of a PF anchor, `rc.conf` variables, and the commands that bring
//! them in. Pure; rendered and compared on every host, carried out on none yet.
//!
//! Nothing outside the house's anchor is flushed or loaded, and what is loaded was parsed before
//! (`pfctl(8)`: `-n`). Aliases stop at the first missing number when the system boots
//! (`rc.conf(5)`), so they are numbered anew without gaps, and those behind the last are removed.

use crate::HouseTag;
use crate::allocation::Allocations;
use abbey_model::{Egress, RESERVED, Subnet};
use std::fmt::Write;

/// Bridge on which the house has its gateways.
const BRIDGE: &str = "warden0";

/// Network configuration of one house on FreeBSD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreeBsd {
    /// Name of the PF anchor.
    pub anchor: String,
    /// Rules of the anchor: translation first, as PF requires.
    pub rules: String,
    /// Variables of `rc.conf`, in order.
    pub variables: Vec<(String, String)>,
    /// Commands in order, as argument vectors; the rules go to the standard input of `pfctl`.
    pub commands: Vec<Vec<String>>,
}

/// Renders the PF rules, `rc.conf` variables and commands for the allocations. `external` is the outer interface,
/// `aliases` the number of aliases that the bridge has now.
pub fn render_freebsd_network(
    tag: HouseTag,
    allocations: &Allocations,
    external: &str,
    aliases: usize,
) -> FreeBsd {
    let anchor = format!("abbey/{}", tag.table_name());
    let mut nat = String::new();
    let mut filter = String::new();
    let reserved: Vec<String> = RESERVED.iter().map(|(a, p)| format!("{a}/{p}")).collect();
    let mut subnets: Vec<Subnet> = Vec::new();
    for (owner, claim) in &allocations.owners {
        let Some(subnet) = claim.subnet else { continue };
        subnets.push(subnet);
        let (cell, gateway, link) = (subnet.cell(), subnet.gateway(), tag.interface_name(subnet));
        let mut say = |text: String| {
            let _cannot_fail = writeln!(filter, "{text}");
        };
        say(format!("# {owner}"));
        say(format!("block drop in quick on {link} inet6 all"));
        say(format!(
            "block drop in quick on {link} inet from ! {cell} to any"
        ));
        if let Some(port) = claim.door {
            say(format!(
                "pass in quick on {link} inet proto tcp from {cell} to {gateway} port {port} keep state"
            ));
        }
        for (base, prefix, port) in claim.egress.nets() {
            say(format!(
                "pass in quick on {link} inet proto tcp from {cell} to {base}/{prefix} port {port} keep state"
            ));
            let _cannot_fail = writeln!(
                nat,
                "nat on {external} inet proto tcp from {cell} to {base}/{prefix} port {port} -> ({external})"
            );
        }
        if claim.egress == Egress::Full {
            say(format!(
                "block return in quick on {link} inet from any to <reserved>"
            ));
            say(format!(
                "pass in quick on {link} inet from {cell} to any keep state"
            ));
            let _cannot_fail = writeln!(
                nat,
                "nat on {external} inet from {cell} to ! <reserved> -> ({external})"
            );
        }
        say(format!("block return in quick on {link} all"));
        say(format!(
            "pass out quick on {link} inet from {gateway} to {cell} keep state"
        ));
        say(format!("block drop out quick on {link} all"));
    }
    subnets.sort_unstable();
    let mut variables = vec![
        ("cloned_interfaces".to_owned(), "bridge0".to_owned()),
        ("ifconfig_bridge0_name".to_owned(), BRIDGE.to_owned()),
    ];
    let alias = |n: usize| format!("ifconfig_{BRIDGE}_alias{n}");
    for (n, subnet) in subnets.iter().enumerate() {
        let address = format!("inet {}/{}", subnet.gateway(), subnet.prefix());
        variables.push((alias(n), address));
    }
    let words = |all: &[&str]| all.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let mut commands = vec![
        words(&["pfctl", "-a", &anchor, "-n", "-f", "-"]),
        words(&["pfctl", "-a", &anchor, "-f", "-"]),
        words(&["pfctl", "-a", &anchor, "-s", "rules"]),
    ];
    let set = |(name, value): &(String, String)| match name.as_str() {
        // Others have interfaces of their own in this list.
        "cloned_interfaces" => words(&["sysrc", &format!("{name}+={value}")]),
        _ => words(&["sysrc", &format!("{name}={value}")]),
    };
    commands.extend(variables.iter().map(set));
    let gone = subnets.len()..aliases.max(subnets.len());
    commands.extend(gone.map(|n| words(&["sysrc", "-x", &alias(n)])));
    FreeBsd {
        anchor,
        rules: format!(
            "table <reserved> const {{ {} }}\n{nat}{filter}",
            reserved.join(", ")
        ),
        variables,
        commands,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::rules::tests::example;

    #[test]
    fn the_anchor_and_the_aliases_say_what_the_owners_hold() {
        let rendered =
            render_freebsd_network(HouseTag::from_bits(0xabcde), &example(), "vtnet0", 4);
        let mut text = format!("anchor \"{}\"\n{}\n", rendered.anchor, rendered.rules);
        for (name, value) in &rendered.variables {
            text.push_str(&format!("{name}=\"{value}\"\n"));
        }
        for command in &rendered.commands {
            text.push_str(&format!("\n$ {}", command.join(" ")));
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn aliases_have_no_gap_after_an_owner_is_gone() {
        let mut allocations = example();
        allocations.owners.pop_first();
        let rendered = render_freebsd_network(HouseTag::from_bits(1), &allocations, "em0", 2);
        let aliases: Vec<&String> = rendered
            .variables
            .iter()
            .map(|(name, _)| name)
            .filter(|n| n.contains("alias"))
            .collect();
        assert_eq!(aliases, ["ifconfig_warden0_alias0"]);
        let last = rendered.commands.last().map(|c| c.join(" "));
        assert_eq!(last.as_deref(), Some("sysrc -x ifconfig_warden0_alias1"));
    }
}
