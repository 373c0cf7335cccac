//! The operator API: routes of the house itself, tasks, the audit log, budgets, skills, checks.

use crate::api_server::access::{self, Caller, RouteScopes};
use crate::api_server::state::ApiState;
use crate::api_server::web::Query;
use crate::api_server::web::{
    self, Doc, Json, PAGE_MAX, format_etag, header_text, matches_if_none_match, not_modified,
    page_of_skills, paginate, parse_if_match, read_json_body, refuse_unknown,
    stale_to_precondition_failed,
};
use crate::api_server::{
    controlplane_api, hooks, openapi, operator_budgets, operator_cells, operator_tasks,
    operator_work, plans, providers_api, templates_api, tokens_api,
};
use crate::cells::{backup, commands};
use crate::core::error::{Error, Result};
use crate::core::plan::PlanInForce;
use crate::core::{audit_checkpoints, checkpoint_sinks, runtime, signing_key};
use crate::insight::routing_views::explain_routing;
use crate::insight::skill_views::find_skills_in_force;
use crate::insight::{cell_views, doctor, ledger_views, metrics};
use crate::planning::apply;
use crate::work::lookup::find_agent_slug;
use abbey_api::*;
use abbey_store::{NewAuditEntry, Topic};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::from_fn_with_state;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::convert::Infallible;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Shared = State<Arc<ApiState>>;

/// Entries that a slow reader of events may lag before some are skipped.
const LAG_MAX: u64 = 10_000;
/// Routes that need the operator's credential.
fn guarded_routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::new()
        .routes(routes!(metrics_text))
        .routes(routes!(openapi_json))
        .routes(routes!(house_doc))
        .routes(routes!(down))
        .routes(routes!(plan))
        .routes(routes!(generation))
        .routes(routes!(current))
        .merge(operator_cells::routes())
        .routes(routes!(run_command))
        .merge(operator_tasks::routes())
        .routes(routes!(activity))
        .routes(routes!(verify))
        .routes(routes!(checkpoints))
        .routes(routes!(sinks))
        .routes(routes!(rotate_key))
        .routes(routes!(events))
        .merge(operator_budgets::routes())
        .merge(providers_api::routes())
        .routes(routes!(skills))
        .routes(routes!(explain_text))
        .routes(routes!(services))
        .routes(routes!(doctor_doc, doctor_fix))
        .routes(routes!(backup_now))
        .merge(operator_work::routes())
        .merge(templates_api::routes())
        .merge(tokens_api::routes())
}

/// Routes with credentials of their own, or none.
fn other_routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::new()
        .routes(routes!(web::health))
        .routes(routes!(hooks::receive_hook))
        .routes(routes!(hooks::results::show_hook_task))
}

/// OpenAPI document of the operator API.
pub(crate) fn operator_openapi() -> OpenApi {
    let routes = guarded_routes()
        .merge(controlplane_api::routes())
        .merge(other_routes());
    openapi::complete_document(Api::Operator, routes.into_openapi())
}

#[utoipa::path(
    get, path = "/openapi.json", operation_id = "house_openapi", tag = "house",
    summary = "This document",
    responses((status = 200, body = serde_json::Value)),
)]
async fn openapi_json() -> Response {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| openapi::render_document(operator_openapi()));
    openapi::document_response(&TEXT)
}

/// HTTP router of the operator API.
pub(crate) fn operator_router(api: Arc<ApiState>) -> Router {
    let (guarded, described) = guarded_routes().split_for_parts();
    let (compatibility, described_too) = controlplane_api::routes().split_for_parts();
    let scopes = RouteScopes::declared_in([&described, &described_too]);
    let state = (Arc::clone(&api), Arc::new(scopes));
    let compatibility = compatibility
        .method_not_allowed_fallback(web::refuse_method)
        .layer(from_fn_with_state(
            state.clone(),
            controlplane_api::authenticate,
        ));
    let guard = from_fn_with_state(state, access::authenticate);
    let guarded = guarded
        .method_not_allowed_fallback(web::refuse_method)
        .layer(guard);
    Router::from(other_routes())
        .method_not_allowed_fallback(web::refuse_method)
        .merge(guarded)
        .merge(compatibility)
        .fallback(unknown)
        .layer(from_fn_with_state(api.core.rt.clone(), web::outlive_caller))
        .layer(from_fn_with_state(
            api.core.rt.clone(),
            web::require_progress,
        ))
        .with_state(api)
}

async fn unknown(request: Request) -> Response {
    let path = request.uri().path();
    refuse_unknown(Api::Operator, path)
}

