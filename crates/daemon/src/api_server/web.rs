//! What both APIs share: problems as responses, extractors that refuse with problems, pages, versions, keys.

use crate::core::error::Error;
use crate::core::runtime::{Runtime, TimedOut};
use abbey_api::Api;
use abbey_api::headers::{HeaderField, IdempotencyKey};
use abbey_api::{Problem, SkillView, SkillsDoc, SkillsQuery};
use abbey_model::{FaultKind, Principal};
use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{FromRequest, FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// Largest body of an ordinary request, bytes.
pub(crate) const BODY_MAX: usize = 2 << 20;
/// Time in which [`BODY_PROGRESS`] more of a body has to arrive, or its end.
const BODY_PROGRESS_WITHIN: Duration = Duration::from_secs(10);
/// Least of a longer body that arrives in [`BODY_PROGRESS_WITHIN`], bytes: who sends less keeps a place from others.
const BODY_PROGRESS: usize = 16 << 10;
/// Most of a body over its limit that is read and discarded, bytes.
const DISCARDED_MAX: usize = 8 << 20;

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        if self.kind() == FaultKind::Internal {
            tracing::error!(error = self.chain(), "a request failed");
        }
        problem_response(Problem::from(self))
    }
}

/// Response with this problem document.
pub(crate) fn problem_response(problem: Problem) -> Response {
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let mut response = Response::builder()
        .status(problem.status)
        .header("content-type", "application/problem+json");
    if problem.status == 401 {
        response = response.header("www-authenticate", "Bearer realm=\"abbey\"");
    }
    response.body(Body::from(body)).unwrap_or_default()
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
            Err(e) => problem_response(Problem::new(FaultKind::Internal, e.to_string())),
        }
    }
}

/// A bounded JSON body; one that does not fit is refused with the reason. An empty one is `{}`.
pub(crate) struct Json<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Response;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Response> {
        let native = request.uri().path().starts_with("/api/v1/");
        let kind = header_text(request.headers(), "content-type").unwrap_or("application/json");
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if native && !kind.eq_ignore_ascii_case("application/json") {
            let text = format!(
                "the request body has the content type `{kind}`; this route accepts only `application/json`"
            );
            let mut refusal = Problem::new(FaultKind::Invalid, text);
            refusal.status = 415;
            return Err(problem_response(refusal));
        }
        let bytes = read_body(request.into_body(), BODY_MAX).await?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        parse(text).map(Json)
    }
}

/// Parameters of the path.
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Path(value)),
            Err(why) => Err(problem_response(Problem::new(
                FaultKind::Invalid,
                format!("the path is not valid: {}", why.body_text()),
            ))),
        }
    }
}

/// Parameters of the query.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Query(value)),
            Err(why) => Err(problem_response(Problem::new(
                FaultKind::Invalid,
                format!("the query is not valid: {}", why.body_text()),
            ))),
        }
    }
}

/// Most rows of one page.
pub(crate) const PAGE_MAX: u32 = 1000;

/// The page of skills that a request asks for.
///
/// # Errors
/// As [`paginate`].
pub(crate) fn page_of_skills(
    found: SkillsDoc,
    query: &SkillsQuery,
) -> crate::core::error::Result<Doc<SkillsDoc>> {
    let name = |s: &SkillView| s.name.clone();
    let (skills, cursor) = paginate(found.skills, query.limit, query.cursor.as_deref(), name)?;
    Ok(Doc(SkillsDoc {
        skills,
        cursor,
        ..found
    }))
}

