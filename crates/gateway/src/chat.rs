//! `/v1/chat/completions`: the gate in reading order.
//!
//! Source: OpenAI chat completions (read 2026-11): `usage` in the reply, and in the last chunk of
//! a stream when `stream_options.include_usage` is set.

use crate::meter::{Hold, InFlight, Meter, Reserved, Used};
use crate::upstream::{self, Sender, Upstream};
use abbey_model::{Amounts, NanoUsd, RunId, Slug, Tokens};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use http_body_util::{BodyExt, BodyStream, Limited};
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Largest request, bytes.
const REQUEST_MAX: usize = 8 << 20;
/// Largest answer that is not streamed, bytes.
const ANSWER_MAX: usize = 32 << 20;
/// Longest pause between two chunks of a stream.
const CHUNK_PAUSE: Duration = Duration::from_secs(120);
/// How long a stream is followed to its usage after the caller went away.
const DRAIN: Duration = Duration::from_secs(30);
/// Bytes of a request that are one token at the least; four is usual, three is careful.
const BYTES_PER_TOKEN: usize = 3;

/// Who calls, from authentication.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The agent.
    pub agent: Slug,
    /// The run that it named.
    pub run: Option<RunId>,
    /// `traceparent` for the provider.
    pub trace: Option<String>,
}

/// Where a model's calls go.
#[derive(Debug, Clone)]
pub struct Route {
    /// The provider.
    pub upstream: Arc<Upstream>,
    /// Name that the provider knows.
    pub model: String,
}

/// A refusal in OpenAI's form, which SDKs show to people.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// HTTP status.
    pub status: StatusCode,
    /// Stable word.
    pub code: &'static str,
    /// For people.
    pub text: String,
    /// Seconds until it may fit.
    pub retry_after_s: Option<u64>,
}

impl Refusal {
    /// A refusal.
    pub fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        Refusal {
            status,
            code,
            text: text.into(),
            retry_after_s: None,
        }
    }

    /// As a response.
    pub fn into_response(self) -> Response {
        let body = json!({ "error": { "message": self.text, "type": "abbey", "code": self.code } });
        let mut response = Response::builder()
            .status(self.status)
            .header(CONTENT_TYPE, "application/json");
        if let Some(seconds) = self.retry_after_s {
            response = response.header("retry-after", seconds.to_string());
        }
        response
            .body(Body::from(body.to_string()))
            .unwrap_or_default()
    }
}

/// The gateway.
#[derive(Clone)]
pub struct Gateway {
    meter: Arc<dyn Meter>,
    sender: Sender,
}

impl Gateway {
    /// A gateway over a ledger.
    pub fn new(meter: Arc<dyn Meter>) -> Self {
        Gateway {
            meter,
            sender: Sender::new(),
        }
    }

    /// One call. `route` resolves the model that was asked for, within what the caller may use.
    pub async fn chat(
        &self,
        caller: Caller,
        body: Body,
        route: impl FnOnce(&str) -> Result<Route, Refusal>,
    ) -> Response {
        match self.admit(caller, body, route).await {
            Ok(response) => response,
            Err(refusal) => refusal.into_response(),
        }
    }

