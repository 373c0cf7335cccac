//! The outside door: the operator's API.

use crate::api_server::state::ApiState;
use crate::api_server::web::{
    Doc, Input, SearchQuery, etag, header, if_match, large, problem, refuse_unknown,
};
use crate::api_server::{hooks, operator_cells, operator_work, plans};
use crate::cells::commands;
use crate::core::backup;
use crate::core::error::{Error, Result};
use crate::insight::views::find_skills;
use crate::insight::{doctor, metrics, views};
use crate::planning::apply;
use crate::work::lookup::{
    known_agent, parse_priority, parse_slug, parse_task_ref, wait_until_settled,
};
use abbey_api::routes::Door;
use abbey_api::*;
use abbey_model::{Amounts, FaultKind, Principal, RunId, TaskRef, TaskState, Tokens};
use abbey_store::{NewTask, TaskFilter, Topic};
use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::HeaderMap;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

type Shared = State<Arc<ApiState>>;

/// Entries that a slow reader of events may lag before it is told of a gap.
const LAG_MAX: u64 = 10_000;
/// Most rows of one page.
const PAGE_MAX: u32 = 1000;

pub(crate) fn router(house: Arc<ApiState>) -> Router {
    let api = Router::new()
        .route("/metrics", get(metrics_text))
        .route("/openapi.json", get(async || Doc(openapi(Door::Outside))))
        .route("/api/v1/house", get(house_doc))
        .route("/api/v1/down", post(down))
        .route("/api/v1/plans", post(plan))
        .route("/api/v1/generations", post(generation))
        .route("/api/v1/generations/current", get(current))
        .merge(operator_cells::routes())
        .route("/api/v1/commands", post(run_command))
        .route("/api/v1/tasks", get(tasks).post(add_task))
        .route("/api/v1/tasks/{task}", get(task))
        .route("/api/v1/tasks/{task}/why", get(why_task))
        .route("/api/v1/tasks/{task}/cancel", post(cancel))
        .route("/api/v1/tasks/{task}/retry", post(retry))
        .route("/api/v1/tasks/{task}/unblock", post(unblock))
        .route("/api/v1/runs/{run}", get(run))
        .route("/api/v1/activity", get(activity))
        .route("/api/v1/activity/verify", get(verify))
        .route("/api/v1/events", get(events))
        .route("/api/v1/budgets", get(budgets))
        .route("/api/v1/skills", get(skills))
        .route("/api/v1/services", get(services))
        .route("/api/v1/doctor", get(doctor_doc).post(doctor_fix))
        .route("/api/v1/backups", post(backup_now))
        .merge(operator_work::routes())
        .layer(from_fn_with_state(Arc::clone(&house), authenticate));
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/hooks/{hook}", post(hooks::door))
        .merge(crate::api_server::controlplane_api::routes())
        .merge(api)
        .fallback(unknown)
        .with_state(house)
}

/// Nothing behind this door answers without the operator's credential, not even on loopback.
async fn authenticate(State(house): Shared, request: Request, next: Next) -> Response {
    let header = header(request.headers(), "authorization");
    match house
        .core
        .keys
        .principal(header, &["operator"], house.core.store.now())
    {
        Ok(_) => next.run(request).await,
        Err(refusal) => problem(refusal.remedy(
            "send the text of `operator.token` in the house's directory as a bearer credential",
        )),
    }
}

async fn unknown(request: Request) -> Response {
    let path = request.uri().path();
    refuse_unknown(Door::Outside, path)
}

#[derive(Deserialize)]
struct HouseQuery {
    #[serde(default)]
    state_hash: bool,
}

async fn house_doc(State(house): Shared, Query(query): Query<HouseQuery>) -> Result<Doc<HouseDoc>> {
    let current = house.core.plan.current();
    let state_hash = if query.state_hash {
        Some(house.core.store.state_hash().await?)
    } else {
        None
    };
    Ok(Doc(HouseDoc {
        version: VERSION,
        house: current.as_ref().map(|c| c.house.name.to_string()),
        generation: current.as_ref().map_or(0, |c| c.generation),
        software: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        address: house.net.operator_address.text(),
        state_hash,
    }))
}

