//! The firewall as the control plane sees it: brought to the plan, kept only when the operator still
//! gets in, and looked at again and again, since somebody else may flush it.

use crate::core::error::Result;
use crate::net::state::NetState;
use abbey_model::{Millis, Principal};
use abbey_store::NewAuditEntry;
use serde_json::json;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

/// Time in which the control plane must have shown that it is still reached.
const CONFIRM_WITHIN: Millis = Millis::from_secs(10);
/// Time between two looks. While no rule of the host changes, one costs a question to the kernel.
const LOOK: Duration = Duration::from_secs(5);

/// Brings the firewall to what the plan says; true when something had to be done.
pub(crate) async fn raise(net: &NetState) -> Result<bool> {
    let hostd = Arc::clone(&net.core.hostd);
    let address = net.operator_address.socket();
    let contact = move || address.is_none_or(|a| TcpStream::connect(a).is_ok());
    crate::core::hostd::ask(move || hostd.firewall(CONFIRM_WITHIN, &contact)).await
}

/// Whether anybody in the plan has a network.
fn is_wanted(net: &NetState) -> bool {
    let Some(current) = net.core.plan.current() else {
        return false;
    };
    current
        .registry
        .rows()
        .any(|r| r.kind == abbey_plan::ResourceKind::Subnet)
}

/// Puts the table up again when somebody took it away, until the house stops.
pub(crate) async fn run(net: Arc<NetState>) {
    loop {
        tokio::select! {
            () = net.core.rt.stopped() => return,
            () = net.core.rt.sleep(LOOK) => {}
        }
        if !is_wanted(&net) {
            continue;
        }
        // A plan that is being applied does it itself.
        let Some(_no_plan) = net.core.plan.try_lock_changes() else {
            continue;
        };
        match raise(&net).await {
            Ok(false) => {}
            // A command that came or went meanwhile changes the table as well.
            Ok(true) if net.command_egress.any() => {}
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
                "the firewall could not be looked at; no cell with a network starts until it can"
            ),
        }
    }
}
