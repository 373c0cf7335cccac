//! The agent API, and the model gateway.
//!
//! An agent acts only as itself: its name comes from its credential, never from a path or a body.

use crate::api_server::state::ApiState;
use crate::api_server::web::{self, Path, Query, idempotency_key, paginate};
use crate::api_server::web::{Doc, Json, Me, header_text, problem_response, refuse_unknown};
use crate::api_server::{model_api, openapi};
use crate::core::error::Result;
use crate::core::plan::PlanInForce;
use crate::insight::{facts, ledger_views, skill_views, task_views};
use crate::work::delegation::DelegationKind;
use crate::work::evidence::EvidenceResult;
use crate::work::lookup::parse_task_ref;
use crate::work::{evidence, operations};
use abbey_api::*;
use abbey_gateway::Gateway;
use abbey_model::{
    EndReason, FaultKind, LeaseToken, Metric, Millis, Permission, Principal, Scope, Slug, TaskRef,
    ToolPolicy,
};
use abbey_store::{
    Claim, EvidenceCheck, Failure, LeaseProof, NewAuditEntry, Outcome, ReportedUsage, RunFacts,
    TaskRow, Topic,
};
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Shared = State<Arc<ApiState>>;

/// Longest wait for work in one request.
const WAIT_MAX: Duration = Duration::from_secs(55);

/// Routes for an agent's own credential.
fn agent_routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::new()
        .routes(routes!(me))
        .routes(routes!(next))
        .routes(routes!(claim))
        .routes(routes!(renew))
        .routes(routes!(complete))
        .routes(routes!(fail))
        .routes(routes!(block))
        .routes(routes!(delegate))
        .routes(routes!(message))
        .routes(routes!(question))
        .routes(routes!(delegated))
        .routes(routes!(call_off))
        .routes(routes!(ask_approval))
        .routes(routes!(use_approval))
        .routes(routes!(skills))
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

static DOCUMENT: LazyLock<OpenApi> = LazyLock::new(agent_openapi);

#[utoipa::path(
    get, path = "/openapi.json", operation_id = "house_openapi", tag = "house",
    summary = "This document; needs no credential",
    security(()),
    responses((status = 200, body = serde_json::Value)),
)]
async fn openapi_json() -> Doc<&'static OpenApi> {
    Doc(&DOCUMENT)
}

/// HTTP router of the agent API, with the model gateway's routes.
pub(crate) fn agent_router(api: Arc<ApiState>, gateway: Gateway) -> Router {
    let guard = |required: Permission| {
        axum::middleware::from_fn_with_state((Arc::clone(&api), required), authenticate)
    };
    let agents = Router::from(agent_routes())
        .method_not_allowed_fallback(web::refuse_method)
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
            request.extensions_mut().insert(Me(slug));
            next.run(request).await
        }
        Ok(other) => problem_response(Problem::new(
            FaultKind::Forbidden,
            format!("{other} is not an agent; this API is for agents"),
        )),
        Err(refusal) => problem_response(refusal.remedy(
            "send the text of the file that ABBEY_TOKEN_FILE names as a bearer credential",
        )),
    }
}

fn policy_of(
    current: &PlanInForce,
    agent: &abbey_plan::Agent,
    task: Option<&TaskRow>,
) -> ToolPolicy {
    let mut policy = match task.and_then(|t| t.policy.as_ref()) {
        Some(narrower) => agent.tools.narrowed(narrower),
        None => agent.tools.clone(),
    };
    // Nobody is shown how to do what there is nothing for.
    if agent.delegates.is_none() {
        policy.tools.remove(&abbey_model::Tool::Delegate);
    }
    if agent.asks.is_none() {
        policy.tools.remove(&abbey_model::Tool::Ask);
    }
    let mut documents = current.house.documents.values();
    if !documents.any(|d| d.read_by(&agent.slug)) {
        policy.tools.remove(&abbey_model::Tool::Document);
    }
    policy
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
    Ok(Doc(SelfDoc {
        version: VERSION,
        agent: slug.to_string(),
        display_name: agent.display_name.clone(),
        role: agent.role.clone(),
        house: current.house.name.to_string(),
        snapshot: api.core.store.audit_head(),
        budget: ledger_views::budget_views(&accounts),
        tasks: tasks
            .iter()
            .map(|t| task_views::task_view(&api.work, t, Vec::new()))
            .collect(),
        model: agent.model.as_ref().map(ToString::to_string),
        charter_hash: abbey_support::digest::sha256_hex(current.charter_of(&slug).as_bytes()),
        policy: serde_json::to_value(&agent.tools).unwrap_or_default(),
        config: current.config_generation_of(&slug),
    }))
}

