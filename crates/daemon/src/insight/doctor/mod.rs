//! `abbey doctor`: checks of a house, each with a remedy, and fixes that lose nothing (S2-26 to
//! S2-29).

mod checks;
mod files;
mod house;
mod isolation;
mod offline;
mod work;

use crate::cells::provision;
use crate::core::error::Result;
use crate::core::hostd;
use crate::work::state::WorkState;
use abbey_api::{CheckState, DoctorDoc, VERSION};
use abbey_cells::hostd::HostdOperation;
use abbey_model::Principal;
use abbey_store::NewAuditEntry;
use checks::Checks;
pub(crate) use offline::check_silent_house;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Longest time for all checks of a house that runs.
const WITHIN: Duration = Duration::from_secs(8);

/// Runs every check and returns the results, within [`WITHIN`]: a check that is not finished then says so.
pub(crate) async fn run_checks(work: &Arc<WorkState>) -> Result<DoctorDoc> {
    let rt = &work.core.rt;
    let until = rt.now() + WITHIN;
    let mut checks = Checks::default();
    let host = house::check_host(work, true, &mut checks);
    let facts = match rt.timeout_at(until, host).await {
        Ok(facts) => facts?,
        Err(_) => {
            checks.unfinished("host");
            None
        }
    };
    let agents = work::check_agents_and_services(work, &mut checks);
    if let Ok(done) = rt.timeout_at(until, agents).await {
        done?;
    } else {
        checks.unfinished("agents");
    }
    if let Some(facts) = &facts {
        work::check_ports(work, facts, &mut checks);
    }
    work::check_schedules(work, &mut checks).await?;
    work::check_workflows(work, &mut checks).await?;
    work::check_providers(work, &mut checks);
    let servers = work::check_model_servers(work, &mut checks);
    if rt.timeout_at(until, servers).await.is_err() {
        checks.unfinished("models");
    }
    // It runs programs in cells, which takes a hostd.
    if let Some(facts) = &facts {
        let isolation = isolation::check_isolation(work, facts, &mut checks);
        if let Ok(done) = rt.timeout_at(until, isolation).await {
            done?;
        } else {
            checks.unfinished("isolation");
        }
    }
    Ok(DoctorDoc {
        version: VERSION,
        checks: checks.0,
        fixed: Vec::new(),
    })
}

/// Runs the checks of a house whose control plane does not run, against its database: nothing is started, and no cell is
/// touched.
pub(crate) async fn run_offline_checks(work: &Arc<WorkState>) -> Result<DoctorDoc> {
    let mut checks = Checks::default();
    offline::check_control_plane(work, &mut checks).await?;
    let facts = house::check_host(work, false, &mut checks).await?;
    if let Some(facts) = &facts {
        work::check_ports(work, facts, &mut checks);
    }
    Ok(DoctorDoc {
        version: VERSION,
        checks: checks.0,
        fixed: Vec::new(),
    })
}

/// Fixes what can be fixed without losing anything, and runs every check again: modes and owners of
/// the house's files, half-made or half-removed agents, the firewall, and waiting tasks. Lists the
/// checks that it fixed.
pub(crate) async fn fix_and_recheck(work: &Arc<WorkState>, by: Principal) -> Result<DoctorDoc> {
    let before = run_checks(work).await?;
    let protected = hostd::run_operation(&work.core.hostd, HostdOperation::ProtectHome {}).await;
    if let Err(error) = protected {
        tracing::error!(
            error = error.chain(),
            "owners and modes of the house's files could not be repaired"
        );
    }
    let provisioned = {
        let _plan_lock = work.core.plan.lock_changes().await;
        provision::provision_plan(&work.cells).await
    };
    if let Err(error) = provisioned {
        tracing::error!(error = error.chain(), "some checks could not be fixed");
    }
    work.readmit_waiting_tasks().await?;
    work.cells.request_reconcile();
    let mut after = run_checks(work).await?;
    let good = |doc: &DoctorDoc, id: &str| {
        doc.checks
            .iter()
            .any(|c| c.id == id && c.state == CheckState::Ok)
    };
    let fixed = before
        .checks
        .iter()
        .filter(|c| c.state != CheckState::Ok && good(&after, &c.id));
    after.fixed = fixed.map(|c| c.id.clone()).collect();
    if !after.fixed.is_empty() {
        let note = NewAuditEntry {
            actor: by,
            action: "house.fix".to_owned(),
            entity: "house".to_owned(),
            detail: json!({ "checks": after.fixed }),
        };
        work.core.store.append_audit_entry(note).await?;
    }
    Ok(after)
}
