//! The stack over a protocol, a routing policy and a ledger that exist only here: nothing in it depends on one of the
//! shipped implementations.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use abbey_gateway::protocol::openai_chat::OpenAiChat;
use abbey_gateway::words::ProviderError;
use abbey_gateway::{
    Authorization, BoxFuture, CallEnd, Caller, Credentials, Demand, Gateway, GatewayParts, Limits,
    Meter, ModelCall, OutcomeCounts, Prices, Protocol, Provider, ProviderHealth, Providers,
    Reading, Refusal, ReservationRefused, ReservationRequest, Router, Settlement, StreamReader,
    Target, TokenRoom, UpstreamRequest, Usage, UsageSource,
};
use abbey_model::{Id, NanoUsd, RefusedKey, ReservationId, Secret, Tokens};
use abbey_support::http_client::HttpClient;
use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A protocol unlike the shipped one: the model is in the path, the body is plain text, a stream is counted in lines
/// and ends with `END in=N out=N`, and errors are plain text.
struct LineProtocol;

struct LineCall {
    model: String,
    streamed: bool,
    text: Bytes,
}

struct LineStream {
    buffer: String,
    reading: Reading,
    complete: bool,
}

impl Protocol for LineProtocol {
    fn limits(&self) -> Limits {
        Limits {
            request_bytes_max: 64,
            chunk_pause_max: Duration::from_secs(5),
            drain_max: Duration::from_secs(5),
            ..Limits::default()
        }
    }

    fn parse(&self, head: &Parts, body: Bytes) -> Result<Box<dyn ModelCall>, Refusal> {
        let path = head.uri.path();
        let model = path.strip_prefix("/lines/");
        let model = model.ok_or_else(|| Refusal::invalid_request("no model in the path"))?;
        Ok(Box::new(LineCall {
            model: model.to_owned(),
            streamed: head.headers.contains_key("x-stream"),
            text: body,
        }))
    }

    fn refusal(&self, refusal: &Refusal) -> Response {
        let body = Body::from(format!("REFUSED {} {}", refusal.code, refusal.text));
        let mut response = Response::new(body);
        *response.status_mut() = refusal.status;
        response
    }
}

impl ModelCall for LineCall {
    fn requested_model(&self) -> &str {
        &self.model
    }
    fn demand(&self, provider: &Provider) -> Demand {
        Demand {
            input: Tokens(self.text.len() as u64),
            output: Tokens(provider.output_tokens_max),
        }
    }
    fn upstream_request(&self, _provider: &Provider, target: &Target) -> UpstreamRequest {
        UpstreamRequest {
            path: format!("/{}", target.model),
            headers: HeaderMap::new(),
            body: self.text.clone(),
        }
    }
    fn read_answer(&self, body: &[u8]) -> Reading {
        read_end(&String::from_utf8_lossy(body)).unwrap_or_default()
    }
    fn provider_error(&self, error: &ProviderError<'_>) -> Bytes {
        Bytes::from(error.text())
    }
    fn stream_reader(&self, _provider: &Provider) -> Option<Box<dyn StreamReader>> {
        let stream = LineStream {
            buffer: String::new(),
            reading: Reading::default(),
            complete: false,
        };
        self.streamed
            .then(|| Box::new(stream) as Box<dyn StreamReader>)
    }
}

impl StreamReader for LineStream {
    fn content_type(&self) -> &'static str {
        "text/plain"
    }
    fn read(&mut self, chunk: Bytes) -> Bytes {
        self.buffer.push_str(&String::from_utf8_lossy(&chunk));
        if let Some(reading) = read_end(&self.buffer) {
            self.reading = reading;
            self.complete = true;
        }
        // This protocol changes what the caller sees.
        Bytes::from(chunk.to_ascii_uppercase())
    }
    fn output_bytes(&self) -> u64 {
        self.buffer.len() as u64
    }
    fn refusal_event(&self, refusal: &Refusal) -> Bytes {
        Bytes::from(format!("REFUSED {} {}", refusal.code, refusal.text))
    }
    fn is_complete(&self) -> bool {
        self.complete
    }
    fn reading(&self) -> Reading {
        self.reading.clone()
    }
}