/// One page of a list: the items behind the one whose key is the cursor, and the cursor of the next
/// page.
pub(crate) fn paginate<T>(
    items: Vec<T>,
    limit: Option<u32>,
    cursor: Option<&str>,
    key: impl Fn(&T) -> String,
) -> Result<(Vec<T>, Option<String>), Problem> {
    let limit = limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX) as usize;
    let start = match cursor {
        None => 0,
        Some(cursor) => {
            let at = items.iter().position(|item| key(item) == cursor);
            1 + at.ok_or_else(|| {
                let text =
                    format!("the cursor `{cursor}` is not valid; its item may have been removed");
                Problem::new(FaultKind::Invalid, text).remedy("start again without a cursor")
            })?
        }
    };
    let more = items.len() > start + limit;
    let page: Vec<T> = items.into_iter().skip(start).take(limit).collect();
    let next = page.last().filter(|_| more).map(key);
    Ok((page, next))
}

/// Key of a request's `Idempotency-Key` header, prefixed by caller and route so that keys of others
/// don't collide; `None` without the header.
pub(crate) fn idempotency_key(
    headers: &HeaderMap,
    caller: &Principal,
    route: &str,
) -> Result<Option<String>, Problem> {
    let Some(text) = header_text(headers, IdempotencyKey::NAME) else {
        return Ok(None);
    };
    let key: IdempotencyKey = text
        .parse()
        .map_err(|why| Problem::new(FaultKind::Invalid, why))?;
    Ok(Some(format!("{caller} {route} {key}")))
}

/// Whether `If-None-Match` names this version, so that the caller already has it.
pub(crate) fn matches_if_none_match(headers: &HeaderMap, version: u64) -> bool {
    let tags = header_text(headers, "if-none-match").unwrap_or_default();
    let mine = format_etag(version);
    tags.split(',').any(|t| {
        let tag = t.trim();
        tag == "*" || tag.trim_start_matches("W/") == mine
    })
}

/// Response `304 Not Modified` for this version.
pub(crate) fn not_modified(version: u64) -> Response {
    (StatusCode::NOT_MODIFIED, [("etag", format_etag(version))]).into_response()
}

/// Turns the error about a stale version into status 412, for requests with `If-Match`; other
/// errors are unchanged.
pub(crate) fn stale_to_precondition_failed(error: Error) -> Error {
    let mut problem = Problem::from(error);
    if problem.fault() == FaultKind::Stale {
        problem.status = 412;
    }
    problem.into()
}

/// Handler of the health check: answers `ok` while the control plane serves requests.
#[utoipa::path(
    get, path = "/healthz", operation_id = "house_health", tag = "house",
    summary = "Whether the house answers; needs no credential",
    security(()),
    responses((status = 200, body = String, content_type = "text/plain")),
)]
pub(crate) async fn health() -> &'static str {
    "ok\n"
}

/// Response 405 for a method that a path does not have; the header `Allow` names its methods.
pub(crate) async fn refuse_method(request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let mut refusal = Problem::new(
        FaultKind::Invalid,
        format!("the route `{path}` does not support the method {method}"),
    );
    refusal.status = 405;
    problem_response(refusal)
}

/// Requests that end with their caller, since nothing is in force before they are done: what they write is as large as
/// agents make it, and nobody would take it.
const ENDS_WITH_CALLER: &[&str] = &["/api/v1/backups", "/api/v1/templates/{template}"];

/// Middleware that lets a request which changes something end also when its caller goes away: half of a change would be in
/// force, such as a plan that is stored and was never carried out.
pub(crate) async fn outlive_caller(
    State(rt): State<Runtime>,
    request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let ends = route.is_some_and(|route| ENDS_WITH_CALLER.contains(&route.as_str()));
    if ends || request.method().is_safe() {
        return next.run(request).await;
    }
    let answered = rt.spawn(next.run(request)).await;
    answered.unwrap_or_else(|ended| {
        let text = format!("the request was not answered: {ended}");
        problem_response(Problem::new(FaultKind::Internal, text))
    })
}

/// Middleware that ends the body of a request with an error once it makes no progress. A connection that was upgraded
/// has none.
pub(crate) async fn require_progress(
    State(rt): State<Runtime>,
    request: Request,
    next: Next,
) -> Response {
    next.run(request.map(|body| body_with_progress(body, rt)))
        .await
}

