//! Operator routes of cells: status, logs, start, stop, pause, restart and exec of agents and
//! services.

use crate::api_server::access::Caller;
use crate::api_server::attach;
use crate::api_server::state::ApiState;
use crate::api_server::web::{Doc, Json};
use crate::api_server::web::{Path, Query, paginate};
use crate::cells::{agent_credentials, exec, logs};
use crate::core::error::Result;
use crate::core::runtime;
use crate::insight::{cell_views, readiness};
use crate::work::lookup::{find_agent_slug, parse_slug};
use crate::work::operations;
use abbey_api::*;
use abbey_model::Presence;
use abbey_model::{CellName, DesiredState, FaultKind, Principal};
use abbey_store::{CellChange, NewAuditEntry};
use axum::extract::{FromRequest, Request, State};
use axum::http::header;
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Shared = State<Arc<ApiState>>;

/// Operator routes of cells: status, logs, start, stop, pause, restart and exec of agents and
/// services.
pub(crate) fn routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::new()
        .merge(crate::api_server::agent_lifecycle::routes())
        .routes(routes!(agent))
        .routes(routes!(agents))
        .routes(routes!(effective))
        .routes(routes!(why_agent))
        .routes(routes!(agent_logs))
        .routes(routes!(start))
        .routes(routes!(stop))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(restart))
        .routes(routes!(rotate))
        .routes(routes!(exec_in))
        .routes(routes!(exec_in_service))
        .routes(routes!(attach::attach_agent))
        .routes(routes!(attach::attach_service))
        .routes(routes!(restart_service))
        .routes(routes!(readiness_doc))
        .routes(routes!(service_logs))
}

#[utoipa::path(
    get, path = "/api/v1/agents", operation_id = "agents_list", tag = "agents",
    summary = "Every agent",
    params(FleetQuery),
    responses((status = 200, body = FleetDoc)),
)]
async fn agents(State(api): Shared, Query(query): Query<FleetQuery>) -> Result<Doc<FleetDoc>> {
    let wanted = query
        .presence
        .iter()
        .flat_map(|words| words.split(','))
        .map(Presence::from_filter)
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|why| Problem::new(FaultKind::Invalid, why))?;
    let mut fleet = cell_views::fleet_doc(&api.work).await?;
    if !wanted.is_empty() {
        fleet.agents.retain(|a| wanted.contains(&a.presence));
    }
    let name = |a: &AgentView| a.name.clone();
    let (agents, cursor) = paginate(fleet.agents, query.limit, query.cursor.as_deref(), name)?;
    Ok(Doc(FleetDoc {
        agents,
        cursor,
        ..fleet
    }))
}

#[utoipa::path(
    get, path = "/api/v1/readiness", operation_id = "house_readiness", tag = "house",
    summary = "How far agents and services are from what is desired of them; `wait_ms` waits until that is settled",
    params(ReadinessQuery),
    responses((status = 200, body = ReadinessDoc)),
)]
async fn readiness_doc(
    State(api): Shared,
    Query(query): Query<ReadinessQuery>,
) -> Result<Doc<ReadinessDoc>> {
    let watched = readiness::watched(query.agents.as_deref(), query.services.as_deref())?;
    let patience = Duration::from_millis(query.wait_ms.unwrap_or(0).min(60_000));
    Ok(Doc(readiness::wait_until_settled(
        &api.work, &watched, patience,
    )
    .await?))
}

#[utoipa::path(
    get, path = "/api/v1/agents/{agent}", operation_id = "agents_show", tag = "agents",
    summary = "One agent",
    responses((status = 200, body = AgentView)),
)]
async fn agent(State(api): Shared, Path(name): Path<String>) -> Result<Doc<AgentView>> {
    let slug = find_agent_slug(&api.work, &name)?;
    let fleet = cell_views::fleet_doc(&api.work).await?;
    let found = fleet.agents.into_iter().find(|a| a.name == slug.as_str());
    Ok(Doc(found.ok_or_else(|| {
        Problem::new(FaultKind::NotFound, format!("there is no agent `{slug}`"))
            .remedy("`abbey ps` lists the agents")
    })?))
}