/// Finds `END in=N out=N` in a text.
fn read_end(text: &str) -> Option<Reading> {
    let line = text.lines().find_map(|l| l.strip_prefix("END in="))?;
    let (input, output) = line.split_once(" out=")?;
    let usage = Usage {
        input: Tokens(input.parse().ok()?),
        output: Tokens(output.trim().parse().ok()?),
        ..Usage::zero(UsageSource::Provider)
    };
    Some(Reading {
        usage: Some(usage),
        model: Some("lines-1".to_owned()),
    })
}

/// Everything behind the gateway: a ledger that records, a routing table, providers by address, one unhealthy target.
struct Fakes {
    targets: Vec<Target>,
    refuse: Option<&'static str>,
    /// What the budget can hold; no call is refused for it if not set.
    room: Option<TokenRoom>,
    authorization: Authorization,
    unhealthy: Option<Target>,
    ledger: Mutex<Vec<String>>,
    settled: tokio::sync::Notify,
    outcomes: OutcomeCounts,
    /// What providers said in error answers.
    words: Mutex<Vec<String>>,
    learned: Mutex<BTreeSet<RefusedKey>>,
    address: String,
}

struct Shared(Arc<Fakes>);

impl Meter for Shared {
    fn reserve(
        &self,
        request: ReservationRequest,
    ) -> BoxFuture<'static, Result<ReservationId, ReservationRefused>> {
        let fakes = Arc::clone(&self.0);
        Box::pin(async move {
            let amounts = request.amounts;
            fakes.ledger.lock().unwrap().push(format!(
                "reserve {} tokens={} nano_usd={}",
                request.target, amounts.tokens.0, amounts.nano_usd.0
            ));
            let refused = fakes.room.filter(|room| amounts.tokens > room.now);
            match fakes.refuse.or(refused.map(|_| "budget_exhausted")) {
                None => Ok(Id::from_bits(1)),
                Some(code) => Err(ReservationRefused {
                    code,
                    text: "the daily budget is used up".to_owned(),
                    retry_after_s: Some(60),
                    room: refused.filter(|room| amounts.tokens > room.most),
                }),
            }
        })
    }

    fn settle(&self, _id: ReservationId, settlement: Settlement) -> BoxFuture<'static, ()> {
        let fakes = Arc::clone(&self.0);
        Box::pin(async move {
            let line = match settlement {
                Settlement::Metered { usage, cost, model } => format!(
                    "settle in={} out={} cost={:?} model={}",
                    usage.input.0,
                    usage.output.0,
                    cost.map(|c| c.0),
                    model.unwrap_or_default()
                ),
                Settlement::Unmetered { .. } => "settle whole reservation".to_owned(),
                Settlement::Released => "release".to_owned(),
            };
            fakes.ledger.lock().unwrap().push(line);
            fakes.settled.notify_one();
        })
    }
}

impl Router for Shared {
    fn candidates(&self, _caller: &Caller, model: &str) -> Result<Vec<Target>, Refusal> {
        match model {
            "allowed" => Ok(self.0.targets.clone()),
            _ => Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "model_not_allowed",
                model,
            )),
        }
    }
}

impl Providers for Shared {
    fn find(&self, target: &Target) -> Result<Provider, Refusal> {
        let base_url = match target.provider.as_str() {
            // Nothing listens on the discard port of loopback.
            "gone" => "http://127.0.0.1:9".to_owned(),
            _ => format!("http://{}", self.0.address),
        };
        Ok(Provider {
            name: target.provider.clone(),
            base_url,
            prices: Some(Prices {
                input: NanoUsd(1_000_000),
                output: NanoUsd(2_000_000),
            }),
            output_tokens_max: 100,
            refuses: self.0.learned.lock().unwrap().clone(),
        })
    }

