//! Applying a manifest through the operator API.

use crate::api_server::listener::open_outside;
use crate::boot::house::House;
use crate::core::error::Result;
use crate::planning::apply::{carry_out, commit_manifest};
use abbey_api::{ManifestBody, PlanDoc};
use abbey_model::Principal;
use std::sync::Arc;

/// Commits the plan of a manifest, listens where it says, and carries it out.
pub(crate) async fn apply(
    house: &Arc<House>,
    body: ManifestBody,
    seen: Option<u64>,
    who: Principal,
) -> Result<PlanDoc> {
    let _one_at_a_time = house.applying.lock().await;
    let applied = commit_manifest(house, body, seen, who).await?;
    open_outside(house).await?;
    carry_out(house).await?;
    Ok(applied)
}
