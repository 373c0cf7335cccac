//! OpenAI chat completions, `POST /v1/chat/completions`.
//!
//! Source: OpenAI API reference, chat completions (read 2026-11): `usage` is part of a whole answer, and of the last
//! chunk of a stream when `stream_options.include_usage` is set. A stream ends with the event `[DONE]`.

use super::{Demand, EventDecoder, ModelCall, Protocol, Reading, StreamReader, UpstreamRequest};
use crate::{Provider, Refusal, Target, Usage, UsageSource};
use abbey_model::Tokens;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use serde_json::{Value, json};

/// Bytes of a request for each token of the input estimate. English text has about four; three over-estimates.
const BYTES_PER_TOKEN: usize = 3;
/// Longest model name that is recorded, in characters.
const MODEL_NAME_MAX: usize = 200;

/// The protocol.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenAiChat;

impl Protocol for OpenAiChat {
    fn parse(&self, _head: &Parts, body: Bytes) -> Result<Box<dyn ModelCall>, Refusal> {
        let request: Value = serde_json::from_slice(&body).map_err(|e| {
            Refusal::invalid_request(format!("the request body is not valid JSON: {e}"))
        })?;
        let model = request["model"]
            .as_str()
            .ok_or_else(|| Refusal::invalid_request("the body has no string `model`"))?
            .to_owned();
        if !request["messages"].is_array() {
            return Err(Refusal::invalid_request("the body has no list `messages`"));
        }
        Ok(Box::new(ChatCall {
            request_bytes: body.len(),
            model,
            request,
        }))
    }