async fn down(State(house): Shared) -> Doc<serde_json::Value> {
    house.core.shutdown.request();
    house.cells.request_pass();
    Doc(serde_json::json!({ "version": VERSION, "going_down": true }))
}

async fn plan(State(house): Shared, Input(body): Input<ManifestBody>) -> Result<Doc<PlanDoc>> {
    Ok(Doc(apply::dry_run(&house.work, body).await?))
}

async fn generation(
    State(house): Shared,
    headers: HeaderMap,
    Input(body): Input<ManifestBody>,
) -> Result<Doc<PlanDoc>> {
    let seen = if_match(&headers)?;
    Ok(Doc(
        plans::apply(&house, body, seen, Principal::Operator).await?
    ))
}

async fn current(State(house): Shared) -> Result<Response> {
    let current = house.core.plan.current().ok_or_else(|| {
        Problem::new(FaultKind::NotFound, "no manifest was applied yet")
            .remedy("`abbey up` applies one")
    })?;
    let doc = ManifestDoc {
        version: VERSION,
        generation: current.generation,
        manifest: current.manifest.clone(),
        base_dir: current.base_dir.clone(),
    };
    Ok(([("etag", etag(current.generation))], Doc(doc)).into_response())
}

#[derive(Deserialize)]
struct TaskQuery {
    #[serde(default)]
    state: Option<String>,
    #[serde(default)]
    agent: Option<String>,
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    limit: Option<u32>,
}

async fn tasks(State(house): Shared, Query(query): Query<TaskQuery>) -> Result<Doc<TasksDoc>> {
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
            c.parse::<u64>()
                .map_err(|_| invalid("the cursor is not one of ours".to_owned()))
        })
        .transpose()?;
    let limit = query.limit.unwrap_or(100).clamp(1, PAGE_MAX);
    let assignee = query.agent.as_deref().map(parse_slug).transpose()?;
    let rows = house
        .core
        .store
        .tasks(TaskFilter {
            states,
            assignee,
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
            .map(|r| views::task(&house.work, r, Vec::new()))
            .collect(),
        cursor,
    }))
}

async fn add_task(
    State(house): Shared,
    headers: HeaderMap,
    Input(body): Input<AddTask>,
) -> Result<Response> {
    let text = body.text.trim().to_owned();
    if text.is_empty() || text.len() > 64 << 10 {
        return Err(
            Problem::new(FaultKind::Invalid, "a task has a text of 1 to 65536 bytes").into(),
        );
    }
    if house.core.shutdown.is_requested() {
        return Err(Problem::new(
            FaultKind::Unavailable,
            "the house is going down and takes no more tasks",
        )
        .into());
    }
    let assignee = body
        .to
        .as_deref()
        .map(|name| known_agent(&house.work, name))
        .transpose()?;
    let intake = match &body.skill {
        Some(skill) => {
            let skills = house.work.skills.current();
            let found = skills.all.get(skill).ok_or_else(|| {
                Problem::new(FaultKind::NotFound, format!("there is no skill `{skill}`"))
            })?;
            let args = serde_json::json!(body.args);
            abbey_agents::skill::check_args(&found.args, &args).map_err(|why| {
                Problem::new(
                    FaultKind::Invalid,
                    format!("the arguments do not fit skill `{skill}`: {why}"),
                )
            })?;
            house.work.intake_named(skill, body.args.clone())
        }
        None => house.work.intake(&text),
    };
    let idempotency = match header(&headers, "idempotency-key") {
        Some(key) if key.is_empty() || key.len() > 200 => {
            return Err(Problem::new(
                FaultKind::Invalid,
                "an idempotency key has 1 to 200 characters",
            )
            .into());
        }
        Some(key) => {
            let request = serde_json::to_vec(&body).unwrap_or_default();
            Some((key.to_owned(), abbey_support::digest::sha256_hex(&request)))
        }
        None => None,
    };
    let new = NewTask {
        text,
        author: Principal::Operator,
        assignee,
        priority: parse_priority(body.priority.as_deref())?,
        budget: Amounts {
            tokens: Tokens(body.tokens.unwrap_or(0)),
            ..Amounts::default()
        },
        policy: None,
        idempotency,
        intake,
        delegated: crate::work::evidence::declared(&body.evidence)?,
    };
    let added = house.core.store.add_task(new).await?;
    let status = if added.new {
        axum::http::StatusCode::CREATED
    } else {
        axum::http::StatusCode::OK
    };
    Ok((
        status,
        Doc(TaskDoc {
            version: VERSION,
            task: views::task(&house.work, &added.task, Vec::new()),
        }),
    )
        .into_response())
}

