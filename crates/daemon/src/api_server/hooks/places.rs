//! Places for the bodies of deliveries. Their senders are authenticated by what they sent alone, so a body that is not
//! finished keeps none that arrives later from being read.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use tokio_util::sync::CancellationToken;

/// Most deliveries whose bodies are read at once.
const DELIVERY_BODIES_MAX: usize = 16;

/// Address of the caller of a request on the operator API's TCP port. That of a proxy in front of it, whatever headers
/// say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerAddress(pub(crate) IpAddr);

/// Places for bodies that are being read. When all are taken, a new one gets the place of the oldest body of the peer that
/// has most of them.
#[derive(Debug, Default)]
pub(crate) struct DeliveryPlaces(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// By number, oldest first: the peer, and what ends the reading.
    bodies: BTreeMap<u64, (Option<IpAddr>, CancellationToken)>,
}

impl DeliveryPlaces {
    /// A place for the body of a delivery from `peer`; none is a caller at the Unix socket.
    pub(super) fn take(&self, peer: Option<PeerAddress>) -> DeliveryPlace<'_> {
        let peer = peer.map(|PeerAddress(address)| network_of(address));
        let mut taken = self.0.lock();
        if taken.bodies.len() >= DELIVERY_BODIES_MAX {
            taken.end_one();
        }
        let ended = CancellationToken::new();
        taken.next += 1;
        let number = taken.next;
        taken.bodies.insert(number, (peer, ended.clone()));
        DeliveryPlace {
            places: self,
            number,
            ended,
        }
    }
}

impl Taken {
    /// Ends the reading of the oldest body of the peer that has most places; of several such peers, of the one whose body
    /// is oldest.
    fn end_one(&mut self) {
        let mut counts: BTreeMap<Option<IpAddr>, usize> = BTreeMap::new();
        for (peer, _) in self.bodies.values() {
            *counts.entry(*peer).or_default() += 1;
        }
        let most = counts.values().copied().max();
        let oldest = self.bodies.iter().find(|(_, (peer, _))| {
            let count = counts.get(peer).copied();
            count == most
        });
        let oldest = oldest.map(|(number, _)| *number);
        if let Some((_, ended)) = oldest.and_then(|number| self.bodies.remove(&number)) {
            ended.cancel();
        }
    }
}

/// What one peer has for itself: an IPv4 address, or a /64 of IPv6.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Place of one body, until it is dropped.
pub(super) struct DeliveryPlace<'p> {
    places: &'p DeliveryPlaces,
    number: u64,
    ended: CancellationToken,
}

impl DeliveryPlace<'_> {
    /// Resolves when another delivery got the place; the reading must end.
    pub(super) async fn lost(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for DeliveryPlace<'_> {
    fn drop(&mut self) {
        self.places.0.lock().bodies.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Option<PeerAddress> {
        Some(PeerAddress(text.parse().unwrap()))
    }

    #[test]
    fn a_new_body_gets_the_place_of_the_oldest_of_who_has_most() {
        let places = DeliveryPlaces::default();
        let others: Vec<_> = ["192.0.2.1", "192.0.2.2", "::ffff:192.0.2.2"]
            .map(|text| places.take(peer(text)))
            .into();
        // Addresses of one /64 are one peer.
        let flood: Vec<_> = (0..13)
            .map(|n| places.take(peer(&format!("2001:db8::{n}"))))
            .collect();
        assert!(flood.iter().all(|p| !p.ended.is_cancelled()));
        let late: Vec<_> = (0..9).map(|_| places.take(peer("192.0.2.3"))).collect();
        let lost = flood.iter().filter(|p| p.ended.is_cancelled()).count();
        assert!(flood.iter().take(lost).all(|p| p.ended.is_cancelled()));
        assert!(others.iter().all(|p| !p.ended.is_cancelled()));
        let own = late.iter().filter(|p| p.ended.is_cancelled()).count();
        assert_eq!((lost, own), (7, 2));
        drop((others, flood, late));
        assert!(places.0.lock().bodies.is_empty());
    }
}
