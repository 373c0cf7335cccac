//! The agent API, and the model gateway.
//!
//! An agent acts only as itself: its name comes from its credential, never from a path or a body.

use crate::api_server::agent_leases::lease_proof;
use crate::api_server::state::ApiState;
use crate::api_server::web::{self, Path, Query};
use crate::api_server::web::{Doc, Json, Me, header_text, problem_response, refuse_unknown};
use crate::api_server::{agent_leases, agent_skills, agent_subtasks, model_api, openapi};
use crate::core::error::Result;
use crate::insight::{facts, ledger_views, self_views, task_views};
use crate::work::lookup::parse_task_ref;
use crate::work::operations;
use abbey_api::*;
use abbey_gateway::Gateway;
use abbey_model::{FaultKind, Metric, Permission, Principal, Scope};
use abbey_store::{ApprovalFilter, NewAuditEntry};
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::{Extension, Router};
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Shared = State<Arc<ApiState>>;

/// Routes for an agent's own credential.
fn agent_routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::new()
        .routes(routes!(me))
        .merge(agent_leases::routes())
        .merge(agent_subtasks::routes())
        .routes(routes!(own_approvals, ask_approval))
        .routes(routes!(use_approval))
        .merge(agent_skills::routes())
        .routes(routes!(fact))
        .routes(routes!(operate))
        .merge(crate::api_server::documents_api::agent_routes())
        .merge(crate::api_server::tool_servers::routes())
        .routes(routes!(charter))
        .routes(routes!(note))
}

/// Routes without a credential: nothing that they answer with depends on the house's state.
fn open_routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::new()
        .routes(routes!(web::health))
        .routes(routes!(openapi_json))
}

/// OpenAPI document of the agent API.
pub(crate) fn agent_openapi() -> OpenApi {
    let routes = agent_routes()
        .merge(model_api::routes())
        .merge(open_routes());
    openapi::complete_document(Api::Agent, routes.into_openapi())
}

#[utoipa::path(
    get, path = "/openapi.json", operation_id = "house_openapi", tag = "house",
    summary = "This document; needs no credential",
    security(()),
    responses((status = 200, body = serde_json::Value)),
)]
async fn openapi_json() -> Response {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| openapi::render_document(agent_openapi()));
    openapi::document_response(&TEXT)
}

/// HTTP router of the agent API, with the model gateway's routes.
pub(crate) fn agent_router(api: Arc<ApiState>, gateway: Gateway) -> Router {
    let guard = |required: Permission| {
        axum::middleware::from_fn_with_state((Arc::clone(&api), required), authenticate)
    };
    let agents = Router::from(agent_routes())
        .method_not_allowed_fallback(web::refuse_method)
        .layer(axum::middleware::from_fn_with_state(
            api.core.rt.clone(),
            web::outlive_caller,
        ))
        .layer(guard(Permission::Agent));
    let models = Router::from(model_api::routes())
        .method_not_allowed_fallback(web::refuse_method)
        .layer(Extension(gateway))
        .layer(guard(Permission::Model));
    let unknown = async |request: Request| refuse_unknown(Api::Agent, request.uri().path());
    Router::from(open_routes())
        .method_not_allowed_fallback(web::refuse_method)
        .merge(agents)
        .merge(models)
        .fallback(unknown)
        .layer(axum::middleware::from_fn_with_state(
            api.core.rt.clone(),
            web::require_progress,
        ))
        .with_state(api)
}

