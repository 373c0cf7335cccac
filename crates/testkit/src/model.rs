//! The scripted model: OpenAI chat completions with real framing and made-up thoughts.
//!
//! Without a script it answers every question by saying that it is scripted, and counts tokens by
//! words. A script is a JSON list of turns, taken one a call; each may hold `text`, `tool_calls`
//! (`name`, `arguments`), `no_usage: true` for a provider that reports none, `cut: true` for a stream
//! that breaks off, `finish` for a finish reason, `refusal`, `reasoning`, `status` for an error with `retry_after` as its
//! header, and `delay_ms`. A turn with `raw` is answered with these bytes as they are, of the type `content_type`, which is
//! that of a stream unless it is given.
//!
//! A turn with `when` is only for calls whose system prompt its pattern matches; others skip it. `capture` gives names to
//! what a call says: `{NAME: [ROLE, PATTERN]}` takes the first group of the pattern in the newest message of that role that
//! matches, and `{{NAME}}` in texts and arguments becomes it. So a script can act on what only the prompt says.
//!
//! Source: OpenAI chat completions, streaming format (read 2026-11).

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug, Clone, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Turn {
    text: String,
    tool_calls: Vec<ToolCall>,
    no_usage: bool,
    cut: bool,
    finish: Option<String>,
    refusal: String,
    reasoning: String,
    status: Option<u16>,
    retry_after: Option<String>,
    raw: Option<String>,
    content_type: Option<String>,
    delay_ms: u64,
    model: Option<String>,
    when: Option<Pattern>,
    capture: BTreeMap<String, (String, Pattern)>,
}

/// A regular expression in a script.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct Pattern(Regex);

impl TryFrom<String> for Pattern {
    type Error = regex::Error;
    fn try_from(text: String) -> Result<Pattern, regex::Error> {
        Regex::new(&text).map(Pattern)
    }
}

/// Texts of a call's messages of one role, the newest first.
fn texts<'c>(call: &'c Value, role: &'c str) -> impl Iterator<Item = &'c str> {
    let all = call["messages"].as_array().into_iter().flatten().rev();
    all.filter(move |m| m["role"] == role)
        .filter_map(|m| m["content"].as_str())
}

impl Turn {
    fn finish_reason(&self) -> &str {
        match &self.finish {
            Some(reason) => reason,
            None if self.tool_calls.is_empty() => "stop",
            None => "tool_calls",
        }
    }

    /// Whether this turn is one for the call.
    fn is_for(&self, call: &Value) -> bool {
        let Some(Pattern(when)) = &self.when else {
            return true;
        };
        texts(call, "system").any(|text| when.is_match(text))
    }

    /// Fills in what the call says. What it does not say makes the turn a text that says so.
    fn fill_in(&mut self, call: &Value) {
        let mut found = BTreeMap::new();
        for (name, (role, Pattern(pattern))) in &self.capture {
            let mut groups = texts(call, role).filter_map(|t| pattern.captures(t)?.get(1));
            match groups.next() {
                Some(group) => found.insert(format!("{{{{{name}}}}}"), group.as_str().to_owned()),
                None => {
                    self.text = format!("The script found no `{name}` in a message of {role}.");
                    self.tool_calls.clear();
                    return;
                }
            };
        }
        let fill = |text: &mut String| {
            for (name, value) in &found {
                *text = text.replace(name, value);
            }
        };
        fill(&mut self.text);
        for call in &mut self.tool_calls {
            fill_strings(&mut call.arguments, &fill);
        }
    }
}

/// Changes every text in a value.
fn fill_strings(value: &mut Value, fill: &impl Fn(&mut String)) {
    match value {
        Value::String(text) => fill(text),
        Value::Array(items) => items.iter_mut().for_each(|v| fill_strings(v, fill)),
        Value::Object(map) => map.values_mut().for_each(|v| fill_strings(v, fill)),
        _ => {}
    }
}

#[derive(Debug, Clone, Deserialize)]
struct ToolCall {
    name: String,
    arguments: Value,
}

struct Script {
    turns: Mutex<VecDeque<Turn>>,
    calls: AtomicU64,
    /// `traceparent` of the newest call.
    trace: Mutex<Option<String>>,
    /// What the newest call was told before its task.
    told: Mutex<String>,
    /// The newest calls, whole, in their order.
    newest: Mutex<VecDeque<Value>>,
}

