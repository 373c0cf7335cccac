//! One model call, from the caller's bytes to the settled reservation, in the order in which the steps happen.

use crate::protocol::{Demand, Limits, ModelCall, Protocol, Reading, StreamReader};
use crate::provider::{
    Authorization, CallEnd, CallOutcome, Credentials, Provider, ProviderHealth, Providers,
    RetryAfter,
};
use crate::words::ProviderError;
use crate::{
    Caller, InFlight, Meter, Refusal, ReservationRefused, ReservationRequest, Reserved, Router,
    Settlement, Target, Usage, UsageSource,
};
use abbey_model::{BudgetAmounts, NanoUsd, Redactor, Tokens};
use abbey_support::http_client::{HttpClient, HttpError};
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Longest time until a provider's first byte.
const FIRST_BYTE_MAX: Duration = Duration::from_secs(300);
/// Longest error answer that is read, bytes.
const ERROR_BYTES_MAX: usize = 1 << 20;
/// Chunks of a stream that wait for a slow caller before the provider's stream is read no further.
const CHUNKS_QUEUED_MAX: usize = 16;
/// Bytes that a token of a streamed answer has at most, on average. English text and code have four.
const BYTES_PER_TOKEN_MAX: u64 = 8;
/// Bytes of a stream for each byte of output in it, at most: a chunk of one token has a few hundred.
const STREAM_PART: u64 = 256;
/// A call is made with less output than its provider allows by default only if this part of it is left.
const OUTPUT_PART_MIN: u64 = 4;
/// Bytes that a streamed answer may always have: short ones can consist of unusually long tokens.
const OUTPUT_BYTES_MIN: u64 = 4096;

/// Parts that a gateway is composed of.
pub struct GatewayParts {
    /// The ledger.
    pub meter: Arc<dyn Meter>,
    /// The routing policy.
    pub router: Arc<dyn Router>,
    /// The configured providers.
    pub providers: Arc<dyn Providers>,
    /// Their credentials.
    pub credentials: Arc<dyn Credentials>,
    /// Their health.
    pub health: Arc<dyn ProviderHealth>,
    /// The way to them.
    pub http: HttpClient,
}

/// The gateway. Clones share their parts.
#[derive(Clone)]
pub struct Gateway(Arc<GatewayParts>);

/// A candidate that was chosen, with all that is known about its call.
struct Chosen {
    target: Target,
    provider: Provider,
    demand: Demand,
    /// Removes the credential of the call from what the provider says when it fails.
    redactor: Redactor,
}

impl Chosen {
    /// Prepares a call for a candidate.
    fn new(target: Target, provider: Provider, call: &dyn ModelCall) -> Chosen {
        Chosen {
            demand: call.demand(&provider),
            target,
            provider,
            redactor: Redactor::default(),
        }
    }

    /// Limits the output so that the call takes at most `tokens`, where the limit is the provider's and not the
    /// caller's. Returns false, and changes nothing, if little of the output would be left.
    fn fit(&mut self, tokens: Tokens, call: &dyn ModelCall) -> bool {
        let output = tokens.0.saturating_sub(self.demand.input.0);
        if output < self.provider.output_tokens_max / OUTPUT_PART_MIN {
            return false;
        }
        let output_tokens_max = output.min(self.provider.output_tokens_max);
        let provider = Provider {
            output_tokens_max,
            ..self.provider.clone()
        };
        let shorter = Chosen::new(self.target.clone(), provider, call);
        let fits = shorter.demand.input + shorter.demand.output <= tokens;
        if fits {
            *self = shorter;
        }
        fits
    }

    /// Most bytes of output that a provider can stream within the reserved tokens.
    fn output_bytes_max(&self) -> u64 {
        let bytes = self.demand.output.0.saturating_mul(BYTES_PER_TOKEN_MAX);
        bytes.max(OUTPUT_BYTES_MIN)
    }
}

/// How the attempt to send a call to one candidate ended.
enum Attempt {
    /// The provider answered; the call is paid for until it is settled.
    Answered(Box<hyper::Response<Incoming>>, InFlight),
    /// The provider answered with an error.
    Failed(ErrorAnswer, InFlight),
    /// Nothing was sent and nothing is charged, so the next candidate may be tried.
    NotSent(Refusal),
}

