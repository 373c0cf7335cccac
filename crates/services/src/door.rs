//! HTTP server of a stock service: authenticates consumers by name and credential, and limits concurrent requests.

use crate::registry::{Consumer, ConsumerRegistry, ExceededLimit, RequestLimiter};
use crate::{Error, Result};
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};

/// Shared state of an HTTP service: consumers and their current requests.
#[derive(Debug)]
pub(crate) struct HttpService {
    pub(crate) registry: ConsumerRegistry,
    turnstile: Mutex<RequestLimiter>,
}

/// Authenticated consumer of a running request, which counts as finished when this is dropped.
#[derive(Debug)]
pub(crate) struct AdmittedConsumer {
    door: Arc<HttpService>,
    /// Name of the consumer in the service.
    pub(crate) name: String,
    /// Limits of the consumer.
    pub(crate) consumer: Consumer,
}

impl Drop for AdmittedConsumer {
    fn drop(&mut self) {
        let turnstile = &self.door.turnstile;
        turnstile
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .end_request(&self.name);
    }
}

/// HTTP response with this status and a line of text.
pub(crate) fn text_response(status: StatusCode, text: impl Into<String>) -> Response {
    (status, text.into() + "\n").into_response()
}

impl HttpService {
    /// State of an HTTP service with these consumers.
    pub(crate) fn new(registry: ConsumerRegistry) -> Arc<HttpService> {
        Arc::new(HttpService {
            registry,
            turnstile: Mutex::default(),
        })
    }

    /// Authenticates a request by name and credential (RFC 7617, `Basic`) and applies the consumer's limits. The
    /// error is the response to send: 401, 429 or 500.
    pub(crate) fn authenticate(
        self: &Arc<HttpService>,
        headers: &HeaderMap,
    ) -> std::result::Result<AdmittedConsumer, Box<Response>> {
        let who = || {
            let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"abbey\"")];
            let text = "authentication required: send the name and credential of your service as HTTP Basic\n";
            Box::new((StatusCode::UNAUTHORIZED, challenge, text).into_response())
        };
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|v| v.to_str().ok());
        let given = given
            .and_then(|v| v.strip_prefix("Basic "))
            .ok_or_else(who)?;
        let decoded = BASE64
            .decode(given.trim())
            .ok()
            .and_then(|b| String::from_utf8(b).ok());
        let decoded = decoded.ok_or_else(who)?;
        let (name, secret) = decoded.split_once(':').ok_or_else(who)?;
        let admitted = self.registry.authenticate(name, secret).map_err(|error| {
            eprintln!("error: {error}");
            Box::new(text_response(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the service cannot read its consumers",
            ))
        })?;
        let consumer = admitted.ok_or_else(who)?;
        let mut turnstile = self
            .turnstile
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Err(wait) = turnstile.begin_request(name, &consumer, Instant::now()) {
            let (text, after) = match wait {
                ExceededLimit::Crowd => ("too many concurrent requests; retry later\n", "1"),
                ExceededLimit::Rate => ("too many requests in a minute; retry later\n", "60"),
            };
            let later = [(header::RETRY_AFTER, after)];
            return Err(Box::new(
                (StatusCode::TOO_MANY_REQUESTS, later, text).into_response(),
            ));
        }
        drop(turnstile);
        Ok(AdmittedConsumer {
            door: Arc::clone(self),
            name: name.to_owned(),
            consumer,
        })
    }
}

/// Serves HTTP on `address:port`, with `/healthz`, until `SIGTERM`. Returns the exit status.
pub(crate) async fn serve_http(router: axum::Router, address: &str, port: u16) -> Result<i32> {
    let listener = tokio::net::TcpListener::bind((address, port)).await;
    let listener = listener.map_err(Error::file("listen on", format!("{address}:{port}")))?;
    let mut end = signal(SignalKind::terminate()).map_err(Error::file("watch", "signals"))?;
    let router = router.route("/healthz", get(async || "ok\n"));
    let served = axum::serve(listener, router).with_graceful_shutdown(async move {
        end.recv().await;
    });
    served
        .await
        .map_err(Error::file("serve on", format!("{address}:{port}")))?;
    Ok(0)
}

/// Performs a request of the control plane on the consumers of an HTTP service; `copy` makes the backup before a
/// consumer is closed or dropped.
pub(crate) fn perform_request(
    registry: &ConsumerRegistry,
    question: crate::ask::ServiceRequest,
    copy: impl Fn(&str, i64) -> Result<crate::ask::ServiceReply>,
) -> Result<crate::ask::ServiceReply> {
    use crate::ask::{ServiceReply, ServiceRequest};
    let done = ServiceReply::Done {
        backup: None,
        bytes: 0,
    };
    // Nobody gets a new place, and nothing is copied or deleted, where the data is gone.
    if !matches!(question, ServiceRequest::State {}) {
        registry.check_data_not_lost()?;
    }
    let known = |name: &str| Ok::<_, Error>(registry.read_all()?.remove(name));
    match &question {
        ServiceRequest::State {} => Ok(ServiceReply::State {
            holdings: registry.consumer_states()?,
            certificate: None,
        }),
        ServiceRequest::Open { .. } => registry.apply_request(&question).map(|()| done),
        ServiceRequest::Close { name, at_ms } => {
            let Some(consumer) = known(name)? else {
                return Ok(done);
            };
            // Out first, then the copy, then the mark that it has one.
            if consumer.closed_ms.is_some() {
                return Ok(done);
            }
            registry.revoke_credential(name)?;
            let copied = copy(name, *at_ms)?;
            registry.apply_request(&question).map(|()| copied)
        }
        ServiceRequest::Drop { name, at_ms } => {
            if known(name)?.is_none() {
                return Ok(done);
            }
            let copied = copy(name, *at_ms)?;
            registry.apply_request(&question).map(|()| copied)
        }
    }
}

/// Reads a request body; none if it is longer than `most` bytes.
pub(crate) async fn read_body(body: Body, most: u64) -> Option<Vec<u8>> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let bytes = axum::body::to_bytes(body, most).await.ok()?;
    Some(bytes.to_vec())
}
