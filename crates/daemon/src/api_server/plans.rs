//! Applying a manifest through the operator API.

use crate::api_server::state::ApiState;
use crate::core::error::Result;
use crate::planning::apply::{carry_out_plan, commit_manifest};
use abbey_api::{ManifestBody, PlanDoc};
use abbey_model::Principal;
use abbey_plan::{Allocation, ResourceKind};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for a port of the operator API that a cell of the house has to release.
const RELEASED_WITHIN: Duration = Duration::from_secs(15);
/// Pause between two attempts to listen.
const RETRY: Duration = Duration::from_millis(200);

/// Commits the plan of a manifest, moves the operator API's listener, and carries the plan out.
/// `seen` is the generation that the caller read.
///
/// # Errors
/// If the plan has a fatal note or another generation is in force.
pub(crate) async fn apply_manifest(
    api: &Arc<ApiState>,
    body: ManifestBody,
    seen: Option<u64>,
    who: Principal,
) -> Result<PlanDoc> {
    let _one_at_a_time = api.core.plan.lock_changes().await;
    let _until_applied = api
        .core
        .plan
        .begin_activity("checking the manifest against this host");
    let before = api.core.plan.current();
    let bound = api.net.operator_address.bound_address();
    let applied = commit_manifest(&api.work, body, seen, who).await?;
    let mut listening = api.operator_listener.listen_as_planned(&api.net).await;
    // An address that cannot be had holds up no agent.
    carry_out_plan(&api.work).await?;
    // A cell that the plan takes the port from ends within its grace period.
    let port = api
        .core
        .plan
        .current()
        .map(|c| c.house.listen.address.port());
    let own = |port: u16| {
        let held = |r: &Allocation| r.kind == ResourceKind::Port && r.port() == Some(port);
        let by_cell = before.as_ref().is_some_and(|c| c.registry.rows().any(held));
        by_cell || bound.is_some_and(|b| b.port() == port)
    };
    let until = api.core.rt.now() + RELEASED_WITHIN;
    while listening.is_err() && port.is_some_and(own) && api.core.rt.now() < until {
        api.core.rt.sleep(RETRY).await;
        listening = api.operator_listener.listen_as_planned(&api.net).await;
    }
    listening?;
    // What plans is a large part of the program, and may not be called again for days.
    abbey_cells::release_free_memory();
    abbey_cells::release_program_code();
    Ok(applied)
}
