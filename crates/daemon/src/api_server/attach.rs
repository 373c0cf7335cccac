//! `abbey attach`: carries the terminal of a cell over an upgraded HTTP connection. The bytes are
//! not interpreted here; their protocol is defined in `abbey_cells::shim`.

use crate::api_server::access::Caller;
use crate::api_server::state::ApiState;
use crate::api_server::web::{Path, Query};
use crate::core::error::{Error, Result, not_found};
use crate::work::lookup::parse_slug;
use abbey_api::{Problem, TerminalQuery};
use abbey_model::{CellName, FaultKind, Principal};
use abbey_store::NewAuditEntry;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::sync::Arc;

/// Name of the protocol in `Upgrade`.
const PROTOCOL: &str = "abbey-terminal";

/// Upgrades the connection to the terminal of an agent's cell.
#[utoipa::path(
    get, path = "/api/v1/agents/{agent}/attach", operation_id = "agents_attach", tag = "agents",
    summary = "Its terminal",
    security(("bearer" = ["admin"])),
    params(TerminalQuery),
    responses((status = 101, description = "The connection carries the terminal from here on")),
)]
pub(crate) async fn attach_agent(
    State(api): State<Arc<ApiState>>,
    Caller(by): Caller,
    Path(name): Path<String>,
    Query(size): Query<TerminalQuery>,
    request: Request,
) -> Result<Response> {
    attach_terminal(api, by, CellName::Agent(parse_slug(&name)?), size, request).await
}

/// Upgrades the connection to the terminal of a service's cell.
#[utoipa::path(
    get, path = "/api/v1/services/{service}/attach", operation_id = "services_attach", tag = "services",
    summary = "Its terminal",
    security(("bearer" = ["admin"])),
    params(TerminalQuery),
    responses((status = 101, description = "The connection carries the terminal from here on")),
)]
pub(crate) async fn attach_service(
    State(api): State<Arc<ApiState>>,
    Caller(by): Caller,
    Path(name): Path<String>,
    Query(size): Query<TerminalQuery>,
    request: Request,
) -> Result<Response> {
    attach_terminal(
        api,
        by,
        CellName::Service(parse_slug(&name)?),
        size,
        request,
    )
    .await
}

async fn attach_terminal(
    api: Arc<ApiState>,
    by: Principal,
    cell: CellName,
    size: TerminalQuery,
    request: Request,
) -> Result<Response> {
    let wanted = request.headers().get(header::UPGRADE);
    if wanted.is_none_or(|v| v != PROTOCOL) {
        let text = format!("this route requires the header `Upgrade: {PROTOCOL}`");
        return Err(Problem::new(FaultKind::Invalid, text).into());
    }
    let current = api.core.plan.current();
    let known = current.is_some_and(|c| match &cell {
        CellName::Agent(slug) => c.house.agents.contains_key(slug),
        CellName::Service(slug) => c.house.services.contains_key(slug),
        CellName::Run(_) => false,
    });
    if !known {
        let kind = match &cell {
            CellName::Service(_) => "service",
            CellName::Agent(_) | CellName::Run(_) => "agent",
        };
        return Err(not_found(kind, cell.slug().as_str()).into());
    }
    let (backend, name) = (Arc::clone(&api.cells.backend), cell.clone());
    let (rows, columns) = (size.rows.unwrap_or(24), size.columns.unwrap_or(80));
    let shim =
        crate::core::hostd::call_blocking(move || backend.attach(&name, rows, columns)).await?;
    shim.set_nonblocking(true)
        .map_err(Error::file("use", "a connection"))?;
    let mut shim =
        tokio::net::UnixStream::from_std(shim).map_err(Error::file("use", "a connection"))?;
    let note = NewAuditEntry {
        actor: by,
        action: "cell.attach".to_owned(),
        entity: cell.to_string(),
        detail: json!({}),
    };
    api.core.store.append_audit_entry(note).await?;
    let stop = api.core.rt.stop_token();
    drop(api.core.rt.spawn(async move {
        let Ok(viewer) = hyper::upgrade::on(request).await else {
            return;
        };
        let mut viewer = TokioIo::new(viewer);
        tokio::select! {
            _either_gone = tokio::io::copy_bidirectional(&mut viewer, &mut shim) => {}
            () = stop.cancelled() => {}
        }
    }));
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}
