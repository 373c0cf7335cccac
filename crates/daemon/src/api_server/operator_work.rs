//! The operator's API to work that is shared: delegation, the org chart, approvals, schedules, workflows.

use crate::api_server::documents_api;
use crate::api_server::state::ApiState;
use crate::api_server::web::{Doc, Input, header};
use crate::core::error::Result;
use crate::insight::{org, reports, views, workflow_views};
use crate::work::lookup::{parse_slug, parse_task_ref};
use crate::work::{approvals, delegation, queue, schedules, workflows};
use abbey_api::*;
use abbey_engine::approval::Verdict;
use abbey_model::{FaultKind, Principal};
use abbey_words::{Language, Text};
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

type Shared = State<Arc<ApiState>>;

/// Its routes, for the door that asks for the operator's credential.
pub(crate) fn routes() -> Router<Arc<ApiState>> {
    Router::new()
        .route("/api/v1/tasks/{task}/tree", get(tree))
        .route("/api/v1/delegations", post(delegate))
        .route("/api/v1/reports", get(reports_doc))
        .route("/api/v1/reports/{report}", get(report))
        .route("/api/v1/approvals", get(approvals_doc))
        .route("/api/v1/approvals/{approval}/approve", post(approve))
        .route("/api/v1/approvals/{approval}/deny", post(deny))
        .route("/api/v1/approvals/{approval}/revise", post(revise))
        .merge(documents_api::operator_routes())
        .route("/api/v1/queue", get(show_queue).post(merge_queue))
        .route("/api/v1/org", get(org_doc))
        .route("/api/v1/workflows", get(declared))
        .route("/api/v1/workflows/{workflow}/runs", post(run_workflow))
        .route("/api/v1/workflow-runs", get(workflow_runs))
        .route("/api/v1/workflow-runs/{run}", get(workflow_run))
        .route("/api/v1/workflow-runs/{run}/cancel", post(cancel_workflow))
        .route("/api/v1/events/{event}", post(event))
        .route("/api/v1/schedules", get(schedules_doc))
        .route("/api/v1/schedules/{agent}/{name}", get(schedule_doc))
        .route("/api/v1/schedules/{agent}/{name}/run", post(fire))
}

#[derive(Deserialize)]
struct InWhich {
    /// Language tag; the house's own when not given.
    #[serde(default)]
    locale: Option<String>,
    /// A question in words.
    #[serde(default)]
    q: Option<String>,
}

impl InWhich {
    fn language(&self, house: &ApiState) -> Result<Language> {
        let Some(tag) = &self.locale else {
            return Ok(house.core.plan.language_of(None));
        };
        Ok(Language::of(tag).ok_or_else(|| {
            let all = Language::ALL.map(Language::tag).join(", ");
            Problem::new(
                FaultKind::Invalid,
                format!("no reports are made in `{tag}`"),
            )
            .remedy(format!("there are {all}"))
        })?)
    }
}

async fn reports_doc(
    State(house): Shared,
    Query(query): Query<InWhich>,
) -> Result<Doc<ReportsDoc>> {
    let language = query.language(&house)?;
    let asked = query.q.as_deref();
    let found = asked.map(reports::route);
    let report = |(name, about): (&str, &'static str)| Observation {
        label: name.to_owned(),
        value: language.render(&Text::new(about)),
    };
    let all = reports::NAMES.map(report).into_iter();
    let fits = |o: &Observation| match &found {
        None => true,
        Some(found) => found.as_deref() == Some(o.label.as_str()),
    };
    Ok(Doc(ReportsDoc {
        version: VERSION,
        reports: all.filter(fits).collect(),
    }))
}

async fn report(
    State(house): Shared,
    Path(name): Path<String>,
    Query(query): Query<InWhich>,
) -> Result<Doc<ReportDoc>> {
    let language = query.language(&house)?;
    Ok(Doc(reports::make(&house.work, &name, language).await?))
}

async fn tree(State(house): Shared, Path(name): Path<String>) -> Result<Doc<TreeDoc>> {
    Ok(Doc(
        views::task_tree(&house.work, parse_task_ref(&name)?).await?
    ))
}

#[derive(Deserialize)]
struct InboxQuery {
    #[serde(default)]
    all: bool,
}

async fn approvals_doc(
    State(house): Shared,
    Query(query): Query<InboxQuery>,
) -> Result<Doc<ApprovalsDoc>> {
    Ok(Doc(approvals::list(&house.work, query.all).await?))
}

async fn decide(
    house: &Arc<ApiState>,
    name: &str,
    verdict: Verdict,
    body: DecideBody,
) -> Result<Doc<ApprovalView>> {
    let number = approvals::number(name)?;
    Ok(Doc(approvals::decide(
        &house.work,
        number,
        verdict,
        body.note,
    )
    .await?))
}

async fn approve(
    State(house): Shared,
    Path(name): Path<String>,
    Input(body): Input<DecideBody>,
) -> Result<Doc<ApprovalView>> {
    decide(&house, &name, Verdict::Approve, body).await
}

async fn deny(
    State(house): Shared,
    Path(name): Path<String>,
    Input(body): Input<DecideBody>,
) -> Result<Doc<ApprovalView>> {
    decide(&house, &name, Verdict::Deny, body).await
}