async fn authenticate(
    State((api, required)): State<(Arc<ApiState>, Permission)>,
    mut request: Request,
    next: axum::middleware::Next,
) -> Response {
    let authorization = header_text(request.headers(), "authorization");
    let now = api.core.store.now();
    let authenticated = api
        .core
        .credentials
        .authenticate(authorization, required, now);
    match authenticated.map(|a| a.principal) {
        Ok(Principal::Agent(slug)) => {
            // The gateway has limits of its own: budgets.
            if required == Permission::Agent {
                let facts = (request.method(), request.uri().path(), request.headers());
                if let Err(refused) = api.quotas.count(&slug, facts, api.core.rt.now()) {
                    // The sender reads the answer only once its body is sent.
                    let _discarded = web::read_body(request.into_body(), web::BODY_MAX).await;
                    return refused;
                }
            }
            request.extensions_mut().insert(Me(slug));
            next.run(request).await
        }
        Ok(other) => problem_response(Problem::new(
            FaultKind::Forbidden,
            format!("the credential belongs to {other}; this API accepts only credentials of agents"),
        )),
        Err(refusal) => problem_response(refusal.remedy(
            "send `Authorization: Bearer TOKEN` with the text of the file that the environment variable ABBEY_TOKEN_FILE names",
        )),
    }
}

#[utoipa::path(
    get, path = "/api/v1/self", operation_id = "me_show", tag = "me",
    summary = "The agent, its budget, its tasks, and a snapshot number",
    responses((status = 200, body = SelfDoc)),
)]
async fn me(State(api): Shared, Extension(Me(slug)): Extension<Me>) -> Result<Doc<SelfDoc>> {
    let current = api.core.plan.require()?;
    let agent = current.find_agent(&slug)?;
    let accounts = api.core.store.budgets().await?;
    let mine = |a: &&abbey_engine::budget::Account| {
        matches!(&a.scope, Scope::House) || a.scope == Scope::Agent(slug.clone())
    };
    let accounts: Vec<_> = accounts
        .iter()
        .filter(mine)
        .filter(|a| a.metric == Metric::Tokens || a.limit.is_some())
        .cloned()
        .collect();
    let tasks = api.core.store.offers(slug.clone(), 20).await?;
    let (colleagues, colleagues_left_out) = self_views::colleagues_of(&current, agent);
    let (now, zone) = (api.core.store.now(), &current.house.budget.timezone);
    Ok(Doc(SelfDoc {
        version: VERSION,
        agent: slug.to_string(),
        display_name: agent.display_name.clone(),
        role: agent.role.clone(),
        house: current.house.name.to_string(),
        snapshot: api.core.store.audit_head(),
        budget: accounts
            .iter()
            .map(|a| ledger_views::budget_view(a, None, None))
            .collect(),
        tasks: tasks
            .iter()
            .map(|t| task_views::task_view(&api.work, t, Vec::new()))
            .collect(),
        model: agent.model.as_ref().map(ToString::to_string),
        charter_hash: abbey_support::digest::sha256_hex(current.charter_of(&slug).as_bytes()),
        policy: serde_json::to_value(&agent.tools).unwrap_or_default(),
        config: current.config_generation_of(&slug),
        reports_to: agent.reports_to.as_ref().map(ToString::to_string),
        colleagues,
        colleagues_left_out,
        now: Some(now.into()),
        timezone: zone.clone(),
        local_time: self_views::local_time(now, zone),
    }))
}

#[utoipa::path(
    get, path = "/api/v1/self/approvals", operation_id = "me_approvals", tag = "me",
    summary = "Approvals that the agent requested, newest first: those that wait for a decision, or all",
    params(ApprovalsQuery),
    responses((status = 200, body = ApprovalsDoc)),
)]
async fn own_approvals(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Query(query): Query<ApprovalsQuery>,
) -> Result<Doc<ApprovalsDoc>> {
    let own = ApprovalFilter {
        agent: Some(slug),
        ..ApprovalFilter::default()
    };
    let page = crate::work::approvals::list_approvals(&api.work, own, &query);
    Ok(Doc(page.await?))
}

