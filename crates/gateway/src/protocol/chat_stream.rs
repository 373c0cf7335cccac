//! The stream of a chat completion on its way to the caller: whatever framing the provider uses, the caller gets the usual one.
//!
//! Each event is passed on with its data unchanged. What differs from the protocol is put right, as far as nothing is lost by
//! it: byte-order marks, line ends, events without data, an end marker that is written differently or missing behind a
//! complete answer, and a whole answer where a stream was asked for.
//!
//! Source: OpenAI API reference, chat completions, streaming (read 2026-11).

use super::openai_chat::{error_document, model_of, provider_error, usage_of};
use super::{Reading, StreamReader};
use crate::words::ProviderError;
use crate::{Provider, Refusal};
use abbey_model::Tokens;
use abbey_support::sse::{EVENT_MAX, Event, EventDecoder};
use bytes::Bytes;
use serde_json::{Value, json};

/// The end marker.
const DONE: &str = "[DONE]";

/// Reads a chat stream.
pub(super) struct ChatStream {
    provider: Provider,
    /// Whether the caller wants the event that has nothing but the usage.
    wants_usage: bool,
    form: Form,
    reading: Reading,
    output_bytes: u64,
    /// Whether a choice said why it ended.
    answered: bool,
    /// Whether the usage was reported then or later, so that it is that of the whole answer.
    usage_is_final: bool,
    /// Whether the provider said that it failed.
    failed: bool,
    complete: bool,
}

/// What the provider sends.
enum Form {
    /// Nothing that decides it yet: blanks and byte-order marks.
    Unknown(Vec<u8>),
    /// Server-sent events.
    Events(Box<EventDecoder>),
    /// One JSON document.
    Whole(Vec<u8>),
}

impl ChatStream {
    pub(super) fn new(provider: &Provider, wants_usage: bool) -> Self {
        ChatStream {
            provider: provider.clone(),
            wants_usage,
            form: Form::Unknown(Vec::new()),
            reading: Reading::default(),
            output_bytes: 0,
            answered: false,
            usage_is_final: false,
            failed: false,
            complete: false,
        }
    }

    /// Passes an event on.
    fn pass(&mut self, event: &Event, out: &mut Vec<u8>) {
        let data = event.data.trim();
        if data.is_empty() || self.complete {
            return;
        }
        if data.eq_ignore_ascii_case(DONE) {
            self.complete = !self.failed;
            write_event(out, "", DONE);
            return;
        }
        let part: Value = serde_json::from_str(data).unwrap_or_default();
        if let Some(error) = ProviderError::of_event(&self.provider, &event.event, &part) {
            self.failed = true;
            write_event(out, "", &provider_error(&error).to_string());
            return;
        }
        self.read_part(&part);
        let choices = part["choices"].as_array();
        let only_usage = part["usage"].is_object() && choices.is_some_and(Vec::is_empty);
        if !only_usage || self.wants_usage {
            write_event(out, &event.event, &event.data);
        }
    }

    /// Takes from a part of the answer what is metered.
    fn read_part(&mut self, part: &Value) {
        for choice in part["choices"].as_array().into_iter().flatten() {
            self.output_bytes += text_bytes(&choice["delta"]);
            self.answered |= choice["finish_reason"].is_string();
        }
        self.reading.model = model_of(part).or(self.reading.model.take());
        let nothing = Tokens(0);
        // Some providers report nothing at the end, behind what they reported before.
        let told = usage_of(part)
            .filter(|u| self.reading.usage.is_none() || u.input > nothing || u.output > nothing);
        self.usage_is_final |= told.is_some() && self.answered;
        self.reading.usage = told.or(self.reading.usage);
    }

    /// Passes a whole answer on as a stream.
    fn pass_whole(&mut self, body: &[u8], out: &mut Vec<u8>) {
        let mut answer: Value = serde_json::from_slice(body).unwrap_or_default();
        let choices = answer["choices"].as_array_mut().map(std::mem::take);
        let choices = choices.unwrap_or_default();
        let is_answer = !choices.is_empty() && choices.iter().all(|c| c["message"].is_object());
        if !is_answer {
            let error = ProviderError::of_event(&self.provider, "error", &answer);
            self.failed = true;
            if let Some(error) = error {
                write_event(out, "", &provider_error(&error).to_string());
            }
            return;
        }
        answer["object"] = json!("chat.completion.chunk");
        let usage = answer.as_object_mut().and_then(|a| a.remove("usage"));
        let mut part = answer.clone();
        part["choices"] = choices.into_iter().map(as_delta).collect();
        self.read_part(&part);
        write_event(out, "", &part.to_string());
        if let Some(usage) = usage.filter(Value::is_object) {
            answer["choices"] = json!([]);
            answer["usage"] = usage;
            self.read_part(&answer);
            if self.wants_usage {
                write_event(out, "", &answer.to_string());
            }
        }
        self.complete = true;
        write_event(out, "", DONE);
    }
}