/// Waits for work. The database is asked only when something changed since the last look.
#[utoipa::path(
    get, path = "/api/v1/self/next", operation_id = "me_next", tag = "me",
    summary = "Waits for work: an offer, or none; with the number of the newest configuration",
    params(NextQuery),
    responses((status = 200, body = Option<OfferDoc>)),
)]
async fn next(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Query(query): Query<NextQuery>,
) -> Result<Response> {
    let until = api.core.rt.now() + Duration::from_millis(query.wait_ms.unwrap_or(0)).min(WAIT_MAX);
    let mut work = api.core.store.subscribe(Topic::Work);
    let mut plans = api.core.plan.subscribe();
    loop {
        let version = *work.borrow_and_update();
        plans.mark_unchanged();
        let config = api.core.plan.require()?.config_generation_of(&slug);
        if let Some(said) = query.config {
            api.work.acknowledge_config(&slug, said);
            // A new one comes before new work.
            if said != config {
                return Ok(nothing(config));
            }
        }
        if !api.has_no_offer_at(&slug, version) {
            let offers = api.core.store.offers(slug.clone(), 1).await?;
            if let Some(task) = offers.first() {
                return Ok(Doc(offer(&api, &slug, task).await?).into_response());
            }
            api.record_no_offer(&slug, version);
        }
        tokio::select! {
            _ = work.changed() => {}
            _ = plans.changed() => {}
            () = api.core.rt.sleep_until(until) => return Ok(nothing(config)),
            () = api.core.rt.stopped() => return Ok(nothing(config)),
        }
    }
}

/// No work; the number of the caller's configuration goes along.
fn nothing(config: u64) -> Response {
    (
        [(axum::http::header::ETAG, format!("\"{config}\""))],
        Doc(Value::Null),
    )
        .into_response()
}

async fn offer(api: &ApiState, slug: &Slug, task: &TaskRow) -> Result<OfferDoc> {
    let current = api.core.plan.require()?;
    let agent = current.find_agent(slug)?;
    let skills = api.work.skills.current();
    let skill = task
        .route
        .skill
        .as_ref()
        .and_then(|name| skills.all.get(name));
    Ok(OfferDoc {
        version: VERSION,
        task: task.id.to_string(),
        number: format!("TASK-{}", task.number),
        text: task.text.clone(),
        revision: task.version,
        snapshot: api.core.store.audit_head(),
        skill: skill.map(|s| skill_views::skill_view(&api.work, s, Some(task.route.score))),
        args: task.route.args.clone(),
        model: agent.model.as_ref().map(ToString::to_string),
        policy: serde_json::to_value(policy_of(&current, agent, Some(task))).unwrap_or_default(),
        trace: api.work.traces.trace_of_task(task),
        failure: task.failure.clone(),
        files: agent.files.clone(),
        charter_hash: abbey_support::digest::sha256_hex(current.charter_of(slug).as_bytes()),
        // Only a task that ran before can have asked for anything.
        approvals: match task.attempts {
            0 => Vec::new(),
            _ => crate::work::approvals::decided_approvals_of_task(&api.work, task.number).await?,
        },
        expects: task
            .link
            .as_ref()
            .map(|l| l.expects.clone())
            .unwrap_or_default(),
        data: task
            .link
            .as_ref()
            .map(|l| l.data.clone())
            .unwrap_or_default(),
    })
}

