//! Model routes of the agent API, in the formats that model libraries speak.

use crate::api_server::state::ApiState;
use crate::api_server::web::{Doc, Me, header_text};
use crate::core::error::Result;
use abbey_gateway::protocol::openai_chat::OpenAiChat;
use abbey_gateway::{Caller, Gateway, Protocol, Refusal};
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Routes of the agent API that call a model provider through the model gateway.
pub(super) fn routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::new()
        .routes(routes!(chat))
        .routes(routes!(models))
}

#[utoipa::path(
    get, path = "/v1/models", operation_id = "models_list", tag = "models",
    summary = "Models that the agent may use, in OpenAI format",
    responses((status = 200, body = serde_json::Value)),
)]
async fn models(
    State(api): State<Arc<ApiState>>,
    Extension(Me(slug)): Extension<Me>,
) -> Result<Doc<Value>> {
    let current = api.core.plan.require()?;
    let model = current
        .find_agent(&slug)?
        .model
        .as_ref()
        .map(|m| json!({ "id": m.to_string(), "object": "model", "owned_by": m.provider }));
    Ok(Doc(
        json!({ "object": "list", "data": model.into_iter().collect::<Vec<_>>() }),
    ))
}

#[utoipa::path(
    post, path = "/v1/chat/completions", operation_id = "models_chat", tag = "models",
    summary = "OpenAI chat completions, metered and within budget; refusals are in that format",
    request_body = serde_json::Value,
    responses((status = 200, body = serde_json::Value, description = "A completion, or its stream of server-sent events")),
)]
async fn chat(
    State(api): State<Arc<ApiState>>,
    Extension(gateway): Extension<Gateway>,
    Extension(Me(agent)): Extension<Me>,
    request: Request,
) -> Response {
    let run = match header_text(request.headers(), "abbey-run")
        .map(str::parse)
        .transpose()
    {
        Ok(run) => run,
        Err(_) => {
            let text = "`Abbey-Run` is not the id of a run";
            return OpenAiChat.refusal(&Refusal::invalid_request(text));
        }
    };
    let trace = match run {
        Some(run) => {
            crate::work::trace::traceparent_of_run(&*api.core.store, &api.work.traces, run).await
        }
        None => None,
    };
    let caller = Caller { agent, run, trace };
    gateway.serve(&OpenAiChat, &caller, request).await
}
