//! Operator routes of reports, approvals, schedules, workflows, the org chart, delegation and the
//! work queue.

use crate::api_server::access::Caller;
use crate::api_server::documents_api;
use crate::api_server::state::ApiState;
use crate::api_server::web::{Doc, Json};
use crate::api_server::web::{Path, Query, idempotency_key, paginate};
use crate::core::error::Result;
use crate::insight::{org, reports, task_views, workflow_views};
use crate::work::lookup::{parse_slug, parse_task_ref};
use crate::work::{approvals, delegation, queue, schedules, workflows};
use abbey_api::*;
use abbey_engine::approval::Verdict;
use abbey_model::{FaultKind, Principal};
use abbey_store::ApprovalFilter;
use abbey_words::{Language, Text};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Duration;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Shared = State<Arc<ApiState>>;

/// Operator routes of reports, approvals, schedules, workflows, the org chart, delegation and the
/// work queue.
pub(crate) fn routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::new()
        .routes(routes!(tree))
        .routes(routes!(delegate))
        .routes(routes!(reports_doc))
        .routes(routes!(report))
        .routes(routes!(approvals_doc))
        .routes(routes!(approve))
        .routes(routes!(deny))
        .routes(routes!(revise))
        .merge(documents_api::operator_routes())
        .routes(routes!(show_queue, merge_queue))
        .routes(routes!(org_doc))
        .routes(routes!(declared))
        .routes(routes!(run_workflow))
        .routes(routes!(workflow_runs))
        .routes(routes!(workflow_run))
        .routes(routes!(cancel_workflow))
        .routes(routes!(event))
        .routes(routes!(schedules_doc))
        .routes(routes!(schedule_doc))
        .routes(routes!(fire))
}

/// The language that a request asks for, or the house's own.
fn language_of(api: &ApiState, locale: Option<&str>) -> Result<Language> {
    let Some(tag) = locale else {
        return Ok(api.core.plan.language_of(None));
    };
    Ok(Language::from_tag(tag).ok_or_else(|| {
        let all = Language::ALL.map(Language::tag).join(", ");
        Problem::new(
            FaultKind::Invalid,
            format!("reports are not available in the language `{tag}`"),
        )
        .remedy(format!("available languages: {all}"))
    })?)
}

#[utoipa::path(
    get, path = "/api/v1/reports", operation_id = "reports_list", tag = "reports",
    summary = "Every report",
    params(ReportsQuery),
    responses((status = 200, body = ReportsDoc)),
)]
async fn reports_doc(
    State(api): Shared,
    Query(query): Query<ReportsQuery>,
) -> Result<Doc<ReportsDoc>> {
    let language = language_of(&api, query.locale.as_deref())?;
    let asked = query.q.as_deref();
    let found = asked.map(reports::report_for_question);
    let report = |(name, about): (&str, &'static str)| Observation {
        label: name.to_owned(),
        value: language.render(&Text::new(about)),
        amounts: Default::default(),
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

#[utoipa::path(
    get, path = "/api/v1/reports/{report}", operation_id = "reports_show", tag = "reports",
    summary = "One report: what was observed, what it means, what an operator might do",
    params(ReportQuery),
    responses((status = 200, body = ReportDoc)),
)]
async fn report(
    State(api): Shared,
    Path(name): Path<String>,
    Query(query): Query<ReportQuery>,
) -> Result<Doc<ReportDoc>> {
    let language = language_of(&api, query.locale.as_deref())?;
    Ok(Doc(api.make_report(&name, language).await?))
}

#[utoipa::path(
    get, path = "/api/v1/tasks/{task}/tree", operation_id = "tasks_tree", tag = "tasks",
    summary = "The task with its subtasks, depth first",
    responses((status = 200, body = TreeDoc)),
)]
async fn tree(State(api): Shared, Path(name): Path<String>) -> Result<Doc<TreeDoc>> {
    Ok(Doc(task_views::task_tree_doc(
        &api.work,
        parse_task_ref(&name)?,
    )
    .await?))
}