    fn learn<'a>(&'a self, _target: &'a Target, key: RefusedKey) -> BoxFuture<'a, ()> {
        self.0.learned.lock().unwrap().insert(key);
        Box::pin(async {})
    }
}

impl Credentials for Shared {
    fn authorization<'a>(
        &'a self,
        _provider: &'a Provider,
    ) -> BoxFuture<'a, Result<Authorization, Refusal>> {
        Box::pin(async { Ok(self.0.authorization.clone()) })
    }
}

impl ProviderHealth for Shared {
    fn admit<'a>(
        &'a self,
        _caller: &'a Caller,
        target: &'a Target,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        let ill = self.0.unhealthy.as_ref() == Some(target);
        Box::pin(async move {
            match ill {
                true => Err(Refusal::provider_unavailable("it is ill")),
                false => Ok(()),
            }
        })
    }
    fn record<'a>(
        &'a self,
        _caller: &'a Caller,
        target: &'a Target,
        end: CallEnd,
    ) -> BoxFuture<'a, ()> {
        self.0.outcomes.count(target, end.outcome);
        self.0.words.lock().unwrap().extend(end.words);
        Box::pin(async {})
    }
}

fn target(provider: &str, model: &str) -> Target {
    Target {
        provider: provider.to_owned(),
        model: model.to_owned(),
    }
}

/// The answer of a provider that knows neither `max_tokens` nor `stream_options`, and says so one by one.
async fn refuse_keys(request: Request) -> Response {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let refusal = if body.get("max_tokens").is_some() {
        json!({ "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", "code": "unsupported_parameter" })
    } else if body.get("stream_options").is_some() {
        json!({ "message": "Unrecognized request argument supplied: stream_options" })
    } else {
        assert_eq!(body["max_completion_tokens"], 100, "{body}");
        let usage = json!({ "prompt_tokens": 7, "completion_tokens": 8 });
        let choice = json!({ "index": 0, "message": { "role": "assistant", "content": "yes" }, "finish_reason": "stop" });
        let answer = json!({ "model": "m-1", "usage": usage, "choices": [choice] });
        return Response::new(Body::from(answer.to_string()));
    };
    let mut response = Response::new(Body::from(json!({ "error": refusal }).to_string()));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}

