//! One turn of a model, requested from the model gateway and streamed.
//!
//! Source: OpenAI chat completions, streaming format (read 2026-11).

use super::tool_calls::ToolCalls;
use crate::agent_api::retry_through_restart;
use abbey_api::ReportedUsageView;
use abbey_api::client::AgentClient;
use abbey_model::{EndReason, FaultKind};
use abbey_support::sse::EventDecoder;
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};

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
        // What the house refuses says so; everything else is the provider's answer.
        let is_ours = refusal["error"]["type"] == "abbey";
        let reason = match (status.as_u16(), refusal["error"]["code"].as_str()) {
            (429, Some("budget_exhausted")) => EndReason::BudgetExhausted,
            (429 | 500..=599, _) => EndReason::ProviderError,
            (401..=403 | 408, _) if !is_ours => EndReason::ProviderError,
            _ => EndReason::AgentError,
        };
        let text = format!("the model call was rejected (HTTP status {status}): {text}");
        return Err(CallError::Failed(reason, text));
    }
    let mut reader = TurnReader::new(output_max);
    let mut body = response.into_body();
    let mut decoder = EventDecoder::default();
    while !reader.ended {
        let Some(frame) = body.frame().await else {
            for event in decoder.finish() {
                reader.read(&event.data)?;
            }
            break;
        };
        let Ok(frame) = frame else {
            let why = "the connection ended during the answer of the model".to_owned();
            return Err(CallError::Unheard(why));
        };
        for event in decoder.push(frame.data_ref().map_or(&[], |data| &data[..])) {
            reader.read(&event.data)?;
        }
    }
    reader.finish()
}

/// A turn that is being streamed.
#[derive(Default)]
struct TurnReader {
    turn: Turn,
    calls: ToolCalls,
    /// Most bytes that the turn may have.
    output_max: u64,
    /// Whether the end marker came.
    ended: bool,
}

impl TurnReader {
    fn new(output_max: u64) -> Self {
        TurnReader {
            output_max,
            ..TurnReader::default()
        }
    }

    /// Reads the data of an event.
    fn read(&mut self, data: &str) -> Result<(), CallError> {
        let provider = |text: String| CallError::Failed(EndReason::ProviderError, text);
        let data = data.trim();
        if self.ended || data.is_empty() {
            return Ok(());
        }
        if data == "[DONE]" {
            self.ended = true;
            return Ok(());
        }
        let chunk = parse_chunk(data).ok_or_else(|| {
            provider("the model's stream held an event that is not JSON".to_owned())
        })?;
        let error = &chunk["error"];
        if let Some(message) = error["message"].as_str().or(error.as_str()) {
            // The gateway says which provider failed, and that it was during its answer.
            return Err(provider(message.to_owned()));
        }
        let turn = &mut self.turn;
        turn.usage = parse_usage(&chunk["usage"]).or(turn.usage);
        let delta = &chunk["choices"][0]["delta"];
        turn.text
            .push_str(delta["content"].as_str().unwrap_or_default());
        turn.refusal
            .push_str(delta["refusal"].as_str().unwrap_or_default());
        turn.reasoned |= ["reasoning_content", "reasoning"]
            .iter()
            .any(|key| delta[*key].as_str().is_some_and(|text| !text.is_empty()));
        for piece in delta["tool_calls"].as_array().into_iter().flatten() {
            let added = self.calls.add(piece);
            added.map_err(|why| provider(unclear(&why)))?;
        }
        if let Some(reason) = chunk["choices"][0]["finish_reason"].as_str() {
            turn.finish = Some(reason.to_owned());
        }
        let too_much = |text: String| Err(CallError::Failed(EndReason::OutputLimit, text));
        if self.calls.count() > CALLS_MAX {
            return too_much(format!(
                "the model requested more than {CALLS_MAX} tool calls in one turn, which is the limit; none of them was carried out"
            ));
        }
        let size = turn.text.len() + turn.refusal.len() + self.calls.arguments_len();
        if size as u64 > self.output_max {
            return too_much(format!(
                "the model wrote more than {} bytes",
                self.output_max
            ));
        }
        Ok(())
    }

    fn finish(self) -> Result<Turn, CallError> {
        if !self.ended && self.turn.finish.is_none() {
            let why = "the model's stream ended before its answer was complete";
            return Err(CallError::Unheard(why.to_owned()));
        }
        let calls = self.calls.finish();
        let calls =
            calls.map_err(|why| CallError::Failed(EndReason::ProviderError, unclear(&why)))?;
        Ok(Turn { calls, ..self.turn })
    }
}

fn unclear(why: &str) -> String {
    format!(
        "the model's answer can't be understood, and none of its tool calls was carried out: {why}"
    )
}

/// The JSON of an event; none if it is none. Halves of a character that a provider cut in two become U+FFFD, since text
/// here has whole characters only.
fn parse_chunk(data: &str) -> Option<Value> {
    let whole = serde_json::from_str(data);
    whole
        .or_else(|_| serde_json::from_str(&without_half_characters(data)))
        .ok()
}

/// JSON without escapes of single surrogates (RFC 8259, section 8.2).
fn without_half_characters(json: &str) -> String {
    let unit = |text: &str| {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut clean = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        clean.push_str(&rest[..at]);
        rest = &rest[at..];
        let first = unit(rest);
        let second = rest.get(6..).and_then(unit);
        let (escape, len) = match (first, second) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => (None, 12),
            (Some(0xd800..=0xdfff), _) => (Some("\\ufffd"), 6),
            (Some(_), _) => (None, 6),
            // `\\\\`, or a backslash at the end.
            (None, _) => (None, 2),
        };
        let len = (len..).find(|len| rest.is_char_boundary(*len) || *len >= rest.len());
        let (taken, behind) = rest.split_at(len.unwrap_or(rest.len()).min(rest.len()));
        clean.push_str(escape.unwrap_or(taken));
        rest = behind;
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_in_halves_lose_only_themselves() {
        let text = |json: &str| parse_chunk(json).map(|v| v["t"].as_str().unwrap().to_owned());
        for (json, expected) in [
            (r#"{"t":"a\ud83d\ude00b"}"#, Some("a😀b")),
            (r#"{"t":"a\ud83db"}"#, Some("a\u{fffd}b")),
            (r#"{"t":"\ude00\ud83d"}"#, Some("\u{fffd}\u{fffd}")),
            (r#"{"t":"\\ud83d č\ud83d"}"#, Some("\\ud83d č\u{fffd}")),
            (r#"{"t":"\ud83d\u0041"}"#, Some("\u{fffd}A")),
            (r#"{"t":"\"#, None),
            (r#"{"t":"\ud8"}"#, None),
        ] {
            assert_eq!(text(json).as_deref(), expected, "{json}");
        }
    }
}
