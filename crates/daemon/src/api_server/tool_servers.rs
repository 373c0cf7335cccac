//! Tools of servers in cells of their own: only for agents who use them, only while they work, and each call is
//! entered (S3-19).

use crate::api_server::state::ApiState;
use crate::api_server::web::{Doc, Json, Me};
use crate::api_server::web::{Path, Query, paginate};
use crate::core::error::Result;
use crate::core::plan::PlanInForce;
use abbey_api::{Problem, ToolBody, ToolDoc, ToolView, ToolsDoc, ToolsQuery, VERSION};
use abbey_cells::crash;
use abbey_model::{CellName, FaultKind, Principal, Slug, TaskState};
use abbey_plan::ServiceKind;
use abbey_store::{NewAuditEntry, TaskFilter};
use axum::Extension;
use axum::extract::State;
use axum::http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Shared = State<Arc<ApiState>>;

/// Time for one call.
const WITHIN: Duration = Duration::from_secs(130);
/// Longest answer of a tool server, bytes.
const ANSWER_MAX: usize = 4 << 20;
/// Most tools of one server.
const TOOLS_MAX: usize = 128;

/// Agent routes that list and call the tools of tool servers.
pub(crate) fn routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(call))
}

/// Tool servers that an agent uses.
fn servers(current: &PlanInForce, agent: &Slug) -> Vec<Slug> {
    let used = current.house.agents.get(agent).map(|a| &a.uses);
    let is = |s: &&Slug| {
        let service = current.house.services.get(*s);
        service.is_some_and(|s| s.kind == ServiceKind::Tools)
    };
    used.into_iter().flatten().filter(is).cloned().collect()
}

/// Sends one MCP request to a tool server and returns its result.
async fn request_tool_server(
    api: &ApiState,
    current: &PlanInForce,
    service: &Slug,
    (method, params): (&str, Value),
) -> Result<Value> {
    let gone = |why: String| {
        let text = format!("tool server `{service}`: {why}");
        Problem::new(FaultKind::Unavailable, text)
    };
    let at = abbey_plan::host_endpoint(&current.house, &current.registry, service);
    let at = at.ok_or_else(|| gone("it has no address, so it is probably not running; `abbey service list` shows its state".to_owned()))?;
    let body = json!({ "method": method, "params": params }).to_string();
    let request = Request::post(format!("http://{at}/ask"))
        .header("content-type", "application/json")
        .header("accept", "application/json")
        .body(Full::from(body))
        .map_err(|e| gone(e.to_string()))?;
    let exchange = api.core.http.exchange(request, WITHIN, ANSWER_MAX);
    let answer = exchange.await.map_err(|e| gone(e.to_string()))?;
    let status = answer.status();
    let answer: Value = serde_json::from_slice(answer.body())
        .map_err(|_| gone(format!("its answer with status {status} is not JSON")))?;
    if status == 200 {
        return Ok(answer);
    }
    let said = answer["message"].as_str().unwrap_or("it gave no reason");
    Err(Problem::new(
        FaultKind::Upstream,
        format!("tool server `{service}`: {said}"),
    )
    .into())
}

