//! Networks of cells: a routed pair of interfaces each, one firewall table for the house.
//!
//! No layer 2 is shared. A cell has an address and a route to its gateway, which is the host's end
//! of its own pair, so agents meet each other only where the house lets them: at its doors.

mod addresses;
pub(crate) mod bridge;
pub(crate) mod firewall;
pub(crate) mod foreign;
pub mod freebsd;
mod link;
mod nftables;
pub(crate) mod repair;
mod rules;
pub(crate) mod wall;
pub(crate) mod watch;

pub(crate) use link::{connect_cell, reconnect_cell, remove_all_interfaces, within_network};

/// Firewall table of the host and rules inside each cell for these allocations, as `nft -f` reads them. The addresses of
/// the host, which the rules inside a cell refuse, are known only where the cell starts.
pub fn render_firewall(allocations: &crate::allocation::Allocations) -> String {
    let mut text = rules::render_nftables(allocations.house_tag(), allocations);
    for (owner, allocation) in &allocations.owners {
        if let Some(inside) = wall::cell_rules(allocation, &Default::default()) {
            text.push_str(&format!("\n# inside {owner}\n"));
            let inside = inside.to_string();
            let commented = inside.lines().map(|line| format!("# {line}\n"));
            text.extend(commented);
        }
    }
    text
}

/// Reason why cells cannot have networks of their own on this host, with what to install; none if they can.
pub(crate) fn why_networks_unusable(privileged: bool) -> Option<String> {
    if !privileged {
        return Some("interfaces can be created only if the house was started as root".to_owned());
    }
    if firewall::nft_path().is_none() {
        return Some("`nft` is not installed (Debian: apt install nftables)".to_owned());
    }
    firewall::check_kernel_support().err()
}