    fn refusal(&self, refusal: &Refusal) -> Response {
        let body = json!({
            "error": { "message": refusal.text, "type": "abbey", "code": refusal.code }
        });
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = refusal.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = refusal.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A parsed chat request.
struct ChatCall {
    request_bytes: usize,
    model: String,
    request: Value,
}

impl ChatCall {
    fn is_streamed(&self) -> bool {
        self.request["stream"] == true
    }

    /// Output limit that the caller set, for one choice.
    fn output_limit(&self) -> Option<u64> {
        ["max_completion_tokens", "max_tokens"]
            .iter()
            .find_map(|key| self.request[*key].as_u64())
    }
}

impl ModelCall for ChatCall {
    fn requested_model(&self) -> &str {
        &self.model
    }

    fn demand(&self, provider: &Provider) -> Demand {
        let limit = self.output_limit().unwrap_or(provider.output_tokens_max);
        // The limit holds for each of the `n` choices.
        let choices = self.request["n"].as_u64().unwrap_or(1).max(1);
        Demand {
            input: Tokens(self.request_bytes.div_ceil(BYTES_PER_TOKEN) as u64),
            output: Tokens(limit.saturating_mul(choices)),
        }
    }

    fn upstream_request(&self, provider: &Provider, target: &Target) -> UpstreamRequest {
        let mut request = self.request.clone();
        request["model"] = target.model.clone().into();
        if self.output_limit().is_none() {
            request["max_tokens"] = provider.output_tokens_max.into();
        }
        if self.is_streamed() {
            request["stream_options"] = json!({ "include_usage": true });
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("application/json, text/event-stream"),
        );
        UpstreamRequest {
            path: "/chat/completions".to_owned(),
            headers,
            body: Bytes::from(request.to_string()),
        }
    }

    fn read_answer(&self, body: &[u8]) -> Reading {
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        Reading {
            usage: usage_of(&answer),
            model: model_of(&answer),
        }
    }

    fn stream_reader(&self) -> Option<Box<dyn StreamReader>> {
        self.is_streamed()
            .then(|| Box::new(ChatStream::default()) as Box<dyn StreamReader>)
    }
}

/// Reads a chat stream; it passes through unchanged.
#[derive(Default)]
struct ChatStream {
    events: EventDecoder,
    reading: Reading,
    complete: bool,
}

impl StreamReader for ChatStream {
    fn content_type(&self) -> &'static str {
        "text/event-stream"
    }

    fn read(&mut self, chunk: Bytes) -> Bytes {
        for event in self.events.push(chunk.clone()) {
            if event.data == "[DONE]" {
                self.complete = true;
                break;
            }
            let part: Value = serde_json::from_str(&event.data).unwrap_or_default();
            self.reading.model = model_of(&part).or(self.reading.model.take());
            self.reading.usage = usage_of(&part).or(self.reading.usage);
        }
        chunk
    }

    fn is_complete(&self) -> bool {
        self.complete
    }

    fn reading(&self) -> Reading {
        self.reading.clone()
    }
}

fn model_of(answer: &Value) -> Option<String> {
    answer["model"]
        .as_str()
        .filter(|name| !name.is_empty())
        .map(|name| name.chars().take(MODEL_NAME_MAX).collect())
}

/// Usage of an answer; `None` unless both totals are there.
fn usage_of(answer: &Value) -> Option<Usage> {
    let usage = &answer["usage"];
    let part = |list: &str, key: &str| Tokens(usage[list][key].as_u64().unwrap_or(0));
    Some(Usage {
        input: Tokens(usage["prompt_tokens"].as_u64()?),
        output: Tokens(usage["completion_tokens"].as_u64()?),
        cached: part("prompt_tokens_details", "cached_tokens"),
        cache_write: part("prompt_tokens_details", "cache_write_tokens"),
        reasoning: part("completion_tokens_details", "reasoning_tokens"),
        source: UsageSource::Provider,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: Value) -> Result<Box<dyn ModelCall>, Refusal> {
        let (head, ()) = hyper::Request::new(()).into_parts();
        OpenAiChat.parse(&head, Bytes::from(body.to_string()))
    }

    fn provider() -> Provider {
        Provider {
            name: "test".to_owned(),
            base_url: "http://test/v1".to_owned(),
            prices: None,
            output_tokens_max: 1000,
        }
    }

    #[test]
    fn a_request_without_model_or_messages_is_refused() {
        for body in [
            json!({ "messages": [] }),
            json!({ "model": "m" }),
            json!({ "model": 1, "messages": [] }),
        ] {
            let refusal = parse(body).err().unwrap();
            assert_eq!(refusal.code, "invalid_request");
        }
    }

    #[test]
    fn the_reservation_covers_the_output_limit_of_every_choice() {
        let demand = |extra: Value| {
            let mut body = json!({ "model": "m", "messages": [] });
            for (key, value) in extra.as_object().unwrap() {
                body[key] = value.clone();
            }
            parse(body).unwrap().demand(&provider()).output.0
        };
        assert_eq!(demand(json!({})), 1000);
        assert_eq!(demand(json!({ "max_tokens": 50 })), 50);
        assert_eq!(
            demand(json!({ "max_completion_tokens": 60, "max_tokens": 50 })),
            60
        );
        assert_eq!(demand(json!({ "max_tokens": 50, "n": 3 })), 150);
    }

    #[test]
    fn the_forwarded_request_is_limited_and_keeps_unknown_fields() {
        let call = parse(json!({ "model": "short", "messages": [], "stream": true, "seed": 7 }));
        let target = Target {
            provider: "test".to_owned(),
            model: "full-name".to_owned(),
        };
        let request = call.unwrap().upstream_request(&provider(), &target);
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(
            body,
            json!({
                "model": "full-name", "messages": [], "stream": true, "seed": 7,
                "max_tokens": 1000, "stream_options": { "include_usage": true },
            })
        );
    }

    #[test]
    fn usage_is_read_by_class() {
        let call = parse(json!({ "model": "m", "messages": [] })).unwrap();
        let answer = json!({ "model": "m-1", "usage": {
            "prompt_tokens": 10, "completion_tokens": 5,
            "prompt_tokens_details": { "cached_tokens": 4 },
            "completion_tokens_details": { "reasoning_tokens": 3 },
        } });
        let reading = call.read_answer(answer.to_string().as_bytes());
        let usage = reading.usage.unwrap();
        assert_eq!((usage.input, usage.output), (Tokens(10), Tokens(5)));
        assert_eq!((usage.cached, usage.reasoning), (Tokens(4), Tokens(3)));
        assert_eq!(reading.model.as_deref(), Some("m-1"));
        assert_eq!(call.read_answer(b"no JSON"), Reading::default());
    }
}
