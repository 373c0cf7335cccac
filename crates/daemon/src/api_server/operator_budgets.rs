//! Routes of the operator API about budgets.

use crate::api_server::access::Caller;
use crate::api_server::state::ApiState;
use crate::api_server::web::{Doc, Json, Query, idempotency_key, paginate};
use crate::core::error::{Result, not_found};
use crate::insight::ledger_views;
use abbey_api::{
    BudgetAction, BudgetDoc, BudgetScope, BudgetsQuery, ChangeBudget, Problem, VERSION, headers,
};
use abbey_model::{FaultKind, Scope, Slug, TaskRef};
use abbey_store::{BudgetChange, BudgetChangeKind};
use axum::extract::State;
use axum::http::HeaderMap;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Shared = State<Arc<ApiState>>;

/// Longest reason, bytes.
const NOTE_MAX: usize = 2000;

/// Routes that need the operator's credential.
pub(crate) fn routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::new().routes(routes!(budgets, change_budget))
}

#[utoipa::path(
    get, path = "/api/v1/budgets", operation_id = "budgets_list", tag = "budgets",
    summary = "A page of budgets, by scope",
    params(BudgetsQuery),
    responses((status = 200, body = BudgetDoc)),
)]
async fn budgets(State(api): Shared, Query(query): Query<BudgetsQuery>) -> Result<Doc<BudgetDoc>> {
    let accounts = api.core.store.budgets().await?;
    let changed = api.core.store.limit_overrides().await?;
    let numbers = api.core.store.task_numbers_of_budgets().await?;
    let current = api.core.plan.current();
    let is_agent = |slug: &Slug| {
        current
            .as_ref()
            .is_none_or(|c| c.house.agents.contains_key(slug))
    };
    let scopes = ledger_views::budget_views(&accounts, &changed, &numbers, is_agent);
    let key = |s: &BudgetScope| format!("{}/{}/{}", s.scope, s.metric, s.window);
    let (scopes, cursor) = paginate(scopes, query.limit, query.cursor.as_deref(), key)?;
    Ok(Doc(BudgetDoc {
        version: VERSION,
        scopes,
        cursor,
    }))
}

fn invalid(text: impl Into<String>) -> crate::core::error::Error {
    Problem::new(FaultKind::Invalid, text.into()).into()
}

/// A reason for the audit log, unless it is too long.
pub(crate) fn checked_note(note: Option<String>) -> Result<Option<String>> {
    match note {
        Some(note) if note.len() > NOTE_MAX => Err(invalid(format!(
            "`note` must have at most {NOTE_MAX} bytes"
        ))),
        note => Ok(note),
    }
}

/// Scope that a caller names: `house`, `agent:NAME`, `TASK-7`; the last with the number of the task.
async fn find_scope(api: &ApiState, text: &str) -> Result<(Scope, Option<u64>)> {
    if let Some(number) = text.strip_prefix("TASK-") {
        let Ok(number) = number.parse() else {
            return Err(invalid(format!(
                "`{text}` is not a task; write it like TASK-7"
            )));
        };
        let task = api.core.store.task(TaskRef::Number(number)).await?;
        return Ok((Scope::Task(task.id), Some(number)));
    }
    match text.parse() {
        Ok(Scope::House) => Ok((Scope::House, None)),
        // The account of a removed agent stays, but a later agent of its name must not find a limit there.
        Ok(Scope::Agent(agent)) => {
            let current = api.core.plan.current();
            let has = current.is_none_or(|c| c.house.agents.contains_key(&agent));
            match has {
                true => Ok((Scope::Agent(agent), None)),
                false => Err(not_found("agent", agent.as_str()).into()),
            }
        }
        Ok(Scope::Task(_) | Scope::Run(_)) | Err(_) => Err(invalid(format!(
            "`{text}` is not a budget that can be changed; use house, agent:NAME or TASK-N"
        ))),
    }
}

/// What a request changes.
fn kind_of(body: &ChangeBudget) -> Result<BudgetChangeKind> {
    match (body.action, body.amount) {
        (BudgetAction::Set, limit) => Ok(BudgetChangeKind::Set(limit)),
        (BudgetAction::Raise, Some(more)) => Ok(BudgetChangeKind::Raise(more)),
        (BudgetAction::Raise, None) => Err(invalid("`amount` is missing: by how much to raise")),
        (BudgetAction::Manifest, None) => Ok(BudgetChangeKind::FollowManifest),
        (BudgetAction::Reset, None) => Ok(BudgetChangeKind::Reset),
        (BudgetAction::Manifest | BudgetAction::Reset, Some(_)) => Err(invalid(format!(
            "`amount` says nothing about `{}`; leave it out",
            body.action
        ))),
    }
}

#[utoipa::path(
    post, path = "/api/v1/budgets", operation_id = "budgets_change", tag = "budgets",
    summary = "Changes a budget in place of the manifest, and wakes the tasks that wait for it",
    params(headers::IdempotencyKey),
    responses((status = 200, body = BudgetScope)),
)]
async fn change_budget(
    State(api): Shared,
    Caller(by): Caller,
    headers: HeaderMap,
    Json(body): Json<ChangeBudget>,
) -> Result<Doc<BudgetScope>> {
    let note = checked_note(body.note.clone())?;
    let request = serde_json::to_vec(&body).unwrap_or_default();
    let key = idempotency_key(&headers, &by, "budgets")?;
    let (scope, number) = find_scope(&api, &body.scope).await?;
    let change = BudgetChange {
        key: key.map(|key| (key, abbey_support::digest::sha256_hex(&request))),
        scope,
        metric: body.metric,
        kind: kind_of(&body)?,
        note,
    };
    let changed = api.core.store.change_budget(change, by).await?;
    let (account, limit) = (&changed.account, changed.changed.as_ref());
    Ok(Doc(ledger_views::budget_view(account, number, limit)))
}