#[utoipa::path(
    get, path = "/api/v1/house", operation_id = "house_show", tag = "house",
    summary = "State of the house",
    params(HouseQuery),
    responses((status = 200, body = HouseDoc)),
)]
async fn house_doc(State(api): Shared, Query(query): Query<HouseQuery>) -> Result<Doc<HouseDoc>> {
    let current = api.core.plan.current();
    let state_hash = if query.state_hash == Some(true) {
        let hash = async { Ok::<_, Error>(api.core.store.state_hash().await?) };
        Some(api.state_hash.get(hash).await?)
    } else {
        None
    };
    Ok(Doc(HouseDoc {
        version: VERSION,
        house: current.as_ref().map(|c| c.house.name.to_string()),
        generation: current.as_ref().map_or(0, |c| c.generation),
        software: env!("CARGO_PKG_VERSION").to_owned(),
        state_format: Some(api.core.store.format().await?),
        pid: std::process::id(),
        address: api.net.operator_address.bound_text(),
        state_hash,
        activity: activity_of(&api).await,
        going_down: api.core.shutdown.is_requested(),
    }))
}

/// What the control plane is doing that a command may wait for.
async fn activity_of(api: &Arc<ApiState>) -> Option<String> {
    if !api.core.shutdown.is_requested() {
        return api.core.plan.activity();
    }
    let backend = Arc::clone(&api.cells.backend);
    let cells = runtime::run_blocking(move || backend.list()).await;
    let cells = cells.ok()?.unwrap_or_default();
    let names: Vec<String> = cells.iter().map(ToString::to_string).collect();
    Some(match names.is_empty() {
        true => "ending the control plane".to_owned(),
        false => format!("stopping {}", names.join(", ")),
    })
}

#[utoipa::path(
    post, path = "/api/v1/down", operation_id = "house_down", tag = "house",
    summary = "Stops every cell and then the control plane",
    responses((status = 200, body = DownDoc)),
)]
async fn down(State(api): Shared, Caller(by): Caller) -> Doc<DownDoc> {
    let note = NewAuditEntry {
        actor: by,
        action: "house.down".to_owned(),
        entity: "house".to_owned(),
        detail: json!({}),
    };
    if let Err(error) = api.core.store.append_essential_audit_entry(note).await {
        tracing::warn!(%error, "the shutdown could not be logged to the audit log; it counts as a failure in the uptime");
    }
    api.core.shutdown.request();
    api.cells.request_reconcile();
    Doc(DownDoc {
        version: VERSION,
        going_down: true,
    })
}

#[utoipa::path(
    post, path = "/api/v1/plans", operation_id = "house_plan", tag = "house",
    summary = "Plans a manifest and changes nothing",
    responses((status = 200, body = PlanDoc)),
)]
async fn plan(State(api): Shared, Json(body): Json<ManifestBody>) -> Result<Doc<PlanDoc>> {
    Ok(Doc(apply::plan_without_applying(
        &api.work, body, None, None,
    )
    .await?))
}

#[utoipa::path(
    post, path = "/api/v1/generations", operation_id = "house_apply", tag = "house",
    summary = "Plans a manifest and makes it current",
    params(headers::IfMatch),
    responses((status = 200, body = PlanDoc)),
)]
async fn generation(
    State(api): Shared,
    Caller(by): Caller,
    headers: HeaderMap,
    Json(body): Json<ManifestBody>,
) -> Result<Doc<PlanDoc>> {
    let seen = parse_if_match(&headers)?;
    let applied = plans::apply_manifest(&api, body, seen, by).await;
    Ok(Doc(applied.map_err(stale_to_precondition_failed)?))
}

#[utoipa::path(
    get, path = "/api/v1/generations/current", operation_id = "house_manifest", tag = "house",
    summary = "The current manifest",
    params(headers::IfNoneMatch),
    responses((status = 200, body = ManifestDoc), (status = 304, description = "Unchanged")),
)]
async fn current(State(api): Shared, headers: HeaderMap) -> Result<Response> {
    let doc = PlanInForce::manifest_doc(api.core.plan.current().as_deref())?;
    if matches_if_none_match(&headers, doc.generation) {
        return Ok(not_modified(doc.generation));
    }
    Ok(([("etag", format_etag(doc.generation))], Doc(doc)).into_response())
}

