//! The network address of the operator API, which the firewall must keep reachable.

use parking_lot::RwLock;
use std::net::SocketAddr;

/// Address on which the operator API listens.
#[derive(Debug)]
pub(crate) struct OperatorAddress {
    /// Address that is bound; empty before the first plan.
    bound: RwLock<String>,
    /// Address that replaces the manifest's.
    fixed: Option<SocketAddr>,
}

impl OperatorAddress {
    /// `fixed` replaces the address of the manifest (used by tests).
    pub(crate) fn new(fixed: Option<SocketAddr>) -> OperatorAddress {
        OperatorAddress {
            bound: RwLock::default(),
            fixed,
        }
    }

    /// Address, given when the control plane was started, that replaces `listen.address` of the manifest; if any.
    pub(crate) fn fixed(&self) -> Option<SocketAddr> {
        self.fixed
    }

    /// Records the address that the listener is bound to.
    pub(crate) fn set_bound(&self, bound: &str) {
        bound.clone_into(&mut self.bound.write());
    }

    /// Bound address as text; empty before the first plan.
    pub(crate) fn bound_text(&self) -> String {
        self.bound.read().clone()
    }

    /// Bound address; `None` before the first plan.
    pub(crate) fn bound_address(&self) -> Option<SocketAddr> {
        self.bound.read().parse().ok()
    }
}
