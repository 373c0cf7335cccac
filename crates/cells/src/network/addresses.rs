//! Hardware addresses that a house gives to the interfaces of its cells.

use crate::HouseTag;
use std::net::Ipv4Addr;

/// Hardware address of the cell's interface, derived from the cell's IPv4 address; locally administered.
pub(crate) fn cell_mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0xab, a, b, c, d]
}

/// Hardware address of the host's end of a cell's pair of interfaces, derived from the cell's IPv4 address.
pub(crate) fn host_mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x06, 0xab, a, b, c, d]
}

/// Hardware address of the bridge of the house with this tag.
pub(crate) fn bridge_mac(tag: HouseTag) -> [u8; 6] {
    let [_, a, b, c] = tag.interface_group().to_be_bytes();
    [0x06, 0xab, 0xff, a, b, c]
}
