//! Specification of a cell's own network, and the names of what a house makes on its host.

use abbey_model::Subnet;
use serde::{Deserialize, Serialize};

/// A network of a cell's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellNetwork {
    /// Addresses of gateway, slots and cell.
    pub subnet: Subnet,
    /// The house's; hostd puts it in.
    pub tag: Option<HouseTag>,
    /// Whether it is a port of the house's bridge; hostd puts it in.
    #[serde(default)]
    pub bridged: bool,
}

/// Number of one house among those of a host: 20 bits, part of the names of what it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HouseTag(u32);

impl HouseTag {
    /// The tag with these low bits. The group of an interface must not be 0.
    pub(crate) fn new(bits: u32) -> HouseTag {
        HouseTag((bits & 0xf_ffff).max(1))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_are_the_houses_own() {
        let tag = HouseTag::new(0x2345_6789);
        let subnet: Subnet = "10.77.1.0/24".parse().unwrap();
        assert_eq!(tag.interface(subnet), "ab567890a4d0100");
        assert_eq!(tag.interface(subnet).len(), 15);
        assert_eq!(HouseTag::new(0).group(), 1);
    }
}
