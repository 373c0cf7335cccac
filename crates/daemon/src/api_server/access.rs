//! Access to the operator API: the scope that each route requires, and the principal of each request.
//!
//! A route declares its scope in its OpenAPI description (`security(("bearer" = ["tasks"]))`); without one, `GET`
//! requires `read` and every other method `admin`. That description is all that is consulted here, so a client reads
//! exactly what is enforced.

use crate::api_server::state::ApiState;
use crate::api_server::web::{header_text, problem_response};
use abbey_api::Problem;
use abbey_model::{AccessScope, FaultKind, Permission, Principal};
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use std::collections::HashMap;
use std::sync::Arc;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{OpenApi, SecurityRequirement};

/// Name of the security scheme of both APIs in their OpenAPI documents.
pub(crate) const BEARER: &str = "bearer";

/// The authenticated principal of a request to the operator API.
#[derive(Clone)]
pub(crate) struct Caller(pub(crate) Principal);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Response> {
        let found = parts.extensions.get::<Caller>().cloned();
        found.ok_or_else(|| {
            let text = "the request was not authenticated";
            problem_response(Problem::new(FaultKind::Unauthenticated, text))
        })
    }
}

/// Declares the default scope of its method for an operation that declares none.
pub(crate) fn declare_scope(method: &Method, operation: &mut Operation) {
    if operation.security.is_none() {
        let scope = default_scope(method).name();
        operation.security = Some(vec![SecurityRequirement::new(BEARER, [scope])]);
    }
}

/// Scope of a route that declares none.
fn default_scope(method: &Method) -> AccessScope {
    match *method {
        Method::GET => AccessScope::Read,
        _ => AccessScope::Admin,
    }
}

/// Scope that each route of the operator API requires, by path template and method.
pub(crate) struct RouteScopes(HashMap<String, HashMap<Method, AccessScope>>);

impl RouteScopes {
    /// The scopes that descriptions of routes declare. A scope of an unknown name counts as `admin`.
    pub(crate) fn declared_in<'d>(
        descriptions: impl IntoIterator<Item = &'d OpenApi>,
    ) -> RouteScopes {
        let mut scopes = HashMap::<_, HashMap<_, _>>::new();
        let described = descriptions.into_iter();
        for (path, item) in described.flat_map(|d| &d.paths.paths) {
            let methods = [(Method::GET, &item.get), (Method::POST, &item.post)];
            for (method, operation) in methods {
                if let Some(operation) = operation {
                    let scope = match &operation.security {
                        None => default_scope(&method),
                        Some(_) => declared_scope(operation).unwrap_or(AccessScope::Admin),
                    };
                    scopes
                        .entry(path.clone())
                        .or_default()
                        .insert(method, scope);
                }
            }
        }
        RouteScopes(scopes)
    }

    /// Scope that a request requires, which a router has matched to a route: `admin` for a route that no document
    /// describes, `read` for a method that the route will refuse.
    pub(crate) fn required_by(&self, request: &Request) -> AccessScope {
        let route = request.extensions().get::<MatchedPath>();
        let method = match request.method() {
            &Method::HEAD => &Method::GET,
            method => method,
        };
        match route.and_then(|r| self.0.get(r.as_str())) {
            None => AccessScope::Admin,
            Some(methods) => *methods.get(method).unwrap_or(&AccessScope::Read),
        }
    }
}

/// Scope in the security requirement of an operation.
fn declared_scope(operation: &Operation) -> Option<AccessScope> {
    let requirements = serde_json::to_value(operation.security.as_ref()?).ok()?;
    requirements[0][BEARER][0].as_str()?.parse().ok()
}

/// Middleware: admits a request whose credential grants the scope of its route, also on loopback, and tells the
/// handler its [`Caller`].
pub(crate) async fn authenticate(
    State((api, scopes)): State<(Arc<ApiState>, Arc<RouteScopes>)>,
    mut request: Request,
    next: Next,
) -> Response {
    let scope = scopes.required_by(&request);
    match authenticate_header(&api, header_text(request.headers(), "authorization"), scope) {
        Ok(principal) => {
            request.extensions_mut().insert(Caller(principal));
            next.run(request).await
        }
        Err(refusal) => refusal_response(refusal, scope),
    }
}

/// Response to a request that was not admitted to a route that requires a scope. A 403 names that scope in its
/// challenge (RFC 6750, section 3).
pub(crate) fn refusal_response(refusal: Problem, scope: AccessScope) -> Response {
    match refusal.status {
        401 => problem_response(refusal.remedy(
            "send `Authorization: Bearer TOKEN` with a token from `abbey token new`, or with the text of the file `operator.token` in the state directory",
        )),
        403 => {
            let mut response = problem_response(refusal);
            let challenge = format!(
                "Bearer realm=\"abbey\", error=\"insufficient_scope\", scope=\"{scope}\""
            );
            if let Ok(challenge) = HeaderValue::from_str(&challenge) {
                response.headers_mut().insert("www-authenticate", challenge);
            }
            response
        }
        _ => problem_response(refusal),
    }
}

/// Returns the principal of an `Authorization` header whose credential grants a scope, and records
/// the use of a named token.
pub(crate) fn authenticate_header(
    api: &Arc<ApiState>,
    authorization: Option<&str>,
    scope: AccessScope,
) -> Result<Principal, Problem> {
    let required = Permission::Operator(scope);
    let now = api.core.store.now();
    let authenticated = api
        .core
        .credentials
        .authenticate(authorization, required, now)?;
    if let Some(name) = authenticated.record_use_of {
        let store = Arc::clone(&api.core.store);
        drop(api.core.rt.spawn(async move {
            if let Err(error) = store.record_token_use(name.clone()).await {
                tracing::warn!(token = %name, %error, "the use of a token was not recorded");
            }
        }));
    }
    Ok(authenticated.principal)
}