/// An error that a provider answered with.
struct ErrorAnswer {
    status: StatusCode,
    retry_after: Option<HeaderValue>,
    /// Time that `retry_after` asks for, where it can be understood.
    asked: Option<RetryAfter>,
    /// What it said, without the credential; empty if it broke off or said too much.
    body: Vec<u8>,
}

impl ErrorAnswer {
    async fn read(answer: hyper::Response<Incoming>, redactor: &Redactor) -> Self {
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ERROR_BYTES_MAX).collect().await;
        let body = body.map(|b| b.to_bytes()).unwrap_or_default();
        ErrorAnswer {
            status: head.status,
            asked: RetryAfter::of(&head.headers),
            retry_after: head.headers.get(RETRY_AFTER).cloned(),
            body: redactor
                .clean(&String::from_utf8_lossy(&body))
                .into_owned()
                .into_bytes(),
        }
    }
}

/// The request to a candidate, with the credential.
fn upstream_request(
    caller: &Caller,
    call: &dyn ModelCall,
    chosen: &Chosen,
    authorization: &Authorization,
) -> Result<hyper::Request<Full<Bytes>>, Refusal> {
    let provider = &chosen.provider;
    let unavailable =
        |why: String| Refusal::provider_unavailable(format!("{}: {why}", provider.name));
    let upstream = call.upstream_request(provider, &chosen.target);
    let mut request = hyper::Request::new(Full::new(upstream.body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = format!("{}{}", provider.base_url, upstream.path)
        .parse()
        .map_err(|e| unavailable(format!("its URL is not valid: {e}")))?;
    *request.headers_mut() = upstream.headers;
    authorization
        .apply(request.headers_mut())
        .map_err(unavailable)?;
    if let Some(trace) = caller
        .trace
        .as_deref()
        .and_then(|t| HeaderValue::from_str(t).ok())
    {
        let name = HeaderName::from_static("traceparent");
        request.headers_mut().insert(name, trace);
    }
    Ok(request)
}

impl Gateway {
    /// A gateway with these parts, which has served no call yet.
    pub fn new(parts: GatewayParts) -> Self {
        Gateway(Arc::new(parts))
    }

    /// Serves one model call: checks it, reserves funds, forwards it to a provider, and meters the response. Refusals
    /// are answered in the form of the call's protocol.
    pub async fn serve(
        &self,
        protocol: &dyn Protocol,
        caller: &Caller,
        request: Request,
    ) -> Response {
        self.process(protocol, caller, request)
            .await
            .unwrap_or_else(|refusal| protocol.refusal(&refusal))
    }

    async fn process(
        &self,
        protocol: &dyn Protocol,
        caller: &Caller,
        request: Request,
    ) -> Result<Response, Refusal> {
        // Limits: the body is bounded before it is read, then parsed.
        let limits = protocol.limits();
        let (head, body) = request.into_parts();
        let body = read_request(body, limits.request_bytes_max).await?;
        let call = protocol.parse(&head, body)?;

        // Key and policy: the caller is authenticated; the router decides which models it may use.
        let candidates = self.0.router.candidates(caller, call.requested_model())?;

        // Reserve and forward: the first candidate that can be reached. Once anything was sent there is no other try.
        let mut refused = Refusal::provider_unavailable(format!(
            "no provider for model `{}` is available",
            call.requested_model()
        ));
        for target in candidates {
            if let Err(refusal) = self.0.health.admit(caller, &target).await {
                refused = refusal;
                continue;
            }
            let provider = self.0.providers.find(&target)?;
            let mut chosen = Chosen::new(target, provider, call.as_ref());
            match self
                .reserve_and_forward(caller, call.as_ref(), &mut chosen)
                .await?
            {
                Attempt::NotSent(refusal) => refused = refusal,
                Attempt::Failed(answer, paid) => {
                    let passed = self.pass_error(caller, call.as_ref(), &chosen, answer, paid);
                    return Ok(passed.await);
                }
                // Stream, meter and settle.
                Attempt::Answered(answer, paid) => {
                    return self
                        .pass_back(caller, limits, call.as_ref(), chosen, (*answer, paid))
                        .await;
                }
            }
        }
        Err(refused)
    }

    /// Reserves the most that the call can cost at a candidate, and sends it there.
    async fn reserve_and_forward(
        &self,
        caller: &Caller,
        call: &dyn ModelCall,
        chosen: &mut Chosen,
    ) -> Result<Attempt, Refusal> {
        let authorization = self.0.credentials.authorization(&chosen.provider).await?;
        let reserved = self.reserve(caller, call, chosen).await?;
        chosen.redactor = authorization.redactor();

        let mut request = upstream_request(caller, call, chosen, &authorization)?;
        let in_flight = reserved.forward();
        let mut left_out = Vec::new();
        let error = loop {
            let answer = match self.0.http.send(request, FIRST_BYTE_MAX).await {
                Ok(answer) if answer.status().is_success() => {
                    // Only now it is known that the keys were what was wrong: an error can repeat any words of the caller.
                    for key in left_out {
                        self.0.providers.learn(&chosen.target, key).await;
                    }
                    return Ok(Attempt::Answered(Box::new(answer), in_flight));
                }
                Ok(answer) => ErrorAnswer::read(answer, &chosen.redactor).await,
                Err(error) => break error,
            };
            // What is refused for a key that it can do without is sent once more, and the next call is right at once.
            let refused = match answer.status {
                StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
                    call.refused_key(&chosen.provider, &answer.body)
                }
                _ => None,
            };
            let Some(key) = refused.filter(|key| chosen.provider.refuses.insert(*key)) else {
                return Ok(Attempt::Failed(answer, in_flight));
            };
            left_out.push(key);
            request = match upstream_request(caller, call, chosen, &authorization) {
                Ok(request) => request,
                Err(refusal) => {
                    in_flight.settle(Settlement::Released).await;
                    return Err(refusal);
                }
            };
        };
        let Chosen {
            target, provider, ..
        } = &*chosen;
        let refusal = Refusal::new(
            StatusCode::BAD_GATEWAY,
            "provider_unreachable",
            format!(
                "provider `{0}` can't be reached: {error}; check `providers.{0}` of the manifest",
                provider.name
            ),
        );
        match error {
            HttpError::Connect(_) => {
                self.record(caller, target, CallOutcome::Unreachable).await;
                in_flight.settle(Settlement::Released).await;
                Ok(Attempt::NotSent(refusal))
            }
            HttpError::NoAnswer(_) | HttpError::Answer(_) => {
                self.record(caller, target, CallOutcome::NoAnswer).await;
                in_flight
                    .settle(Settlement::Unmetered { model: None })
                    .await;
                Err(refusal)
            }
        }
    }

    /// Reserves the most that the call can cost. A call that a budget can never hold, with the output that the provider
    /// allows by default, is made with less output: with what is left now, or else with what will be.
    async fn reserve(
        &self,
        caller: &Caller,
        call: &dyn ModelCall,
        chosen: &mut Chosen,
    ) -> Result<Reserved, Refusal> {
        let request = |chosen: &Chosen| {
            let demand = chosen.demand;
            let prices = chosen.provider.prices;
            let cost = prices.map(|p| p.cost(demand.input, demand.output));
            ReservationRequest {
                agent: caller.agent.clone(),
                run: caller.run,
                amounts: BudgetAmounts {
                    tokens: demand.input + demand.output,
                    nano_usd: cost.unwrap_or_default(),
                    ..BudgetAmounts::default()
                },
                target: chosen.target.clone(),
            }
        };
        let refused = match Reserved::reserve(&self.0.meter, request(chosen)).await {
            Ok(reserved) => return Ok(reserved),
            Err(refused) => refused,
        };
        match refused.room {
            Some(room) if chosen.fit(room.now, call) || chosen.fit(room.most, call) => {
                let reserved = Reserved::reserve(&self.0.meter, request(chosen)).await;
                reserved.map_err(refusal_of_ledger)
            }
            _ => Err(refusal_of_ledger(refused)),
        }
    }

    async fn record(&self, caller: &Caller, target: &Target, end: impl Into<CallEnd>) {
        self.0.health.record(caller, target, end.into()).await;
    }

    /// Passes a provider's error on in the caller's protocol, with the name of the provider. No provider bills an error.
    async fn pass_error(
        &self,
        caller: &Caller,
        call: &dyn ModelCall,
        chosen: &Chosen,
        answer: ErrorAnswer,
        paid: InFlight,
    ) -> Response {
        let ErrorAnswer {
            status,
            retry_after,
            body,
            ..
        } = answer;
        let error = ProviderError::of_answer(&chosen.provider, status, &body);
        let end = CallEnd {
            outcome: CallOutcome::Answered(status.as_u16()),
            retry_after: answer.asked,
            words: error.words.clone(),
        };
        self.record(caller, &chosen.target, end).await;
        paid.settle(Settlement::Metered {
            usage: Usage::zero(UsageSource::Estimated),
            cost: Some(NanoUsd(0)),
            model: None,
        })
        .await;
        let mut response = Response::new(Body::from(call.provider_error(&error)));
        *response.status_mut() = status;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        if let Some(retry_after) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, retry_after);
        }
        response
    }

    /// Passes the answer back to the caller, reads its usage on the way, and settles.
    async fn pass_back(
        &self,
        caller: &Caller,
        limits: Limits,
        call: &dyn ModelCall,
        chosen: Chosen,
        (answer, paid): (hyper::Response<Incoming>, InFlight),
    ) -> Result<Response, Refusal> {
        let status = answer.status();
        if let Some(reader) = call.stream_reader(&chosen.provider) {
            let (to_caller, chunks) = mpsc::channel(CHUNKS_QUEUED_MAX);
            let content_type = HeaderValue::from_static(reader.content_type());
            let relay = Relay {
                gateway: self.clone(),
                caller: caller.clone(),
                limits,
                chosen,
                reader,
                to_caller,
            };
            // Its own task, so that the stream is read to its usage even when the caller has gone.
            drop(tokio::spawn(relay.run(answer.into_body(), paid)));
            let stream = futures_util::stream::unfold(chunks, async |mut chunks| {
                chunks.recv().await.map(|chunk| (chunk, chunks))
            });
            let mut response = Response::new(Body::from_stream(stream));
            *response.status_mut() = status;
            response.headers_mut().insert(CONTENT_TYPE, content_type);
            let no_cache = HeaderValue::from_static("no-cache");
            response.headers_mut().insert(CACHE_CONTROL, no_cache);
            return Ok(response);
        }

        let content_type = answer.headers().get(CONTENT_TYPE).cloned();
        let whole = Limited::new(answer.into_body(), limits.answer_bytes_max);
        let Ok(body) = whole.collect().await else {
            self.record(caller, &chosen.target, CallOutcome::Truncated)
                .await;
            paid.settle(Settlement::Unmetered { model: None }).await;
            return Err(Refusal::new(
                StatusCode::BAD_GATEWAY,
                "provider_broke_off",
                format!(
                    "the response of {} ended early or is longer than {} bytes",
                    chosen.provider.name, limits.answer_bytes_max
                ),
            ));
        };
        let body = body.to_bytes();
        let settled = settlement(&chosen.provider, call.read_answer(&body));
        let outcome = CallOutcome::Answered(status.as_u16());
        self.record(caller, &chosen.target, outcome).await;
        paid.settle(settled).await;
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        if let Some(content_type) = content_type {
            response.headers_mut().insert(CONTENT_TYPE, content_type);
        }
        Ok(response)
    }
}