#[utoipa::path(
    get, path = "/api/v1/activity", operation_id = "activity_page", tag = "activity",
    summary = "A page of the audit log, oldest first",
    params(ActivityQuery),
    responses((status = 200, body = ActivityDoc)),
)]
async fn activity(
    State(api): Shared,
    Query(query): Query<ActivityQuery>,
) -> Result<Doc<ActivityDoc>> {
    let limit = query.limit.unwrap_or(200).clamp(1, PAGE_MAX);
    let after = match query.last {
        Some(last) => api.core.store.audit_head().saturating_sub(last),
        None => query.cursor.unwrap_or(0),
    };
    let entries: Vec<EntryView> = api
        .core
        .store
        .audit_entries(after, limit)
        .await?
        .into_iter()
        .map(ledger_views::audit_entry_view)
        .collect();
    let cursor = (entries.len() as u64 == u64::from(limit))
        .then(|| entries.last().map(|e| e.seq.to_string()))
        .flatten();
    Ok(Doc(ActivityDoc {
        version: VERSION,
        entries,
        cursor,
    }))
}

#[utoipa::path(
    get, path = "/api/v1/activity/verify", operation_id = "activity_verify", tag = "activity",
    summary = "Verifies the whole audit log",
    responses((status = 200, body = VerifyDoc)),
)]
async fn verify(State(api): Shared) -> Result<Doc<VerifyDoc>> {
    let verify = async {
        let verified = audit_checkpoints::verify_audit_log(&api.core).await?;
        Ok::<_, Error>(audit_checkpoints::verification_doc(verified))
    };
    Ok(Doc(api.verification.get(verify).await?))
}

#[utoipa::path(
    post, path = "/api/v1/activity/checkpoints", operation_id = "activity_checkpoints", tag = "activity",
    summary = "Signs the newest entry, and returns every signed head",
    security(("bearer" = ["read"])),
    responses((status = 200, body = CheckpointsDoc)),
)]
async fn checkpoints(State(api): Shared) -> Result<Doc<CheckpointsDoc>> {
    Ok(Doc(audit_checkpoints::signed_heads_doc(&api.core).await?))
}

#[utoipa::path(
    get, path = "/api/v1/activity/sinks", operation_id = "activity_sinks", tag = "activity",
    summary = "Checkpoint sinks, and how far each of them is",
    responses((status = 200, body = SinksDoc)),
)]
async fn sinks(State(api): Shared) -> Result<Doc<SinksDoc>> {
    Ok(Doc(SinksDoc {
        version: VERSION,
        sinks: checkpoint_sinks::sink_views(&api.core).await?,
    }))
}

#[utoipa::path(
    post, path = "/api/v1/activity/key", operation_id = "activity_rotate_key", tag = "activity",
    summary = "Signs the audit log with a new key from here on, which the earlier key confirms",
    responses((status = 200, body = RotatedKeyDoc)),
)]
async fn rotate_key(State(api): Shared, Caller(by): Caller) -> Result<Doc<RotatedKeyDoc>> {
    Ok(Doc(signing_key::rotate_signing_key(&api.core, by).await?))
}

/// New entries as they are committed. The id is the sequence number, so a reader resumes where it
/// was; one that lags too far receives a `gap` event and continues at the newest.
#[utoipa::path(
    get, path = "/api/v1/events", operation_id = "activity_follow", tag = "activity",
    summary = "New entries as server-sent events, after the one named",
    params(headers::LastEventId),
    responses((status = 200, body = String, content_type = "text/event-stream")),
)]
async fn events(
    State(api): Shared,
    headers: HeaderMap,
) -> Sse<impl futures_util::Stream<Item = std::result::Result<Event, Infallible>>> {
    let from = header_text(&headers, "last-event-id")
        .and_then(|t| t.parse().ok())
        .unwrap_or_else(|| api.core.store.audit_head());
    let head = api.core.store.subscribe(Topic::Audit);
    let state = (api, head, from, std::collections::VecDeque::<Event>::new());
    let stream =
        futures_util::stream::unfold(state, async |(api, mut head, mut after, mut ready)| {
            loop {
                if let Some(event) = ready.pop_front() {
                    return Some((Ok(event), (api, head, after, ready)));
                }
                head.mark_unchanged();
                let newest = api.core.store.audit_head();
                if newest.saturating_sub(after) > LAG_MAX {
                    let skipped = newest - after - LAG_MAX;
                    after += skipped;
                    ready.push_back(
                        Event::default()
                            .event("gap")
                            .id(after.to_string())
                            .data(format!("{{\"skipped\":{skipped}}}")),
                    );
                    continue;
                }
                let entries = if newest > after {
                    api.core
                        .store
                        .audit_entries(after, 256)
                        .await
                        .unwrap_or_default()
                } else {
                    Vec::new()
                };
                for entry in entries {
                    after = entry.seq;
                    let data = serde_json::to_string(&ledger_views::audit_entry_view(entry))
                        .unwrap_or_default();
                    ready.push_back(
                        Event::default()
                            .event("activity")
                            .id(after.to_string())
                            .data(data),
                    );
                }
                if ready.is_empty() {
                    tokio::select! {
                        changed = head.changed() => if changed.is_err() { return None },
                        () = api.core.rt.stopped() => return None,
                    }
                }
            }
        });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}

