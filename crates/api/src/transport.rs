//! How a call of an operation is sent to the control plane and its answer read, over a Unix socket or TCP.

use crate::headers::HeaderField;
use crate::problem::Problem;
use abbey_model::{FaultKind, Secret};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, HOST};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};

/// Largest answer that is read into memory.
const ANSWER_MAX: usize = 64 << 20;

/// Where the house answers.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// A Unix socket, at which a process of this user or of root must listen: whoever can put a socket in its place
    /// would be sent the credential.
    Unix {
        /// Path of the socket.
        path: PathBuf,
        /// User who may listen there, beside root.
        user: u32,
    },
    /// `HOST:PORT`, plain HTTP: the agent API in a cell.
    Tcp(String),
}

/// Connects to a Unix socket at which a process of `user` or of root listens.
async fn connect_to_user(path: &Path, user: u32) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(path).await?;
    let found = stream.peer_cred()?.uid();
    match found == user || found == 0 {
        true => Ok(stream),
        false => Err(std::io::Error::new(
            std::io::ErrorKind::PermissionDenied,
            format!("user {found} listens there, not user {user}"),
        )),
    }
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing listens there.
    #[error("the control plane does not answer at {at}")]
    Unreachable {
        /// Socket or address.
        at: String,
        /// Error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The answer took longer than the client waits.
    #[error("the control plane did not answer within {0:?}")]
    Timeout(Duration),
    /// The connection broke, or carried something that isn't the API.
    #[error("the connection to the control plane was interrupted")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The house refused.
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

/// A document with its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// Number in `ETag`, where the answer has one.
    pub version: Option<u64>,
    /// The document.
    pub document: T,
}

/// An answer that arrives bit by bit.
#[derive(Debug)]
pub struct Streaming(Response<hyper::body::Incoming>);

impl Streaming {
    /// The bytes as they arrive.
    pub fn bytes(self) -> impl futures_util::Stream<Item = Result<Bytes, hyper::Error>> {
        use futures_util::StreamExt;
        http_body_util::BodyStream::new(self.0.into_body()).filter_map(async |frame| match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(error)),
        })
    }

    /// Server-sent events as they arrive.
    pub fn events(
        self,
    ) -> impl futures_util::Stream<
        Item = Result<
            eventsource_stream::Event,
            eventsource_stream::EventStreamError<hyper::Error>,
        >,
    > {
        use eventsource_stream::Eventsource;
        self.bytes().eventsource()
    }
}

/// One request to the house.
#[derive(Debug)]
pub(crate) struct Call {
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Option<Bytes>,
}

impl Call {
    /// A call of an operation, with a value for each parameter of its path.
    pub(crate) fn new(method: Method, template: &str, segments: &[(&str, &str)]) -> Self {
        let mut path = template.to_owned();
        for (name, value) in segments {
            let value = abbey_support::url::encode_component(value);
            path = path.replace(&format!("{{{name}}}"), &value);
        }
        Call {
            method,
            path,
            headers: Vec::new(),
            body: None,
        }
    }

    /// Sets the query string of the request.
    pub(crate) fn query<Q: Serialize>(&mut self, query: &Q) -> Result<(), Error> {
        let text = serde_urlencoded::to_string(query).map_err(|e| Error::Broken(e.into()))?;
        if !text.is_empty() {
            let _infallible = write!(self.path, "?{text}");
        }
        Ok(())
    }

    /// Sets the JSON body of the request.
    pub(crate) fn body<B: Serialize>(&mut self, body: &B) -> Result<(), Error> {
        let bytes = serde_json::to_vec(body).map_err(|e| Error::Broken(e.into()))?;
        self.body = Some(bytes.into());
        Ok(())
    }

    /// Adds a request header as it is.
    pub(crate) fn raw_header(&mut self, name: &'static str, value: &str) {
        self.headers.push((name, value.to_owned()));
    }

    /// Adds a typed request header, unless it has no value.
    pub(crate) fn header<H: HeaderField>(&mut self, header: &H) {
        if let Some(value) = header.value() {
            self.headers.push((H::NAME, value));
        }
    }
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Stream for T {}

/// Where the house answers, with one credential.
#[derive(Debug, Clone)]
pub(crate) struct Transport {
    endpoint: Endpoint,
    token: Option<Secret>,
    timeout: Duration,
}

impl Transport {
    /// A transport to this endpoint with this credential, and a time limit of one minute for each request.
    pub(crate) fn new(endpoint: Endpoint, token: Option<Secret>) -> Self {
        Transport {
            endpoint,
            token,
            timeout: Duration::from_secs(60),
        }
    }