/// A stream on its way to the caller. Each chunk is passed on as it arrives. A caller that goes away does not stop the
/// reading at once: the usage at the end is what the provider bills.
struct Relay {
    gateway: Gateway,
    caller: Caller,
    limits: Limits,
    chosen: Chosen,
    reader: Box<dyn StreamReader>,
    to_caller: mpsc::Sender<Result<Bytes, std::io::Error>>,
}

impl Relay {
    async fn run(mut self, mut body: Incoming, paid: InFlight) {
        let mut drain_ends: Option<tokio::time::Instant> = None;
        let output_bytes_max = self.chosen.output_bytes_max();
        let mut overran = false;
        let (mut bytes, bytes_max) = (0u64, output_bytes_max.saturating_mul(STREAM_PART));
        while !self.reader.is_complete() && !overran {
            let frame = tokio::select! {
                frame = tokio::time::timeout(self.limits.chunk_pause_max, body.frame()) => frame,
                () = self.to_caller.closed(), if drain_ends.is_none() => {
                    drain_ends = Some(tokio::time::Instant::now() + self.limits.drain_max);
                    continue;
                }
                () = tokio::time::sleep_until(drain_ends.unwrap_or_else(tokio::time::Instant::now)),
                    if drain_ends.is_some() => break,
            };
            let Ok(Some(Ok(frame))) = frame else { break };
            let Ok(chunk) = frame.into_data() else {
                continue;
            };
            bytes = bytes.saturating_add(chunk.len() as u64);
            let passed = self.reader.read(chunk);
            let passed = self.without_credential(passed);
            overran = self.reader.output_bytes() > output_bytes_max || bytes > bytes_max;
            if !passed.is_empty() {
                let _caller_gone = self.to_caller.send(Ok(passed)).await;
            }
        }
        if !self.reader.is_complete() && !overran {
            let rest = self.reader.finish();
            let rest = self.without_credential(rest);
            if !rest.is_empty() {
                let _caller_gone = self.to_caller.send(Ok(rest)).await;
            }
        }
        let outcome = if self.reader.is_complete() {
            CallOutcome::Answered(StatusCode::OK.as_u16())
        } else if overran {
            let refusal = self.overrun();
            let event = self.reader.refusal_event(&refusal);
            let _caller_gone = self.to_caller.send(Ok(event)).await;
            CallOutcome::Overrun
        } else if self.reader.has_failed() {
            // A connection that breaks off could take the error along.
            CallOutcome::Truncated
        } else {
            let cut = std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                "the provider's stream ended before its end marker",
            );
            let _caller_gone = self.to_caller.send(Err(cut)).await;
            CallOutcome::Truncated
        };
        let (caller, target) = (&self.caller, &self.chosen.target);
        self.gateway.record(caller, target, outcome).await;
        let mut reading = self.reader.reading();
        let held = self.chosen.demand.input + self.chosen.demand.output;
        // What a stream reported before it was cut is not all that is billed, unless it is more than was reserved.
        if !self.reader.is_complete() {
            reading.usage = reading.usage.filter(|u| u.input + u.output >= held);
        }
        paid.settle(settlement(&self.chosen.provider, reading))
            .await;
    }

    /// What is passed on, without the credential where the provider says that it failed.
    fn without_credential(&self, passed: Bytes) -> Bytes {
        if !self.reader.has_failed() {
            return passed;
        }
        let text = String::from_utf8_lossy(&passed);
        Bytes::from(self.chosen.redactor.clean(&text).into_owned())
    }

    fn overrun(&self) -> Refusal {
        Refusal::new(
            StatusCode::BAD_GATEWAY,
            "output_limit",
            format!(
                "provider `{}` went on after the {} output tokens that the call was limited to, and was cut off",
                self.chosen.provider.name, self.chosen.demand.output.0
            ),
        )
    }
}

/// Reads a request body that is not longer than its limit.
async fn read_request(body: Body, bytes_max: usize) -> Result<Bytes, Refusal> {
    let whole = Limited::new(body, bytes_max).collect().await;
    let whole = whole.map_err(|_| {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("the request body is longer than {bytes_max} bytes, or ended early"),
        )
    })?;
    Ok(whole.to_bytes())
}

fn refusal_of_ledger(refused: ReservationRefused) -> Refusal {
    Refusal {
        status: match refused.code {
            "budget_exhausted" => StatusCode::TOO_MANY_REQUESTS,
            "no_lease" => StatusCode::FORBIDDEN,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        },
        code: refused.code,
        text: refused.text,
        retry_after_s: refused.retry_after_s,
    }
}

fn settlement(provider: &Provider, reading: Reading) -> Settlement {
    match reading.usage {
        Some(usage) => Settlement::Metered {
            cost: provider.cost(&usage),
            usage,
            model: reading.model,
        },
        None => Settlement::Unmetered {
            model: reading.model,
        },
    }
}