#[utoipa::path(
    post, path = "/api/v1/self/approvals", operation_id = "me_request_approval", tag = "me",
    summary = "Requests an approval; the run ends and the task waits",
    params(headers::Lease),
    responses((status = 200, body = ApprovalView)),
)]
async fn ask_approval(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    headers: HeaderMap,
    Json(body): Json<ApprovalBody>,
) -> Result<Doc<ApprovalView>> {
    let right = (
        parse_task_ref(&body.task)?,
        lease_proof(&api, slug.clone(), &headers)?.token,
    );
    Ok(Doc(crate::work::approvals::request_approval(
        &api.work, slug, right, body,
    )
    .await?))
}

#[utoipa::path(
    post, path = "/api/v1/self/approvals/{approval}/use", operation_id = "me_use_approval", tag = "me",
    summary = "Uses an approval, for exactly what it was given for",
    params(headers::Lease),
    responses((status = 200, body = ApprovalView)),
)]
async fn use_approval(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(body): Json<UseBody>,
) -> Result<Doc<ApprovalView>> {
    let token = lease_proof(&api, slug.clone(), &headers)?.token;
    let number = crate::work::approvals::parse_approval_number(&name)?;
    let used = crate::work::approvals::use_approval(&api.work, slug, token, number, body);
    Ok(Doc(used.await?))
}

/// A fact is read only while a task of the caller runs a skill that was granted it.
#[utoipa::path(
    post, path = "/api/v1/self/facts/{fact}", operation_id = "me_fact", tag = "me",
    summary = "A host fact that the skill of the running task was granted",
    responses((status = 200, body = serde_json::Value)),
)]
async fn fact(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
    Json(args): Json<Value>,
) -> Result<Doc<Value>> {
    let granted = operations::find_granted_task(&api.work, &slug, &format!("fact:{name}")).await?;
    if granted.is_none() {
        let text =
            format!("no running task of `{slug}` uses a skill that may read the fact `{name}`");
        return Err(Problem::new(FaultKind::Forbidden, text).into());
    }
    Ok(Doc(facts::read_fact(&api.work, &slug, &name, &args).await?))
}

/// The house does something for the caller, whose running task has a skill that may.
#[utoipa::path(
    post, path = "/api/v1/self/operations/{operation}", operation_id = "me_operate", tag = "me",
    summary = "Has the house perform an operation that the skill of the running task was granted; the answer may be a request for an approval",
    responses((status = 200, body = serde_json::Value)),
)]
async fn operate(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
) -> Result<Doc<Value>> {
    Ok(Doc(operations::run_operation_for_agent(
        &api.work, &slug, &name,
    )
    .await?))
}

#[utoipa::path(
    get, path = "/api/v1/self/charter", operation_id = "me_charter", tag = "me",
    summary = "The agent's charter",
    responses((status = 200, body = CharterDoc)),
)]
async fn charter(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
) -> Result<Doc<CharterDoc>> {
    let current = api.core.plan.require()?;
    let text = current.charter_of(&slug);
    let language = current.find_agent(&slug)?.locale.assistant.clone();
    Ok(Doc(CharterDoc {
        version: VERSION,
        hash: abbey_support::digest::sha256_hex(text.as_bytes()),
        charter: text.to_owned(),
        language,
    }))
}

#[utoipa::path(
    post, path = "/api/v1/self/activity", operation_id = "me_note", tag = "me",
    summary = "Writes a note to the audit log",
    responses((status = 200, body = LoggedDoc)),
)]
async fn note(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Json(body): Json<NoteBody>,
) -> Result<Doc<LoggedDoc>> {
    if body.text.trim().is_empty() || body.text.len() > 8192 {
        return Err(Problem::new(
            FaultKind::Invalid,
            "the text of a note must have 1 to 8192 bytes",
        )
        .into());
    }
    let entity = format!("agent:{slug}");
    let note = NewAuditEntry {
        actor: Principal::Agent(slug),
        action: "agent.note".to_owned(),
        entity,
        detail: json!({ "text": body.text }),
    };
    let seq = api.core.store.append_audit_entry(note).await?;
    Ok(Doc(LoggedDoc {
        version: VERSION,
        seq,
    }))
}
