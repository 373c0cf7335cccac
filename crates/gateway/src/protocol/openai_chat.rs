//! OpenAI chat completions, `POST /v1/chat/completions`.
//!
//! Source: OpenAI API reference, chat completions (read 2026-11): `usage` is part of a whole answer, and of the last
//! chunk of a stream when `stream_options.include_usage` is set. A stream ends with the event `[DONE]`.

use super::chat_stream::ChatStream;
use super::{Demand, ModelCall, Protocol, Reading, StreamReader, UpstreamRequest};
use crate::words::ProviderError;
use crate::{Provider, Refusal, Target, Usage, UsageSource};
use abbey_model::{RefusedKey, Tokens};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use serde_json::{Value, json};

/// Bytes of a request for each token of the input estimate. English text has about four; three over-estimates.
const BYTES_PER_TOKEN: usize = 3;
/// Longest model name that is recorded, in characters.
const MODEL_NAME_MAX: usize = 200;
/// Most output tokens of a choice, and most input or output tokens of a call, that are taken for true. The largest
/// context windows have a tenth of it.
const TOKENS_MAX: u64 = 100_000_000;
/// Most choices of a call.
const CHOICES_MAX: u64 = 1000;
/// Keys that limit the output of one choice. The largest of them counts, since a provider may follow any.
const OUTPUT_LIMITS: [&str; 2] = ["max_completion_tokens", "max_tokens"];
/// Keys that say how often the output is made and billed.
const MULTIPLIERS: [&str; 2] = ["n", "best_of"];

