//! State of the network of cells.

use crate::core::state::CoreState;
use crate::net::command_egress::CommandEgress;
use crate::net::egress::ledger::Ledger;
use crate::net::operator_address::OperatorAddress;
use std::sync::Arc;

/// What the egress proxy, DNS and the firewall share.
pub(crate) struct NetState {
    pub(crate) core: Arc<CoreState>,
    /// Bytes that each cell sent and received through the proxy.
    pub(super) egress: Ledger,
    pub(crate) command_egress: CommandEgress,
    pub(crate) operator_address: OperatorAddress,
}

impl NetState {
    /// `listen` replaces the address of the manifest.
    pub(crate) fn new(core: Arc<CoreState>, listen: Option<std::net::SocketAddr>) -> NetState {
        NetState {
            core,
            egress: Ledger::default(),
            command_egress: CommandEgress::default(),
            operator_address: OperatorAddress::new(listen),
        }
    }
}
