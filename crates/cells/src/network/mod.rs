//! Networks of cells: a routed pair of interfaces each, one firewall table for the house.
//!
//! No layer 2 is shared. A cell has an address and a route to its gateway, which is the host's end
//! of its own pair, so agents meet each other only where the house lets them: at its doors.

pub(crate) mod bridge;
pub(crate) mod firewall;
pub mod freebsd;
mod link;
mod rules;

pub(crate) use link::{connect, disconnect_all};
pub(crate) use rules::render;

use abbey_model::Subnet;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// Number of one house among those of a host: 20 bits, part of the names of what it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tag(u32);

impl Tag {
    /// The tag with these low bits. The group of an interface must not be 0.
    pub(crate) fn new(bits: u32) -> Tag {
        Tag((bits & 0xf_ffff).max(1))
    }
    /// What every interface of the house begins with.
    pub(crate) fn prefix(self) -> String {
        format!("ab{:05x}", self.0)
    }
    /// The host's end of the pair of a subnet: 15 bytes, the longest that Linux takes.
    pub(crate) fn interface(self, subnet: Subnet) -> String {
        format!("{}{:08x}", self.prefix(), u32::from(subnet.base()))
    }
    /// The bridge of the house, where it has one.
    pub(crate) fn bridge(self) -> String {
        format!("{}br", self.prefix())
    }
    /// Name of the firewall table.
    pub(crate) fn table(self) -> String {
        format!("abbey_{:05x}", self.0)
    }
    /// Group of the interfaces, by which all are removed at once.
    pub(crate) const fn group(self) -> u32 {
        self.0
    }
}

/// Hardware address of the cell's end, made from its address; locally administered.
pub(crate) fn cell_mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0xab, a, b, c, d]
}

/// Hardware address of the host's end.
pub(crate) fn host_mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x06, 0xab, a, b, c, d]
}

/// Hardware address of a house's bridge.
pub(crate) fn bridge_mac(tag: Tag) -> [u8; 6] {
    let [_, a, b, c] = tag.0.to_be_bytes();
    [0x06, 0xab, 0xff, a, b, c]
}

/// Why cells cannot have networks here; nothing when they can.
pub(crate) fn unusable(privileged: bool) -> Option<String> {
    if !privileged {
        return Some("interfaces need a house that root started".to_owned());
    }
    if firewall::nft().is_none() {
        return Some("`nft` is not installed (Debian: apt install nftables)".to_owned());
    }
    firewall::probe().err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_are_the_houses_own() {
        let tag = Tag::new(0x2345_6789);
        let subnet: Subnet = "10.77.1.0/24".parse().unwrap();
        assert_eq!(tag.interface(subnet), "ab567890a4d0100");
        assert_eq!(tag.interface(subnet).len(), 15);
        assert_eq!(Tag::new(0).group(), 1);
    }
}
