//! One turn of a model, requested from the model gateway and streamed.
//!
//! Source: OpenAI chat completions, streaming format (read 2026-11).

use crate::agent_api::retry_through_restart;
use abbey_api::ReportedUsageView;
use abbey_api::client::AgentClient;
use abbey_model::{EndReason, FaultKind};
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use http_body_util::{BodyExt, BodyStream, Limited};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Most tool calls of one turn.
const CALLS_MAX: usize = 64;
/// Largest error body that is read, in bytes.
const ERROR_MAX: usize = 64 << 10;

/// A model's answer: text, tool calls, or both.
#[derive(Debug, Default, Clone)]
pub(super) struct Turn {
    pub(super) text: String,
    pub(super) calls: Vec<ToolCall>,
    /// Tokens that the provider reported with the turn; none when it reported nothing.
    pub(super) usage: Option<ReportedUsageView>,
    /// Why the turn ended, in the provider's words; none when it gave no reason.
    pub(super) finish: Option<String>,
    /// Text with which the model refused; empty when it did not.
    pub(super) refusal: String,
    /// Whether there was reasoning beside the answer.
    pub(super) reasoned: bool,
}

/// A tool call that a model requests. Its arguments are untrusted input.
#[derive(Debug, Default, Clone)]
pub(super) struct ToolCall {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) arguments: String,
}

impl Turn {
    /// Size of the turn's text and tool arguments, bytes.
    pub(super) fn len(&self) -> u64 {
        let arguments = self.calls.iter().map(|c| c.arguments.len()).sum::<usize>();
        (self.text.len() + arguments) as u64
    }

    /// The turn as an assistant message of the conversation.
    pub(super) fn message(&self) -> Value {
        let calls: Vec<Value> = self
            .calls
            .iter()
            .map(|c| json!({ "id": c.id, "type": "function", "function": { "name": c.name, "arguments": c.arguments } }))
            .collect();
        let mut message = json!({ "role": "assistant", "content": self.text });
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        message
    }
}

/// Reads the usage object of a chunk; `None` when it is absent.
fn parse_usage(usage: &Value) -> Option<ReportedUsageView> {
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    usage.is_object().then(|| ReportedUsageView {
        input: count(&usage["prompt_tokens"]),
        output: count(&usage["completion_tokens"]),
        cached: count(&usage["prompt_tokens_details"]["cached_tokens"]),
    })
}

/// A request for the next turn of a conversation.
pub(super) struct Request<'a> {
    /// Run that the call is charged to.
    pub(super) run: &'a str,
    /// Model, as the agent's configuration names it.
    pub(super) model: &'a str,
    /// The conversation so far.
    pub(super) messages: &'a [Value],
    /// Definitions of the tools that may be called.
    pub(super) tools: &'a [Value],
    /// Most bytes that the turn may have.
    pub(super) output_max: u64,
}

/// Why a call brought no turn.
enum CallError {
    /// Reason and text with which the run ends.
    Failed(EndReason, String),
    /// The connection to the gateway broke off, or there was none.
    Unheard(String),
}

/// Most ends of a control plane that one turn outlives.
const RESTARTS_MAX: u32 = 5;

/// Requests the next turn of the model from the model gateway, again after a control plane that ended in the middle: that is no
/// fault of the task, and the run goes on with the next one.
///
/// # Errors
/// Reason and text with which the run ends.
pub(super) async fn request_turn(
    client: &AgentClient,
    request: &Request<'_>,
) -> Result<Turn, (EndReason, String)> {
    let mut restarts = 0;
    loop {
        let why = match call(client, request).await {
            Ok(turn) => return Ok(turn),
            Err(CallError::Failed(reason, text)) => return Err((reason, text)),
            Err(CallError::Unheard(why)) => why,
        };
        restarts += 1;
        // A provider can break off, too, and then the control plane is there.
        let gone = client
            .me()
            .show()
            .await
            .is_err_and(|e| e.kind() == FaultKind::Unavailable);
        let back = gone
            && restarts <= RESTARTS_MAX
            && retry_through_restart(|| client.me().show()).await.is_ok();
        if !back {
            return Err((EndReason::ProviderError, why));
        }
    }
}

