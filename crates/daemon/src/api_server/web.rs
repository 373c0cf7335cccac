//! What both doors share: problems as responses, bounded bodies, JSON.

use crate::core::error::Error;
use abbey_api::Problem;
use abbey_api::routes::{Door, NOT_BUILT};
use abbey_model::FaultKind;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest body of an ordinary request, bytes.
pub(crate) const BODY_MAX: usize = 2 << 20;

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        if self.kind() == FaultKind::Internal {
            tracing::error!(error = self.chain(), "a request failed");
        }
        problem(Problem::from(self))
    }
}

/// A problem as a response.
pub(crate) fn problem(problem: Problem) -> Response {
    let body = serde_json::to_string(&problem).unwrap_or_default();
    Response::builder()
        .status(problem.status)
        .header("content-type", "application/problem+json")
        .body(Body::from(body))
        .unwrap_or_default()
}

/// A document.
pub(crate) struct Doc<T>(pub(crate) T);

impl<T: Serialize> IntoResponse for Doc<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => Response::builder()
                .header("content-type", "application/json")
                .body(Body::from(body))
                .unwrap_or_default(),
            Err(e) => problem(Problem::new(FaultKind::Internal, e.to_string())),
        }
    }
}

/// A bounded JSON body; what does not fit is a problem with a reason. An empty one is `{}`.
pub(crate) struct Input<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Input<T> {
    type Rejection = Response;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Response> {
        let bytes = read(request.into_body(), BODY_MAX).await?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        parse(text).map(Input)
    }
}

/// The JSON of a body of up to `limit` bytes.
pub(crate) async fn large<T: DeserializeOwned>(body: Body, limit: usize) -> Result<T, Response> {
    parse(&read(body, limit).await?)
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Response> {
    serde_json::from_slice(text).map_err(|e| {
        problem(Problem::new(
            FaultKind::Invalid,
            format!("the body is not the JSON that this route takes: {e}"),
        ))
    })
}

pub(crate) async fn read(body: Body, limit: usize) -> Result<Bytes, Response> {
    axum::body::to_bytes(body, limit).await.map_err(|_| {
        problem(Problem::new(
            FaultKind::TooLarge,
            format!("the body is larger than {limit} bytes"),
        ))
    })
}

/// Value of a header as text.
pub(crate) fn header<'a>(headers: &'a axum::http::HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A version in `If-Match` or `ETag` form.
pub(crate) fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

/// The version that a caller saw.
pub(crate) fn if_match(headers: &axum::http::HeaderMap) -> Result<Option<u64>, Problem> {
    match header(headers, "if-match") {
        None | Some("*") => Ok(None),
        Some(text) => text.trim_matches('"').parse().map(Some).map_err(|_| {
            Problem::new(
                FaultKind::Invalid,
                format!("`If-Match: {text}` is not a version that this house gave out"),
            )
        }),
    }
}

#[derive(Deserialize)]
pub(crate) struct SearchQuery {
    #[serde(default)]
    pub(crate) q: Option<String>,
}

/// A path that belongs to the contract is refused by name; any other does not exist.
pub(crate) fn refuse_unknown(door: Door, path: &str) -> Response {
    let later = NOT_BUILT
        .iter()
        .any(|(d, prefix)| *d == door && path.starts_with(prefix));
    if later {
        return problem(Problem::new(
            FaultKind::NotBuilt,
            format!("`{path}` is not built yet in this version"),
        ));
    }
    problem(
        Problem::new(FaultKind::NotFound, format!("there is no route `{path}`"))
            .remedy("see /openapi.json"),
    )
}

/// The authenticated agent.
#[derive(Clone)]
pub(crate) struct Me(pub(crate) abbey_model::Slug);