async fn revise(
    State(house): Shared,
    Path(name): Path<String>,
    Input(body): Input<DecideBody>,
) -> Result<Doc<ApprovalView>> {
    decide(&house, &name, Verdict::Revise, body).await
}

async fn schedules_doc(State(house): Shared) -> Result<Doc<SchedulesDoc>> {
    Ok(Doc(schedules::list(&house.work).await?))
}

async fn schedule_doc(
    State(house): Shared,
    Path((agent, name)): Path<(String, String)>,
) -> Result<Doc<ScheduleDoc>> {
    Ok(Doc(schedules::show(
        &house.work,
        &format!("{agent}/{name}"),
    )
    .await?))
}

async fn fire(
    State(house): Shared,
    Path((agent, name)): Path<(String, String)>,
) -> Result<Doc<ScheduleDoc>> {
    let name = format!("{agent}/{name}");
    schedules::by_hand(&house.work, &name).await?;
    Ok(Doc(schedules::show(&house.work, &name).await?))
}

async fn declared(State(house): Shared) -> Doc<DeclaredDoc> {
    Doc(workflow_views::declared(&house.work))
}

async fn run_workflow(
    State(house): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
    Input(body): Input<RunWorkflowBody>,
) -> Result<Response> {
    let name = parse_slug(&name)?;
    let key = header(&headers, "idempotency-key").map(|k| format!("operator {k}"));
    let started = workflows::start(&house.work, &name, body.input, Principal::Operator, key);
    let (row, new) = started.await?;
    let doc = WorkflowDoc {
        version: VERSION,
        run: workflow_views::run(&house.work, &row),
    };
    let status = match new {
        true => axum::http::StatusCode::CREATED,
        false => axum::http::StatusCode::OK,
    };
    Ok((status, Doc(doc)).into_response())
}

#[derive(Deserialize)]
struct RunsQuery {
    #[serde(default)]
    open: bool,
    #[serde(default = "usual")]
    limit: u32,
}

const fn usual() -> u32 {
    50
}

async fn workflow_runs(
    State(house): Shared,
    Query(query): Query<RunsQuery>,
) -> Result<Doc<WorkflowsDoc>> {
    let rows = house
        .core
        .store
        .workflows(query.open, query.limit.min(1000));
    let rows = rows.await?;
    Ok(Doc(WorkflowsDoc {
        version: VERSION,
        runs: rows
            .iter()
            .map(|r| workflow_views::run(&house.work, r))
            .collect(),
        cursor: None,
    }))
}

#[derive(Deserialize)]
struct PatienceQuery {
    #[serde(default)]
    wait_ms: u64,
}

async fn workflow_run(
    State(house): Shared,
    Path(name): Path<String>,
    Query(query): Query<PatienceQuery>,
) -> Result<Doc<WorkflowDoc>> {
    let patience = Duration::from_millis(query.wait_ms.min(60_000));
    let number = workflows::number(&name)?;
    let row = workflows::wait_until_over(&house.work, number, patience).await?;
    Ok(Doc(WorkflowDoc {
        version: VERSION,
        run: workflow_views::run(&house.work, &row),
    }))
}

async fn cancel_workflow(
    State(house): Shared,
    Path(name): Path<String>,
) -> Result<Doc<WorkflowDoc>> {
    let row = workflows::cancel(&house.work, workflows::number(&name)?).await?;
    Ok(Doc(WorkflowDoc {
        version: VERSION,
        run: workflow_views::run(&house.work, &row),
    }))
}

async fn event(
    State(house): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
    Input(body): Input<EventBody>,
) -> Result<Doc<HeardDoc>> {
    let name = parse_slug(&name)?;
    let key = header(&headers, "idempotency-key").map(str::to_owned);
    let heard = workflows::event(&house.work, &name, body, Principal::Operator, key);
    Ok(Doc(heard.await?))
}

async fn org_doc(State(house): Shared) -> Doc<OrgDoc> {
    Doc(org::document(&house.work))
}

/// The operator gives work by name; whatever a body says, it begins a chain of its own.
async fn delegate(
    State(house): Shared,
    headers: HeaderMap,
    Input(body): Input<DelegateBody>,
) -> Result<Response> {
    let key = header(&headers, "idempotency-key").map(str::to_owned);
    let added = delegation::give(
        &house.work,
        &Principal::Operator,
        (&body, delegation::Way::Order),
        None,
        key,
    )
    .await?;
    let status = match added.new {
        true => axum::http::StatusCode::CREATED,
        false => axum::http::StatusCode::OK,
    };
    let doc = views::task_doc(&house.work, added.task).await?;
    Ok((status, Doc(doc)).into_response())
}

async fn show_queue(State(house): Shared) -> Result<Doc<QueueDoc>> {
    Ok(Doc(QueueDoc {
        version: VERSION,
        text: queue::render(&house.work, None).await?,
        done: Vec::new(),
        conflicts: Vec::new(),
    }))
}

async fn merge_queue(State(house): Shared, Input(body): Input<QueueBody>) -> Result<Doc<QueueDoc>> {
    queue::merge_file(&house.work, &body.text).await.map(Doc)
}
