//! The way to a provider.

use abbey_model::{NanoUsd, Secret};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::time::Duration;

/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest time until a provider's first byte.
const FIRST_BYTE: Duration = Duration::from_secs(300);

/// A provider, resolved.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Name in the manifest.
    pub name: String,
    /// Base of its API, up to and including `/v1`.
    pub base_url: String,
    /// Its key.
    pub key: Option<Secret>,
    /// Prices of a million tokens, input and output.
    pub price: Option<(NanoUsd, NanoUsd)>,
    /// Output tokens reserved for a call that names no maximum.
    pub output_tokens_max: u64,
}

/// A call that did not reach a provider, or was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nothing was sent.
    #[error("the provider cannot be reached: {0}")]
    Connect(String),
    /// It was sent, and the outcome is not known.
    #[error("the provider did not answer: {0}")]
    Lost(String),
}

/// One pooled client for everything that the house itself calls.
#[derive(Clone)]
pub struct Sender(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl Default for Sender {
    fn default() -> Self {
        Sender::new()
    }
}

impl Sender {
    /// A client that follows no redirects.
    pub fn new() -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_nodelay(true);
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        Sender(
            Client::builder(TokioExecutor::new())
                .pool_idle_timeout(Duration::from_secs(30))
                .build(https),
        )
    }

    /// Posts one JSON document; the status of the answer.
    ///
    /// # Errors
    /// In words, when there was no answer.
    pub async fn post_json(
        &self,
        url: &str,
        authorization: Option<&Secret>,
        body: Bytes,
        patience: Duration,
    ) -> Result<u16, String> {
        let mut request = Request::post(url)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, "abbey");
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value.expose());
        }
        let request = request.body(Full::new(body)).map_err(|e| e.to_string())?;
        match tokio::time::timeout(patience, self.0.request(request)).await {
            Ok(Ok(response)) => Ok(response.status().as_u16()),
            Ok(Err(e)) => Err(chain(&e)),
            Err(_) => Err(format!("no answer within {patience:?}")),
        }
    }

    /// Asks by one JSON document; the status and the bytes of the answer, which are not more than that many.
    ///
    /// # Errors
    /// In words, when there was no answer, or a longer one.
    pub async fn ask_json(
        &self,
        url: &str,
        body: Bytes,
        patience: Duration,
        most: usize,
    ) -> Result<(u16, Bytes), String> {
        let request = Request::post(url)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(Full::new(body))
            .map_err(|e| e.to_string())?;
        self.whole(request, patience, most).await
    }

    /// Reads one JSON document; as [`Sender::ask_json`].
    ///
    /// # Errors
    /// In words, when there was no answer, or a longer one.
    pub async fn get_json(
        &self,
        url: &str,
        patience: Duration,
        most: usize,
    ) -> Result<(u16, Bytes), String> {
        let request = Request::get(url)
            .header(ACCEPT, "application/json")
            .body(Full::new(Bytes::new()))
            .map_err(|e| e.to_string())?;
        self.whole(request, patience, most).await
    }

    async fn whole(
        &self,
        request: Request<Full<Bytes>>,
        patience: Duration,
        most: usize,
    ) -> Result<(u16, Bytes), String> {
        let asked = async {
            let response = self.0.request(request).await.map_err(|e| chain(&e))?;
            let status = response.status().as_u16();
            let whole = Limited::new(response.into_body(), most).collect().await;
            let bytes = whole.map_err(|e| chain(e.as_ref()))?.to_bytes();
            Ok((status, bytes))
        };
        match tokio::time::timeout(patience, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {patience:?}")),
        }
    }

    pub(crate) async fn post(
        &self,
        to: &Upstream,
        path: &str,
        body: Bytes,
        trace: Option<&str>,
    ) -> Result<Response<Incoming>, Error> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{path}", to.base_url))
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream");
        if let Some(trace) = trace {
            request = request.header("traceparent", trace);
        }
        if let Some(key) = &to.key {
            request = request.header(AUTHORIZATION, format!("Bearer {}", key.expose()));
        }
        let request = request
            .body(Full::new(body))
            .map_err(|e| Error::Connect(e.to_string()))?;
        match tokio::time::timeout(FIRST_BYTE, self.0.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(e)) if e.is_connect() => Err(Error::Connect(chain(&e))),
            Ok(Err(e)) => Err(Error::Lost(chain(&e))),
            Err(_) => Err(Error::Lost(format!("no first byte within {FIRST_BYTE:?}"))),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(source) = at {
        text = format!("{text}: {source}");
        at = source.source();
    }
    text
}
