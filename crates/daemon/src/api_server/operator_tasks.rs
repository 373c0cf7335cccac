//! Routes of the operator API to tasks and their runs.

use crate::api_server::access::Caller;
use crate::api_server::state::ApiState;
use crate::api_server::web::{
    Doc, Json, PAGE_MAX, format_etag, idempotency_key, matches_if_none_match, not_modified,
    parse_if_match, stale_to_precondition_failed,
};
use crate::api_server::web::{Path, Query};
use crate::core::error::Result;
use crate::insight::task_views;
use crate::work::evidence;
use crate::work::lookup::{
    find_agent_slug, parse_priority, parse_task_ref, wait_until_ended_or_waiting,
};
use crate::work::lookup::{parse_slug, parse_token_limit};
use abbey_api::*;
use abbey_engine::matcher::{Match, NAMED};
use abbey_model::{BudgetAmounts, FaultKind, RunId, TaskRef, TaskState};
use abbey_store::{NewTask, TaskFilter};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Duration;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Shared = State<Arc<ApiState>>;

/// Routes of the operator API.
pub(crate) fn routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::new()
        .routes(routes!(tasks, add_task))
        .routes(routes!(task))
        .routes(routes!(why_task))
        .routes(routes!(cancel))
        .routes(routes!(retry))
        .routes(routes!(unblock))
        .routes(routes!(run))
}

#[utoipa::path(
    get, path = "/api/v1/tasks", operation_id = "tasks_list", tag = "tasks",
    summary = "A page of tasks, newest first",
    params(TaskQuery),
    responses((status = 200, body = TasksDoc)),
)]
async fn tasks(State(api): Shared, Query(query): Query<TaskQuery>) -> Result<Doc<TasksDoc>> {
    let invalid = |text: String| Problem::new(FaultKind::Invalid, text);
    let states = query
        .state
        .iter()
        .flat_map(|s| s.split(','))
        .map(|s| s.parse::<TaskState>().map_err(invalid))
        .collect::<std::result::Result<_, _>>()?;
    let before = query
        .cursor
        .map(|c| {
            c.parse::<u64>().map_err(|_| {
                invalid("the cursor is not valid; start again without a cursor".to_owned())
            })
        })
        .transpose()?;
    let limit = query.limit.unwrap_or(100).clamp(1, PAGE_MAX);
    let assignee = query.agent.as_deref().map(parse_slug).transpose()?;
    let rows = api
        .core
        .store
        .tasks(TaskFilter {
            states,
            assignee,
            author: None,
            before,
            limit,
        })
        .await?;
    let cursor = (rows.len() as u64 == u64::from(limit))
        .then(|| rows.last().map(|r| r.number.to_string()))
        .flatten();
    Ok(Doc(TasksDoc {
        version: VERSION,
        tasks: rows
            .iter()
            .map(|r| task_views::task_view(&api.work, r, Vec::new()))
            .collect(),
        cursor,
    }))
}

#[utoipa::path(
    post, path = "/api/v1/tasks", operation_id = "tasks_add", tag = "tasks",
    summary = "Adds a task",
    security(("bearer" = ["tasks"])),
    params(headers::IdempotencyKey),
    responses((status = 200, body = TaskDoc), (status = 201, body = TaskDoc, description = "Created")),
)]
async fn add_task(
    State(api): Shared,
    Caller(by): Caller,
    headers: HeaderMap,
    Json(body): Json<AddTask>,
) -> Result<Response> {
    let text = body.text.trim().to_owned();
    if text.is_empty() || text.len() > 64 << 10 {
        return Err(Problem::new(
            FaultKind::Invalid,
            "the text of a task must have 1 to 65536 bytes",
        )
        .into());
    }
    if api.core.shutdown.is_requested() {
        return Err(Problem::new(
            FaultKind::Unavailable,
            "the house is shutting down and accepts no new tasks; add the task after the next `abbey up`",
        )
        .into());
    }
    let assignee = body
        .to
        .as_deref()
        .map(|name| find_agent_slug(&api.work, name))
        .transpose()?;
    let delegated = evidence::parse_declared_evidence(&body.evidence)?;
    let mut intake = match &body.skill {
        Some(skill) => {
            let to = assignee.as_ref();
            api.work.check_named_skill(skill, &body.args, to)?;
            api.work.intake_for_skill(skill, body.args.clone())
        }
        None => {
            let intake = api.work.intake_for_text(&text);
            // `run skill NAME` is an error here rather than a task that nobody can do.
            if let Match::One(found) = &intake.fit
                && found.score >= NAMED
            {
                let to = assignee.as_ref();
                api.work.check_named_skill(&found.skill, &found.args, to)?;
            }
            intake
        }
    };
    if let Some(delegated) = &delegated {
        evidence::check_reviewers(&mut intake, &delegated.evidence, assignee.as_ref())?;
    }
    let key = idempotency_key(&headers, &by, "tasks")?;
    let idempotency = key.map(|key| {
        let request = serde_json::to_vec(&body).unwrap_or_default();
        (key, abbey_support::digest::sha256_hex(&request))
    });
    let new = NewTask {
        text,
        author: by,
        assignee,
        priority: parse_priority(body.priority.as_deref())?,
        budget: BudgetAmounts {
            tokens: parse_token_limit(body.tokens)?,
            ..BudgetAmounts::default()
        },
        policy: None,
        idempotency,
        intake,
        delegated,
    };
    let added = api.core.store.add_task(new).await?;
    let status = if added.new {
        axum::http::StatusCode::CREATED
    } else {
        axum::http::StatusCode::OK
    };
    Ok((
        status,
        Doc(TaskDoc {
            version: VERSION,
            task: task_views::task_view(&api.work, &added.task, Vec::new()),
        }),
    )
        .into_response())
}