#[utoipa::path(
    get, path = "/api/v1/agents/{agent}/effective", operation_id = "agents_effective", tag = "agents",
    summary = "Every value of its configuration with its origin",
    responses((status = 200, body = EffectiveDoc)),
)]
async fn effective(State(api): Shared, Path(name): Path<String>) -> Result<Doc<EffectiveDoc>> {
    let slug = find_agent_slug(&api.work, &name)?;
    let current = api.core.plan.current();
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

#[utoipa::path(
    get, path = "/api/v1/agents/{agent}/why", operation_id = "agents_why", tag = "agents",
    summary = "Why it is as it is",
    responses((status = 200, body = AgentWhyDoc)),
)]
async fn why_agent(State(api): Shared, Path(name): Path<String>) -> Result<Doc<AgentWhyDoc>> {
    Ok(Doc(cell_views::explain_agent(
        &api.work,
        &parse_slug(&name)?,
    )
    .await?))
}

async fn read_logs(api: &ApiState, cell: CellName, query: LogQuery) -> Doc<LogDoc> {
    let dir = api.core.home.cell_log_dir(&cell.to_string());
    let lines = query.lines.unwrap_or(200).min(10_000) as usize;
    let lines = runtime::run_blocking(move || logs::read_newest_lines(&dir, lines))
        .await
        .unwrap_or_default();
    Doc(LogDoc {
        version: VERSION,
        lines,
    })
}

#[utoipa::path(
    get, path = "/api/v1/agents/{agent}/logs", operation_id = "agents_logs", tag = "agents",
    summary = "Its newest log lines",
    params(LogQuery),
    responses((status = 200, body = LogDoc)),
)]
async fn agent_logs(
    State(api): Shared,
    Path(name): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Doc<LogDoc>> {
    let slug = find_agent_slug(&api.work, &name)?;
    Ok(read_logs(&api, CellName::Agent(slug), query).await)
}

#[utoipa::path(
    get, path = "/api/v1/services/{service}/logs", operation_id = "services_logs", tag = "services",
    summary = "Its newest log lines",
    params(LogQuery),
    responses((status = 200, body = LogDoc)),
)]
async fn service_logs(
    State(api): Shared,
    Path(name): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Doc<LogDoc>> {
    let slug = parse_slug(&name)?;
    if !api
        .core
        .plan
        .current()
        .is_some_and(|c| c.house.services.contains_key(&slug))
    {
        return Err(
            Problem::new(FaultKind::NotFound, format!("there is no service `{slug}`"))
                .remedy("`abbey service list` lists the services")
                .into(),
        );
    }
    Ok(read_logs(&api, CellName::Service(slug), query).await)
}

/// Refuses what does not apply to an agent that an operator stopped, which stays so until it is started.
fn refuse_stopped(api: &ApiState, name: &str, why: &str) -> Result<()> {
    let cell = CellName::Agent(find_agent_slug(&api.work, name)?);
    if api.cells.desired.state_of(&cell) != DesiredState::Down {
        return Ok(());
    }
    let text = format!("`{name}` is stopped; {why}");
    Err(Problem::new(FaultKind::Conflict, text)
        .remedy(format!("`abbey start {name}` starts it"))
        .into())
}

async fn set_desired(
    api: &Arc<ApiState>,
    by: Principal,
    name: &str,
    state: DesiredState,
) -> Result<Doc<DesiredDoc>> {
    let slug = find_agent_slug(&api.work, name)?;
    let cell = CellName::Agent(slug);
    let change = CellChange {
        desired: Some((state, Some(by))),
        history: None,
    };
    // An agent that filled the disk can be ended, paused and resumed.
    let store = &api.core.store;
    store.set_essential_cell(cell.clone(), change).await?;
    api.cells.set_desired(&cell, state);
    if state == DesiredState::Up {
        api.cells.request_fresh_start(Some(&cell));
    }
    Ok(Doc(DesiredDoc {
        version: VERSION,
        agent: name.to_owned(),
        wish: match state {
            DesiredState::Up => DesiredWord::Up,
            DesiredState::Down => DesiredWord::Down,
            DesiredState::Paused => DesiredWord::Paused,
        },
        wanted_up: state == DesiredState::Up,
    }))
}

#[utoipa::path(
    post, path = "/api/v1/agents/{agent}/start", operation_id = "agents_start", tag = "agents",
    summary = "Starts its cell, and ends draining",
    responses((status = 200, body = DesiredDoc)),
)]
async fn start(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
) -> Result<Doc<DesiredDoc>> {
    let slug = find_agent_slug(&api.work, &name)?;
    api.core.store.set_draining(slug, false, by.clone()).await?;
    set_desired(&api, by, &name, DesiredState::Up).await
}