/// A provider on loopback: the path says how it answers.
async fn provider() -> String {
    let answer = async |request: Request| {
        let headers = format!(
            "authorization={:?} x-api-key={:?}",
            request.headers().get("authorization"),
            request
                .headers()
                .get("x-api-key")
                .map(|v| v.to_str().unwrap())
        );
        let lines = |lines: Vec<&'static str>| {
            let stream = futures_util::stream::iter(lines).then(async |line| {
                tokio::task::yield_now().await;
                Ok::<_, std::io::Error>(Bytes::from_static(line.as_bytes()))
            });
            Response::new(Body::from_stream(stream))
        };
        match request.uri().path() {
            "/whole" => Response::new(Body::from(format!("{headers}\nEND in=3 out=4\n"))),
            "/silent" => Response::new(Body::from("no usage")),
            "/error" => {
                let mut response = Response::new(Body::from("overloaded"));
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                response
            }
            "/stream" => lines(vec!["hel", "lo\nEN", "D in=5 out=6\n"]),
            "/cut" => lines(vec!["hel", "lo\n"]),
            "/endless" => lines(vec!["a word and another "; 1000]),
            "/chat/completions" if headers.contains("Bearer leaked") => {
                let text = format!("bad key \u{1b}[2J in {headers}");
                let mut response = Response::new(Body::from(text));
                *response.status_mut() = StatusCode::UNAUTHORIZED;
                response
            }
            "/chat/completions" if headers.contains("midway") => {
                let text = format!(
                    "data: {}\n\n",
                    json!({ "error": format!("busy: {headers}") })
                );
                Response::new(Body::from(text))
            }
            "/chat/completions" if headers.contains("echoing") => {
                let text = "Unsupported parameter: max_tokens, as the caller said";
                let error =
                    json!({ "error": { "message": text, "code": "unsupported_parameter" } });
                let mut response = Response::new(Body::from(error.to_string()));
                *response.status_mut() = StatusCode::BAD_REQUEST;
                response
            }
            "/chat/completions" if headers.contains("picky") => refuse_keys(request).await,
            "/chat/completions" => Response::new(Body::from(
                json!({ "model": "m-1", "usage": { "prompt_tokens": 7, "completion_tokens": 8 } })
                    .to_string(),
            )),
            other => Response::new(Body::from(format!("no path {other}"))),
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let app = axum::Router::new().fallback(answer);
    drop(tokio::spawn(async { axum::serve(listener, app).await }));
    address
}

async fn fakes(targets: &[Target]) -> Fakes {
    Fakes {
        targets: targets.to_vec(),
        refuse: None,
        room: None,
        authorization: Authorization::None,
        unhealthy: None,
        ledger: Mutex::default(),
        settled: tokio::sync::Notify::new(),
        outcomes: OutcomeCounts::default(),
        words: Mutex::default(),
        learned: Mutex::default(),
        address: provider().await,
    }
}

fn gateway(fakes: &Arc<Fakes>) -> Gateway {
    let shared = || Arc::new(Shared(Arc::clone(fakes)));
    Gateway::new(GatewayParts {
        meter: shared(),
        router: shared(),
        providers: shared(),
        credentials: shared(),
        health: shared(),
        http: HttpClient::new(),
    })
}

fn caller() -> Caller {
    Caller {
        agent: "atlas".parse().unwrap(),
        run: None,
        trace: None,
    }
}

async fn call(fakes: &Arc<Fakes>, path: &str, streamed: bool) -> (StatusCode, String) {
    let mut request = Request::post(path);
    if streamed {
        request = request.header("x-stream", "1");
    }
    let request = request.body(Body::from("hello")).unwrap();
    let response = gateway(fakes)
        .serve(&LineProtocol, &caller(), request)
        .await;
    let status = response.status();
    let mut text = String::new();
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => text.push_str(&String::from_utf8_lossy(frame.data_ref().unwrap())),
            Err(_) => text.push_str("<cut>"),
        }
    }
    (status, text)
}

fn ledger(fakes: &Fakes) -> Vec<String> {
    fakes.ledger.lock().unwrap().clone()
}

#[tokio::test]
async fn a_call_is_reserved_forwarded_metered_and_settled_in_another_protocol() {
    let fakes = Arc::new(fakes(&[target("main", "whole")]).await);
    let (status, text) = call(&fakes, "/lines/allowed", false).await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("authorization=None"), "{text}");
    // 5 bytes of input and 100 tokens of output, at 1 and 2 nano-dollars a token.
    assert_eq!(
        ledger(&fakes),
        [
            "reserve main/whole tokens=105 nano_usd=205",
            "settle in=3 out=4 cost=Some(11) model=lines-1"
        ]
    );
}

#[tokio::test]
async fn refusals_come_in_the_form_of_the_protocol_and_reserve_nothing() {
    let fakes = Arc::new(fakes(&[target("main", "whole")]).await);
    let (status, text) = call(&fakes, "/lines/other", false).await;
    assert_eq!(
        (status, text.as_str()),
        (StatusCode::FORBIDDEN, "REFUSED model_not_allowed other")
    );
    let (status, text) = call(&fakes, "/elsewhere", false).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text.starts_with("REFUSED invalid_request"), "{text}");
    let long = Request::post("/lines/allowed")
        .body(Body::from("x".repeat(65)))
        .unwrap();
    let response = gateway(&fakes).serve(&LineProtocol, &caller(), long).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(ledger(&fakes).is_empty());
}

