//! The control plane's own heartbeat: a file that says until when the house was observed, so that time in which nobody
//! saw it is not counted as uptime. It is no row of the database: an idle house writes none.

use crate::core::home::{Home, publish_file};
use crate::core::state::CoreState;
use abbey_model::{Principal, Timestamp};
use abbey_store::NewAuditEntry;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Time between two heartbeats, and so the most that is counted wrongly for a house that was killed.
const INTERVAL: Duration = Duration::from_secs(10);

/// Records that the house is observed now.
fn beat(home: &Home, now: Timestamp) {
    let text = now.0.to_string();
    if let Err(error) = publish_file(&home.heartbeat_file(), text.as_bytes(), 0o600) {
        tracing::warn!(
            error = error.chain(),
            "the heartbeat of the control plane could not be written; its uptime is counted too low if it is killed"
        );
    }
}

/// Logs the start of the house to the audit log, with the time until which it was observed before, if it was, and with
/// the boot of the host: between two starts that name different ones the host was restarted.
pub(crate) async fn log_house_start(core: &CoreState) -> crate::core::error::Result<()> {
    let last = core.home.read_text(&core.home.heartbeat_file());
    let last = last.ok().and_then(|text| text.trim().parse::<i64>().ok());
    let note = NewAuditEntry {
        actor: Principal::House,
        action: "house.start".to_owned(),
        entity: "house".to_owned(),
        detail: json!({ "observed_until": last, "host_boot": abbey_cells::boot_id() }),
    };
    core.store.append_essential_audit_entry(note).await?;
    beat(&core.home, core.store.now());
    Ok(())
}

/// Sends heartbeats until the control plane stops; the last one at its end.
pub(crate) async fn run_heartbeat(core: Arc<CoreState>) {
    loop {
        beat(&core.home, core.store.now());
        tokio::select! {
            () = core.rt.stopped() => break,
            () = core.rt.sleep(INTERVAL) => {}
        }
    }
    beat(&core.home, core.store.now());
}
