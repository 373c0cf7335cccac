//! Routes of shared documents in both APIs.

use crate::api_server::access::Caller;
use crate::api_server::state::ApiState;
use crate::api_server::web::{Doc, Json, Me, idempotency_key, paginate};
use crate::api_server::web::{Path, Query};
use crate::core::error::Result;
use crate::insight::reports;
use crate::work::documents;
use abbey_api::{
    DocumentBody, DocumentDoc, DocumentQuery, DocumentView, DocumentsDoc, DocumentsQuery, Problem,
    VERSION,
};
use abbey_model::{FaultKind, Principal};
use abbey_plan::DocumentKind;
use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Shared = State<Arc<ApiState>>;

/// Routes of shared documents in the operator API.
pub(crate) fn operator_routes() -> OpenApiRouter<Arc<ApiState>> {
    #[utoipa::path(
        get, path = "/api/v1/documents", operation_id = "documents_list", tag = "documents",
        summary = "Every shared document",
        params(DocumentsQuery),
        responses((status = 200, body = DocumentsDoc)),
    )]
    async fn list_all(
        State(api): Shared,
        Caller(by): Caller,
        Query(query): Query<DocumentsQuery>,
    ) -> Result<Doc<DocumentsDoc>> {
        list(&api, &by, &query).await.map(Doc)
    }
    #[utoipa::path(
        get, path = "/api/v1/documents/{document}", operation_id = "documents_show", tag = "documents",
        summary = "One shared document",
        params(DocumentQuery),
        responses((status = 200, body = DocumentDoc)),
    )]
    async fn show(
        State(api): Shared,
        Caller(by): Caller,
        Path(name): Path<String>,
        Query(query): Query<DocumentQuery>,
    ) -> Result<Doc<DocumentDoc>> {
        let shown = read(&api, &name, &by, query.version);
        shown.await.map(Doc)
    }
    #[utoipa::path(
        post, path = "/api/v1/documents/{document}", operation_id = "documents_write", tag = "documents",
        summary = "Writes a version of a text, or adds to a log",
    security(("bearer" = ["tasks"])),
        params(abbey_api::headers::IdempotencyKey),
        responses((status = 200, body = DocumentDoc)),
    )]
    async fn put(
        State(api): Shared,
        Caller(by): Caller,
        Path(name): Path<String>,
        headers: HeaderMap,
        Json(body): Json<DocumentBody>,
    ) -> Result<Doc<DocumentDoc>> {
        let route = format!("documents/{name}");
        let key = idempotency_key(&headers, &by, &route)?;
        let name = documents::write_document(&api.work, &name, by.clone(), body, key).await?;
        let shown = read(&api, name.as_str(), &by, None);
        shown.await.map(Doc)
    }
    OpenApiRouter::new()
        .routes(routes!(list_all))
        .routes(routes!(show, put))
}

/// Routes of shared documents in the agent API.
pub(crate) fn agent_routes() -> OpenApiRouter<Arc<ApiState>> {
    #[utoipa::path(
        get, path = "/api/v1/self/documents", operation_id = "me_documents", tag = "me",
        summary = "Documents that the agent reads",
        params(DocumentsQuery),
        responses((status = 200, body = DocumentsDoc)),
    )]
    async fn list_mine(
        State(api): Shared,
        Extension(Me(me)): Extension<Me>,
        Query(query): Query<DocumentsQuery>,
    ) -> Result<Doc<DocumentsDoc>> {
        list(&api, &Principal::Agent(me), &query).await.map(Doc)
    }
    #[utoipa::path(
        get, path = "/api/v1/self/documents/{document}", operation_id = "me_document", tag = "me",
        summary = "One of them",
        params(DocumentQuery),
        responses((status = 200, body = DocumentDoc)),
    )]
    async fn show(
        State(api): Shared,
        Extension(Me(me)): Extension<Me>,
        Path(name): Path<String>,
        Query(query): Query<DocumentQuery>,
    ) -> Result<Doc<DocumentDoc>> {
        let me = Principal::Agent(me);
        let shown = read(&api, &name, &me, query.version);
        shown.await.map(Doc)
    }
    #[utoipa::path(
        post, path = "/api/v1/self/documents/{document}", operation_id = "me_write_document", tag = "me",
        summary = "Writes a version, or adds to a log, where the agent may",
        params(abbey_api::headers::IdempotencyKey),
        responses((status = 200, body = DocumentDoc)),
    )]
    async fn put(
        State(api): Shared,
        Extension(Me(me)): Extension<Me>,
        Path(name): Path<String>,
        headers: HeaderMap,
        Json(body): Json<DocumentBody>,
    ) -> Result<Doc<DocumentDoc>> {
        let me = Principal::Agent(me);
        let route = format!("documents/{name}");
        let key = idempotency_key(&headers, &me, &route)?;
        let name = documents::write_document(&api.work, &name, me.clone(), body, key).await?;
        let shown = read(&api, name.as_str(), &me, None);
        shown.await.map(Doc)
    }
    OpenApiRouter::new()
        .routes(routes!(list_mine))
        .routes(routes!(show))
        .routes(routes!(put))
}

async fn list(
    api: &Arc<ApiState>,
    who: &Principal,
    query: &DocumentsQuery,
) -> Result<DocumentsDoc> {
    let all = documents::list_documents(&api.work, who).await?.documents;
    let name = |d: &DocumentView| d.name.clone();
    let (documents, cursor) = paginate(all, query.limit, query.cursor.as_deref(), name)?;
    Ok(DocumentsDoc {
        version: VERSION,
        documents,
        cursor,
    })
}

async fn read(
    api: &Arc<ApiState>,
    name: &str,
    who: &Principal,
    version: Option<u64>,
) -> Result<DocumentDoc> {
    let (name, document) = documents::find_readable_document(&api.work, name, who)?;
    let (rows, text) = match &document.kind {
        DocumentKind::Report(report) => {
            let reader = match who {
                Principal::Agent(agent) => Some(agent),
                _ => None,
            };
            let language = api.core.plan.language_of(reader);
            let report = api.make_report(report, language).await?;
            (Vec::new(), reports::render_as_text(&report))
        }
        kind => {
            documents::read_document_text(&api.work, &name, kind, version.unwrap_or(u64::MAX))
                .await?
        }
    };
    if let Some(wanted) = version
        && rows.first().is_none_or(|r| r.version != wanted)
    {
        let text = format!(
            "document `{name}` has no version {wanted}; it has been removed or does not exist yet"
        );
        return Err(Problem::new(FaultKind::NotFound, text).into());
    }
    let newest = api.core.store.document(name.clone(), u64::MAX, 1).await?;
    Ok(DocumentDoc {
        version: VERSION,
        shown: rows.first().map_or(0, |r| r.version),
        document: documents::document_view(&api.work, &name, &document, newest.first()),
        text,
    })
}
