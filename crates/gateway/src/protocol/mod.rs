//! Wire protocols. A protocol knows the shapes of its requests, answers, streams, usage reports and errors; it knows
//! nothing of budgets, routing or credentials. `docs/recipes/add-a-protocol.md` walks through adding one.

mod chat_stream;
pub mod openai_chat;
use crate::words::ProviderError;
use crate::{Provider, Refusal, Target, Usage};
use abbey_model::{RefusedKey, Tokens};
use axum::response::Response;
use bytes::Bytes;
use hyper::header::HeaderMap;
use hyper::http::request::Parts;
use std::time::Duration;

/// Bounds of one call.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest request body, in bytes.
    pub request_bytes_max: usize,
    /// Largest answer that is not streamed, in bytes.
    pub answer_bytes_max: usize,
    /// Longest pause between two chunks of a stream.
    pub chunk_pause_max: Duration,
    /// Longest time for which a stream is read on for its usage after the caller has disconnected.
    pub drain_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            request_bytes_max: 8 << 20,
            answer_bytes_max: 32 << 20,
            chunk_pause_max: Duration::from_secs(120),
            drain_max: Duration::from_secs(30),
        }
    }
}

/// One wire protocol for model calls.
pub trait Protocol: Send + Sync {
    /// Bounds of a call.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// Parses a request. `head` has path, query and headers, for protocols that keep the model or options there.
    ///
    /// # Errors
    /// [`Refusal::invalid_request`] when it does not follow the protocol.
    fn parse(&self, head: &Parts, body: Bytes) -> Result<Box<dyn ModelCall>, Refusal>;

    /// Renders a refusal in the error form of this protocol.
    fn refusal(&self, refusal: &Refusal) -> Response;
}

/// The most that a call can use, for its reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Upper estimate of its input tokens.
    pub input: Tokens,
    /// Output tokens that the forwarded request is limited to.
    pub output: Tokens,
}

/// The request to a provider, without its credential.
#[derive(Debug, Clone)]
pub struct UpstreamRequest {
    /// Path and query after the provider's base URL, beginning with a slash.
    pub path: String,
    /// Headers of the protocol (content type, version).
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// What a provider's response reports about the call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Usage, when the answer holds a plausible report.
    pub usage: Option<Usage>,
    /// Model that answered, when the answer names it.
    pub model: Option<String>,
}

/// A parsed call. The same call can be prepared for several candidates, so nothing here consumes it.
pub trait ModelCall: Send + Sync {
    /// Model that the caller named.
    fn requested_model(&self) -> &str;

    /// The most that the call can use at a provider.
    fn demand(&self, provider: &Provider) -> Demand;

    /// The request for one target, limited to the output of [`ModelCall::demand`], without the keys that the provider is
    /// known to refuse.
    fn upstream_request(&self, provider: &Provider, target: &Target) -> UpstreamRequest;

    /// The key that a provider refused in its answer to [`ModelCall::upstream_request`], if the call can be made without it.
    fn refused_key(&self, provider: &Provider, answer: &[u8]) -> Option<RefusedKey> {
        let (_, _) = (provider, answer);
        None
    }

    /// Reads a complete, successful answer.
    fn read_answer(&self, body: &[u8]) -> Reading;

    /// A provider's error answer in the error form of this protocol, with the name of the provider and its own words.
    fn provider_error(&self, error: &ProviderError<'_>) -> Bytes;

    /// A reader for the streamed answer of a provider; `None` when the caller did not ask for a stream.
    fn stream_reader(&self, provider: &Provider) -> Option<Box<dyn StreamReader>>;
}

/// Reads a stream while it passes through to the caller.
pub trait StreamReader: Send {
    /// Content type of the stream for the caller.
    fn content_type(&self) -> &'static str;

    /// Reads the next bytes, which may hold parts of events. Returns what to send to the caller: the same bytes, or
    /// others where the protocol changes the stream.
    fn read(&mut self, chunk: Bytes) -> Bytes;

    /// The provider's connection has ended. Returns what is missing at the end of the stream, so that an answer that is
    /// complete but for the end marker is one.
    fn finish(&mut self) -> Bytes {
        Bytes::new()
    }

    /// Bytes of text that the model wrote so far, in all choices, with its reasoning and the arguments of its tools.
    fn output_bytes(&self) -> u64;

    /// The refusal as an event of this stream, for a stream that the gateway ends early.
    fn refusal_event(&self, refusal: &Refusal) -> Bytes;

    /// Whether the end marker of the protocol was read. A stream that closes without it is truncated.
    fn is_complete(&self) -> bool;

    /// Whether the provider said in the stream that it failed, and the caller has that as an event of the stream.
    fn has_failed(&self) -> bool {
        false
    }

    /// What the stream said about the call so far.
    fn reading(&self) -> Reading;
}