fn body_with_progress(body: Body, rt: Runtime) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let until = rt.now() + BODY_PROGRESS_WITHIN;
    let state = Some((body.into_data_stream(), rt, until, 0usize));
    Body::from_stream(stream::unfold(state, async |state| {
        let (mut frames, rt, mut until, mut arrived) = state?;
        match rt.timeout_at(until, frames.next()).await {
            Ok(None) => None,
            Ok(Some(frame)) => {
                arrived += frame.as_ref().map_or(0, Bytes::len);
                if arrived >= BODY_PROGRESS {
                    (until, arrived) = (rt.now() + BODY_PROGRESS_WITHIN, 0);
                }
                let frame = frame.map_err(std::io::Error::other);
                Some((frame, Some((frames, rt, until, arrived))))
            }
            Err(TimedOut) => Some((Err(std::io::ErrorKind::TimedOut.into()), None)),
        }
    }))
}

/// Whether an error of a body says that it made no progress.
fn is_late(error: &axum::Error) -> bool {
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = at {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|e| e.kind() == std::io::ErrorKind::TimedOut) {
            return true;
        }
        at = error.source();
    }
    false
}

/// The response 408 for a body that did not arrive in time.
pub(crate) fn refuse_late_body(text: &str) -> Response {
    let mut late = Problem::new(FaultKind::Invalid, text);
    late.status = 408;
    problem_response(late)
}

/// Reads a body of at most `limit` bytes as JSON.
///
/// # Errors
/// The response that refuses a larger or invalid body.
pub(crate) async fn read_json_body<T: DeserializeOwned>(
    body: Body,
    limit: usize,
) -> Result<T, Response> {
    parse(&read_body(body, limit).await?)
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Response> {
    serde_json::from_slice(text).map_err(|e| {
        problem_response(Problem::new(
            FaultKind::Invalid,
            format!("the request body is not valid for this route: {e}"),
        ))
    })
}

/// Reads a body of at most `limit` bytes. The rest of a larger one is discarded up to a bound, so
/// that the sender can read the refusal.
///
/// # Errors
/// The response 413; 408 for a body that [`require_progress`] ended.
pub(crate) async fn read_body(body: Body, limit: usize) -> Result<Bytes, Response> {
    let mut frames = body.into_data_stream();
    let (mut text, mut total) = (BytesMut::new(), 0usize);
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|why| {
            if is_late(&why) {
                return refuse_late_body(
                    "the rest of the request body did not arrive within 10 seconds",
                );
            }
            let text = format!("the request body cannot be read: {why}");
            problem_response(Problem::new(FaultKind::Invalid, text))
        })?;
        total = total.saturating_add(frame.len());
        if total <= limit {
            text.extend_from_slice(&frame);
        } else if total > limit.saturating_add(DISCARDED_MAX) {
            break;
        }
    }
    if total > limit {
        let text = format!("the request body is larger than {limit} bytes");
        return Err(problem_response(Problem::new(FaultKind::TooLarge, text)));
    }
    Ok(text.freeze())
}

/// Value of a header as text; `None` if it is missing or not ASCII.
pub(crate) fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A version in the form of `ETag` and `If-Match`, in quotes.
pub(crate) fn format_etag(version: u64) -> String {
    format!("\"{version}\"")
}

/// Version in the `If-Match` header; `None` without the header or for `*`.
///
/// # Errors
/// If the value is not a version of this house.
pub(crate) fn parse_if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    match header_text(headers, "if-match") {
        None | Some("*") => Ok(None),
        Some(text) => text.trim_matches('"').parse().map(Some).map_err(|_| {
            Problem::new(
                FaultKind::Invalid,
                format!("`If-Match: {text}` is not a valid version; send the value of the `ETag` header of an earlier response"),
            )
        }),
    }
}

