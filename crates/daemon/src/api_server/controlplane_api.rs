//! `/api/controlplane`: the field names and codes that clients of an older control plane read and send, over the same
//! state and the same checks. Beside the operator's and the agents' own credentials it knows one shared secret, where the
//! manifest names one; that is good for nothing else (S4-03, S4-04).

use crate::api_server::access::{self, RouteScopes};
use crate::api_server::state::ApiState;
use crate::api_server::web::{Doc, Json, header_text};
use crate::api_server::web::{Query, idempotency_key};
use crate::core::credentials::bearer_credential;
use crate::core::error::Result;
use crate::work::lookup::find_agent_slug;
use crate::work::{approvals, operations};
use abbey_api::{ApprovalBody, ApprovalsQuery, Problem, Time};
use abbey_model::{
    AccessScope, FaultKind, LeaseToken, Metric, Permission, Principal, Priority, Scope, Slug,
    TaskRef, TaskState,
};
use abbey_store::{ApprovalFilter, DelegationRequest, NewAuditEntry, NewTask, TaskFilter, TaskRow};
use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use subtle::ConstantTimeEq;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Shared = State<Arc<ApiState>>;

/// Longest text of a task, bytes.
const TEXT_MAX: usize = 64 << 10;
/// Largest entry of the log, bytes.
const ENTRY_MAX: usize = 16 << 10;
/// Tasks of one answer.
const TASKS_MAX: u32 = 1000;

/// The authenticated caller of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The operator, or a person or program with a token of the operator API.
    Operator(Principal),
    /// A client with the shared secret. Several clients may have it, so it may read and add, and identifies none of
    /// them.
    Shared,
    /// An agent.
    Agent(Slug),
}

/// Its routes, to be served behind [`authenticate`].
pub(crate) fn routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::new()
        .routes(routes!(state))
        .routes(routes!(tasks, add))
        .routes(routes!(pending))
        .routes(routes!(log))
        .routes(routes!(operations, operate))
}

/// Middleware: admits the credentials that are valid here, which are more than those of the operator API, and tells the
/// handler its [`Caller`].
pub(crate) async fn authenticate(
    State((api, scopes)): State<(Arc<ApiState>, Arc<RouteScopes>)>,
    mut request: Request,
    next: Next,
) -> Response {
    let scope = scopes.required_by(&request);
    match find_caller(&api, request.headers(), scope) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refusal) => access::refusal_response(refusal, scope),
    }
}

/// The caller behind the credential of a request; a token of the operator API must have `scope`.
fn find_caller(
    api: &Arc<ApiState>,
    headers: &HeaderMap,
    scope: AccessScope,
) -> std::result::Result<Caller, Problem> {
    let authorization = header_text(headers, "authorization");
    let refusal = match access::authenticate_header(api, authorization, scope) {
        Ok(principal) => return Ok(Caller::Operator(principal)),
        Err(refusal) => refusal,
    };
    let now = api.core.store.now();
    let agent = api
        .core
        .credentials
        .authenticate(authorization, Permission::Agent, now);
    if let Ok(authenticated) = agent
        && let Principal::Agent(slug) = authenticated.principal
    {
        return Ok(Caller::Agent(slug));
    }
    let current = api.core.plan.current();
    let secret = current.as_ref().and_then(|c| {
        let named = c.house.compatibility.controlplane_secret.as_ref()?;
        Some(api.core.secrets.read_secret(named, &c.base_dir))
    });
    let given = authorization
        .and_then(bearer_credential)
        .unwrap_or_default();
    match secret {
        Some(Ok(secret)) if bool::from(given.as_bytes().ct_eq(secret.expose().as_bytes())) => {
            Ok(Caller::Shared)
        }
        Some(Err(why)) => Err(Problem::new(FaultKind::Unavailable, why)),
        _ => Err(refusal),
    }
}

