//! Routes of shared documents in both APIs.

use crate::api_server::state::ApiState;
use crate::api_server::web::{Doc, Input, Me, header};
use crate::core::error::Result;
use crate::insight::reports;
use crate::work::documents;
use abbey_api::{DocumentBody, DocumentDoc, DocumentsDoc, Problem, VERSION};
use abbey_model::{FaultKind, Principal};
use abbey_plan::DocumentKind;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use std::sync::Arc;

type Shared = State<Arc<ApiState>>;

/// Routes for the operator, behind the operator's credential.
pub(crate) fn operator_routes() -> Router<Arc<ApiState>> {
    async fn list_all(State(house): Shared) -> Result<Doc<DocumentsDoc>> {
        documents::list(&house.work, &Principal::Operator)
            .await
            .map(Doc)
    }
    async fn show(
        State(house): Shared,
        Path(name): Path<String>,
        Query(query): Query<Which>,
    ) -> Result<Doc<DocumentDoc>> {
        let shown = read(&house, &name, &Principal::Operator, query.version);
        shown.await.map(Doc)
    }
    async fn put(
        State(house): Shared,
        Path(name): Path<String>,
        headers: HeaderMap,
        Input(body): Input<DocumentBody>,
    ) -> Result<Doc<DocumentDoc>> {
        let key = header(&headers, "idempotency-key").map(|k| format!("operator {k}"));
        let name = documents::write(&house.work, &name, Principal::Operator, body, key).await?;
        let shown = read(&house, name.as_str(), &Principal::Operator, None);
        shown.await.map(Doc)
    }
    Router::new()
        .route("/api/v1/documents", get(list_all))
        .route("/api/v1/documents/{document}", get(show).post(put))
}

/// Routes for agents, behind their credential.
pub(crate) fn agent_routes() -> Router<Arc<ApiState>> {
    async fn list_mine(
        State(house): Shared,
        Extension(Me(me)): Extension<Me>,
    ) -> Result<Doc<DocumentsDoc>> {
        documents::list(&house.work, &Principal::Agent(me))
            .await
            .map(Doc)
    }
    async fn show(
        State(house): Shared,
        Extension(Me(me)): Extension<Me>,
        Path(name): Path<String>,
        Query(query): Query<Which>,
    ) -> Result<Doc<DocumentDoc>> {
        let me = Principal::Agent(me);
        let shown = read(&house, &name, &me, query.version);
        shown.await.map(Doc)
    }
    async fn put(
        State(house): Shared,
        Extension(Me(me)): Extension<Me>,
        Path(name): Path<String>,
        headers: HeaderMap,
        Input(body): Input<DocumentBody>,
    ) -> Result<Doc<DocumentDoc>> {
        let key = header(&headers, "idempotency-key").map(|k| format!("{me} {k}"));
        let me = Principal::Agent(me);
        let name = documents::write(&house.work, &name, me.clone(), body, key).await?;
        let shown = read(&house, name.as_str(), &me, None);
        shown.await.map(Doc)
    }
    Router::new()
        .route("/api/v1/self/documents", get(list_mine))
        .route("/api/v1/self/documents/{document}", get(show))
        .route("/api/v1/self/documents/{document}", post(put))
}

#[derive(Deserialize)]
struct Which {
    version: Option<u64>,
}

async fn read(
    house: &Arc<ApiState>,
    name: &str,
    who: &Principal,
    version: Option<u64>,
) -> Result<DocumentDoc> {
    let (name, document) = documents::find(&house.work, name, who)?;
    let (rows, text) = match &document.kind {
        DocumentKind::Report(report) => {
            let reader = match who {
                Principal::Agent(agent) => Some(agent),
                _ => None,
            };
            let language = house.core.plan.language_of(reader);
            let report = reports::make(&house.work, report, language).await?;
            (Vec::new(), reports::as_text(&report))
        }
        kind => documents::text_of(&house.work, &name, kind, version.unwrap_or(u64::MAX)).await?,
    };
    if let Some(wanted) = version
        && rows.first().is_none_or(|r| r.version != wanted)
    {
        let text = format!("document `{name}` has no version {wanted} any more, or not yet");
        return Err(Problem::new(FaultKind::NotFound, text).into());
    }
    let newest = house.core.store.document(name.clone(), u64::MAX, 1).await?;
    Ok(DocumentDoc {
        version: VERSION,
        shown: rows.first().map_or(0, |r| r.version),
        document: documents::view(&house.work, &name, &document, newest.first()),
        text,
    })
}
