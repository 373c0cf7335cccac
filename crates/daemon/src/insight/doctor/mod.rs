//! Checks of a house, each with a remedy; and what can be mended without losing anything (S2-26 to S2-29).

mod checks;
mod house;
mod isolation;
mod work;

use crate::boot::house::House;
use crate::cells::provision;
use crate::core::error::Result;
use abbey_api::{CheckState, DoctorDoc, VERSION};
use abbey_model::Principal;
use abbey_store::Note;
use checks::Checks;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

/// Runs every check.
pub(crate) async fn examine(house: &Arc<House>) -> Result<DoctorDoc> {
    let mut checks = Checks::default();
    let facts = house::host(house, &mut checks).await?;
    work::agents(house, &facts, &mut checks).await?;
    work::schedules(house, &mut checks).await?;
    work::models(house, &mut checks).await;
    isolation::tried(house, &facts, &mut checks).await?;
    Ok(DoctorDoc {
        version: VERSION,
        checks: checks.0,
        fixed: Vec::new(),
    })
}

/// Mends what can be mended and undone, and looks again: modes and owners of the house's files, files and claims of
/// agents that came or went half, the firewall, work that waits for what is there by now.
pub(crate) async fn fix(house: &Arc<House>) -> Result<DoctorDoc> {
    let before = examine(house).await?;
    let token = house.home.operator_token();
    if let Ok(meta) = std::fs::metadata(&token)
        && meta.permissions().mode() & 0o777 != 0o600
    {
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&token, mode)
            .map_err(crate::core::error::Error::file("protect", &token))?;
    }
    let settled = {
        let _one_at_a_time = house.applying.lock().await;
        provision::settle(house).await
    };
    if let Err(error) = settled {
        tracing::error!(error = error.chain(), "not everything could be mended");
    }
    house.admit_waiting().await?;
    house.cells_changed.notify_one();
    let mut after = examine(house).await?;
    let good = |doc: &DoctorDoc, id: &str| {
        doc.checks
            .iter()
            .any(|c| c.id == id && c.state == CheckState::Ok)
    };
    let mended = before
        .checks
        .iter()
        .filter(|c| c.state != CheckState::Ok && good(&after, &c.id));
    after.fixed = mended.map(|c| c.id.clone()).collect();
    if !after.fixed.is_empty() {
        let note = Note {
            actor: Principal::Operator,
            action: "house.mended".to_owned(),
            entity: "house".to_owned(),
            detail: json!({ "checks": after.fixed }),
        };
        house.store.append(note).await?;
    }
    Ok(after)
}