#[utoipa::path(
    post, path = "/api/v1/self/tasks/{task}/claim", operation_id = "me_claim", tag = "me",
    summary = "Claims an offered task",
    responses((status = 200, body = ClaimDoc)),
)]
async fn claim(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
    Json(body): Json<ClaimBody>,
) -> Result<Doc<ClaimDoc>> {
    let task = parse_task_ref(&name)?;
    let current = api.core.plan.require()?;
    let agent = current.find_agent(&slug)?;
    let model = agent.model.as_ref().map(ToString::to_string);
    let generation = api
        .cells
        .observations
        .snapshot()
        .get(&abbey_model::CellName::Agent(slug.clone()))
        .map(|s| s.history.generation)
        .unwrap_or_default();
    let claim = Claim {
        task,
        agent: slug.clone(),
        generation,
        ttl: api.work.lease_ttl,
        wall: Millis(agent.tools.wall_ms_max),
        runs_max: agent.max_concurrent_runs,
        seen: body.revision,
        configured_model: model.clone(),
        effective_model: model,
        charter_hash: Some(abbey_support::digest::sha256_hex(
            current.charter_of(&slug).as_bytes(),
        )),
    };
    let claimed = api.core.store.claim(claim).await?;
    Ok(Doc(ClaimDoc {
        version: VERSION,
        task: claimed.task.id.to_string(),
        run: claimed.run.to_string(),
        lease: LeaseDoc {
            token: claimed.lease.token.0,
            ttl_ms: claimed.lease.ttl.0,
        },
    }))
}

/// The right that a request claims to have, with the name from the credential.
fn lease_proof(api: &ApiState, slug: Slug, headers: &HeaderMap) -> Result<LeaseProof> {
    let token = header_text(headers, "abbey-lease")
        .and_then(|t| t.parse().ok())
        .ok_or_else(|| {
            Problem::new(
                FaultKind::Invalid,
                "the header `Abbey-Lease` with the lease's token is missing",
            )
        })?;
    Ok(LeaseProof {
        agent: slug,
        token: LeaseToken(token),
        ttl: api.work.lease_ttl,
    })
}

fn facts_of(facts: RunFactsView) -> RunFacts {
    RunFacts {
        prompt_hash: facts.prompt_hash,
        skill_hash: facts.skill_hash,
        session_start: facts.session_start,
        session_end: facts.session_end,
        receipts: facts.receipts,
        flagged: facts.flagged,
        reported_usage: facts.reported_usage.map(|u| ReportedUsage {
            input: u.input,
            output: u.output,
            cached: u.cached,
        }),
    }
}

#[utoipa::path(
    post, path = "/api/v1/self/tasks/{task}/renew", operation_id = "me_renew", tag = "me",
    summary = "Renews the lease",
    params(headers::Lease),
    responses((status = 200, body = LeaseDoc)),
)]
async fn renew(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(body): Json<RenewBody>,
) -> Result<Doc<LeaseDoc>> {
    let hold = lease_proof(&api, slug, &headers)?;
    let lease = api
        .core
        .store
        .renew(parse_task_ref(&name)?, hold, facts_of(body.facts))
        .await?;
    Ok(Doc(LeaseDoc {
        token: lease.token.0,
        ttl_ms: lease.ttl.0,
    }))
}