/// Privileged operations, and which agents a skill of theirs grants each.
#[utoipa::path(
    get, path = "/api/controlplane/hostd", operation_id = "controlplane_operations", tag = "controlplane",
    summary = "Privileged operations, and which agents a skill grants each",
    security(("bearer" = ["read"])),
    responses((status = 200, body = serde_json::Value)),
)]
async fn operations(State(api): Shared) -> Result<Doc<Value>> {
    Ok(Doc(
        json!({ "operations": operations::list_operations(&api.work) }),
    ))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[schema(as = ControlplaneOperate)]
struct Operate {
    operation: String,
    #[serde(default)]
    args: Map<String, Value>,
    #[serde(default)]
    dry_run: bool,
}

/// An agent acts within the task that runs a skill with that grant, with that task's arguments; the operator as such.
/// Whoever holds what many share is nobody, so nothing privileged is done for them.
#[utoipa::path(
    post, path = "/api/controlplane/hostd", operation_id = "controlplane_operate", tag = "controlplane",
    summary = "Performs an operation: for an agent within its task, for the operator as such",
    security(("bearer" = ["admin"])),
    responses((status = 200, body = serde_json::Value)),
)]
async fn operate(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Json(body): Json<Operate>,
) -> Result<Doc<Value>> {
    let done = match caller {
        Caller::Agent(agent) => {
            operations::run_operation_for_agent(&api.work, &agent, &body.operation).await?
        }
        Caller::Operator(by) => {
            let args = Value::Object(body.args);
            operations::run_operation_for_operator(
                &api.work,
                &by,
                &body.operation,
                &args,
                body.dry_run,
            )
            .await?
        }
        Caller::Shared => {
            let text = "the shared secret identifies no client, so no privileged operation is done for it; use a token from `abbey token new`, or an agent's credential";
            return Err(Problem::new(FaultKind::Forbidden, text).into());
        }
    };
    Ok(Doc(done))
}

#[utoipa::path(
    get, path = "/api/controlplane/state", operation_id = "controlplane_state", tag = "controlplane",
    summary = "Agents and budget, in the format of older clients",
    security(("bearer" = ["read"])),
    responses((status = 200, body = serde_json::Value)),
)]
async fn state(State(api): Shared) -> Result<Doc<Value>> {
    let current = api.core.plan.current();
    let agents = current.iter().flat_map(|c| c.house.agents.values());
    let agents: Vec<Value> = agents
        .map(|a| {
            json!({
                "id": a.slug, "name": a.display_name, "role": a.role,
                "heartbeat_enabled": a.wake.is_some(),
            })
        })
        .collect();
    let accounts = api.core.store.budgets().await?;
    let tokens = || accounts.iter().filter(|a| a.metric == Metric::Tokens);
    let whole = tokens().find(|a| a.scope == Scope::House);
    let allocation: Map<String, Value> = tokens()
        .filter_map(|a| match &a.scope {
            Scope::Agent(slug) => Some((slug.to_string(), json!(a.limit))),
            _ => None,
        })
        .collect();
    let left = whole.and_then(abbey_engine::budget::Account::remaining);
    Ok(Doc(json!({
        "agents": agents,
        "budget": {
            "daily_tokens": whole.and_then(|a| a.limit),
            "spent_today": whole.map_or(0, |a| a.spent),
            "remaining": left,
            "hard_limit_exceeded": left == Some(0),
            "allocation": allocation,
        },
    })))
}

/// The words of that API for our states.
const fn status_of(state: TaskState) -> &'static str {
    match state {
        TaskState::Pending | TaskState::Parked | TaskState::Ready => "pending",
        TaskState::Running => "in_progress",
        TaskState::Blocked => "blocked",
        TaskState::AwaitingApproval => "awaiting_approval",
        TaskState::Done | TaskState::Unverified => "completed",
        TaskState::Failed | TaskState::TimedOut => "failed",
        TaskState::Cancelled => "cancelled",
    }
}

