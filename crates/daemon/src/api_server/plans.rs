//! Applying a manifest through the operator API.

use crate::api_server::state::ApiState;
use crate::core::error::Result;
use crate::planning::apply::{carry_out_plan, commit_manifest};
use abbey_api::{ManifestBody, PlanDoc};
use abbey_model::Principal;
use std::sync::Arc;

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
    let applied = commit_manifest(&api.work, body, seen, who).await?;
    let listening = api.operator_listener.listen_as_planned(&api.net).await;
    // An address that cannot be had holds up no agent.
    carry_out_plan(&api.work).await?;
    listening?;
    Ok(applied)
}