/// Paths that are reserved and have no mechanism yet: refused by name, never as unknown.
const NOT_BUILT: [(Api, &str); 6] = [
    (Api::Operator, "/api/v1/nodes"),
    (Api::Operator, "/api/v1/channels"),
    (Api::Agent, "/api/v1/self/memory"),
    (Api::Agent, "/v1/responses"),
    (Api::Agent, "/v1/embeddings"),
    (Api::Agent, "/v1/messages"),
];

/// Response 404 for a path that an API does not have.
pub(crate) fn refuse_unknown(api: Api, path: &str) -> Response {
    let mut later = NOT_BUILT.iter();
    if later.any(|(a, prefix)| *a == api && path.starts_with(prefix)) {
        let text = format!("`{path}` is not built yet in this version");
        return problem_response(Problem::new(FaultKind::NotBuilt, text));
    }
    let text = format!("there is no route `{path}`");
    problem_response(
        Problem::new(FaultKind::NotFound, text).remedy("`/openapi.json` lists the routes"),
    )
}

/// The authenticated agent.
#[derive(Clone)]
pub(crate) struct Me(pub(crate) abbey_model::Slug);

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a request whose caller goes away while it is being answered.
    async fn is_carried_out(method: &str, path: &str) -> bool {
        use axum::Router;
        use axum::routing::any;
        use hyper::service::Service;
        use hyper_util::service::TowerToHyperService;
        use std::sync::Arc;
        use std::sync::atomic::{AtomicBool, Ordering};

        let rt = Runtime::system();
        let (begun, done) = (
            Arc::new(tokio::sync::Notify::new()),
            Arc::new(AtomicBool::new(false)),
        );
        let handler = {
            let (begun, done) = (Arc::clone(&begun), Arc::clone(&done));
            async move || {
                begun.notify_one();
                tokio::task::yield_now().await;
                done.store(true, Ordering::SeqCst);
            }
        };
        let mut router: Router = Router::new();
        for route in [
            "/api/v1/generations",
            ENDS_WITH_CALLER[0],
            ENDS_WITH_CALLER[1],
        ] {
            router = router.route(route, any(handler.clone()));
        }
        let router = router.layer(axum::middleware::from_fn_with_state(
            rt.clone(),
            outlive_caller,
        ));
        let request = Request::builder().method(method).uri(path);
        let answered = TowerToHyperService::new(router).call(request.body(Body::empty()).unwrap());
        tokio::select! {
            biased;
            () = begun.notified() => {}
            _ = answered => panic!("answered at once"),
        }
        rt.tracker().close();
        rt.tracker().wait().await;
        done.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn a_change_outlives_its_caller_and_a_backup_does_not() {
        assert!(is_carried_out("POST", "/api/v1/generations").await);
        assert!(!is_carried_out("GET", "/api/v1/generations").await);
        assert!(!is_carried_out("POST", "/api/v1/backups").await);
        assert!(!is_carried_out("POST", "/api/v1/templates/mine").await);
    }

    #[test]
    fn pages_meet_every_item_once() {
        let all: Vec<u32> = (0..7).collect();
        let (mut seen, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let next = paginate(all.clone(), Some(3), cursor.as_deref(), ToString::to_string);
            let (items, next) = next.unwrap();
            seen.extend(items);
            match next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, all);
        assert!(paginate(all, None, Some("gone"), ToString::to_string).is_err());
    }

    #[test]
    fn idempotency_keys_are_apart_by_caller_and_route() {
        let headers: HeaderMap = [("idempotency-key".parse().unwrap(), "k".parse().unwrap())]
            .into_iter()
            .collect();
        let key = |who: Principal, route| idempotency_key(&headers, &who, route).unwrap();
        let agent = Principal::Agent("a".parse().unwrap());
        let all = [
            key(Principal::Operator, "tasks"),
            key(Principal::Operator, "delegations"),
            key(agent, "tasks"),
        ];
        assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2]);
    }
}
