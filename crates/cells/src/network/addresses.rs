//! Hardware addresses that a house gives to the interfaces of its cells.

use crate::HouseTag;
use std::net::Ipv4Addr;

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
pub(crate) fn bridge_mac(tag: HouseTag) -> [u8; 6] {
    let [_, a, b, c] = tag.group().to_be_bytes();
    [0x06, 0xab, 0xff, a, b, c]
}