#[utoipa::path(
    get, path = "/api/v1/self/tools", operation_id = "me_tools", tag = "me",
    summary = "Tools of the tool servers that the agent uses",
    params(ToolsQuery),
    responses((status = 200, body = ToolsDoc)),
)]
async fn list(
    State(api): Shared,
    Extension(Me(me)): Extension<Me>,
    Query(query): Query<ToolsQuery>,
) -> Result<Doc<ToolsDoc>> {
    let current = api.core.plan.require()?;
    let mut tools = Vec::new();
    for service in servers(&current, &me) {
        // One that does not answer keeps nothing from the others.
        let answer = match request_tool_server(&api, &current, &service, ("tools/list", json!({})))
            .await
        {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(%service, error = error.chain(), "a tool server did not say what it has");
                continue;
            }
        };
        let told = answer["tools"].as_array().into_iter().flatten();
        let view = |tool: &Value| {
            let name = tool["name"].as_str()?;
            Some(ToolView {
                service: service.to_string(),
                name: name.to_owned(),
                description: tool["description"]
                    .as_str()
                    .unwrap_or_default()
                    .chars()
                    .take(1024)
                    .collect(),
                args: tool["inputSchema"].clone(),
            })
        };
        tools.extend(told.filter_map(view).take(TOOLS_MAX));
    }
    let name = |t: &ToolView| format!("{}/{}", t.service, t.name);
    let (tools, cursor) = paginate(tools, query.limit, query.cursor.as_deref(), name)?;
    Ok(Doc(ToolsDoc {
        version: VERSION,
        tools,
        cursor,
    }))
}

#[utoipa::path(
    post, path = "/api/v1/self/tools/{service}/{tool}", operation_id = "me_call_tool", tag = "me",
    summary = "Calls a tool within a running task; each call is logged",
    responses((status = 200, body = ToolDoc)),
)]
async fn call(
    State(api): Shared,
    Extension(Me(me)): Extension<Me>,
    Path((service, tool)): Path<(String, String)>,
    Json(body): Json<ToolBody>,
) -> Result<Doc<ToolDoc>> {
    let current = api.core.plan.require()?;
    let used = servers(&current, &me);
    let Some(service) = used.into_iter().find(|s| s.as_str() == service) else {
        let text = format!(
            "agent `{me}` does not use the tool server `{service}`; add it to `uses` in the manifest"
        );
        return Err(Problem::new(FaultKind::Forbidden, text).into());
    };
    let running = TaskFilter {
        states: vec![TaskState::Running],
        assignee: Some(me.clone()),
        limit: 64,
        ..TaskFilter::default()
    };
    let tasks = api.core.store.tasks(running).await?;
    let holds = |t: &&abbey_store::TaskRow| t.phase.lease().is_some_and(|l| l.holder == me);
    let Some(task) = tasks.iter().find(holds) else {
        let text = format!("agent `{me}` has no running task, so it may not call a tool");
        return Err(Problem::new(FaultKind::Forbidden, text).into());
    };
    let entity = CellName::Service(service.clone()).to_string();
    let me = Principal::Agent(me);
    let enter = |action: &str, detail: Value| NewAuditEntry {
        actor: me.clone(),
        action: action.to_owned(),
        entity: entity.clone(),
        detail,
    };
    // Before the call, so that a call is in the audit log even when a crash follows.
    let asked = json!({
        "tool": tool,
        "task": format!("TASK-{}", task.number),
        // What it was called with may be anything; that it was this is what can be proved.
        "args_hash": abbey_support::digest::sha256_hex(body.arguments.to_string().as_bytes()),
    });
    api.core
        .store
        .append_audit_entry(enter("tool.ask", asked.clone()))
        .await?;
    let began = api.core.rt.now();
    let params = json!({ "name": tool, "arguments": body.arguments });
    let answer = request_tool_server(&api, &current, &service, ("tools/call", params)).await;
    crash::point("tool.called");
    let outcome = answer.as_ref().map(|a| a["isError"] != true);
    let mut called = asked;
    called["ok"] = outcome.unwrap_or(false).into();
    called["ms"] = u64::try_from(api.core.rt.now().duration_since(began).as_millis())
        .unwrap_or(u64::MAX)
        .into();
    api.core
        .store
        .append_audit_entry(enter("tool.call", called))
        .await?;
    let answer = answer?;
    let parts = answer["content"].as_array().into_iter().flatten();
    let text: Vec<&str> = parts.filter_map(|p| p["text"].as_str()).collect();
    Ok(Doc(ToolDoc {
        version: VERSION,
        ok: answer["isError"] != true,
        text: text.join("\n"),
    }))
}