    async fn admit(
        &self,
        caller: Caller,
        body: Body,
        route: impl FnOnce(&str) -> Result<Route, Refusal>,
    ) -> Result<Response, Refusal> {
        let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, "invalid_request", text);
        let bytes = Limited::new(body, REQUEST_MAX)
            .collect()
            .await
            .map_err(|_| {
                Refusal::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "too_large",
                    format!("a call may have at most {REQUEST_MAX} bytes"),
                )
            })?;
        let bytes = bytes.to_bytes();
        let mut call: Value = serde_json::from_slice(&bytes)
            .map_err(|e| bad(format!("the body is not JSON: {e}")))?;
        let asked = call["model"]
            .as_str()
            .ok_or_else(|| bad("the body names no `model`".to_owned()))?;
        if !call["messages"].is_array() {
            return Err(bad("the body has no list `messages`".to_owned()));
        }
        let route = route(asked)?;
        let streamed = call["stream"] == true;
        let limit = ["max_completion_tokens", "max_tokens"]
            .iter()
            .find_map(|k| call[*k].as_u64());
        let output = limit.unwrap_or(route.upstream.output_tokens_max);
        if limit.is_none() {
            call["max_tokens"] = output.into();
        }
        call["model"] = route.model.clone().into();
        if streamed {
            call["stream_options"] = json!({ "include_usage": true });
        }
        let input = Tokens(bytes.len().div_ceil(BYTES_PER_TOKEN) as u64);
        let cost = price(&route.upstream, input, Tokens(output)).unwrap_or_default();
        let hold = Hold {
            agent: caller.agent,
            run: caller.run,
            amounts: Amounts {
                tokens: input + Tokens(output),
                nano_usd: cost,
                ..Amounts::default()
            },
            model: format!("{}/{}", route.upstream.name, route.model),
        };
        let id = self.meter.reserve(hold).await.map_err(|refusal| Refusal {
            status: match refusal.code {
                "budget_exhausted" => StatusCode::TOO_MANY_REQUESTS,
                "no_lease" => StatusCode::FORBIDDEN,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            },
            code: refusal.code,
            text: refusal.text,
            retry_after_s: refusal.retry_after_s,
        })?;
        let reserved = Reserved::new(Arc::clone(&self.meter), id);
        let asked = (call, streamed, caller.trace);
        self.forward(route, asked, reserved).await
    }

    async fn forward(
        &self,
        route: Route,
        (call, streamed, trace): (Value, bool, Option<String>),
        reserved: Reserved,
    ) -> Result<Response, Refusal> {
        let upstream = route.upstream;
        let flight = reserved.forward();
        let answer = match self
            .sender
            .post(
                &upstream,
                "/chat/completions",
                Bytes::from(call.to_string()),
                trace.as_deref(),
            )
            .await
        {
            Ok(answer) => answer,
            Err(error) => {
                let used = match error {
                    // Nothing left this host, so nothing can be billed.
                    upstream::Error::Connect(_) => Used::Released,
                    upstream::Error::Lost(_) => Used::Unknown { model: None },
                };
                flight.settle(used).await;
                return Err(Refusal::new(
                    StatusCode::BAD_GATEWAY,
                    "provider_unreachable",
                    format!("{}: {error}", upstream.name),
                ));
            }
        };
        let status = answer.status();
        if streamed && status.is_success() {
            let (sender, chunks) = mpsc::channel::<Result<Bytes, std::io::Error>>(16);
            drop(tokio::spawn(relay(answer, sender, flight, upstream)));
            let stream = futures_util::stream::unfold(chunks, async |mut chunks| {
                chunks.recv().await.map(|c| (c, chunks))
            });
            let response = Response::builder()
                .status(status)
                .header(CONTENT_TYPE, "text/event-stream")
                .header("cache-control", "no-cache");
            return Ok(response.body(Body::from_stream(stream)).unwrap_or_default());
        }
        let content_type = answer.headers().get(CONTENT_TYPE).cloned();
        let Ok(body) = Limited::new(answer.into_body(), ANSWER_MAX).collect().await else {
            flight.settle(Used::Unknown { model: None }).await;
            return Err(Refusal::new(
                StatusCode::BAD_GATEWAY,
                "provider_broke_off",
                format!("{} broke off its answer", upstream.name),
            ));
        };
        let bytes = body.to_bytes();
        let told: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let used = if status.is_success() {
            usage(&told, &upstream).unwrap_or(Used::Unknown {
                model: model_of(&told),
            })
        } else {
            // An error answer is not billed by any provider of this format.
            Used::Known {
                input: Tokens(0),
                output: Tokens(0),
                cached: Tokens(0),
                cost: Some(NanoUsd(0)),
                model: None,
            }
        };
        flight.settle(used).await;
        let mut response = Response::builder().status(status);
        if let Some(content_type) = content_type {
            response = response.header(CONTENT_TYPE, content_type);
        }
        Ok(response.body(Body::from(bytes)).unwrap_or_default())
    }
}

/// Passes a stream on, chunk by chunk as it arrives, and reads its usage on the way. A caller that
/// goes away does not stop the reading: the usage at the end is what the provider will bill.
async fn relay(
    answer: hyper::Response<hyper::body::Incoming>,
    caller: mpsc::Sender<Result<Bytes, std::io::Error>>,
    flight: InFlight,
    upstream: Arc<Upstream>,
) {
    let caller_of_chunks = caller.clone();
    let chunks = BodyStream::new(answer.into_body()).filter_map(async |frame| match frame {
        Ok(frame) => frame.into_data().ok().map(Ok),
        Err(error) => Some(Err(error)),
    });
    let passed = chunks.then(move |chunk| {
        let caller = caller_of_chunks.clone();
        async move {
            if let Ok(bytes) = &chunk {
                let _caller_gone = caller.send(Ok(bytes.clone())).await;
            }
            chunk
        }
    });
    let mut events = Box::pin(passed.eventsource());
    let mut found = None;
    let mut model = None;
    let mut finished = false;
    let mut gone_since: Option<tokio::time::Instant> = None;
    loop {
        if caller.is_closed()
            && gone_since
                .get_or_insert_with(tokio::time::Instant::now)
                .elapsed()
                > DRAIN
        {
            break;
        }
        match tokio::time::timeout(CHUNK_PAUSE, events.next()).await {
            Ok(Some(Ok(event))) if event.data == "[DONE]" => {
                finished = true;
                break;
            }
            Ok(Some(Ok(event))) => {
                let chunk: Value = serde_json::from_str(&event.data).unwrap_or_default();
                model = model_of(&chunk).or(model);
                found = usage(&chunk, &upstream).or(found);
            }
            Ok(None) => break,
            Ok(Some(Err(_))) | Err(_) => break,
        }
    }
    if !finished {
        let cut = std::io::Error::new(
            std::io::ErrorKind::UnexpectedEof,
            "the provider's stream was cut",
        );
        let _caller_gone = caller.send(Err(cut)).await;
    }
    flight
        .settle(found.unwrap_or(Used::Unknown { model }))
        .await;
}

fn model_of(told: &Value) -> Option<String> {
    told["model"]
        .as_str()
        .filter(|m| !m.is_empty())
        .map(|m| m.chars().take(200).collect())
}

/// Usage of an answer, when it holds one that makes sense.
fn usage(told: &Value, upstream: &Upstream) -> Option<Used> {
    let usage = &told["usage"];
    let (input, output) = (
        Tokens(usage["prompt_tokens"].as_u64()?),
        Tokens(usage["completion_tokens"].as_u64()?),
    );
    let cached = Tokens(
        usage["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .unwrap_or(0),
    );
    Some(Used::Known {
        input,
        output,
        cached,
        cost: price(upstream, input, output),
        model: model_of(told),
    })
}

fn price(upstream: &Upstream, input: Tokens, output: Tokens) -> Option<NanoUsd> {
    let (per_input, per_output) = upstream.price?;
    Some(NanoUsd::for_tokens(input, per_input) + NanoUsd::for_tokens(output, per_output))
}
