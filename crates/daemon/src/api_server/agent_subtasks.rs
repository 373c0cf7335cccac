//! Routes with which an agent delegates and asks other agents: under the lease of its own task, or on its own initiative.

use crate::api_server::agent_leases::{WAIT_MAX, lease_proof};
use crate::api_server::state::ApiState;
use crate::api_server::web::{Doc, Json, Me};
use crate::api_server::web::{Path, Query, idempotency_key};
use crate::core::error::Result;
use crate::insight::task_views;
use crate::work::delegation::DelegationKind;
use crate::work::lookup::parse_task_ref;
use abbey_api::*;
use abbey_model::{FaultKind, Millis, Principal, Slug, TaskId, TaskRef, TaskState};
use abbey_store::{TaskFilter, TaskRow};
use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use std::sync::Arc;
use std::time::Duration;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Shared = State<Arc<ApiState>>;

/// Longest part of a wait for a task after which the wait is judged anew and continued.
const WAIT_PART: Duration = Duration::from_secs(5);
/// Time for which a part counts beyond its end, so that it can be continued in time.
const WAIT_MARGIN: Duration = Duration::from_secs(5);

/// Most tasks in the list of those that an agent gave.
const GIVEN_MAX: u32 = 100;

/// Routes for an agent's own credential.
pub(crate) fn routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::new()
        .routes(routes!(delegate))
        .routes(routes!(message))
        .routes(routes!(question))
        .routes(routes!(delegated_tasks))
        .routes(routes!(delegated))
        .routes(routes!(cancel_delegated))
}

/// Asks a colleague something: about the task whose lease the caller presents, or on its own initiative.
#[utoipa::path(
    post, path = "/api/v1/self/messages", operation_id = "me_ask_agent", tag = "me",
    summary = "Asks another agent a question, about the own task or on the agent's own initiative",
    params(headers::OptionalLease, headers::IdempotencyKey),
    responses((status = 200, body = TaskDoc)),
)]
async fn message(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    headers: HeaderMap,
    Json(body): Json<DelegateBody>,
) -> Result<Doc<TaskDoc>> {
    delegate_subtask(&api, slug, &headers, &body, DelegationKind::Question).await
}

/// Delegates a subtask of the task whose lease the caller presents, or a task on its own initiative.
#[utoipa::path(
    post, path = "/api/v1/self/delegate", operation_id = "me_delegate", tag = "me",
    summary = "Delegates a subtask, or a task on the agent's own initiative, to another agent",
    params(headers::OptionalLease, headers::IdempotencyKey),
    responses((status = 200, body = TaskDoc)),
)]
async fn delegate(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    headers: HeaderMap,
    Json(body): Json<DelegateBody>,
) -> Result<Doc<TaskDoc>> {
    delegate_subtask(&api, slug, &headers, &body, DelegationKind::Order).await
}

async fn delegate_subtask(
    api: &Arc<ApiState>,
    slug: Slug,
    headers: &HeaderMap,
    body: &DelegateBody,
    way: DelegationKind,
) -> Result<Doc<TaskDoc>> {
    // Without a task it is the agent's own initiative; a lease says that it was meant to be part of one.
    let parent = match body.task.as_deref() {
        Some(mine) => Some((
            parse_task_ref(mine)?,
            lease_proof(api, slug.clone(), headers)?.token,
        )),
        None if headers.contains_key("abbey-lease") => {
            return Err(Problem::new(
                FaultKind::Invalid,
                "`task` is missing; write the number of the task that the lease is on, or leave the header `Abbey-Lease` out",
            )
            .into());
        }
        None => None,
    };
    let who = Principal::Agent(slug);
    let key = idempotency_key(
        headers,
        &who,
        match way {
            DelegationKind::Order => "self/delegate",
            DelegationKind::Question => "self/messages",
        },
    )?;
    let added =
        crate::work::delegation::delegate_task(&api.work, &who, (body, way), parent, key).await?;
    Ok(Doc(task_views::task_doc(&api.work, added.task).await?))
}

/// A task that the caller delegated; any other is reported as not found, also when it exists.
async fn find_delegated_task(api: &ApiState, slug: &Slug, name: &str) -> Result<TaskId> {
    let row = api.core.store.task(parse_task_ref(name)?).await?;
    match row.author == Principal::Agent(slug.clone()) {
        true => Ok(row.id),
        false => Err(Problem::new(
            FaultKind::NotFound,
            format!("this agent delegated no task `{name}`"),
        )
        .into()),
    }
}