/// Makes one call, and reads its stream.
async fn call(client: &AgentClient, request: &Request<'_>) -> Result<Turn, CallError> {
    let output_max = request.output_max;
    let provider = |text: String| CallError::Failed(EndReason::ProviderError, text);
    let mut body = json!({
        "model": request.model, "messages": request.messages, "stream": true, "stream_options": { "include_usage": true },
    });
    if !request.tools.is_empty() {
        body["tools"] = request.tools.into();
    }
    let response = client
        .chat(request.run, &body)
        .await
        .map_err(|e| CallError::Unheard(e.to_string()))?;
    let status = response.status();
    if !status.is_success() {
        let bytes = Limited::new(response.into_body(), ERROR_MAX)
            .collect()
            .await
            .map_or_else(|_| Default::default(), |b| b.to_bytes());
        let refusal: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let text = refusal["error"]["message"]
            .as_str()
            .or(refusal["detail"].as_str())
            .unwrap_or("no reason given")
            .to_owned();
        let reason = match (status.as_u16(), refusal["error"]["code"].as_str()) {
            (429, Some("budget_exhausted")) => EndReason::BudgetExhausted,
            (429 | 500..=599, _) => EndReason::ProviderError,
            _ => EndReason::AgentError,
        };
        let text = format!("the model call was rejected (HTTP status {status}): {text}");
        return Err(CallError::Failed(reason, text));
    }
    let bytes = BodyStream::new(response.into_body()).filter_map(async |frame| match frame {
        Ok(frame) => frame.into_data().ok().map(Ok),
        Err(error) => Some(Err(error)),
    });
    let mut events = Box::pin(bytes.eventsource());
    let mut turn = Turn::default();
    let mut calls: BTreeMap<u64, ToolCall> = BTreeMap::new();
    let mut finished = false;
    while let Some(event) = events.next().await {
        let event = event.map_err(|e| {
            CallError::Unheard(format!("the response stream of the model ended early: {e}"))
        })?;
        if event.data == "[DONE]" {
            finished = true;
            break;
        }
        let chunk: Value = serde_json::from_str(&event.data).map_err(|_| {
            provider("the model's stream held an event that is not JSON".to_owned())
        })?;
        if let Some(message) = chunk["error"]["message"].as_str() {
            return Err(provider(format!(
                "the provider failed during its stream: {message}"
            )));
        }
        turn.usage = parse_usage(&chunk["usage"]).or(turn.usage);
        let delta = &chunk["choices"][0]["delta"];
        turn.text
            .push_str(delta["content"].as_str().unwrap_or_default());
        turn.refusal
            .push_str(delta["refusal"].as_str().unwrap_or_default());
        turn.reasoned |= ["reasoning_content", "reasoning"]
            .iter()
            .any(|key| delta[*key].as_str().is_some_and(|text| !text.is_empty()));
        for part in delta["tool_calls"].as_array().into_iter().flatten() {
            let call = calls
                .entry(part["index"].as_u64().unwrap_or(0))
                .or_default();
            let mut add = |to: fn(&mut ToolCall) -> &mut String, text: &Value| {
                to(call).push_str(text.as_str().unwrap_or_default())
            };
            add(|c| &mut c.id, &part["id"]);
            add(|c| &mut c.name, &part["function"]["name"]);
            add(|c| &mut c.arguments, &part["function"]["arguments"]);
        }
        if calls.len() > CALLS_MAX {
            return Err(CallError::Failed(
                EndReason::OutputLimit,
                format!(
                    "the model requested more than {CALLS_MAX} tool calls in one turn, which is the limit; none of them was carried out"
                ),
            ));
        }
        let size = turn.text.len()
            + turn.refusal.len()
            + calls.values().map(|c| c.arguments.len()).sum::<usize>();
        if size as u64 > output_max {
            return Err(CallError::Failed(
                EndReason::OutputLimit,
                format!("the model wrote more than {output_max} bytes"),
            ));
        }
        if let Some(reason) = chunk["choices"][0]["finish_reason"].as_str() {
            turn.finish = Some(reason.to_owned());
            finished = true;
        }
    }
    if !finished {
        let why = "the model's stream ended before its answer was complete";
        return Err(CallError::Unheard(why.to_owned()));
    }
    turn.calls = calls.into_values().collect();
    Ok(turn)
}
