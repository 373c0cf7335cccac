//! Tokens of the operator API: create, list, revoke.

use crate::api_server::access::Caller;
use crate::api_server::state::ApiState;
use crate::api_server::web::{Doc, Json, Path};
use crate::cells::agent_credentials;
use crate::core::error::{Error, Result};
use crate::core::home::generate_token;
use crate::work::lookup::parse_slug;
use abbey_api::{
    NewTokenBody, NewTokenDoc, Problem, Time, TokenRevokedDoc, TokenView, TokensDoc, VERSION,
};
use abbey_model::{AccessScopes, CredentialGrant, FaultKind, Millis, Principal, Slug, Timestamp};
use abbey_store::{NewToken, TokenRow};
use abbey_support::digest::sha256_hex;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Shared = State<Arc<ApiState>>;

/// How every token of the operator API begins, so that redaction and secret scanners know it.
const TOKEN_PREFIX: &str = "abbey_op_";

/// Longest life of a token that expires, seconds: 100 years.
const EXPIRY_MAX_S: u64 = 100 * 366 * 24 * 60 * 60;

/// Operator routes that create, list and revoke named tokens.
pub(crate) fn routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(revoke))
}

fn view(row: TokenRow, now: Timestamp) -> TokenView {
    let scopes = match &row.grant {
        CredentialGrant::Operator(scopes) => scopes.iter().collect(),
        CredentialGrant::Agent | CredentialGrant::Model => Vec::new(),
    };
    TokenView {
        name: row.name.map_or_else(String::new, |n| n.to_string()),
        principal: row.principal.to_string(),
        scopes,
        created_at: Time(row.created_at),
        last_used_at: row.last_used_at.map(Time),
        expires_at: row.expires_at.map(Time),
        expired: row.expires_at.is_some_and(|at| now >= at),
    }
}

#[utoipa::path(
    get, path = "/api/v1/tokens", operation_id = "tokens_list", tag = "tokens",
    summary = "Every token of this API, without its text",
    security(("bearer" = ["admin"])),
    responses((status = 200, body = TokensDoc)),
)]
async fn list(State(api): Shared) -> Result<Doc<TokensDoc>> {
    let now = api.core.store.now();
    let rows = api.core.store.named_tokens().await?;
    Ok(Doc(TokensDoc {
        version: VERSION,
        tokens: rows.into_iter().map(|row| view(row, now)).collect(),
    }))
}

#[utoipa::path(
    post, path = "/api/v1/tokens", operation_id = "tokens_create", tag = "tokens",
    summary = "Creates a token; its text is in this answer alone",
    responses((status = 201, body = NewTokenDoc, description = "Created")),
)]
async fn create(
    State(api): Shared,
    Caller(by): Caller,
    Json(body): Json<NewTokenBody>,
) -> Result<Response> {
    let invalid = |text: String| Error::from(Problem::new(FaultKind::Invalid, text));
    let slug = |field: &str, text: &str| {
        let parsed = text.parse::<Slug>();
        parsed.map_err(|why| invalid(format!("`{field}` is not valid: {why}")))
    };
    let name = slug("name", &body.name)?;
    let person = body.person.as_deref();
    let person = person.map(|text| slug("person", text)).transpose()?;
    let scopes = AccessScopes::new(body.scopes).ok_or_else(|| {
        invalid("`scopes` is empty; a token needs at least one of: read, metrics, tasks, approve, admin".to_owned())
    })?;
    let now = api.core.store.now();
    let expires_at = match body.expires_in_s {
        None => None,
        Some(s @ 1..=EXPIRY_MAX_S) => Some(now + Millis::from_secs(s.cast_signed())),
        Some(s) => {
            return Err(invalid(format!(
                "`expires_in_s` is {s}; it must be 1 to {EXPIRY_MAX_S}"
            )));
        }
    };
    let secret = generate_token(TOKEN_PREFIX)?;
    let row = TokenRow {
        hash: sha256_hex(secret.expose().as_bytes()),
        principal: match person {
            Some(person) => Principal::Person(person),
            None => Principal::Token(name.clone()),
        },
        grant: CredentialGrant::Operator(scopes),
        name: Some(name),
        created_at: now,
        last_used_at: None,
        expires_at,
    };
    let new = NewToken {
        hash: row.hash.clone(),
        principal: row.principal.clone(),
        grant: row.grant.clone(),
        name: row.name.clone(),
        expires_at,
        issued_by: by,
    };
    api.core.store.add_token(new).await?;
    agent_credentials::reload_credentials(&api.cells).await?;
    let doc = NewTokenDoc {
        version: VERSION,
        token: view(row, now),
        secret: secret.expose().to_owned(),
    };
    Ok((StatusCode::CREATED, Doc(doc)).into_response())
}

#[utoipa::path(
    post, path = "/api/v1/tokens/{token}/revoke", operation_id = "tokens_revoke", tag = "tokens",
    summary = "Revokes a token at once",
    responses((status = 200, body = TokenRevokedDoc)),
)]
async fn revoke(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
) -> Result<Doc<TokenRevokedDoc>> {
    let slug = parse_slug(&name)?;
    api.core.store.revoke_named_token(slug, by).await?;
    agent_credentials::reload_credentials(&api.cells).await?;
    Ok(Doc(TokenRevokedDoc {
        version: VERSION,
        name,
    }))
}
