//! Applying a manifest through the operator API.

use crate::api_server::state::ApiState;
use crate::core::error::Result;
use crate::planning::apply::{carry_out_plan, commit_manifest};
use abbey_api::{ManifestBody, PlanDoc};
use abbey_model::Principal;
use std::sync::Arc;

/// Commits the plan of a manifest, listens where it says, and carries it out.
pub(crate) async fn apply(
    house: &Arc<ApiState>,
    body: ManifestBody,
    seen: Option<u64>,
    who: Principal,
) -> Result<PlanDoc> {
    let _one_at_a_time = house.core.plan.lock_changes().await;
    let applied = commit_manifest(&house.work, body, seen, who).await?;
    house.operator_listener.follow_plan(&house.net).await?;
    carry_out_plan(&house.work).await?;
    Ok(applied)
}
