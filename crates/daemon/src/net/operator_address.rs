//! The network address of the operator API, which the firewall must keep reachable.

use parking_lot::RwLock;
use std::net::SocketAddr;

/// Where the operator API listens.
#[derive(Debug)]
pub(crate) struct OperatorAddress {
    bound: RwLock<String>,
    forced: Option<SocketAddr>,
}

impl OperatorAddress {
    /// `forced` replaces the address of the manifest, where tests want another.
    pub(crate) fn new(forced: Option<SocketAddr>) -> OperatorAddress {
        OperatorAddress {
            bound: RwLock::default(),
            forced,
        }
    }

    pub(crate) fn forced(&self) -> Option<SocketAddr> {
        self.forced
    }

    pub(crate) fn set(&self, bound: &str) {
        bound.clone_into(&mut self.bound.write());
    }

    /// As text; empty before the first plan.
    pub(crate) fn text(&self) -> String {
        self.bound.read().clone()
    }

    /// None before the first plan.
    pub(crate) fn socket(&self) -> Option<SocketAddr> {
        self.bound.read().parse().ok()
    }
}