#[utoipa::path(
    post, path = "/api/v1/self/tasks/{task}/complete", operation_id = "me_complete", tag = "me",
    summary = "Completes the task",
    params(headers::Lease),
    responses((status = 200, body = TaskDoc)),
)]
async fn complete(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(body): Json<CompleteBody>,
) -> Result<Doc<TaskDoc>> {
    let hold = lease_proof(&api, slug, &headers)?;
    let limit = usize::try_from(ToolPolicy::default().output_bytes_max).unwrap_or(usize::MAX);
    if body.text.len() > limit {
        return Err(Problem::new(
            FaultKind::TooLarge,
            format!("a result has at most {limit} bytes"),
        )
        .into());
    }
    let outcome = Outcome {
        text: body.text,
        source: body.source,
        data: body.data,
    };
    let (task, facts) = (parse_task_ref(&name)?, facts_of(body.facts));
    let row = api.core.store.task(task).await?;
    let declared = row.link.as_ref().map_or(&[][..], |l| &l.evidence);
    let mut checked = EvidenceCheck::NotRun;
    if !declared.is_empty() {
        let looked = evidence::verify_while_renewing_lease(
            &api.work,
            task,
            &hold,
            (declared, &outcome.text),
        );
        checked = match looked.await? {
            EvidenceResult::Holds => EvidenceCheck::Holds,
            EvidenceResult::Unknown(why) => {
                tracing::warn!(task = %task, why, "evidence could not be verified");
                EvidenceCheck::Unknown
            }
            EvidenceResult::Missing(text) => {
                let failure = Failure {
                    reason: EndReason::EvidenceFailed,
                    text,
                };
                let row = api.core.store.fail(task, hold, failure, facts).await?;
                return Ok(Doc(task_views::task_doc(&api.work, row).await?));
            }
        };
    }
    let row = api
        .core
        .store
        .complete(task, hold, (outcome, checked), facts);
    let row = row.await?;
    Ok(Doc(TaskDoc {
        version: VERSION,
        task: task_views::task_view(&api.work, &row, Vec::new()),
    }))
}

#[utoipa::path(
    post, path = "/api/v1/self/tasks/{task}/fail", operation_id = "me_fail", tag = "me",
    summary = "Reports that the run failed",
    params(headers::Lease),
    responses((status = 200, body = TaskDoc)),
)]
async fn fail(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(body): Json<FailBody>,
) -> Result<Doc<TaskDoc>> {
    let hold = lease_proof(&api, slug, &headers)?;
    let failure = Failure {
        reason: body.reason,
        text: body.text,
    };
    let row = api
        .core
        .store
        .fail(parse_task_ref(&name)?, hold, failure, facts_of(body.facts))
        .await?;
    Ok(Doc(TaskDoc {
        version: VERSION,
        task: task_views::task_view(&api.work, &row, Vec::new()),
    }))
}

#[utoipa::path(
    post, path = "/api/v1/self/tasks/{task}/block", operation_id = "me_block", tag = "me",
    summary = "Waits for a named person or agent",
    params(headers::Lease),
    responses((status = 200, body = TaskDoc)),
)]
async fn block(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(body): Json<BlockBody>,
) -> Result<Doc<TaskDoc>> {
    let hold = lease_proof(&api, slug, &headers)?;
    if body.on.trim().is_empty() {
        return Err(Problem::new(FaultKind::Invalid, "`on` names who unblocks the task").into());
    }
    let row = api
        .core
        .store
        .block_task(parse_task_ref(&name)?, hold, body.on, body.why)
        .await?;
    Ok(Doc(TaskDoc {
        version: VERSION,
        task: task_views::task_view(&api.work, &row, Vec::new()),
    }))
}

/// Asks a colleague something about the task whose lease the caller shows.
#[utoipa::path(
    post, path = "/api/v1/self/messages", operation_id = "me_ask_agent", tag = "me",
    summary = "Asks another agent a question about the own task",
    params(headers::Lease, headers::IdempotencyKey),
    responses((status = 200, body = TaskDoc)),
)]
async fn message(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    headers: HeaderMap,
    Json(body): Json<DelegateBody>,
) -> Result<Doc<TaskDoc>> {
    delegate_subtask(&api, slug, &headers, &body, DelegationKind::Question).await
}

/// Delegates a subtask of the task whose lease the caller presents.
#[utoipa::path(
    post, path = "/api/v1/self/delegate", operation_id = "me_delegate", tag = "me",
    summary = "Delegates a subtask to another agent",
    params(headers::Lease, headers::IdempotencyKey),
    responses((status = 200, body = TaskDoc)),
)]
async fn delegate(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    headers: HeaderMap,
    Json(body): Json<DelegateBody>,
) -> Result<Doc<TaskDoc>> {
    delegate_subtask(&api, slug, &headers, &body, DelegationKind::Order).await
}