#[derive(Deserialize)]
struct WaitQuery {
    #[serde(default)]
    wait_ms: Option<u64>,
}

/// One task; with `wait_ms`, answers once it has stopped moving or the time is over.
async fn task(
    State(house): Shared,
    Path(name): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<Response> {
    let patience = Duration::from_millis(query.wait_ms.unwrap_or(0).min(60_000));
    let row = wait_until_settled(&house.work, parse_task_ref(&name)?, patience).await?;
    let tag = etag(row.version);
    Ok((
        [("etag", tag)],
        Doc(views::task_doc(&house.work, row).await?),
    )
        .into_response())
}

async fn why_task(State(house): Shared, Path(name): Path<String>) -> Result<Doc<WhyDoc>> {
    let row = house.core.store.task(parse_task_ref(&name)?).await?;
    Ok(Doc(views::why_task(&house.work, &row).await?))
}

/// Refuses when the caller looked at an older revision.
async fn checked(house: &ApiState, name: &str, headers: &HeaderMap) -> Result<TaskRef> {
    let task = parse_task_ref(name)?;
    if let Some(seen) = if_match(headers)? {
        let current = house.core.store.task(task).await?.version;
        if seen != current {
            return Err(abbey_store::Error::Stale {
                what: name.to_owned(),
                seen,
                current,
            }
            .into());
        }
    }
    Ok(task)
}

async fn cancel(
    State(house): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Doc<TaskDoc>> {
    let task = checked(&house, &name, &headers).await?;
    let row = house.core.store.cancel(task, Principal::Operator).await?;
    Ok(Doc(views::task_doc(&house.work, row).await?))
}

async fn retry(
    State(house): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Doc<TaskDoc>> {
    let task = checked(&house, &name, &headers).await?;
    let row = house.core.store.retry(task, Principal::Operator).await?;
    again(&house, row).await
}

async fn unblock(
    State(house): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Doc<TaskDoc>> {
    let task = checked(&house, &name, &headers).await?;
    let row = house.core.store.unblock(task, Principal::Operator).await?;
    again(&house, row).await
}

async fn again(house: &Arc<ApiState>, row: abbey_store::TaskRow) -> Result<Doc<TaskDoc>> {
    let intake = house.work.intake_again(&row);
    let row = house.core.store.admit(TaskRef::Id(row.id), intake).await?;
    Ok(Doc(views::task_doc(&house.work, row).await?))
}

async fn run(State(house): Shared, Path(name): Path<String>) -> Result<Doc<RunView>> {
    let id: RunId = name
        .parse()
        .map_err(|e: abbey_model::IdError| Problem::new(FaultKind::NotFound, e.to_string()))?;
    Ok(Doc(views::run(&house.core.store.run(id).await?)))
}

#[derive(Deserialize)]
struct PageQuery {
    #[serde(default)]
    cursor: Option<u64>,
    #[serde(default)]
    last: Option<u64>,
    #[serde(default)]
    limit: Option<u32>,
}

async fn activity(
    State(house): Shared,
    Query(query): Query<PageQuery>,
) -> Result<Doc<ActivityDoc>> {
    let limit = query.limit.unwrap_or(200).clamp(1, PAGE_MAX);
    let after = match query.last {
        Some(last) => house.core.store.head().saturating_sub(last),
        None => query.cursor.unwrap_or(0),
    };
    let entries: Vec<EntryView> = house
        .core
        .store
        .activity(after, limit)
        .await?
        .into_iter()
        .map(views::entry)
        .collect();
    let cursor = (entries.len() as u64 == u64::from(limit))
        .then(|| entries.last().map(|e| e.seq.to_string()))
        .flatten();
    Ok(Doc(ActivityDoc {
        version: VERSION,
        entries,
        cursor,
    }))
}

async fn verify(State(house): Shared) -> Result<Doc<VerifyDoc>> {
    let v = house.core.store.verify().await?;
    Ok(Doc(VerifyDoc {
        version: VERSION,
        ok: v.ok,
        entries: v.entries,
        head: v.head,
        first_bad: v.first_bad,
        checkpoints: v.checkpoints,
        why: v.why,
    }))
}

/// New entries as they are committed. The id is the sequence number, so a reader resumes where it
/// was; one that lags too far is told of the gap and goes on at the newest.
async fn events(
    State(house): Shared,
    headers: HeaderMap,
) -> Sse<impl futures_util::Stream<Item = std::result::Result<Event, Infallible>>> {
    let from = header(&headers, "last-event-id")
        .and_then(|t| t.parse().ok())
        .unwrap_or_else(|| house.core.store.head());
    let head = house.core.store.subscribe(Topic::Audit);
    let state = (
        house,
        head,
        from,
        std::collections::VecDeque::<Event>::new(),
    );
    let stream =
        futures_util::stream::unfold(state, async |(house, mut head, mut after, mut ready)| {
            loop {
                if let Some(event) = ready.pop_front() {
                    return Some((Ok(event), (house, head, after, ready)));
                }
                head.mark_unchanged();
                let newest = house.core.store.head();
                if newest.saturating_sub(after) > LAG_MAX {
                    let skipped = newest - after - LAG_MAX;
                    after += skipped;
                    ready.push_back(
                        Event::default()
                            .event("gap")
                            .id(after.to_string())
                            .data(format!("{{\"skipped\":{skipped}}}")),
                    );
                    continue;
                }
                let entries = if newest > after {
                    house
                        .core
                        .store
                        .activity(after, 256)
                        .await
                        .unwrap_or_default()
                } else {
                    Vec::new()
                };
                for entry in entries {
                    after = entry.seq;
                    let data = serde_json::to_string(&views::entry(entry)).unwrap_or_default();
                    ready.push_back(
                        Event::default()
                            .event("activity")
                            .id(after.to_string())
                            .data(data),
                    );
                }
                if ready.is_empty() {
                    tokio::select! {
                        changed = head.changed() => if changed.is_err() { return None },
                        () = house.core.rt.stopped() => return None,
                    }
                }
            }
        });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}

async fn budgets(State(house): Shared) -> Result<Doc<BudgetDoc>> {
    let accounts = house.core.store.budgets().await?;
    Ok(Doc(BudgetDoc {
        version: VERSION,
        scopes: views::budget(&accounts),
        cursor: None,
    }))
}

async fn skills(State(house): Shared, Query(query): Query<SearchQuery>) -> Doc<SkillsDoc> {
    Doc(find_skills(&house.work, query.q.as_deref(), |_| true))
}

async fn services(State(house): Shared) -> Result<Doc<ServicesDoc>> {
    Ok(Doc(views::services(&house.work).await?))
}

async fn doctor_fix(State(house): Shared) -> Result<Doc<DoctorDoc>> {
    Ok(Doc(doctor::fix(&house.work).await?))
}

async fn doctor_doc(State(house): Shared) -> Result<Doc<DoctorDoc>> {
    Ok(Doc(doctor::examine(&house.work).await?))
}

async fn backup_now(
    State(house): Shared,
    Input(body): Input<BackupBody>,
) -> std::result::Result<Doc<BackupDoc>, Error> {
    Ok(Doc(backup::write(
        &house.core,
        std::path::Path::new(&body.path),
    )
    .await?))
}

async fn metrics_text(State(house): Shared) -> Result<Response> {
    let text = metrics::render(&house.work).await?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([("content-type", kind)], text).into_response())
}

/// Largest request to run a command, bytes, with the files that come along.
const COMMAND_REQUEST_MAX: usize = 96 << 20;

async fn run_command(State(house): Shared, request: Request) -> Response {
    match large(request.into_body(), COMMAND_REQUEST_MAX).await {
        Ok(body) => commands::command(&house.cells, body).await.into_response(),
        Err(refused) => refused,
    }
}