#[tokio::test]
async fn a_refused_reservation_sends_nothing_and_tries_no_other_candidate() {
    let targets = [target("main", "whole"), target("second", "whole")];
    let fakes = Arc::new(Fakes {
        refuse: Some("budget_exhausted"),
        ..fakes(&targets).await
    });
    let (status, text) = call(&fakes, "/lines/allowed", false).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert!(text.starts_with("REFUSED budget_exhausted"), "{text}");
    assert_eq!(ledger(&fakes).len(), 1);
    assert!(fakes.outcomes.snapshot().is_empty());
}

#[tokio::test]
async fn the_next_candidate_serves_when_the_first_cannot_be_reached_and_only_one_is_charged() {
    let targets = [
        target("ill", "whole"),
        target("gone", "whole"),
        target("main", "whole"),
        target("second", "whole"),
    ];
    let fakes = Arc::new(Fakes {
        unhealthy: Some(target("ill", "whole")),
        ..fakes(&targets).await
    });
    let (status, _) = call(&fakes, "/lines/allowed", false).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        ledger(&fakes),
        [
            "reserve gone/whole tokens=105 nano_usd=205",
            "release",
            "reserve main/whole tokens=105 nano_usd=205",
            "settle in=3 out=4 cost=Some(11) model=lines-1"
        ]
    );
    let outcomes = fakes.outcomes.snapshot();
    assert_eq!(outcomes[&("gone".to_owned(), "unreachable")], 1);
    assert_eq!(outcomes[&("main".to_owned(), "success")], 1);
    assert_eq!(outcomes.len(), 2);
}

#[tokio::test]
async fn without_a_reachable_candidate_the_call_is_refused_and_released() {
    let fakes = Arc::new(fakes(&[target("gone", "whole")]).await);
    let (status, text) = call(&fakes, "/lines/allowed", false).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(
        text.starts_with("REFUSED provider_unreachable provider `gone` can't be reached:"),
        "{text}"
    );
    assert_eq!(ledger(&fakes)[1], "release");
}

#[tokio::test]
async fn an_answer_without_usage_costs_the_whole_reservation_and_an_error_answer_nothing() {
    let silent = Arc::new(fakes(&[target("main", "silent")]).await);
    call(&silent, "/lines/allowed", false).await;
    assert_eq!(ledger(&silent)[1], "settle whole reservation");

    let error = Arc::new(fakes(&[target("main", "error")]).await);
    let (status, text) = call(&error, "/lines/allowed", false).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let told = format!(
        "provider `main` (http://{}) answers 503 Service Unavailable: overloaded",
        error.address
    );
    assert_eq!(text, told);
    assert_eq!(*error.words.lock().unwrap(), ["overloaded"]);
    assert_eq!(ledger(&error)[1], "settle in=0 out=0 cost=Some(0) model=");
    assert_eq!(
        error.outcomes.snapshot()[&("main".to_owned(), "server_error")],
        1
    );
}

#[tokio::test]
async fn a_stream_passes_through_its_protocol_and_is_charged_by_its_end() {
    let fakes = Arc::new(fakes(&[target("main", "stream")]).await);
    let (status, text) = call(&fakes, "/lines/allowed", true).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(text, "HELLO\nEND IN=5 OUT=6\n");
    fakes.settled.notified().await;
    assert_eq!(
        ledger(&fakes)[1],
        "settle in=5 out=6 cost=Some(17) model=lines-1"
    );
}

#[tokio::test]
async fn a_truncated_stream_reaches_the_caller_as_an_error_and_costs_the_whole_reservation() {
    let fakes = Arc::new(fakes(&[target("main", "cut")]).await);
    let (_, text) = call(&fakes, "/lines/allowed", true).await;
    assert_eq!(text, "HELLO\n<cut>");
    fakes.settled.notified().await;
    assert_eq!(ledger(&fakes)[1], "settle whole reservation");
    assert_eq!(
        fakes.outcomes.snapshot()[&("main".to_owned(), "truncated")],
        1
    );
}