#[utoipa::path(
    get, path = "/api/v1/self/messages/{task}", operation_id = "me_question", tag = "me",
    summary = "A question that was asked, with its answer; `wait_ms` waits for that",
    params(WaitQuery),
    responses((status = 200, body = TaskDoc)),
)]
async fn question(
    state: Shared,
    me: Extension<Me>,
    name: Path<String>,
    query: Query<WaitQuery>,
) -> Result<Doc<TaskDoc>> {
    delegated(state, me, name, query).await
}

#[utoipa::path(
    get, path = "/api/v1/self/delegated", operation_id = "me_delegated_tasks", tag = "me",
    summary = "Tasks and questions that the agent gave to others and that are open, newest first; at most 100",
    responses((status = 200, body = TasksDoc)),
)]
async fn delegated_tasks(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
) -> Result<Doc<TasksDoc>> {
    let open = TaskState::ALL.iter().copied().filter(|s| !s.is_terminal());
    let given = TaskFilter {
        states: open.collect(),
        author: Some(Principal::Agent(slug)),
        limit: GIVEN_MAX,
        ..TaskFilter::default()
    };
    let rows = api.core.store.tasks(given).await?;
    let view = |row: &TaskRow| task_views::task_view(&api.work, row, Vec::new());
    Ok(Doc(TasksDoc {
        version: VERSION,
        tasks: rows.iter().map(view).collect(),
        cursor: None,
    }))
}

#[utoipa::path(
    get, path = "/api/v1/self/delegated/{task}", operation_id = "me_delegated", tag = "me",
    summary = "A delegated subtask; `wait_ms` waits for its end",
    params(WaitQuery),
    responses((status = 200, body = TaskDoc)),
)]
async fn delegated(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<Doc<TaskDoc>> {
    let task = find_delegated_task(&api, &slug, &name).await?;
    let patience = Duration::from_millis(query.wait_ms.unwrap_or(0)).min(WAIT_MAX);
    let row = match patience.is_zero() {
        true => api.core.store.task(TaskRef::Id(task)).await?,
        false => wait_for_delegated_task(&api, slug, task, patience).await?,
    };
    Ok(Doc(task_views::task_doc(&api.work, row).await?))
}

/// Waits for the end of a task that the caller gave. A run of the caller counts as waiting exactly until this returns or is
/// dropped.
async fn wait_for_delegated_task(
    api: &ApiState,
    slug: Slug,
    task: TaskId,
    patience: Duration,
) -> Result<TaskRow> {
    let until = api.core.rt.now() + patience;
    let _waits_until_dropped = api.record_wait_for_task(&slug, task);
    let task = TaskRef::Id(task);
    loop {
        let left = until.saturating_duration_since(api.core.rt.now());
        let part = left.min(WAIT_PART);
        let counts_for = (part + WAIT_MARGIN).as_millis();
        let counts_for = Millis(i64::try_from(counts_for).unwrap_or(i64::MAX));
        // Who asks for work changes, so a ring of waits may be one only now.
        let asking = api.agents_asking_for_work();
        let wait = api
            .core
            .store
            .await_subtask(task, slug.clone(), counts_for, asking);
        wait.await?;
        let end_of_part = api.core.rt.now() + part;
        let row = crate::work::lookup::wait_until_ended_or_waiting(&api.work, task, part).await?;
        let goes_on = api.core.rt.now() >= end_of_part && end_of_part < until;
        if !goes_on || row.state().is_terminal() {
            return Ok(row);
        }
    }
}

#[utoipa::path(
    post, path = "/api/v1/self/delegated/{task}/cancel", operation_id = "me_cancel_delegated", tag = "me",
    summary = "Cancels a delegated subtask",
    responses((status = 200, body = TaskDoc)),
)]
async fn cancel_delegated(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
) -> Result<Doc<TaskDoc>> {
    let task = find_delegated_task(&api, &slug, &name).await?;
    let row = api
        .core
        .store
        .cancel_task(TaskRef::Id(task), Principal::Agent(slug))
        .await?;
    Ok(Doc(task_views::task_doc(&api.work, row).await?))
}