#[utoipa::path(
    post, path = "/api/v1/agents/{agent}/resume", operation_id = "agents_resume", tag = "agents",
    summary = "Resumes a suspended cell; in conflict with a stopped one",
    responses((status = 200, body = DesiredDoc)),
)]
async fn resume(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
) -> Result<Doc<DesiredDoc>> {
    refuse_stopped(&api, &name, "only a paused agent can be resumed")?;
    start(State(api), Caller(by), Path(name)).await
}

#[utoipa::path(
    post, path = "/api/v1/agents/{agent}/stop", operation_id = "agents_stop", tag = "agents",
    summary = "Stops its cell",
    responses((status = 200, body = DesiredDoc)),
)]
async fn stop(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
) -> Result<Doc<DesiredDoc>> {
    set_desired(&api, by, &name, DesiredState::Down).await
}

#[utoipa::path(
    post, path = "/api/v1/agents/{agent}/pause", operation_id = "agents_pause", tag = "agents",
    summary = "Suspends everything in its cell; in conflict with a stopped one",
    responses((status = 200, body = DesiredDoc)),
)]
async fn pause(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
) -> Result<Doc<DesiredDoc>> {
    refuse_stopped(&api, &name, "only a running agent can be paused")?;
    set_desired(&api, by, &name, DesiredState::Paused).await
}

#[utoipa::path(
    post, path = "/api/v1/agents/{agent}/restart", operation_id = "agents_restart", tag = "agents",
    summary = "Restarts its cell",
    responses((status = 200, body = DesiredDoc)),
)]
async fn restart(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
) -> Result<Doc<DesiredDoc>> {
    let cell = CellName::Agent(find_agent_slug(&api.work, &name)?);
    operations::restart_cell(&api.work, cell, by.clone()).await?;
    // Its desired state is up, so the reconciler starts it again once it has ended.
    set_desired(&api, by, &name, DesiredState::Up).await
}

#[utoipa::path(
    post, path = "/api/v1/services/{service}/restart", operation_id = "services_restart", tag = "services",
    summary = "Restarts its cell",
    responses((status = 200, body = RestartedDoc)),
)]
async fn restart_service(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
) -> Result<Doc<RestartedDoc>> {
    let slug = parse_slug(&name)?;
    let current = api.core.plan.current();
    match current.and_then(|c| Some(c.house.services.get(&slug)?.at)) {
        None => {
            let text = format!("there is no service `{name}`");
            return Err(Problem::new(FaultKind::NotFound, text)
                .remedy("`abbey service list` lists the services")
                .into());
        }
        Some(Some(at)) => {
            let text = format!(
                "service `{name}` runs elsewhere, at {at}, so this house cannot restart it"
            );
            return Err(Problem::new(FaultKind::Conflict, text)
                .remedy("restart it where it runs; `abbey doctor` shows whether it answers")
                .into());
        }
        Some(None) => {}
    }
    let cell = CellName::Service(slug);
    operations::restart_cell(&api.work, cell.clone(), by).await?;
    api.cells.request_fresh_start(Some(&cell));
    Ok(Doc(RestartedDoc {
        version: VERSION,
        service: name,
    }))
}