fn task(row: &TaskRow) -> Value {
    let priority = match row.priority {
        Priority::P0 => "urgent",
        Priority::P1 => "high",
        Priority::P2 => "medium",
        Priority::P3 => "low",
    };
    let data = row.link.as_ref().map(|l| l.data.clone());
    json!({
        "task_id": format!("TASK-{:03}", row.number),
        "title": row.text.lines().next().unwrap_or_default(),
        "description": row.text,
        "assigned_to": row.assignee,
        "priority": priority,
        "status": status_of(row.state()),
        "created_at": Time(row.created_at),
        "context": data.unwrap_or_default(),
        "result": row.result.as_ref().map(|r| &r.text),
    })
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct RoleQuery {
    role: Option<String>,
    status: Option<String>,
}

#[utoipa::path(
    get, path = "/api/controlplane/tasks", operation_id = "controlplane_tasks", tag = "controlplane",
    summary = "Open tasks of a role",
    security(("bearer" = ["read"])),
    params(RoleQuery),
    responses((status = 200, body = serde_json::Value)),
)]
async fn tasks(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Query(query): Query<RoleQuery>,
) -> Result<Doc<Value>> {
    // An agent sees its own queue, whatever it asks for.
    let own = match (&caller, &query.role) {
        (Caller::Agent(me), _) => Some(me.clone()),
        (_, Some(role)) => Some(by_role(&api, role)?),
        (_, None) => None,
    };
    let filter = TaskFilter {
        assignee: own,
        limit: TASKS_MAX,
        ..TaskFilter::default()
    };
    let rows = api.core.store.tasks(filter).await?;
    let wanted = |r: &&TaskRow| match query.status.as_deref() {
        Some(status) => status_of(r.state()) == status,
        None => !r.state().is_terminal(),
    };
    let tasks: Vec<Value> = rows.iter().filter(wanted).map(task).collect();
    Ok(Doc(json!({ "tasks": tasks })))
}

/// An agent by its name, or by its role where one has it.
fn by_role(api: &ApiState, text: &str) -> Result<Slug> {
    let current = api.core.plan.current();
    let mut agents = current.iter().flat_map(|c| c.house.agents.values());
    match agents.find(|a| a.role == text) {
        Some(agent) => Ok(agent.slug.clone()),
        None => find_agent_slug(&api.work, text),
    }
}

#[derive(Deserialize, utoipa::ToSchema)]
#[schema(as = ControlplaneNewBody)]
struct NewBody {
    title: String,
    #[serde(default)]
    description: String,
    assigned_to: Option<String>,
    #[serde(default)]
    agent_id: Option<Value>,
    #[serde(default)]
    priority: Option<String>,
    #[serde(default)]
    context: Map<String, Value>,
}

#[utoipa::path(
    post, path = "/api/controlplane/tasks", operation_id = "controlplane_add_task", tag = "controlplane",
    summary = "Adds a task; `assigned_to` is required",
    security(("bearer" = ["tasks"])),
    params(abbey_api::headers::IdempotencyKey),
    responses((status = 200, body = serde_json::Value), (status = 201, body = serde_json::Value, description = "Created")),
)]
async fn add(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Json(body): Json<NewBody>,
) -> Result<Response> {
    let invalid = |text: &str| Problem::new(FaultKind::Invalid, text.to_owned());
    let author = match caller {
        Caller::Operator(by) => by,
        // The secret identifies no client.
        Caller::Shared => Principal::House,
        Caller::Agent(me) => {
            let text = format!(
                "{me} can delegate only under the lease of its own task; use POST /api/v1/self/delegate"
            );
            return Err(Problem::new(FaultKind::Forbidden, text).into());
        }
    };
    if body.agent_id.is_some() {
        return Err(invalid("`agent_id` is not supported; use `assigned_to`").into());
    }
    let to = body.assigned_to.as_deref();
    let to = to.ok_or_else(|| invalid("`assigned_to` is missing"))?;
    let assignee = by_role(&api, to)?;
    let text = match body.description.trim() {
        "" => body.title.trim().to_owned(),
        more => format!("{}\n\n{more}", body.title.trim()),
    };
    if body.title.trim().is_empty() || text.len() > TEXT_MAX {
        return Err(invalid(
            "`title` must not be empty, and the task may have at most 65536 bytes",
        )
        .into());
    }
    let key = idempotency_key(&headers, &author, "controlplane/tasks")?;
    let digest = abbey_support::digest::sha256_hex(
        format!("{assignee} {text} {:?}", body.context).as_bytes(),
    );
    let new = NewTask {
        author,
        priority: crate::work::lookup::parse_priority(body.priority.as_deref())?,
        idempotency: key.map(|key| (key, digest)),
        delegated: (!body.context.is_empty()).then(|| DelegationRequest {
            data: body.context,
            ..DelegationRequest::default()
        }),
        ..api.work.house_task(&assignee, text)
    };
    let added = api.core.store.add_task(new).await?;
    let status = if added.new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Doc(task(&added.task))).into_response())
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct AgentQuery {
    agent_id: Option<String>,
}

