//! State shared by the egress proxy, DNS and the firewall.

use crate::core::state::CoreState;
use crate::net::command_egress::CommandEgressPolicies;
use crate::net::egress::ledger::EgressLedger;
use crate::net::operator_address::OperatorAddress;
use std::sync::Arc;

/// State of the network of cells.
pub(crate) struct NetState {
    pub(crate) core: Arc<CoreState>,
    /// Bytes that each cell transferred through the proxy.
    pub(crate) egress: EgressLedger,
    /// Egress policies of running commands.
    pub(crate) command_egress: CommandEgressPolicies,
    /// Address of the operator API.
    pub(crate) operator_address: OperatorAddress,
}

impl NetState {
    /// `listen` replaces the operator API's address of the manifest.
    pub(crate) fn new(core: Arc<CoreState>, listen: Option<std::net::SocketAddr>) -> NetState {
        NetState {
            core,
            egress: EgressLedger::default(),
            command_egress: CommandEgressPolicies::default(),
            operator_address: OperatorAddress::new(listen),
        }
    }
}