/// Most calls that are remembered.
const CALLS_KEPT: usize = 64;

/// Serves the scripted model on a loopback port until the process ends.
///
/// # Errors
/// If the port or the script cannot be used.
pub async fn serve(port: u16, script: Option<PathBuf>) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let turns = match script {
        Some(path) => serde_json::from_slice(&std::fs::read(path)?)?,
        None => VecDeque::new(),
    };
    let script = Arc::new(Script {
        turns: Mutex::new(turns),
        calls: AtomicU64::new(0),
        trace: Mutex::default(),
        told: Mutex::default(),
        newest: Mutex::default(),
    });
    let router = Router::new()
        .route("/v1/models", get(async || Json(json!({ "object": "list", "data": [{ "id": "scripted-1", "object": "model" }] }))))
        .route("/v1/chat/completions", post(chat))
        .route("/calls", get(async |State(s): State<Arc<Script>>| Json(json!({ "calls": s.calls.load(Ordering::SeqCst) }))))
        .route("/traceparent", get(async |State(s): State<Arc<Script>>| Json(json!(*s.trace.lock().unwrap_or_else(PoisonError::into_inner)))))
        .route("/told", get(async |State(s): State<Arc<Script>>| s.told.lock().unwrap_or_else(PoisonError::into_inner).clone()))
        .route("/newest", get(async |State(s): State<Arc<Script>>| Json(s.newest.lock().unwrap_or_else(PoisonError::into_inner).back().cloned())))
        .route("/requests", get(async |State(s): State<Arc<Script>>| Json(s.newest.lock().unwrap_or_else(PoisonError::into_inner).clone())))
        .route("/script", post(replace))
        .with_state(script);
    axum::serve(listener, router).await
}