/// Codes with which providers refuse a key that they do not know.
const UNKNOWN_KEY_CODES: [&str; 2] = ["unsupported_parameter", "unknown_parameter"];
/// Words with which they do.
const UNKNOWN_KEY_WORDS: [&str; 7] = [
    "unsupported parameter",
    "not supported",
    "unrecognized",
    "unknown parameter",
    "unexpected keyword",
    "not permitted",
    "unknown field",
];

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
        let largest = |keys: [&str; 2], max| -> Result<Option<u64>, Refusal> {
            let found = keys.map(|key| whole_number(&request, key, max));
            let [first, second] = found;
            Ok(first?.max(second?))
        };
        Ok(Box::new(ChatCall {
            request_bytes: body.len(),
            model,
            output_limit: largest(OUTPUT_LIMITS, TOKENS_MAX)?,
            choices: largest(MULTIPLIERS, CHOICES_MAX)?.unwrap_or(1),
            request,
        }))
    }

    fn refusal(&self, refusal: &Refusal) -> Response {
        let mut response = Response::new(Body::from(error_document(refusal).to_string()));
        *response.status_mut() = refusal.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = refusal.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A number of the request that its cost depends on, from 1 to `max`; none if it is not set.
fn whole_number(request: &Value, key: &str, max: u64) -> Result<Option<u64>, Refusal> {
    let value = &request[key];
    if value.is_null() {
        return Ok(None);
    }
    // JSON does not tell 2 from 2.0, and providers take both.
    let number = value.as_u64().or_else(|| {
        let number = value.as_f64()?;
        // Exact: `max` is far below the integers that a double can't hold.
        (number.fract() == 0.0 && (1.0..=max as f64).contains(&number)).then_some(number as u64)
    });
    match number {
        Some(number) if (1..=max).contains(&number) => Ok(Some(number)),
        _ => Err(Refusal::invalid_request(format!(
            "`{key}` is not a whole number from 1 to {max}"
        ))),
    }
}

/// A parsed chat request.
struct ChatCall {
    request_bytes: usize,
    model: String,
    /// Output limit of one choice that the caller set.
    output_limit: Option<u64>,
    /// Number of answers that are made and billed.
    choices: u64,
    request: Value,
}

impl ChatCall {
    fn is_streamed(&self) -> bool {
        self.request["stream"] == true
    }
}

impl ModelCall for ChatCall {
    fn requested_model(&self) -> &str {
        &self.model
    }

    fn demand(&self, provider: &Provider) -> Demand {
        let limit = self.output_limit.unwrap_or(provider.output_tokens_max);
        Demand {
            input: Tokens(self.request_bytes.div_ceil(BYTES_PER_TOKEN) as u64),
            output: Tokens(limit.saturating_mul(self.choices)),
        }
    }

    fn upstream_request(&self, provider: &Provider, target: &Target) -> UpstreamRequest {
        let mut request = self.request.clone();
        request["model"] = target.model.clone().into();
        if self.output_limit.is_none() {
            request["max_tokens"] = provider.output_tokens_max.into();
        }
        if self.is_streamed() {
            request["stream_options"] = json!({ "include_usage": true });
        }
        for key in &provider.refuses {
            let taken = request.as_object_mut().and_then(|r| r.remove(key.name()));
            match (key, taken) {
                (RefusedKey::MaxTokens, Some(limit)) if !limit.is_null() => {
                    let other = &mut request["max_completion_tokens"];
                    if other.is_null() {
                        *other = limit;
                    }
                }
                (RefusedKey::MaxTokens | RefusedKey::StreamOptions, _) => {}
            }
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

    fn refused_key(&self, provider: &Provider, answer: &[u8]) -> Option<RefusedKey> {
        let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
        let text = ProviderError::of_answer(
            provider,
            StatusCode::BAD_REQUEST,
            answer.to_string().as_bytes(),
        );
        let text = text.words.unwrap_or_default().to_lowercase();
        let code = answer["error"]["code"].as_str().unwrap_or_default();
        let is_about_a_key = UNKNOWN_KEY_CODES.contains(&code)
            || UNKNOWN_KEY_WORDS.iter().any(|words| text.contains(words));
        // `max_tokens` is part of the name of what is to be used in its place, and of other keys.
        let is_named = |key: &RefusedKey| {
            let param = answer["error"]["param"].as_str();
            let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            param == Some(key.name())
                || param.is_none() && words.into_iter().any(|w| w == key.name())
        };
        let was_sent = |key: &RefusedKey| match key {
            RefusedKey::MaxTokens => {
                self.output_limit.is_none() || !self.request["max_tokens"].is_null()
            }
            RefusedKey::StreamOptions => self.is_streamed(),
        };
        let mut keys = RefusedKey::ALL.iter().copied();
        keys.find(|key| {
            is_about_a_key && !provider.refuses.contains(key) && is_named(key) && was_sent(key)
        })
    }

    fn provider_error(&self, error: &ProviderError<'_>) -> Bytes {
        Bytes::from(provider_error(error).to_string())
    }

    fn stream_reader(&self, provider: &Provider) -> Option<Box<dyn StreamReader>> {
        let wants_usage = self.request["stream_options"]["include_usage"] == true;
        self.is_streamed()
            .then(|| Box::new(ChatStream::new(provider, wants_usage)) as Box<dyn StreamReader>)
    }
}

pub(super) fn error_document(refusal: &Refusal) -> Value {
    json!({ "error": { "message": refusal.text, "type": "abbey", "code": refusal.code } })
}

/// A provider's error in the form of the protocol, with the kind, code and parameter that the provider gave it.
pub(super) fn provider_error(error: &ProviderError<'_>) -> Value {
    let given = &error.document["error"];
    let kind = given["type"].as_str().unwrap_or("provider_error");
    json!({ "error": { "message": error.text(), "type": kind, "param": given["param"], "code": given["code"] } })
}

pub(super) fn model_of(answer: &Value) -> Option<String> {
    answer["model"]
        .as_str()
        .filter(|name| !name.is_empty())
        .map(|name| name.chars().take(MODEL_NAME_MAX).collect())
}

/// Usage of an answer; `None` unless both totals are there and can be true. Some providers count what a model thinks in
/// `total_tokens` only, so the output is the larger of `completion_tokens` and what the total leaves beside the input.
pub(super) fn usage_of(answer: &Value) -> Option<Usage> {
    let usage = &answer["usage"];
    let count = |number: &Value| number.as_u64().filter(|tokens| *tokens <= TOKENS_MAX);
    let input = count(&usage["prompt_tokens"])?;
    let shown = count(&usage["completion_tokens"])?;
    let output = match &usage["total_tokens"] {
        Value::Null => shown,
        total => shown.max(count(total)?.saturating_sub(input)),
    };
    let part = |list: &str, key: &str, whole: u64| {
        Tokens(usage[list][key].as_u64().unwrap_or(0).min(whole))
    };
    Some(Usage {
        input: Tokens(input),
        output: Tokens(output),
        cached: part("prompt_tokens_details", "cached_tokens", input),
        cache_write: part("prompt_tokens_details", "cache_write_tokens", input),
        reasoning: part("completion_tokens_details", "reasoning_tokens", output),
        source: UsageSource::Provider,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

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
            refuses: BTreeSet::new(),
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
        assert_eq!(
            demand(json!({ "max_completion_tokens": 5, "max_tokens": 50 })),
            50
        );
        assert_eq!(demand(json!({ "max_tokens": 50, "n": 3 })), 150);
        assert_eq!(demand(json!({ "max_tokens": 50.0, "n": 3.0 })), 150);
        assert_eq!(
            demand(json!({ "max_tokens": 50, "n": null, "best_of": 4 })),
            200
        );
    }

    #[test]
    fn a_number_that_the_cost_depends_on_is_whole_or_refused() {
        for key in ["n", "best_of", "max_tokens", "max_completion_tokens"] {
            for value in [
                json!("100"),
                json!(0),
                json!(-1),
                json!(1.5),
                json!(1e300),
                json!(u64::MAX),
                json!([2]),
                json!(true),
            ] {
                let mut body = json!({ "model": "m", "messages": [] });
                body[key] = value;
                let refusal = parse(body).err().unwrap();
                assert!(refusal.text.contains(key), "{}", refusal.text);
            }
        }
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
    fn only_what_the_model_writes_counts_as_output() {
        let call = parse(json!({ "model": "m", "messages": [], "stream": true })).unwrap();
        let mut reader = call.stream_reader(&provider()).unwrap();
        let mut written = |delta: Value| {
            let before = reader.output_bytes();
            let chunk = json!({ "id": "chatcmpl-123", "choices": [{ "delta": delta }] });
            reader.read(Bytes::from(format!("data: {chunk}\n\n")));
            reader.output_bytes() - before
        };
        assert_eq!(
            written(json!({ "role": "assistant", "content": "word" })),
            4
        );
        assert_eq!(
            written(json!({ "content": [{ "type": "text", "text": "word" }] })),
            4
        );
        let thought = json!({
            "reasoning": "think", "reasoning_content": "think",
            "reasoning_details": [{ "type": "reasoning.text", "format": "x", "text": "think" }],
        });
        assert_eq!(written(thought), 5);
        let call = json!([{ "id": "call_1", "function": { "name": "f", "arguments": "{}" } }]);
        assert_eq!(written(json!({ "tool_calls": call })), 3);
        assert_eq!(written(json!({})), 0);
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

    #[test]
    fn output_that_only_the_total_shows_counts_and_numbers_that_cannot_be_true_are_unknown() {
        let tokens = |usage: Value| {
            let usage = usage_of(&json!({ "usage": usage }))?;
            Some((usage.input.0, usage.output.0))
        };
        let usage = |input: Value, output: Value, total: Value| json!({ "prompt_tokens": input, "completion_tokens": output, "total_tokens": total });
        let all = |i: u64, o: u64, t: u64| tokens(usage(json!(i), json!(o), json!(t)));
        assert_eq!(all(310, 45, 805), Some((310, 495)));
        assert_eq!(all(310, 445, 755), Some((310, 445)));
        // A total that is too small takes nothing away.
        assert_eq!(all(310, 45, 3), Some((310, 45)));
        assert_eq!(all(10_000_000_000_000_000, 20, 30), None);
        assert_eq!(all(100, 1_000_000_000_000, 30), None);
        assert_eq!(all(100, 20, u64::MAX), None);
        for wrong in [json!(-20), json!(100.5), json!("100"), json!(null)] {
            assert_eq!(tokens(usage(wrong.clone(), json!(20), json!(null))), None);
            assert_eq!(tokens(usage(json!(100), wrong, json!(null))), None);
        }
    }
}