#[utoipa::path(
    get, path = "/api/v1/approvals", operation_id = "approvals_list", tag = "approvals",
    summary = "Approvals that wait for a decision, or all of them, newest first",
    params(ApprovalsQuery),
    responses((status = 200, body = ApprovalsDoc)),
)]
async fn approvals_doc(
    State(api): Shared,
    Query(query): Query<ApprovalsQuery>,
) -> Result<Doc<ApprovalsDoc>> {
    let page = approvals::list_approvals(&api.work, ApprovalFilter::default(), &query);
    Ok(Doc(page.await?))
}

async fn decide(
    api: &Arc<ApiState>,
    by: Principal,
    name: &str,
    verdict: Verdict,
    body: DecideBody,
) -> Result<Doc<ApprovalView>> {
    let number = approvals::parse_approval_number(name)?;
    Ok(Doc(approvals::decide_approval(
        &api.work, number, verdict, body.note, by,
    )
    .await?))
}

#[utoipa::path(
    post, path = "/api/v1/approvals/{approval}/approve", operation_id = "approvals_approve", tag = "approvals",
    summary = "Approves exactly this action, once",
    security(("bearer" = ["approve"])),
    responses((status = 200, body = ApprovalView)),
)]
async fn approve(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
    Json(body): Json<DecideBody>,
) -> Result<Doc<ApprovalView>> {
    decide(&api, by, &name, Verdict::Approve, body).await
}

#[utoipa::path(
    post, path = "/api/v1/approvals/{approval}/deny", operation_id = "approvals_deny", tag = "approvals",
    summary = "Denies it; the task fails",
    security(("bearer" = ["approve"])),
    responses((status = 200, body = ApprovalView)),
)]
async fn deny(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
    Json(body): Json<DecideBody>,
) -> Result<Doc<ApprovalView>> {
    decide(&api, by, &name, Verdict::Deny, body).await
}

#[utoipa::path(
    post, path = "/api/v1/approvals/{approval}/revise", operation_id = "approvals_revise", tag = "approvals",
    summary = "Asks for a different request; the note says how",
    security(("bearer" = ["approve"])),
    responses((status = 200, body = ApprovalView)),
)]
async fn revise(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
    Json(body): Json<DecideBody>,
) -> Result<Doc<ApprovalView>> {
    decide(&api, by, &name, Verdict::Revise, body).await
}

#[utoipa::path(
    get, path = "/api/v1/schedules", operation_id = "schedules_list", tag = "schedules",
    summary = "Every schedule",
    params(SchedulesQuery),
    responses((status = 200, body = SchedulesDoc)),
)]
async fn schedules_doc(
    State(api): Shared,
    Query(query): Query<SchedulesQuery>,
) -> Result<Doc<SchedulesDoc>> {
    let all = schedules::list_schedules(&api.work).await?.schedules;
    let name = |s: &ScheduleView| s.name.clone();
    let (schedules, cursor) = paginate(all, query.limit, query.cursor.as_deref(), name)?;
    Ok(Doc(SchedulesDoc {
        version: VERSION,
        schedules,
        cursor,
    }))
}

#[utoipa::path(
    get, path = "/api/v1/schedules/{agent}/{name}", operation_id = "schedules_show", tag = "schedules",
    summary = "One schedule with its history",
    responses((status = 200, body = ScheduleDoc)),
)]
async fn schedule_doc(
    State(api): Shared,
    Path((agent, name)): Path<(String, String)>,
) -> Result<Doc<ScheduleDoc>> {
    Ok(Doc(schedules::show_schedule(
        &api.work,
        &format!("{agent}/{name}"),
    )
    .await?))
}

#[utoipa::path(
    post, path = "/api/v1/schedules/{agent}/{name}/run", operation_id = "schedules_fire", tag = "schedules",
    summary = "Fires it now, in addition to its own instants",
    security(("bearer" = ["tasks"])),
    responses((status = 200, body = ScheduleDoc)),
)]
async fn fire(
    State(api): Shared,
    Caller(by): Caller,
    Path((agent, name)): Path<(String, String)>,
) -> Result<Doc<ScheduleDoc>> {
    let name = format!("{agent}/{name}");
    schedules::fire_schedule_now(&api.work, &name, by).await?;
    Ok(Doc(schedules::show_schedule(&api.work, &name).await?))
}

