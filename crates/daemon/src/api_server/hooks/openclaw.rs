//! `/hooks/agent` and `/hooks/wake`: work and wakes from tools that speak OpenClaw's hooks, by a credential of their own
//! (S3-25, S3-27). What comes is data to the agent, unless the manifest trusts whoever holds the credential.
//!
//! Source: OpenClaw's page on webhooks (read 2026-11): fields, 202 and 200, 401, 400, 413; no credential in a query.

use super::{Arriving, allowed_now, header_text, read_delivery};
use crate::api_server::state::ApiState;
use crate::core::credentials::bearer_credential;
use crate::core::plan::PlanInForce;
use abbey_model::{Millis, Priority, Slug};
use abbey_plan::{Hook, HookAction, HookKind};
use abbey_store::{DelegationRequest, NewTask};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;

/// Largest body, bytes.
const BODY_MAX: usize = 256 << 10;
/// Longest message, bytes: a task's text.
const MESSAGE_MAX: usize = 64 << 10;
/// Longest time that a caller may give for the work.
const TIMEOUT_MAX_S: f64 = 30.0 * 86_400.0;

/// `POST /hooks/agent`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AgentCall {
    message: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    agent_id: Option<String>,
    /// A fraction counts as its whole seconds; 0 and less is no time, as with OpenClaw.
    #[serde(default)]
    timeout_seconds: Option<f64>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// `POST /hooks/wake`.
#[derive(Deserialize)]
struct WakeCall {
    text: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Keys of a call that change nothing here, so that their sender does not rely on them. Work begins at once, which is
/// what `now` asks for.
fn ignored_keys(rest: &Map<String, Value>) -> Vec<&str> {
    let at_once = |key: &str, value: &Value| matches!(key, "wakeMode" | "mode") && value == "now";
    let ignored = rest
        .iter()
        .filter(|(key, value)| !value.is_null() && !at_once(key, value));
    let mut ignored: Vec<&str> = ignored.map(|(key, _)| key.as_str()).collect();
    ignored.sort_unstable();
    ignored
}

/// A refusal in the shape that its clients read.
fn refused(status: StatusCode, why: &str) -> Response {
    let body = json!({ "ok": false, "error": why });
    (status, axum::Json(body)).into_response()
}

/// Serves `/hooks/agent` and `/hooks/wake`: adds a task or wakes an agent, authenticated by the
/// hook's own credential.
pub(super) async fn serve_openclaw_hook(
    api: &Arc<ApiState>,
    name: &str,
    uri: &Uri,
    headers: &HeaderMap,
    body: Arriving,
) -> Response {
    match serve(api, name, uri, headers, body).await {
        Ok(answer) | Err(answer) => answer,
    }
}

async fn serve(
    api: &Arc<ApiState>,
    name: &str,
    uri: &Uri,
    headers: &HeaderMap,
    body: Arriving,
) -> Result<Response, Response> {
    let bad = |why: &str| refused(StatusCode::BAD_REQUEST, why);
    if uri.query().is_some() {
        return Err(bad(
            "send the credential in a header; this route accepts no query parameters",
        ));
    }
    let current = api.core.plan.current();
    let declared = current.as_ref().and_then(|c| {
        let mut hooks = c.house.hooks.iter();
        hooks
            .find(|(_, h)| h.kind == HookKind::Openclaw)
            .map(|h| (h, c))
    });
    let Some(((hook_name, hook), current)) = declared else {
        return Err(refused(
            StatusCode::NOT_FOUND,
            "the manifest declares no hook of kind `openclaw`",
        ));
    };
    let secret = api
        .core
        .secrets
        .read_secret(&hook.secret, &current.base_dir);
    let secret = secret.map_err(|why| refused(StatusCode::SERVICE_UNAVAILABLE, &why))?;
    let bearer = header_text(headers, "authorization").and_then(bearer_credential);
    let given = bearer
        .or(header_text(headers, "x-openclaw-token"))
        .unwrap_or_default();
    if !bool::from(given.as_bytes().ct_eq(secret.expose().as_bytes())) {
        tracing::warn!(
            hook = hook_name.as_str(),
            "a call with a wrong credential was refused"
        );
        return Err(refused(
            StatusCode::UNAUTHORIZED,
            "the credential is not valid for this hook",
        ));
    }
    if !allowed_now(api, hook_name) {
        return Err(refused(
            StatusCode::TOO_MANY_REQUESTS,
            "too many requests; try again in a minute",
        ));
    }
    let body = read_delivery(api, body, BODY_MAX).await;
    let body = body.map_err(|refusal| match refusal.status() {
        StatusCode::PAYLOAD_TOO_LARGE => refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the request body may have at most 256 KiB",
        ),
        other => refused(other, "the request body did not arrive in time; try again"),
    })?;
    let key =
        header_text(headers, "idempotency-key").map(|k| format!("hook {hook_name} {name} {k}"));
    match name {
        "wake" => {
            let call: WakeCall = serde_json::from_slice(&body).map_err(|e| bad(&e.to_string()))?;
            let data = json!({ "text": call.text });
            let agent = target(hook, None, current).map_err(|why| bad(&why))?;
            let why = "A hook woke you; check whether its text requires an action";
            let text = said(hook, why, &call.text).map_err(|why| bad(&why))?;
            let number = give(api, agent, text, (hook_name, hook, data), None, key).await?;
            let ignored = ignored_keys(&call.rest);
            let body = json!({ "ok": true, "task": number, "ignored": ignored });
            Ok((StatusCode::OK, axum::Json(body)).into_response())
        }
        _ => {
            let call: AgentCall = serde_json::from_slice(&body).map_err(|e| bad(&e.to_string()))?;
            let timeout = call.timeout_seconds.filter(|s| *s >= 1.0);
            if timeout.is_some_and(|s| s > TIMEOUT_MAX_S) {
                return Err(bad("`timeoutSeconds` is at most 2592000"));
            }
            let named = call.agent_id.as_deref().filter(|name| !name.is_empty());
            let agent = target(hook, named, current).map_err(|why| bad(&why))?;
            let data = json!({ "message": call.message, "name": call.name });
            let why = "A hook gives you work; handle each request according to your charter";
            let text = said(hook, why, &call.message).map_err(|why| bad(&why))?;
            let within = timeout.and_then(|s| Duration::try_from_secs_f64(s.floor()).ok());
            let within = within.and_then(|d| i64::try_from(d.as_millis()).ok().map(Millis));
            let number = give(api, agent, text, (hook_name, hook, data), within, key).await?;
            let mut ignored = ignored_keys(&call.rest);
            if call.timeout_seconds.is_some() && within.is_none() {
                ignored.push("timeoutSeconds");
                ignored.sort_unstable();
            }
            let body = json!({ "ok": true, "runId": number, "ignored": ignored });
            Ok((StatusCode::ACCEPTED, axum::Json(body)).into_response())
        }
    }
}