/// One task; with `wait_ms`, answers once it has stopped moving or the time is over.
#[utoipa::path(
    get, path = "/api/v1/tasks/{task}", operation_id = "tasks_show", tag = "tasks",
    summary = "One task with its runs; `wait_ms` waits until it has ended, is parked or needs a person",
    params(WaitQuery, headers::IfNoneMatch),
    responses((status = 200, body = TaskDoc), (status = 304, description = "Unchanged")),
)]
async fn task(
    State(api): Shared,
    Path(name): Path<String>,
    Query(query): Query<WaitQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let patience = Duration::from_millis(query.wait_ms.unwrap_or(0).min(60_000));
    let row = wait_until_ended_or_waiting(&api.work, parse_task_ref(&name)?, patience).await?;
    if matches_if_none_match(&headers, row.version) {
        return Ok(not_modified(row.version));
    }
    let tag = format_etag(row.version);
    Ok((
        [("etag", tag)],
        Doc(task_views::task_doc(&api.work, row).await?),
    )
        .into_response())
}

#[utoipa::path(
    get, path = "/api/v1/tasks/{task}/why", operation_id = "tasks_why", tag = "tasks",
    summary = "Why it waits, or how it ended",
    responses((status = 200, body = WhyDoc)),
)]
async fn why_task(State(api): Shared, Path(name): Path<String>) -> Result<Doc<WhyDoc>> {
    let row = api.core.store.task(parse_task_ref(&name)?).await?;
    Ok(Doc(task_views::explain_task(&api.work, &row).await?))
}

/// Refuses when the caller looked at an older revision.
async fn find_task_at_seen_version(
    api: &ApiState,
    name: &str,
    headers: &HeaderMap,
) -> Result<TaskRef> {
    let task = parse_task_ref(name)?;
    if let Some(seen) = parse_if_match(headers)? {
        let current = api.core.store.task(task).await?.version;
        if seen != current {
            let stale = abbey_store::Error::Stale {
                what: name.to_owned(),
                seen,
                current,
            };
            return Err(stale_to_precondition_failed(stale.into()));
        }
    }
    Ok(task)
}

#[utoipa::path(
    post, path = "/api/v1/tasks/{task}/cancel", operation_id = "tasks_cancel", tag = "tasks",
    summary = "Cancels it",
    security(("bearer" = ["tasks"])),
    params(headers::IfMatch),
    responses((status = 200, body = TaskDoc)),
)]
async fn cancel(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Doc<TaskDoc>> {
    let task = find_task_at_seen_version(&api, &name, &headers).await?;
    let row = api.core.store.cancel_task(task, by).await?;
    Ok(Doc(task_views::task_doc(&api.work, row).await?))
}

#[utoipa::path(
    post, path = "/api/v1/tasks/{task}/retry", operation_id = "tasks_retry", tag = "tasks",
    summary = "Starts it again",
    security(("bearer" = ["tasks"])),
    params(headers::IfMatch),
    responses((status = 200, body = TaskDoc)),
)]
async fn retry(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Doc<TaskDoc>> {
    let task = find_task_at_seen_version(&api, &name, &headers).await?;
    let row = api.core.store.retry_task(task, by).await?;
    readmit_task(&api, row).await
}

#[utoipa::path(
    post, path = "/api/v1/tasks/{task}/unblock", operation_id = "tasks_unblock", tag = "tasks",
    summary = "Ends its wait for somebody",
    security(("bearer" = ["tasks"])),
    params(headers::IfMatch),
    responses((status = 200, body = TaskDoc)),
)]
async fn unblock(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Doc<TaskDoc>> {
    let task = find_task_at_seen_version(&api, &name, &headers).await?;
    let row = api.core.store.unblock_task(task, by).await?;
    readmit_task(&api, row).await
}

/// Admits a task again that may run once more, and returns it.
async fn readmit_task(api: &Arc<ApiState>, row: abbey_store::TaskRow) -> Result<Doc<TaskDoc>> {
    let intake = api.work.intake_for_task(&row);
    let row = api
        .core
        .store
        .admit_task(TaskRef::Id(row.id), intake)
        .await?;
    Ok(Doc(task_views::task_doc(&api.work, row).await?))
}

#[utoipa::path(
    get, path = "/api/v1/runs/{run}", operation_id = "tasks_run", tag = "tasks",
    summary = "One run",
    responses((status = 200, body = RunView)),
)]
async fn run(State(api): Shared, Path(name): Path<String>) -> Result<Doc<RunView>> {
    let id: RunId = name
        .parse()
        .map_err(|e: abbey_model::IdError| Problem::new(FaultKind::NotFound, e.to_string()))?;
    Ok(Doc(task_views::run_view(&api.core.store.run(id).await?)))
}
