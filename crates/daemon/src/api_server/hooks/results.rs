//! Results of tasks that came by a hook, for whoever has the credential of that hook.

use super::{DELIVERIES_MAX, find_hook, refused};
use crate::api_server::state::ApiState;
use crate::api_server::web::{Doc, Path, header_text};
use crate::core::credentials::bearer_credential;
use crate::core::error::Result;
use crate::work::lookup::parse_task_ref;
use abbey_api::{Problem, VERSION};
use abbey_model::FaultKind;
use abbey_plan::HookKind;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::{Value, json};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Shows state and result of a task that came by this hook, and of no other. The credential is the secret of the hook;
/// `agent` stands for the hook of kind `openclaw`, whose callers know no other name.
#[utoipa::path(
    get, path = "/hooks/{hook}/tasks/{task}", operation_id = "hooks_task", tag = "hooks",
    summary = "State and result of a task that came by this hook, by the secret of the hook as a bearer credential",
    security(()),
    params(("hook" = String, Path), ("task" = String, Path)),
    responses((status = 200, body = serde_json::Value)),
)]
pub(crate) async fn show_hook_task(
    State(api): State<Arc<ApiState>>,
    Path((name, task)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Doc<Value>> {
    let current = api.core.plan.current();
    let name = match name.as_str() {
        "agent" => current
            .as_ref()
            .and_then(|c| {
                let mut hooks = c.house.hooks.iter();
                hooks.find(|(_, hook)| hook.kind == HookKind::Openclaw)
            })
            .map_or(name, |(slug, _)| slug.to_string()),
        _ => name,
    };
    let (name, hook, current) = find_hook(current.as_deref(), &name)?;
    let secret = api
        .core
        .secrets
        .read_secret(&hook.secret, &current.base_dir)
        .map_err(|why| Problem::new(FaultKind::Unavailable, why))?;
    let given = header_text(&headers, "authorization").and_then(bearer_credential);
    let given = given.or(header_text(&headers, "x-openclaw-token"));
    let given = given.unwrap_or_default();
    if given.is_empty() || !bool::from(given.as_bytes().ct_eq(secret.expose().as_bytes())) {
        return Err(refused(format!(
            "hook `{name}`: send the secret of the hook as a bearer credential"
        )));
    }
    // Reading takes no place from deliveries.
    if !api.count_delivery(format!("{name}/tasks"), DELIVERIES_MAX) {
        let text = format!("hook `{name}`: too many requests; try again in a minute");
        return Err(Problem::new(FaultKind::Limit, text).into());
    }
    let missing = || {
        Problem::new(
            FaultKind::NotFound,
            format!("hook `{name}` gave no task `{task}`"),
        )
    };
    let row = match api.core.store.task(parse_task_ref(&task)?).await {
        Ok(row) => row,
        Err(error) if error.kind() == FaultKind::NotFound => return Err(missing().into()),
        Err(error) => return Err(error.into()),
    };
    // A hook that was removed and made again is another one, of another credential, and came later than these tasks.
    let since = api.core.store.hook_since(name.clone()).await?;
    let by_this = row.link.as_ref().and_then(|l| l.hook.as_ref()) == Some(&name);
    if !by_this || row.created_at < since {
        return Err(missing().into());
    }
    Ok(Doc(json!({
        "version": VERSION,
        "task": format!("TASK-{}", row.number),
        "state": row.state(),
        "ended": row.state().is_terminal(),
        "waiting_for": row.phase.waiting_for(),
        "result": row.result.as_ref().map(|r| json!({ "text": r.text, "data": r.data })),
        "failure": row.failure,
    })))
}