/// Whose work it is: who was named, if the hook may name them.
fn target<'a>(
    hook: &'a Hook,
    named: Option<&str>,
    current: &'a PlanInForce,
) -> Result<&'a Slug, String> {
    let HookAction::Task(usual) = &hook.action else {
        return Err("this hook names no agent".to_owned());
    };
    match named {
        None => Ok(usual),
        Some(name) => {
            let more = current.house.agents.keys();
            let mut all = std::iter::once(usual).chain(more.filter(|a| hook.agents.includes(a)));
            let found = all.find(|a| a.as_str() == name);
            found.ok_or_else(|| format!("this hook gives no work to `{name}`"))
        }
    }
}

/// The text of the task: a fixed one, or the message where its sender is trusted.
fn said(hook: &Hook, fixed: &str, message: &str) -> Result<String, String> {
    let message = message.trim();
    match (
        message.is_empty() || message.len() > MESSAGE_MAX,
        hook.trusted,
    ) {
        (true, _) => Err(format!("a message has 1 to {MESSAGE_MAX} bytes")),
        (false, true) => Ok(message.to_owned()),
        (false, false) => Ok(fixed.to_owned()),
    }
}

async fn give(
    api: &Arc<ApiState>,
    agent: &Slug,
    text: String,
    (name, hook, data): (&Slug, &Hook, Value),
    within: Option<Millis>,
    key: Option<String>,
) -> Result<String, Response> {
    let digest = abbey_support::digest::sha256_hex(format!("{agent} {text} {data}").as_bytes());
    let data = match (hook.trusted, data) {
        (false, Value::Object(data)) => data,
        _ => Map::new(),
    };
    let new = NewTask {
        priority: Priority::P1,
        idempotency: key.map(|key| (key, digest)),
        delegated: Some(DelegationRequest {
            within,
            data,
            hook: Some(name.clone()),
            ..DelegationRequest::default()
        }),
        ..api.work.house_task(agent, text)
    };
    let added = api.core.store.add_task(new).await.map_err(|error| {
        let status = match error.kind() {
            abbey_model::FaultKind::Conflict => StatusCode::CONFLICT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        refused(status, &error.to_string())
    })?;
    Ok(format!("TASK-{}", added.task.number))
}