#[utoipa::path(
    get, path = "/api/v1/workflows", operation_id = "workflows_list", tag = "workflows",
    summary = "Every workflow as it is declared",
    params(DeclaredQuery),
    responses((status = 200, body = DeclaredDoc)),
)]
async fn declared(
    State(api): Shared,
    Query(query): Query<DeclaredQuery>,
) -> Result<Doc<DeclaredDoc>> {
    let all = workflow_views::declared_workflows(&api.work).workflows;
    let name = |w: &DeclaredView| w.name.clone();
    let (workflows, cursor) = paginate(all, query.limit, query.cursor.as_deref(), name)?;
    Ok(Doc(DeclaredDoc {
        version: VERSION,
        workflows,
        cursor,
    }))
}

#[utoipa::path(
    post, path = "/api/v1/workflows/{workflow}/runs", operation_id = "workflows_start", tag = "workflows",
    summary = "Starts a run",
    security(("bearer" = ["tasks"])),
    params(headers::IdempotencyKey),
    responses((status = 200, body = WorkflowDoc), (status = 201, body = WorkflowDoc, description = "Created")),
)]
async fn run_workflow(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(body): Json<RunWorkflowBody>,
) -> Result<Response> {
    let name = parse_slug(&name)?;
    let route = format!("workflows/{name}/runs");
    let key = idempotency_key(&headers, &by, &route)?;
    let started = workflows::start_run(&api.work, &name, body.input, by, key);
    let (row, new) = started.await?;
    let doc = WorkflowDoc {
        version: VERSION,
        run: workflow_views::workflow_run_view(&api.work, &row),
    };
    let status = match new {
        true => axum::http::StatusCode::CREATED,
        false => axum::http::StatusCode::OK,
    };
    Ok((status, Doc(doc)).into_response())
}

/// Runs of a page where no limit is given.
const RUNS_USUAL: u32 = 50;
/// Most runs that pages walk through.
const RUNS_MAX: u32 = 100_000;

#[utoipa::path(
    get, path = "/api/v1/workflow-runs", operation_id = "workflows_runs", tag = "workflows",
    summary = "Runs of workflows, newest first",
    params(WorkflowRunsQuery),
    responses((status = 200, body = WorkflowsDoc)),
)]
async fn workflow_runs(
    State(api): Shared,
    Query(query): Query<WorkflowRunsQuery>,
) -> Result<Doc<WorkflowsDoc>> {
    let rows = api.core.store.workflows(query.open == Some(true), RUNS_MAX);
    let rows = rows.await?;
    let views = rows
        .iter()
        .map(|r| workflow_views::workflow_run_view(&api.work, r));
    let limit = Some(query.limit.unwrap_or(RUNS_USUAL));
    let id = |r: &WorkflowView| r.id.clone();
    let (runs, cursor) = paginate(views.collect(), limit, query.cursor.as_deref(), id)?;
    Ok(Doc(WorkflowsDoc {
        version: VERSION,
        runs,
        cursor,
    }))
}

