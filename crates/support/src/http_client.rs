//! A pooled HTTP client with TLS, for servers outside the house: model providers, forges, webhooks.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::time::Duration;

/// Longest time to connect.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long an unused connection stays open.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Why a request has no usable response. Whether it was sent decides if it may be repeated and if it may be billed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The connection failed, so nothing was sent.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The request was sent, and no response began.
    #[error("no response was received: {0}")]
    NoAnswer(String),
    /// A response began, and it ended early or was longer than allowed.
    #[error("the response was incomplete or too long: {0}")]
    Answer(String),
}

/// HTTP/1.1 client with a connection pool and TLS. It follows no redirects. Clones share their connections.
#[derive(Debug, Clone)]
pub struct HttpClient(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl Default for HttpClient {
    fn default() -> Self {
        HttpClient::new()
    }
}

impl HttpClient {
    /// A client with an empty connection pool of its own.
    pub fn new() -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_MAX));
        tcp.set_nodelay(true);
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        HttpClient(
            Client::builder(TokioExecutor::new())
                .pool_idle_timeout(IDLE_MAX)
                .build(https),
        )
    }

    /// Sends a request and returns the response as soon as its head has arrived, which may take at most `within`.
    ///
    /// # Errors
    /// [`HttpError::Connect`] when nothing was sent, [`HttpError::NoAnswer`] otherwise.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
        within: Duration,
    ) -> Result<Response<Incoming>, HttpError> {
        match tokio::time::timeout(within, self.0.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(e)) if e.is_connect() => Err(HttpError::Connect(chain(&e))),
            Ok(Err(e)) => Err(HttpError::NoAnswer(chain(&e))),
            Err(_) => Err(HttpError::NoAnswer(format!(
                "nothing came within {within:?}"
            ))),
        }
    }

    /// Sends a request and reads the whole response, whose body may have at most `bytes_max` bytes. All of it may take
    /// at most `within`.
    ///
    /// # Errors
    /// [`HttpError`] says whether the request was sent and whether a response began.
    pub async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        within: Duration,
        bytes_max: usize,
    ) -> Result<Response<Bytes>, HttpError> {
        let exchange = async {
            let (head, body) = self.send(request, within).await?.into_parts();
            let whole = Limited::new(body, bytes_max).collect().await;
            let whole = whole.map_err(|e| HttpError::Answer(chain(e.as_ref())))?;
            Ok(Response::from_parts(head, whole.to_bytes()))
        };
        tokio::time::timeout(within, exchange)
            .await
            .unwrap_or_else(|_| {
                Err(HttpError::NoAnswer(format!(
                    "nothing came within {within:?}"
                )))
            })
    }
}

/// An error and its sources, as one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