#[utoipa::path(
    get, path = "/api/controlplane/approvals", operation_id = "controlplane_approvals", tag = "controlplane",
    summary = "Approvals that wait, of an agent",
    security(("bearer" = ["read"])),
    params(AgentQuery),
    responses((status = 200, body = serde_json::Value)),
)]
async fn pending(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Query(query): Query<AgentQuery>,
) -> Result<Doc<Value>> {
    let of = match (&caller, &query.agent_id) {
        (Caller::Agent(me), _) => Some(me.to_string()),
        (_, Some(agent)) => Some(by_role(&api, agent)?.to_string()),
        (_, None) => None,
    };
    let own = ApprovalFilter {
        agent: of.as_deref().and_then(|name| name.parse().ok()),
        ..ApprovalFilter::default()
    };
    let pending = ApprovalsQuery::default();
    let all = approvals::list_approvals(&api.work, own, &pending).await?;
    let all = all.approvals;
    let padded = |id: &str| match id.split_once('-') {
        Some((kind, digits)) => format!("{kind}-{digits:0>3}"),
        None => id.to_owned(),
    };
    let mine = all
        .iter()
        .filter(|a| of.as_ref().is_none_or(|o| *o == a.agent));
    let pending: Vec<Value> = mine
        .map(|a| {
            json!({
                "approval_id": padded(&a.id), "task_id": padded(&a.task), "agent_id": a.agent,
                "operation": a.action, "arguments": a.args, "reason": a.why,
                "created_at": a.created_at, "expires_at": a.expires_at,
            })
        })
        .collect();
    Ok(Doc(json!({ "pending": pending })))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[schema(as = ControlplaneEvent)]
struct Event {
    #[serde(alias = "type")]
    event: String,
    #[serde(default)]
    task_id: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// An entry of the log; or a question for a yes, by whoever holds the task.
#[utoipa::path(
    post, path = "/api/controlplane/activity", operation_id = "controlplane_log", tag = "controlplane",
    summary = "Adds an entry to the audit log, or requests an approval",
    security(("bearer" = ["tasks"])),
    responses((status = 200, body = serde_json::Value), (status = 201, body = serde_json::Value, description = "Created")),
)]
async fn log(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Json(body): Json<Event>,
) -> Result<Response> {
    let text = |key: &str| {
        body.rest
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    if body.event == "approval_request" {
        let lease = header_text(&headers, "abbey-lease").and_then(|t| t.parse().ok());
        let (Caller::Agent(me), Some(lease), Some(name)) = (&caller, lease, &body.task_id) else {
            let text = "a yes is asked for by the agent that holds the task: its own credential, `task_id`, and the token of its lease in the header `Abbey-Lease`";
            return Err(Problem::new(FaultKind::Forbidden, text).into());
        };
        let task: TaskRef = crate::work::lookup::parse_task_ref(name)?;
        let asked = ApprovalBody {
            task: name.clone(),
            action: text("operation"),
            args: body
                .rest
                .get("arguments")
                .cloned()
                .unwrap_or_else(|| json!({})),
            why: text("reason"),
            within_ms: None,
        };
        let asked =
            approvals::request_approval(&api.work, me.clone(), (task, LeaseToken(lease)), asked)
                .await?;
        let doc = json!({ "approval_id": asked.id, "status": asked.state });
        return Ok((StatusCode::CREATED, Doc(doc)).into_response());
    }
    let detail = json!({ "event": body.event, "task": body.task_id, "data": body.rest });
    if body.event.is_empty() || detail.to_string().len() > ENTRY_MAX {
        let text =
            format!("`event` must not be empty, and the entry may have at most {ENTRY_MAX} bytes");
        return Err(Problem::new(FaultKind::Invalid, text).into());
    }
    let (actor, by) = match caller {
        Caller::Agent(me) => (Principal::Agent(me), "agent"),
        Caller::Operator(by) => (by, "operator"),
        Caller::Shared => (Principal::House, "shared secret"),
    };
    let note = NewAuditEntry {
        actor,
        action: "controlplane.activity".to_owned(),
        entity: format!("controlplane:{by}"),
        detail,
    };
    let seq = api.core.store.append_audit_entry(note).await?;
    Ok((StatusCode::CREATED, Doc(json!({ "seq": seq }))).into_response())
}