#[utoipa::path(
    get, path = "/api/v1/workflow-runs/{run}", operation_id = "workflows_run", tag = "workflows",
    summary = "One run; `wait_ms` waits for its end",
    params(WaitQuery),
    responses((status = 200, body = WorkflowDoc)),
)]
async fn workflow_run(
    State(api): Shared,
    Path(name): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<Doc<WorkflowDoc>> {
    let patience = Duration::from_millis(query.wait_ms.unwrap_or(0).min(60_000));
    let number = workflows::parse_run_number(&name)?;
    let row = workflows::wait_until_run_ends(&api.work, number, patience).await?;
    Ok(Doc(WorkflowDoc {
        version: VERSION,
        run: workflow_views::workflow_run_view(&api.work, &row),
    }))
}

#[utoipa::path(
    post, path = "/api/v1/workflow-runs/{run}/cancel", operation_id = "workflows_cancel", tag = "workflows",
    summary = "Cancels a run; steps that were done are undone",
    security(("bearer" = ["tasks"])),
    responses((status = 200, body = WorkflowDoc)),
)]
async fn cancel_workflow(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
) -> Result<Doc<WorkflowDoc>> {
    let row = workflows::cancel_run(&api.work, workflows::parse_run_number(&name)?, by).await?;
    Ok(Doc(WorkflowDoc {
        version: VERSION,
        run: workflow_views::workflow_run_view(&api.work, &row),
    }))
}

#[utoipa::path(
    post, path = "/api/v1/events/{event}", operation_id = "workflows_report_event", tag = "workflows",
    summary = "Reports an event: runs that wait for it go on, workflows that start at it start",
    security(("bearer" = ["tasks"])),
    params(headers::IdempotencyKey),
    responses((status = 200, body = HeardDoc)),
)]
async fn event(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(body): Json<EventBody>,
) -> Result<Doc<HeardDoc>> {
    let name = parse_slug(&name)?;
    let route = format!("events/{name}");
    let key = idempotency_key(&headers, &by, &route)?;
    let heard = workflows::publish_event(&api.work, &name, body, by, key);
    Ok(Doc(heard.await?))
}

#[utoipa::path(
    get, path = "/api/v1/org", operation_id = "org_show", tag = "org",
    summary = "The org chart, and what follows from it",
    responses((status = 200, body = OrgDoc)),
)]
async fn org_doc(State(api): Shared) -> Doc<OrgDoc> {
    Doc(org::org_chart(&api.work))
}

/// The operator gives work by name; whatever a body says, it begins a chain of its own.
#[utoipa::path(
    post, path = "/api/v1/delegations", operation_id = "tasks_delegate", tag = "tasks",
    summary = "Gives work to an agent by name",
    security(("bearer" = ["tasks"])),
    params(headers::IdempotencyKey),
    responses((status = 200, body = TaskDoc), (status = 201, body = TaskDoc, description = "Created")),
)]
async fn delegate(
    State(api): Shared,
    Caller(by): Caller,
    headers: HeaderMap,
    Json(body): Json<DelegateBody>,
) -> Result<Response> {
    let key = idempotency_key(&headers, &by, "delegations")?;
    let added = delegation::delegate_task(
        &api.work,
        &by,
        (&body, delegation::DelegationKind::Order),
        None,
        key,
    )
    .await?;
    let status = match added.new {
        true => axum::http::StatusCode::CREATED,
        false => axum::http::StatusCode::OK,
    };
    let doc = task_views::task_doc(&api.work, added.task).await?;
    Ok((status, Doc(doc)).into_response())
}

#[utoipa::path(
    get, path = "/api/v1/queue", operation_id = "queue_show", tag = "queue",
    summary = "The work queue as Markdown",
    responses((status = 200, body = QueueDoc)),
)]
async fn show_queue(State(api): Shared) -> Result<Doc<QueueDoc>> {
    Ok(Doc(QueueDoc {
        version: VERSION,
        text: queue::render_queue(&api.work).await?,
        edits: Vec::new(),
        done: Vec::new(),
        known: Vec::new(),
        conflicts: Vec::new(),
    }))
}

#[utoipa::path(
    post, path = "/api/v1/queue", operation_id = "queue_merge", tag = "queue",
    summary = "Carries out the edits of a work queue, and returns the queue as it is then",
    security(("bearer" = ["tasks"])),
    responses((status = 200, body = QueueDoc)),
)]
async fn merge_queue(
    State(api): Shared,
    Caller(by): Caller,
    Json(body): Json<QueueBody>,
) -> Result<Doc<QueueDoc>> {
    queue::merge_queue_file(&api.work, &body.text, &body.undecoded, &by)
        .await
        .map(Doc)
}