#[tokio::test]
async fn a_stream_beyond_its_reservation_is_cut_and_costs_the_whole_reservation() {
    let fakes = Arc::new(fakes(&[target("main", "endless")]).await);
    let (_, text) = call(&fakes, "/lines/allowed", true).await;
    assert!(text.len() < 16_384, "{} bytes were passed on", text.len());
    assert!(
        text.contains("REFUSED output_limit provider `main` went on after the"),
        "{text}"
    );
    fakes.settled.notified().await;
    assert_eq!(ledger(&fakes)[1], "settle whole reservation");
    assert_eq!(
        fakes.outcomes.snapshot()[&("main".to_owned(), "overrun")],
        1
    );
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_the_metering() {
    let fakes = Arc::new(fakes(&[target("main", "stream")]).await);
    let request = Request::post("/lines/allowed").header("x-stream", "1");
    let request = request.body(Body::from("hello")).unwrap();
    let response = gateway(&fakes)
        .serve(&LineProtocol, &caller(), request)
        .await;
    drop(response);
    fakes.settled.notified().await;
    assert_eq!(
        ledger(&fakes)[1],
        "settle in=5 out=6 cost=Some(17) model=lines-1"
    );
}

#[tokio::test]
async fn a_provider_can_be_authorized_by_a_header_of_its_own() {
    let authorization =
        Authorization::Header(HeaderName::from_static("x-api-key"), Secret::new("k-123"));
    let fakes = Arc::new(Fakes {
        authorization,
        ..fakes(&[target("main", "whole")]).await
    });
    let (_, text) = call(&fakes, "/lines/allowed", false).await;
    assert!(
        text.contains("authorization=None x-api-key=Some(\"k-123\")"),
        "{text}"
    );
}

#[tokio::test]
async fn a_call_without_a_limit_of_its_own_fits_into_a_small_budget() {
    let body = json!({ "model": "allowed", "messages": [] }).to_string();
    let input = body.len().div_ceil(3) as u64;
    let reserved = async |now: u64, most: u64, body: String| {
        let fakes = Arc::new(Fakes {
            room: Some(TokenRoom {
                now: Tokens(input + now),
                most: Tokens(input + most),
            }),
            ..fakes(&[target("main", "big")]).await
        });
        let request = Request::post("/v1/chat/completions").body(Body::from(body));
        let (gateway, caller) = (gateway(&fakes), caller());
        let response = gateway.serve(&OpenAiChat, &caller, request.unwrap());
        let status = response.await.status();
        let ledger = ledger(&fakes);
        (
            status,
            ledger.iter().filter(|l| l.starts_with("reserve")).count(),
        )
    };
    let (ok, refused) = (StatusCode::OK, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(reserved(1000, 1000, body.clone()).await, (ok, 1));
    assert_eq!(reserved(60, 60, body.clone()).await, (ok, 2));
    assert_eq!(reserved(1, 1, body.clone()).await, (refused, 1));
    // A day on which something is spent is not over: less is left, and enough for an answer.
    assert_eq!(reserved(40, 60, body.clone()).await, (ok, 2));
    // With too little left, the call waits for the room that it will have; one that fits into that is not shortened.
    assert_eq!(reserved(1, 60, body.clone()).await, (refused, 2));
    assert_eq!(reserved(1, 1000, body).await, (refused, 1));
    // What the caller asks for is not changed.
    let asked = json!({ "model": "allowed", "messages": [], "max_tokens": 90 });
    assert_eq!(reserved(60, 60, asked.to_string()).await, (refused, 1));
}

#[tokio::test]
async fn the_same_gateway_serves_the_shipped_protocol() {
    let fakes = Arc::new(fakes(&[target("main", "big")]).await);
    let body = json!({ "model": "allowed", "messages": [], "max_tokens": 10 }).to_string();
    let bytes = body.len() as u64;
    let request = Request::post("/v1/chat/completions")
        .body(Body::from(body))
        .unwrap();
    let response = gateway(&fakes).serve(&OpenAiChat, &caller(), request).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        ledger(&fakes),
        [
            format!(
                "reserve main/big tokens={} nano_usd={}",
                bytes.div_ceil(3) + 10,
                bytes.div_ceil(3) + 20
            ),
            "settle in=7 out=8 cost=Some(23) model=m-1".to_owned()
        ]
    );
    let request = Request::post("/v1/chat/completions")
        .body(Body::from("{}"))
        .unwrap();
    let response = gateway(&fakes).serve(&OpenAiChat, &caller(), request).await;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let refused: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(refused["error"]["code"], "invalid_request");
}

#[tokio::test]
async fn keys_that_a_model_refuses_are_left_out_from_then_on_and_the_call_is_charged_once() {
    let fakes = Arc::new(Fakes {
        authorization: Authorization::Bearer(Secret::new("picky")),
        ..fakes(&[target("main", "big")]).await
    });
    let body = json!({ "model": "allowed", "messages": [], "stream": true }).to_string();
    for calls in 1..=2 {
        let request = Request::post("/v1/chat/completions").body(Body::from(body.clone()));
        let (gateway, caller) = (gateway(&fakes), caller());
        let response = gateway.serve(&OpenAiChat, &caller, request.unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(
            text.contains("yes") && text.ends_with("data: [DONE]\n\n"),
            "{text}"
        );
        fakes.settled.notified().await;
        let settled = ledger(&fakes)
            .iter()
            .filter(|l| l.starts_with("settle in=7"))
            .count();
        assert_eq!((settled, ledger(&fakes).len()), (calls, 2 * calls));
        assert_eq!(fakes.learned.lock().unwrap().len(), 2);
    }
    assert_eq!(
        fakes.outcomes.snapshot()[&("main".to_owned(), "success")],
        2
    );
}

#[tokio::test]
async fn a_provider_that_repeats_the_key_tells_it_to_nobody() {
    let fakes = Arc::new(Fakes {
        authorization: Authorization::Bearer(Secret::new("leaked")),
        ..fakes(&[target("main", "big")]).await
    });
    let body = json!({ "model": "allowed", "messages": [] }).to_string();
    let request = Request::post("/v1/chat/completions").body(Body::from(body));
    let (gateway, caller) = (gateway(&fakes), caller());
    let response = gateway.serve(&OpenAiChat, &caller, request.unwrap()).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let told: Value = serde_json::from_slice(&text).unwrap();
    let message = told["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("provider `main`") && message.contains("bad key [2J in"),
        "{message}"
    );
    assert!(message.contains("providers.main.key"), "{message}");
    let words = fakes.words.lock().unwrap().join("");
    for text in [message, &words] {
        assert!(
            !text.contains("leaked") && !text.contains('\u{1b}'),
            "{text}"
        );
    }
}

#[tokio::test]
async fn an_error_that_is_about_no_key_teaches_nothing() {
    let fakes = Arc::new(Fakes {
        authorization: Authorization::Bearer(Secret::new("echoing")),
        ..fakes(&[target("main", "big")]).await
    });
    let body = json!({ "model": "allowed", "messages": [] }).to_string();
    let request = Request::post("/v1/chat/completions").body(Body::from(body));
    let (gateway, caller) = (gateway(&fakes), caller());
    let response = gateway.serve(&OpenAiChat, &caller, request.unwrap()).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(fakes.learned.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_error_in_the_middle_that_repeats_the_key_is_passed_on_without_it() {
    let fakes = Arc::new(Fakes {
        authorization: Authorization::Bearer(Secret::new("midway-key")),
        ..fakes(&[target("main", "big")]).await
    });
    let body = json!({ "model": "allowed", "messages": [], "stream": true }).to_string();
    let request = Request::post("/v1/chat/completions").body(Body::from(body));
    let (gateway, caller) = (gateway(&fakes), caller());
    let response = gateway.serve(&OpenAiChat, &caller, request.unwrap()).await;
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(
        text.contains("provider `main` failed during its answer: busy"),
        "{text}"
    );
    assert!(!text.contains("midway-key"), "{text}");
}