#[utoipa::path(
    post, path = "/api/v1/agents/{agent}/rotate", operation_id = "agents_rotate_credential", tag = "agents",
    summary = "Replaces its credential; the old one stays valid for an overlap",
    responses((status = 200, body = RotatedDoc)),
)]
async fn rotate(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
) -> Result<Doc<RotatedDoc>> {
    let slug = find_agent_slug(&api.work, &name)?;
    agent_credentials::rotate_agent_credentials(&api.cells, &slug, agent_credentials::OVERLAP)
        .await?;
    api.cells.request_service_credentials(&slug);
    let note = NewAuditEntry {
        actor: by,
        action: "agent.rotate".to_owned(),
        entity: slug.to_string(),
        detail: json!({}),
    };
    api.core.store.append_audit_entry(note).await?;
    Ok(Doc(RotatedDoc {
        version: VERSION,
        agent: name,
        overlap_ms: agent_credentials::OVERLAP.0,
    }))
}

#[utoipa::path(
    post, path = "/api/v1/agents/{agent}/exec", operation_id = "agents_exec", tag = "agents",
    summary = "Runs a command in its cell: JSON Lines of output, then the exit status; or, with `Upgrade: abbey-exec`, frames of its streams",
    request_body = ExecBody,
    responses(
        (status = 200, body = String, content_type = "application/jsonl"),
        (status = 101, description = "The connection carries the program's streams from here on"),
    ),
)]
async fn exec_in(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
    call: ExecCall,
) -> Result<Response> {
    exec_for_operator(api, by, CellName::Agent(parse_slug(&name)?), call).await
}

#[utoipa::path(
    post, path = "/api/v1/services/{service}/exec", operation_id = "services_exec", tag = "services",
    summary = "Runs a command in its cell: JSON Lines of output, then the exit status; or, with `Upgrade: abbey-exec`, frames of its streams",
    request_body = ExecBody,
    responses(
        (status = 200, body = String, content_type = "application/jsonl"),
        (status = 101, description = "The connection carries the program's streams from here on"),
    ),
)]
async fn exec_in_service(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
    call: ExecCall,
) -> Result<Response> {
    exec_for_operator(api, by, CellName::Service(parse_slug(&name)?), call).await
}

/// Longest wait for a cell that is starting, before a program is run in it.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

async fn exec_for_operator(
    api: Arc<ApiState>,
    by: Principal,
    cell: CellName,
    call: ExecCall,
) -> Result<Response> {
    readiness::wait_while_starting(&api.work, &cell, STARTS_WITHIN).await?;
    match call.upgrade {
        Some(upgrade) => exec::upgrade_exec(&api.cells, cell, call.body, by, upgrade).await,
        None => exec::stream_exec(&api.cells, cell, call.body, by).await,
    }
}

/// A command to run in a cell, and the connection that carries its streams if the caller asked for that.
struct ExecCall {
    body: ExecBody,
    upgrade: Option<OnUpgrade>,
}

impl<S: Send + Sync> FromRequest<S> for ExecCall {
    type Rejection = Response;

    async fn from_request(mut request: Request, state: &S) -> std::result::Result<Self, Response> {
        let protocol = request.headers().get(header::UPGRADE);
        let upgrade = protocol
            .is_some_and(|p| p == exec::PROTOCOL)
            .then(|| hyper::upgrade::on(&mut request));
        let Json(body) = Json::from_request(request, state).await?;
        Ok(ExecCall { body, upgrade })
    }
}
