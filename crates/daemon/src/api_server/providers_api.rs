//! Routes of the operator API about model providers.

use crate::api_server::access::Caller;
use crate::api_server::operator_budgets::checked_note;
use crate::api_server::state::ApiState;
use crate::api_server::web::{Doc, Json, Path};
use crate::core::error::{Result, not_found};
use crate::core::plan::PlanInForce;
use crate::insight::cell_views;
use crate::work::lookup::parse_slug;
use abbey_api::{ClearCooldown, CooldownCleared, ProviderView, ProvidersDoc, VERSION};
use abbey_model::Slug;
use abbey_plan::{Endpoint, Provider};
use axum::extract::State;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Shared = State<Arc<ApiState>>;

/// Routes that need the operator's credential.
pub(crate) fn routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::new()
        .routes(routes!(providers))
        .routes(routes!(clear_cooldown))
}

fn provider_view(
    api: &ApiState,
    current: &PlanInForce,
    name: &Slug,
    provider: &Provider,
) -> ProviderView {
    let uses_it = |model: &abbey_plan::ModelRef| model.provider == *name;
    let agents = current.house.agents.values();
    let agents = agents.filter(|a| a.model.as_ref().is_some_and(uses_it));
    let mut failing = cell_views::failing_providers(&api.work).into_iter();
    ProviderView {
        name: name.to_string(),
        endpoint: match &provider.endpoint {
            Endpoint::Url(url) => url.clone(),
            Endpoint::Service(service) => format!("service {service}"),
        },
        key: provider.key.as_ref().map(ToString::to_string),
        agents: agents.map(|a| a.slug.to_string()).collect(),
        failing: failing.find(|f| f.name == name.as_str()),
    }
}

#[utoipa::path(
    get, path = "/api/v1/providers", operation_id = "providers_list", tag = "providers",
    summary = "Every model provider of the manifest",
    responses((status = 200, body = ProvidersDoc)),
)]
async fn providers(State(api): Shared) -> Result<Doc<ProvidersDoc>> {
    let providers = api.core.plan.current().map_or_else(Vec::new, |current| {
        let all = current.house.providers.iter();
        all.map(|(name, provider)| provider_view(&api, &current, name, provider))
            .collect()
    });
    Ok(Doc(ProvidersDoc {
        version: VERSION,
        providers,
    }))
}

#[utoipa::path(
    post, path = "/api/v1/providers/{provider}/clear-cooldown", operation_id = "providers_clear_cooldown", tag = "providers",
    summary = "Forgets how its last calls failed: calls are sent again at once, and the tasks that wait for it go on",
    params(("provider" = String, Path, description = "Name of the provider")),
    responses((status = 200, body = CooldownCleared)),
)]
async fn clear_cooldown(
    State(api): Shared,
    Path(name): Path<String>,
    Caller(by): Caller,
    Json(body): Json<ClearCooldown>,
) -> Result<Doc<CooldownCleared>> {
    let note = checked_note(body.note)?;
    let name = parse_slug(&name)?;
    let unknown = || not_found("provider", name.as_str());
    let current = api.core.plan.current().ok_or_else(unknown)?;
    let provider = current.house.providers.get(&name).ok_or_else(unknown)?;
    let providers = &api.work.providers;
    let cleared = providers.reset(vec![name.to_string()], note, by).await?;
    Ok(Doc(CooldownCleared {
        version: VERSION,
        cleared,
        provider: provider_view(&api, &current, &name, provider),
    }))
}