    /// Changes the time limit of each request.
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// The document that a call answers with.
    pub(crate) async fn document<T: DeserializeOwned>(
        &self,
        call: Call,
    ) -> Result<Versioned<T>, Error> {
        let exchange = async {
            let response = self.stream(call).await?.0;
            let tag = response.headers().get(ETAG).and_then(|v| v.to_str().ok());
            let version = tag.and_then(|t| t.trim_matches('"').parse().ok());
            let body = Limited::new(response.into_body(), ANSWER_MAX)
                .collect()
                .await;
            let bytes = body.map_err(Error::Broken)?.to_bytes();
            let document = serde_json::from_slice(&bytes).map_err(|e| Error::Broken(e.into()))?;
            Ok(Versioned { version, document })
        };
        let answer = tokio::time::timeout(self.timeout, exchange).await;
        answer.map_err(|_| Error::Timeout(self.timeout))?
    }

    /// An answer that arrives bit by bit; it may take as long as it wants.
    pub(crate) async fn stream(&self, call: Call) -> Result<Streaming, Error> {
        let response = self.exchange(call).await?;
        match response.status().is_success() {
            true => Ok(Streaming(response)),
            false => Err(refusal(response).await),
        }
    }

    /// A connection that carries another protocol from here on.
    pub(crate) async fn upgrade(&self, mut call: Call, protocol: &str) -> Result<Upgraded, Error> {
        call.headers.push(("connection", "upgrade".to_owned()));
        call.headers.push(("upgrade", protocol.to_owned()));
        let response = self.exchange(call).await?;
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => {
                let upgraded = hyper::upgrade::on(response).await;
                upgraded.map_err(|e| Error::Broken(e.into()))
            }
            _ => Err(refusal(response).await),
        }
    }

    /// One request and the head of its answer.
    pub(crate) async fn exchange(
        &self,
        call: Call,
    ) -> Result<Response<hyper::body::Incoming>, Error> {
        let unreachable = |at: String| move |source| Error::Unreachable { at, source };
        let (stream, host): (Box<dyn Stream>, String) = match &self.endpoint {
            Endpoint::Unix { path, user } => {
                let at = path.display().to_string();
                let stream = connect_to_user(path, *user)
                    .await
                    .map_err(unreachable(at))?;
                (Box::new(stream), "abbey".to_owned())
            }
            Endpoint::Tcp(address) => {
                let at = address.clone();
                let stream = TcpStream::connect(address).await.map_err(unreachable(at))?;
                (Box::new(stream), address.clone())
            }
        };
        let broken = |e: hyper::Error| Error::Broken(e.into());
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let _driver = tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(HOST, host);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        for (name, value) in call.headers {
            request = request.header(name, value);
        }
        if call.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(call.body.unwrap_or_default()))
            .map_err(|e| Error::Broken(e.into()))?;
        sender.send_request(request).await.map_err(broken)
    }
}

/// The problem that a refusal carries.
async fn refusal(response: Response<hyper::body::Incoming>) -> Error {
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX)
        .collect()
        .await;
    let bytes = match body {
        Ok(body) => body.to_bytes(),
        Err(error) => return Error::Broken(error),
    };
    Error::Refused(serde_json::from_slice(&bytes).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&bytes);
        Problem::new(
            FaultKind::Internal,
            format!("the control plane answered with HTTP status {status}: {text}"),
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::TaskQuery;

    #[test]
    fn parts_of_a_path_and_of_a_query_are_escaped() {
        let mut call = Call::new(
            Method::GET,
            "/api/v1/schedules/{agent}/{name}",
            &[("agent", "a/b"), ("name", "é?")],
        );
        assert_eq!(call.path, "/api/v1/schedules/a%2Fb/%C3%A9%3F");
        call.query(&TaskQuery {
            state: Some("done,failed".to_owned()),
            limit: Some(3),
            ..TaskQuery::default()
        })
        .unwrap();
        assert_eq!(
            call.path,
            "/api/v1/schedules/a%2Fb/%C3%A9%3F?state=done%2Cfailed&limit=3"
        );
    }
}
