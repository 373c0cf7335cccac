//! The operator's API to agents and services as cells: how they are, what they say, and what is wanted of them.

use crate::api_server::attach;
use crate::api_server::state::ApiState;
use crate::api_server::web::{Doc, Input};
use crate::cells::{agent_credentials, exec, logs};
use crate::core::error::Result;
use crate::insight::views;
use crate::work::lookup::{known_agent, parse_slug};
use crate::work::operations;
use abbey_api::*;
use abbey_model::{CellName, FaultKind, Principal, Wish};
use abbey_store::CellChange;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use std::sync::Arc;

type Shared = State<Arc<ApiState>>;

/// Its routes, for the door that asks for the operator's credential.
pub(crate) fn routes() -> Router<Arc<ApiState>> {
    Router::new()
        .merge(crate::api_server::agent_lifecycle::routes())
        .route("/api/v1/agents/{agent}", get(agent))
        .route("/api/v1/agents", get(agents))
        .route("/api/v1/agents/{agent}/effective", get(effective))
        .route("/api/v1/agents/{agent}/why", get(why_agent))
        .route("/api/v1/agents/{agent}/logs", get(agent_logs))
        .route("/api/v1/agents/{agent}/start", post(start))
        .route("/api/v1/agents/{agent}/stop", post(stop))
        .route("/api/v1/agents/{agent}/pause", post(pause))
        .route("/api/v1/agents/{agent}/resume", post(start))
        .route("/api/v1/agents/{agent}/restart", post(restart))
        .route("/api/v1/agents/{agent}/rotate", post(rotate))
        .route("/api/v1/agents/{agent}/exec", post(exec_in))
        .route("/api/v1/agents/{agent}/attach", get(attach::agent))
        .route("/api/v1/services/{service}/attach", get(attach::service))
        .route("/api/v1/services/{service}/restart", post(restart_service))
        .route("/api/v1/services/{service}/logs", get(service_logs))
}

async fn agents(State(house): Shared) -> Result<Doc<FleetDoc>> {
    Ok(Doc(views::fleet(&house.work).await?))
}

async fn agent(State(house): Shared, Path(name): Path<String>) -> Result<Doc<AgentView>> {
    let slug = known_agent(&house.work, &name)?;
    let fleet = views::fleet(&house.work).await?;
    let found = fleet.agents.into_iter().find(|a| a.name == slug.as_str());
    Ok(Doc(found.ok_or_else(|| {
        Problem::new(FaultKind::NotFound, format!("there is no agent `{slug}`"))
    })?))
}

async fn effective(State(house): Shared, Path(name): Path<String>) -> Result<Doc<EffectiveDoc>> {
    let slug = known_agent(&house.work, &name)?;
    let current = house.core.plan.current();
    let rows = current
        .iter()
        .filter_map(|c| c.house.agents.get(&slug))
        .flat_map(abbey_plan::Agent::effective);
    let values = rows
        .map(|(key, value, origin)| EffectiveValue { key, value, origin })
        .collect();
    Ok(Doc(EffectiveDoc {
        version: VERSION,
        agent: slug.to_string(),
        values,
    }))
}

async fn why_agent(State(house): Shared, Path(name): Path<String>) -> Result<Doc<AgentWhyDoc>> {
    Ok(Doc(
        views::why_agent(&house.work, &parse_slug(&name)?).await?
    ))
}

#[derive(Deserialize)]
struct LogQuery {
    #[serde(default)]
    lines: Option<usize>,
}

async fn read_logs(house: &ApiState, cell: CellName, query: LogQuery) -> Doc<LogDoc> {
    let dir = house.core.home.cell_logs(&cell.to_string());
    let lines = query.lines.unwrap_or(200).min(10_000);
    let lines = tokio::task::spawn_blocking(move || logs::tail(&dir, lines))
        .await
        .unwrap_or_default();
    Doc(LogDoc {
        version: VERSION,
        lines,
    })
}

async fn agent_logs(
    State(house): Shared,
    Path(name): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Doc<LogDoc>> {
    let slug = known_agent(&house.work, &name)?;
    Ok(read_logs(&house, CellName::Agent(slug), query).await)
}

async fn service_logs(
    State(house): Shared,
    Path(name): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Doc<LogDoc>> {
    let slug = parse_slug(&name)?;
    if !house
        .core
        .plan
        .current()
        .is_some_and(|c| c.house.services.contains_key(&slug))
    {
        return Err(
            Problem::new(FaultKind::NotFound, format!("there is no service `{slug}`")).into(),
        );
    }
    Ok(read_logs(&house, CellName::Service(slug), query).await)
}

async fn wish(house: &Arc<ApiState>, name: &str, wish: Wish) -> Result<Doc<serde_json::Value>> {
    let slug = known_agent(&house.work, name)?;
    let cell = CellName::Agent(slug);
    let change = CellChange {
        wish: Some((wish, Some(Principal::Operator))),
        history: None,
    };
    house.core.store.set_cell(cell.clone(), change).await?;
    house.cells.desired.set(cell, wish);
    Ok(Doc(
        serde_json::json!({ "version": VERSION, "agent": name, "wish": wish, "wanted_up": wish == Wish::Up }),
    ))
}

async fn start(State(house): Shared, Path(name): Path<String>) -> Result<Doc<serde_json::Value>> {
    let slug = known_agent(&house.work, &name)?;
    house
        .core
        .store
        .set_draining(slug, false, Principal::Operator)
        .await?;
    wish(&house, &name, Wish::Up).await
}

async fn stop(State(house): Shared, Path(name): Path<String>) -> Result<Doc<serde_json::Value>> {
    wish(&house, &name, Wish::Down).await
}

async fn pause(State(house): Shared, Path(name): Path<String>) -> Result<Doc<serde_json::Value>> {
    wish(&house, &name, Wish::Paused).await
}

async fn restart(State(house): Shared, Path(name): Path<String>) -> Result<Doc<serde_json::Value>> {
    let cell = CellName::Agent(known_agent(&house.work, &name)?);
    operations::restart(&house.work, cell, Principal::Operator).await?;
    // It is wanted up, so the reconciler boots it anew once it has ended.
    wish(&house, &name, Wish::Up).await
}

async fn restart_service(
    State(house): Shared,
    Path(name): Path<String>,
) -> Result<Doc<serde_json::Value>> {
    let slug = parse_slug(&name)?;
    let known = house
        .core
        .plan
        .current()
        .is_some_and(|c| c.house.services.contains_key(&slug));
    if !known {
        let text = format!("there is no service `{name}`");
        return Err(Problem::new(FaultKind::NotFound, text).into());
    }
    operations::restart(&house.work, CellName::Service(slug), Principal::Operator).await?;
    Ok(Doc(
        serde_json::json!({ "version": VERSION, "service": name }),
    ))
}

async fn rotate(State(house): Shared, Path(name): Path<String>) -> Result<Doc<serde_json::Value>> {
    let slug = known_agent(&house.work, &name)?;
    agent_credentials::credential(&house.cells, &slug, agent_credentials::OVERLAP).await?;
    Ok(Doc(
        serde_json::json!({ "version": VERSION, "agent": name, "overlap_ms": agent_credentials::OVERLAP }),
    ))
}

async fn exec_in(
    State(house): Shared,
    Path(name): Path<String>,
    Input(body): Input<ExecBody>,
) -> Result<Response> {
    exec::exec(&house.cells, &parse_slug(&name)?, body).await
}
