//! The firewall: applies the table that the plan requires, rolled back unless the operator API
//! stays reachable, and checks it periodically, since other programs may flush it.

use crate::core::error::Result;
use crate::net::state::NetState;
use abbey_model::{Millis, Principal};
use abbey_store::NewAuditEntry;
use serde_json::json;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

/// Time in which the control plane must confirm that the operator API is still reachable; otherwise
/// hostd rolls back.
const CONFIRM_WITHIN: Millis = Millis::from_secs(10);
/// Time between two checks. While the host's rules don't change, a check costs one netlink request.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Has hostd bring the firewall table to what the plan requires; returns whether it had to change
/// anything.
pub(crate) async fn apply_planned_firewall(net: &NetState) -> Result<bool> {
    let hostd = Arc::clone(&net.core.hostd);
    let address = net.operator_address.bound_address();
    let contact = move || address.is_none_or(|a| TcpStream::connect(a).is_ok());
    crate::core::hostd::call_blocking(move || hostd.apply_firewall(CONFIRM_WITHIN, &contact)).await
}

/// Whether any cell of the plan has a network of its own.
fn any_cell_has_subnet(net: &NetState) -> bool {
    let Some(current) = net.core.plan.current() else {
        return false;
    };
    current
        .registry
        .rows()
        .any(|r| r.kind == abbey_plan::ResourceKind::Subnet)
}

/// Restores the firewall table whenever it differs from the plan, until the control plane stops.
pub(crate) async fn run_firewall_monitor(net: Arc<NetState>) {
    loop {
        tokio::select! {
            () = net.core.rt.stopped() => return,
            () = net.core.rt.sleep(CHECK_INTERVAL) => {}
        }
        if !any_cell_has_subnet(&net) {
            continue;
        }
        // A plan that is being applied changes the firewall itself.
        let Some(_plan_lock) = net.core.plan.try_lock_changes() else {
            continue;
        };
        match apply_planned_firewall(&net).await {
            Ok(false) => {}
            // The start or end of a command changes the table as well.
            Ok(true) if net.command_egress.has_running_commands() => {}
            Ok(true) => {
                tracing::warn!("the firewall differed from the plan and was restored");
                let note = NewAuditEntry {
                    actor: Principal::House,
                    action: "firewall.restored".to_owned(),
                    entity: "house".to_owned(),
                    detail: json!({}),
                };
                if let Err(error) = net.core.store.append_audit_entry(note).await {
                    tracing::warn!(%error, "the restored firewall could not be logged to the audit log");
                }
            }
            Err(error) => tracing::error!(
                error = error.chain(),
                "the firewall could not be checked; no cell with a network starts until the check succeeds"
            ),
        }
    }
}
