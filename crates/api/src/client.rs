//! A small typed client for both doors.

use crate::Problem;
use abbey_model::{FaultKind, Secret};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};

/// Largest answer that is read into memory.
const ANSWER_MAX: usize = 64 << 20;

/// Where the house answers.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// `HOST:PORT`, plain HTTP (a cell's door).
    Tcp(String),
}

/// A client with one credential.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
    token: Option<Secret>,
    timeout: Duration,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers.
    #[error("the control plane does not answer at {at}")]
    Unreachable {
        /// Where.
        at: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// It answered too late.
    #[error("the control plane did not answer within {0:?}")]
    Timeout(Duration),
    /// The exchange broke off.
    #[error("the exchange with the control plane broke off")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It refused.
    #[error(transparent)]
    Refused(#[from] Problem),
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> FaultKind {
        match self {
            Error::Unreachable { .. } | Error::Timeout(_) | Error::Broken(_) => {
                FaultKind::Unavailable
            }
            Error::Refused(problem) => problem.fault(),
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Value of `ETag`.
    pub etag: Option<String>,
    /// Body; null when empty.
    pub body: Value,
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Stream for T {}

impl Client {
    /// A client; requests end after a minute unless told otherwise.
    pub fn new(endpoint: Endpoint, token: Option<Secret>) -> Self {
        Client {
            endpoint,
            token,
            timeout: Duration::from_secs(60),
        }
    }

    /// Changes the time after which a request is given up.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// `GET`, as a document.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        decode(self.send(Method::GET, path, None, &[]).await?.body)
    }

    /// `POST`, as a document.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
        headers: &[(&str, String)],
    ) -> Result<T, Error> {
        let body = serde_json::to_value(body).map_err(|e| Error::Broken(e.into()))?;
        decode(
            self.send(Method::POST, path, Some(body), headers)
                .await?
                .body,
        )
    }

    /// One exchange.
    ///
    /// # Errors
    /// [`Error::Refused`] for every status of 400 and above.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, String)],
    ) -> Result<Answer, Error> {
        let exchange = async {
            let response = self.open(method, path, body, headers).await?;
            let status = response.status();
            let etag = response
                .headers()
                .get("etag")
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned);
            let bytes = Limited::new(response.into_body(), ANSWER_MAX)
                .collect()
                .await
                .map_err(Error::Broken)?
                .to_bytes();
            let body: Value = match bytes.is_empty() {
                true => Value::Null,
                false => serde_json::from_slice(&bytes).unwrap_or_else(|_| {
                    Value::String(String::from_utf8_lossy(&bytes).into_owned())
                }),
            };
            Ok::<Answer, Error>(Answer { status, etag, body })
        };
        let answer = tokio::time::timeout(self.timeout, exchange)
            .await
            .map_err(|_| Error::Timeout(self.timeout))??;
        if answer.status.is_client_error() || answer.status.is_server_error() {
            return Err(Error::Refused(
                serde_json::from_value(answer.body.clone()).unwrap_or_else(|_| {
                    Problem::new(
                        FaultKind::Internal,
                        format!("status {}: {}", answer.status, answer.body),
                    )
                }),
            ));
        }
        Ok(answer)
    }

    /// A connection that carries another protocol from here on.
    ///
    /// # Errors
    /// [`Error::Refused`] when the house does not change to it.
    pub async fn upgrade(&self, path: &str, protocol: &str) -> Result<Upgraded, Error> {
        let headers = [
            ("connection", "upgrade".to_owned()),
            ("upgrade", protocol.to_owned()),
        ];
        let response = self.open(Method::GET, path, None, &headers).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upgraded = hyper::upgrade::on(response).await;
            return upgraded.map_err(|e| Error::Broken(e.into()));
        }
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX)
            .collect()
            .await;
        let bytes = body.map_err(Error::Broken)?.to_bytes();
        Err(Error::Refused(
            serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Problem::new(FaultKind::Internal, format!("status {status}"))),
        ))
    }

    /// One request; the answer's body is read by the caller, for streams.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, String)],
    ) -> Result<Response<hyper::body::Incoming>, Error> {
        let (stream, host): (Box<dyn Stream>, String) = match &self.endpoint {
            Endpoint::Unix(socket) => {
                let unreachable = |source| Error::Unreachable {
                    at: socket.display().to_string(),
                    source,
                };
                (
                    Box::new(UnixStream::connect(socket).await.map_err(unreachable)?),
                    "abbey".to_owned(),
                )
            }
            Endpoint::Tcp(address) => {
                let unreachable = |source| Error::Unreachable {
                    at: address.clone(),
                    source,
                };
                (
                    Box::new(TcpStream::connect(address).await.map_err(unreachable)?),
                    address.clone(),
                )
            }
        };
        let broken = |e: hyper::Error| Error::Broken(e.into());
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let _driver = tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let bytes = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        let request = request
            .body(Full::new(bytes))
            .map_err(|e| Error::Broken(e.into()))?;
        sender.send_request(request).await.map_err(broken)
    }
}

fn decode<T: DeserializeOwned>(body: Value) -> Result<T, Error> {
    serde_json::from_value(body).map_err(|e| Error::Broken(e.into()))
}
