//! Specification of a cell's own network, and the names of what a house makes on its host.

use abbey_model::Subnet;
use serde::{Deserialize, Serialize};

/// Network of a cell: an interface with addresses of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellNetwork {
    /// Addresses of gateway, services and cell.
    pub subnet: Subnet,
    /// Tag of the house; set by hostd.
    pub tag: Option<HouseTag>,
    /// Whether the cell is a port of the house's bridge; set by hostd.
    #[serde(default)]
    pub bridged: bool,
}

/// Number of one house among those of a host: 20 bits, part of the names of what it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HouseTag(u32);

impl HouseTag {
    /// Tag with the low 20 bits of `bits`; never 0, because a group of interfaces cannot be 0.
    pub(crate) fn from_bits(bits: u32) -> HouseTag {
        HouseTag((bits & 0xf_ffff).max(1))
    }
    /// Prefix of the names of all interfaces of the house: `ab` and five hexadecimal digits.
    pub(crate) fn interface_prefix(self) -> String {
        format!("ab{:05x}", self.0)
    }
    /// Name of the host's interface for a subnet: 15 bytes, the longest that Linux allows.
    pub(crate) fn interface_name(self, subnet: Subnet) -> String {
        format!(
            "{}{:08x}",
            self.interface_prefix(),
            u32::from(subnet.base())
        )
    }
    /// Name of the house's bridge.
    pub(crate) fn bridge_name(self) -> String {
        format!("{}br", self.interface_prefix())
    }
    /// Name of the house's nftables table.
    pub(crate) fn table_name(self) -> String {
        format!("abbey_{:05x}", self.0)
    }
    /// Group number of the house's interfaces, by which all of them are removed at once.
    pub(crate) const fn interface_group(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_are_the_houses_own() {
        let tag = HouseTag::from_bits(0x2345_6789);
        let subnet: Subnet = "10.77.1.0/24".parse().unwrap();
        assert_eq!(tag.interface_name(subnet), "ab567890a4d0100");
        assert_eq!(tag.interface_name(subnet).len(), 15);
        assert_eq!(HouseTag::from_bits(0).interface_group(), 1);
    }
}