/// A choice of a whole answer as one of a stream.
fn as_delta(mut choice: Value) -> Value {
    let mut delta = choice["message"].take();
    for (index, call) in delta["tool_calls"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .enumerate()
    {
        if call.is_object() {
            call["index"] = json!(index);
        }
    }
    if let Some(choice) = choice.as_object_mut() {
        choice.remove("message");
        choice.insert("delta".to_owned(), delta);
        choice
            .entry("finish_reason")
            .and_modify(|reason| {
                if reason.is_null() {
                    *reason = json!("stop");
                }
            })
            .or_insert_with(|| json!("stop"));
    }
    choice
}

/// Bytes that the model wrote in a piece of an answer: content, refusal, arguments of tools, and its reasoning, which some
/// providers send in more than one form.
fn text_bytes(delta: &Value) -> u64 {
    let length = |text: &Value| text.as_str().map_or(0, |t| t.len() as u64);
    let list = |parts: &Value| parts.as_array().cloned().unwrap_or_default();
    let texts = |parts: &Value| list(parts).iter().map(|p| length(&p["text"])).sum::<u64>();
    let calls = list(&delta["tool_calls"]);
    let calls = calls.iter().map(|call| {
        let function = &call["function"];
        length(&function["name"]) + length(&function["arguments"])
    });
    let reasoning = [
        length(&delta["reasoning"]),
        length(&delta["reasoning_content"]),
        texts(&delta["reasoning_details"]),
    ];
    length(&delta["content"])
        + texts(&delta["content"])
        + length(&delta["refusal"])
        + calls.sum::<u64>()
        + reasoning.into_iter().max().unwrap_or_default()
}

fn write_event(out: &mut Vec<u8>, kind: &str, data: &str) {
    if !kind.is_empty() && kind != "message" {
        out.extend_from_slice(format!("event: {kind}\n").as_bytes());
    }
    for line in data.split('\n') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    out.push(b'\n');
}

impl StreamReader for ChatStream {
    fn content_type(&self) -> &'static str {
        "text/event-stream"
    }

    fn read(&mut self, chunk: Bytes) -> Bytes {
        let mut out = Vec::new();
        let mut chunk = &chunk[..];
        let first;
        if let Form::Unknown(before) = &mut self.form {
            before.extend_from_slice(chunk);
            // No line of an event stream means anything that begins with a brace.
            let decides =
                |byte: &&u8| !byte.is_ascii_whitespace() && !b"\xef\xbb\xbf".contains(byte);
            let Some(decisive) = before.iter().find(decides).copied() else {
                return Bytes::new();
            };
            first = std::mem::take(before);
            chunk = &first;
            self.form = match decisive {
                b'{' => Form::Whole(Vec::new()),
                _ => Form::Events(Box::default()),
            };
        }
        match &mut self.form {
            Form::Whole(body) if body.len() + chunk.len() <= EVENT_MAX => {
                body.extend_from_slice(chunk);
            }
            Form::Whole(_) => self.failed = true,
            Form::Unknown(_) => {}
            Form::Events(decoder) => {
                let events = decoder.push(chunk);
                let comments = decoder.take_comments();
                for event in &events {
                    self.pass(event, &mut out);
                }
                // Keeps the connection to the caller open, as it does the one to the provider.
                if comments && out.is_empty() {
                    out.extend_from_slice(b": keep-alive\n\n");
                }
            }
        }
        Bytes::from(out)
    }

    fn finish(&mut self) -> Bytes {
        let mut out = Vec::new();
        match std::mem::replace(&mut self.form, Form::Unknown(Vec::new())) {
            Form::Unknown(_) => {}
            Form::Whole(_) if self.failed => {
                let error = ProviderError {
                    provider: &self.provider,
                    status: None,
                    words: Some(format!("its answer is longer than {EVENT_MAX} bytes")),
                    document: Value::Null,
                };
                write_event(&mut out, "", &provider_error(&error).to_string());
            }
            Form::Whole(body) => {
                let start = body
                    .iter()
                    .position(|byte| *byte == b'{')
                    .unwrap_or_default();
                self.pass_whole(&body[start..], &mut out);
            }
            Form::Events(mut decoder) => {
                for event in decoder.finish() {
                    self.pass(&event, &mut out);
                }
                if self.answered && !self.complete && !self.failed {
                    self.complete = true;
                    // Some report as they go; what came before the end is not all that is billed.
                    self.reading.usage = self.reading.usage.filter(|_| self.usage_is_final);
                    write_event(&mut out, "", DONE);
                }
            }
        }
        Bytes::from(out)
    }

    fn is_complete(&self) -> bool {
        self.complete
    }

    fn has_failed(&self) -> bool {
        self.failed
    }

    fn output_bytes(&self) -> u64 {
        self.output_bytes
    }

    fn refusal_event(&self, refusal: &Refusal) -> Bytes {
        Bytes::from(format!("data: {}\n\n", error_document(refusal)))
    }

    fn reading(&self) -> Reading {
        self.reading.clone()
    }
}
