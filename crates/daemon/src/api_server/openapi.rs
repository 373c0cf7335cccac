//! The OpenAPI document of each API: made from the routes, completed with what holds for all of them.

use crate::api_server::access::{self, BEARER};
use abbey_api::headers::{HeaderField, IdempotencyKey, IfMatch};
use abbey_api::{Api, Problem};
use axum::body::Bytes;
use axum::http::Method;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use std::sync::LazyLock;
use utoipa::openapi::path::{Operation, Parameter, ParameterIn};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, Info, OpenApi, Ref, RefOr, ResponseBuilder};
use utoipa::{PartialSchema, ToSchema};

/// Completes the OpenAPI document made from the routes: title, security scheme, and the error
/// responses that every route can send.
pub(crate) fn complete_document(api: Api, mut document: OpenApi) -> OpenApi {
    let title = match api {
        Api::Operator => "Abbey operator API",
        Api::Agent => "Abbey agent API",
    };
    document.info = Info::new(title, env!("CARGO_PKG_VERSION"));
    document.servers = None;
    let components = document.components.get_or_insert_with(Components::new);
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    components.add_security_scheme(BEARER, bearer);
    let mut schemas = vec![(Problem::name().into_owned(), Problem::schema())];
    Problem::schemas(&mut schemas);
    api.operations().for_each(|operation| {
        for schema in [operation.body, operation.answer].into_iter().flatten() {
            schema.add_to(&mut schemas);
        }
    });
    for (name, schema) in schemas {
        components.schemas.entry(name).or_insert(schema);
    }
    components
        .schemas
        .retain(|name, _| name != "Value" && !name.starts_with("Option"));
    document.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(
        BEARER,
        [],
    )]);
    for (path, item) in &mut document.paths.paths {
        let open = path == "/healthz" || path.starts_with("/hooks/");
        let methods = [(Method::GET, &mut item.get), (Method::POST, &mut item.post)];
        for (method, operation) in methods {
            let Some(operation) = operation else { continue };
            if api == Api::Operator {
                access::declare_scope(&method, operation);
            }
            for response in operation.responses.responses.values_mut() {
                if let RefOr::T(response) = response
                    && response.description.is_empty()
                {
                    response.description = "Success".to_owned();
                }
            }
            add_refusals(operation, open);
        }
    }
    document
}

fn add_refusals(operation: &mut Operation, open: bool) {
    let inline = |p: &RefOr<Parameter>| match p {
        RefOr::T(parameter) => Some((parameter.parameter_in.clone(), parameter.name.clone())),
        RefOr::Ref(_) => None,
    };
    let parameters: Vec<(ParameterIn, String)> = operation
        .parameters
        .iter()
        .flatten()
        .filter_map(inline)
        .collect();
    let has = |place: &ParameterIn| parameters.iter().any(|(at, _)| at == place);
    let header = |name: &str| {
        let mut all = parameters.iter();
        all.any(|(at, n)| *at == ParameterIn::Header && n == name)
    };
    let body = operation.request_body.is_some();
    let mut statuses = vec![500, 503];
    if !open {
        statuses.extend([401, 403]);
    }
    if has(&ParameterIn::Path) {
        statuses.extend([404, 422]);
    }
    if has(&ParameterIn::Query) || has(&ParameterIn::Header) {
        statuses.push(422);
    }
    if body {
        statuses.extend([409, 413, 415, 422]);
    }
    if header(IdempotencyKey::NAME) {
        statuses.push(409);
    }
    if header(IfMatch::NAME) {
        statuses.extend([409, 412]);
    }
    for status in statuses {
        let status = status.to_string();
        let known = &mut operation.responses.responses;
        known
            .entry(status.clone())
            .or_insert_with(|| refusal(&status).into());
    }
    let others = refusal("default");
    let known = &mut operation.responses.responses;
    known
        .entry("default".to_owned())
        .or_insert_with(|| others.into());
}

fn refusal(status: &str) -> utoipa::openapi::Response {
    let about = match status {
        "401" => "No valid credential",
        "403" => "Not allowed",
        "404" => "Not found",
        "409" => "In conflict with the state of the thing",
        "412" => "There is a newer version than the one in `If-Match`",
        "413" => "Too large",
        "415" => "The body is not JSON",
        "422" => "The request is not valid",
        "500" => "Internal error",
        "503" => "Temporarily unavailable",
        _ => "Any other refusal or failure",
    };
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem")));
    let response = ResponseBuilder::new().description(about);
    response
        .content("application/problem+json", content.build())
        .build()
}

/// Response with a document. Its text is rendered once, as it is served without a credential too.
pub(crate) fn document_response(text: &'static LazyLock<Bytes>) -> Response {
    let json = [(CONTENT_TYPE, "application/json")];
    (json, Bytes::clone(text)).into_response()
}

/// A document as compact JSON; its memory, several MiB, goes back to the system.
pub(crate) fn render_document(document: OpenApi) -> Bytes {
    let text = serde_json::to_vec(&document).unwrap_or_default();
    drop(document);
    abbey_cells::release_free_memory();
    text.into()
}

/// OpenAPI document of an API as formatted JSON.
pub fn openapi(api: Api) -> String {
    let document = match api {
        Api::Operator => super::operator_api::operator_openapi(),
        Api::Agent => super::agent_api::agent_openapi(),
    };
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

#[cfg(test)]
mod tests;