#[utoipa::path(
    get, path = "/api/v1/skills", operation_id = "skills_list", tag = "skills",
    summary = "Skills, or those that match a query",
    params(SkillsQuery),
    responses((status = 200, body = SkillsDoc)),
)]
async fn skills(State(api): Shared, Query(query): Query<SkillsQuery>) -> Result<Doc<SkillsDoc>> {
    let found = find_skills_in_force(&api.work, query.q.as_deref());
    page_of_skills(found, &query)
}

#[utoipa::path(
    post, path = "/api/v1/skills/explain", operation_id = "skills_explain", tag = "skills",
    summary = "What would become of a text as a task: which skill or agent gets it, and why; nothing is done and no model is asked",
    security(("bearer" = ["read"])),
    responses((status = 200, body = ExplainDoc)),
)]
async fn explain_text(
    State(api): Shared,
    Json(body): Json<ExplainBody>,
) -> Result<Doc<ExplainDoc>> {
    let assignee = body
        .to
        .as_deref()
        .map(|name| find_agent_slug(&api.work, name))
        .transpose()?;
    Ok(Doc(explain_routing(
        &api.work,
        &body.text,
        assignee.as_ref(),
    )))
}

#[utoipa::path(
    get, path = "/api/v1/services", operation_id = "services_list", tag = "services",
    summary = "Every service",
    params(ServicesQuery),
    responses((status = 200, body = ServicesDoc)),
)]
async fn services(
    State(api): Shared,
    Query(query): Query<ServicesQuery>,
) -> Result<Doc<ServicesDoc>> {
    let all = cell_views::services_doc(&api.work).await?;
    let name = |s: &ServiceView| s.name.clone();
    let (services, cursor) = paginate(all.services, query.limit, query.cursor.as_deref(), name)?;
    Ok(Doc(ServicesDoc {
        version: VERSION,
        services,
        disabled: all.disabled,
        cursor,
    }))
}

#[utoipa::path(
    post, path = "/api/v1/doctor", operation_id = "doctor_fix", tag = "doctor",
    summary = "Fixes what can be fixed without losing anything, and runs every check again",
    responses((status = 200, body = DoctorDoc)),
)]
async fn doctor_fix(State(api): Shared, Caller(by): Caller) -> Result<Doc<DoctorDoc>> {
    Ok(Doc(doctor::fix_and_recheck(&api.work, by).await?))
}

#[utoipa::path(
    get, path = "/api/v1/doctor", operation_id = "doctor_check", tag = "doctor",
    summary = "Runs every check",
    responses((status = 200, body = DoctorDoc)),
)]
async fn doctor_doc(State(api): Shared) -> Result<Doc<DoctorDoc>> {
    Ok(Doc(api.checks.get(doctor::run_checks(&api.work)).await?))
}

#[utoipa::path(
    post, path = "/api/v1/backups", operation_id = "house_back_up", tag = "house",
    summary = "Writes a backup while the house runs",
    responses((status = 200, body = BackupDoc)),
)]
async fn backup_now(
    State(api): Shared,
    Json(body): Json<BackupBody>,
) -> std::result::Result<Doc<BackupDoc>, Error> {
    Ok(Doc(backup::write_backup(&api.cells, body).await?))
}

#[utoipa::path(
    get, path = "/metrics", operation_id = "house_metrics", tag = "house",
    summary = "Metrics in OpenMetrics text",
    security(("bearer" = ["metrics"])),
    responses((status = 200, body = String, content_type = "application/openmetrics-text")),
)]
async fn metrics_text(State(api): Shared) -> Result<Response> {
    let text = metrics::render_metrics(&api.work).await?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([("content-type", kind)], text).into_response())
}

/// Largest request to run a command, bytes, with the files that come along.
const COMMAND_REQUEST_MAX: usize = 96 << 20;

#[utoipa::path(
    post, path = "/api/v1/commands", operation_id = "commands_run", tag = "commands",
    summary = "Runs a command in a fresh cell: JSON Lines of output, then status, usage and files",
    request_body = CommandBody,
    responses((status = 200, body = String, content_type = "application/jsonl")),
)]
async fn run_command(State(api): Shared, Caller(by): Caller, request: Request) -> Response {
    match read_json_body(request.into_body(), COMMAND_REQUEST_MAX).await {
        Ok(body) => commands::run_command(&api.cells, body, by)
            .await
            .into_response(),
        Err(refused) => refused,
    }
}