async fn delegate_subtask(
    api: &Arc<ApiState>,
    slug: Slug,
    headers: &HeaderMap,
    body: &DelegateBody,
    way: DelegationKind,
) -> Result<Doc<TaskDoc>> {
    let mine = body.task.as_deref().ok_or_else(|| {
        Problem::new(
            FaultKind::Invalid,
            "`task` is missing: the task that this is a subtask of",
        )
    })?;
    let parent = (
        parse_task_ref(mine)?,
        lease_proof(api, slug.clone(), headers)?.token,
    );
    let who = Principal::Agent(slug);
    let key = idempotency_key(
        headers,
        &who,
        match way {
            DelegationKind::Order => "self/delegate",
            DelegationKind::Question => "self/messages",
        },
    )?;
    let added =
        crate::work::delegation::delegate_task(&api.work, &who, (body, way), Some(parent), key)
            .await?;
    Ok(Doc(task_views::task_doc(&api.work, added.task).await?))
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

/// Work that the caller gave on, and no other.
async fn given(api: &ApiState, slug: &Slug, name: &str) -> Result<TaskRef> {
    let row = api.core.store.task(parse_task_ref(name)?).await?;
    match row.author == Principal::Agent(slug.clone()) {
        true => Ok(TaskRef::Id(row.id)),
        // Whose it is does not concern others, nor that it is there.
        false => Err(Problem::new(
            FaultKind::NotFound,
            format!("there is no task `{name}` of yours"),
        )
        .into()),
    }
}

#[utoipa::path(
    get, path = "/api/v1/self/messages/{task}", operation_id = "me_question", tag = "me",
    summary = "A question that was asked, with its answer; `wait_ms` waits for that",
    params(WaitQuery),
    responses((status = 200, body = TaskDoc)),
)]
async fn question(
    state: Shared,
    me: Extension<Me>,
    name: Path<String>,
    query: Query<WaitQuery>,
) -> Result<Doc<TaskDoc>> {
    delegated(state, me, name, query).await
}

#[utoipa::path(
    get, path = "/api/v1/self/delegated/{task}", operation_id = "me_delegated", tag = "me",
    summary = "A delegated subtask; `wait_ms` waits for its end",
    params(WaitQuery),
    responses((status = 200, body = TaskDoc)),
)]
async fn delegated(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<Doc<TaskDoc>> {
    let task = given(&api, &slug, &name).await?;
    let patience = Duration::from_millis(query.wait_ms.unwrap_or(0)).min(WAIT_MAX);
    let row = crate::work::lookup::wait_until_ended_or_waiting(&api.work, task, patience).await?;
    Ok(Doc(task_views::task_doc(&api.work, row).await?))
}

#[utoipa::path(
    post, path = "/api/v1/self/delegated/{task}/cancel", operation_id = "me_cancel_delegated", tag = "me",
    summary = "Cancels a delegated subtask",
    responses((status = 200, body = TaskDoc)),
)]
async fn call_off(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
) -> Result<Doc<TaskDoc>> {
    let task = given(&api, &slug, &name).await?;
    let row = api
        .core
        .store
        .cancel_task(task, Principal::Agent(slug))
        .await?;
    Ok(Doc(task_views::task_doc(&api.work, row).await?))
}

/// Results are limited to what the caller may use (S4-13).
#[utoipa::path(
    get, path = "/api/v1/self/skills", operation_id = "me_skills", tag = "me",
    summary = "Skills that the agent may use, or those that match a query",
    params(SkillsQuery),
    responses((status = 200, body = SkillsDoc)),
)]
async fn skills(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Query(query): Query<SkillsQuery>,
) -> Result<Doc<SkillsDoc>> {
    let current = api.core.plan.require()?;
    let agent = current.find_agent(&slug)?;
    let allowed = |name: &str| agent.skills.iter().any(|s| s == name);
    let found = skill_views::find_skills(&api.work, query.q.as_deref(), allowed);
    let name = |s: &SkillView| s.name.clone();
    let (skills, cursor) = paginate(found.skills, query.limit, query.cursor.as_deref(), name)?;
    Ok(Doc(SkillsDoc {
        version: VERSION,
        skills,
        cursor,
    }))
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
        return Err(
            Problem::new(FaultKind::Invalid, "a note has a text of 1 to 8192 bytes").into(),
        );
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