/// Puts a new script in place.
async fn replace(
    State(script): State<Arc<Script>>,
    Json(turns): Json<VecDeque<Value>>,
) -> StatusCode {
    let parsed: Result<VecDeque<Turn>, _> = turns.into_iter().map(serde_json::from_value).collect();
    match parsed {
        Ok(turns) => {
            *script.turns.lock().unwrap_or_else(PoisonError::into_inner) = turns;
            StatusCode::NO_CONTENT
        }
        Err(_) => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

fn words(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

async fn chat(
    State(script): State<Arc<Script>>,
    headers: HeaderMap,
    Json(call): Json<Value>,
) -> Response {
    let trace = headers.get("traceparent").and_then(|v| v.to_str().ok());
    *script.trace.lock().unwrap_or_else(PoisonError::into_inner) = trace.map(str::to_owned);
    let told = call["messages"][0]["content"].as_str().unwrap_or_default();
    told.clone_into(&mut script.told.lock().unwrap_or_else(PoisonError::into_inner));
    {
        let mut newest = script.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let surplus = (newest.len() + 1).saturating_sub(CALLS_KEPT);
        newest.drain(..surplus);
        newest.push_back(call.clone());
    }
    let number = script.calls.fetch_add(1, Ordering::SeqCst) + 1;
    let next = {
        let mut turns = script.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let at = turns.iter().position(|turn| turn.is_for(&call));
        at.and_then(|at| turns.remove(at))
    };
    let mut turn = next.unwrap_or_else(|| Turn {
        text: answer(&call),
        ..Turn::default()
    });
    turn.fill_in(&call);
    tokio::time::sleep(Duration::from_millis(turn.delay_ms)).await;
    let status = turn.status.map(StatusCode::from_u16);
    let status = status.map(|code| code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    let unusual = match (&turn.raw, status) {
        (Some(raw), status) => {
            let kind = turn.content_type.as_deref().unwrap_or("text/event-stream");
            Some(respond(status.unwrap_or(StatusCode::OK), kind, raw.clone()))
        }
        (None, Some(status)) => {
            let body =
                json!({ "error": { "message": "scripted failure", "type": "server_error" } });
            Some(respond(status, "application/json", body.to_string()))
        }
        (None, None) => None,
    };
    if let Some(mut answer) = unusual {
        if let Some(value) = turn.retry_after.and_then(|text| text.parse().ok()) {
            answer.headers_mut().insert(RETRY_AFTER, value);
        }
        return answer;
    }
    let prompt: u64 = call["messages"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|m| words(m["content"].as_str().unwrap_or_default()))
        .sum();
    let completion = words(&turn.text)
        + turn
            .tool_calls
            .iter()
            .map(|c| words(&c.arguments.to_string()) + 4)
            .sum::<u64>();
    let usage = json!({ "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion });
    let model = turn
        .model
        .clone()
        .unwrap_or_else(|| "scripted-1-0613".to_owned());
    let id = format!("chatcmpl-{number}");
    if call["stream"] != true {
        let calls: Vec<Value> = turn
            .tool_calls
            .iter()
            .enumerate()
            .map(|(i, c)| tool_call(i, c))
            .collect();
        let mut message = json!({ "role": "assistant", "content": turn.text });
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        let finish = turn.finish_reason();
        let mut body = json!({ "id": id, "object": "chat.completion", "model": model, "choices": [{ "index": 0, "message": message, "finish_reason": finish }] });
        if !turn.no_usage {
            body["usage"] = usage;
        }
        return respond(StatusCode::OK, "application/json", body.to_string());
    }
    let include_usage = call["stream_options"]["include_usage"] == true && !turn.no_usage;
    let frames = frames(&turn, &id, &model, include_usage.then_some(usage));
    let stream = futures_util::stream::iter(frames.into_iter().map(Ok::<_, std::io::Error>));
    let cut = turn.cut.then(|| Err(std::io::Error::other("scripted cut")));
    let stream = futures_util::StreamExt::chain(stream, futures_util::stream::iter(cut));
    Response::builder()
        .header("content-type", "text/event-stream")
        .body(Body::from_stream(stream))
        .unwrap_or_default()
}

fn respond(status: StatusCode, kind: &str, body: String) -> Response {
    Response::builder()
        .status(status)
        .header("content-type", kind)
        .body(Body::from(body))
        .unwrap_or_default()
}

fn tool_call(index: usize, call: &ToolCall) -> Value {
    json!({ "index": index, "id": format!("call_{index}"), "type": "function", "function": { "name": call.name, "arguments": call.arguments.to_string() } })
}

/// Server-sent events, one word a chunk.
fn frames(turn: &Turn, id: &str, model: &str, usage: Option<Value>) -> Vec<Bytes> {
    let chunk = |delta: Value, finish: Option<&str>| {
        let body = json!({ "id": id, "object": "chat.completion.chunk", "model": model, "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] });
        Bytes::from(format!("data: {body}\n\n"))
    };
    let mut frames = vec![chunk(json!({ "role": "assistant", "content": "" }), None)];
    if !turn.reasoning.is_empty() {
        frames.push(chunk(json!({ "reasoning_content": turn.reasoning }), None));
    }
    if !turn.refusal.is_empty() {
        frames.push(chunk(json!({ "refusal": turn.refusal }), None));
    }
    frames.extend(
        turn.text
            .split_inclusive(' ')
            .map(|w| chunk(json!({ "content": w }), None)),
    );
    for (i, call) in turn.tool_calls.iter().enumerate() {
        frames.push(chunk(json!({ "tool_calls": [tool_call(i, call)] }), None));
    }
    if turn.cut {
        return frames;
    }
    frames.push(chunk(json!({}), Some(turn.finish_reason())));
    if let Some(usage) = usage {
        let body = json!({ "id": id, "object": "chat.completion.chunk", "model": model, "choices": [], "usage": usage });
        frames.push(Bytes::from(format!("data: {body}\n\n")));
    }
    frames.push(Bytes::from_static(b"data: [DONE]\n\n"));
    frames
}

/// An honest answer of a machine that does not think.
fn answer(call: &Value) -> String {
    let asked = call["messages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|m| m["role"] == "user")
        .filter_map(|m| m["content"].as_str())
        // What the agent noted itself is marked as a part, and comes before the task.
        .find(|text| !text.starts_with('<'))
        .unwrap_or_default();
    let asked: String = asked.chars().take(120).collect();
    format!(
        "This is the scripted model, not a real one. It was asked: \"{asked}\". A configured provider would answer here."
    )
}
