//! Reports outcomes of tasks to the forge (Gitea, Forgejo, GitHub) that they came from.

use crate::core::error::Result;
use crate::work::outcomes;
use crate::work::state::WorkState;
use abbey_api::Problem;
use abbey_model::{FaultKind, HookOrigin, Millis, Recipient, Secret, TaskState};
use abbey_store::TaskRow;
use abbey_words::Text;
use axum::http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::json;
use std::time::Duration;

/// Longest request to a forge.
const REQUEST_WITHIN: Duration = Duration::from_secs(20);

/// Time after the end of the task at which a failing report is given up.
const GIVE_UP_AFTER: Millis = Millis::from_secs(24 * 3600);

/// Reports the end of a task to the forge that it came from: a comment, and a status for the commit
/// of a pull request. A report that cannot succeed is logged to the audit log instead.
///
/// # Errors
/// If the report failed and should be retried.
pub(crate) async fn report_outcome_to_forge(
    work: &WorkState,
    origin: &HookOrigin,
    row: &TaskRow,
) -> Result<()> {
    let recipient = Recipient::Hook(origin.clone());
    let current = work.core.plan.current();
    let hook = current
        .as_ref()
        .and_then(|c| c.house.hooks.get(&origin.hook));
    // A hook that was made again is another one, for another forge perhaps.
    let since = work.core.store.hook_since(origin.hook.clone()).await?;
    let hook = hook.filter(|_| row.created_at >= since);
    let Some((hook, base, api)) = hook
        .zip(current.as_ref())
        .and_then(|(hook, c)| Some((hook, &c.base_dir, hook.api.as_ref()?)))
    else {
        let why = "the hook was removed or has no `api` any more; the result stays with the task";
        return outcomes::log_undeliverable_outcome(work, row, &recipient, why).await;
    };
    let token = hook
        .token
        .as_ref()
        .map(|t| work.core.secrets.read_secret(t, base))
        .transpose();
    let token = token.map_err(|why| Problem::new(FaultKind::Unavailable, why))?;
    let token = token.map(|t| Secret::new(format!("token {}", t.expose())));
    let number = format!("TASK-{}", row.number);
    let repository = format!("{api}/repos/{}", origin.repository);
    let state = row.state();
    let comment = Text::new("comment-outcome")
        .with("task", &number)
        .with("state", state.to_string());
    let comment = work
        .core
        .plan
        .language_of(row.assignee.as_ref())
        .render(&comment);
    let comment = json!({ "body": format!("{comment}\n\n{}", outcomes::outcome_text(row)) });
    let mut posts = vec![(
        format!("{repository}/issues/{}/comments", origin.number),
        comment,
    )];
    if let Some(commit) = &origin.commit {
        let good = matches!(state, TaskState::Done);
        let status = json!({
            "state": if good { "success" } else { "failure" },
            "context": "abbey",
            "description": format!("{number} is {state}"),
        });
        posts.push((format!("{repository}/statuses/{commit}"), status));
    }
    for (url, body) in posts {
        let mut request = Request::post(&url)
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .header("user-agent", "abbey");
        if let Some(token) = &token {
            request = request.header("authorization", token.expose());
        }
        let why = match request.body(Full::from(body.to_string())) {
            Err(why) => (format!("`{url}`: {why}"), true),
            Ok(request) => match work
                .core
                .http
                .send(request, REQUEST_WITHIN)
                .await
                .map(|a| a.status())
            {
                Ok(status) if status.is_success() => continue,
                Ok(status) => (
                    format!("`{url}` answers {status}"),
                    !status.is_client_error() || status == StatusCode::TOO_MANY_REQUESTS,
                ),
                Err(why) => (format!("`{url}`: {why}"), true),
            },
        };
        let late = work.core.store.now().since(row.updated_at) > GIVE_UP_AFTER;
        match why {
            (why, true) if !late => {
                return Err(Problem::new(FaultKind::Unavailable, why).into());
            }
            (why, _) => {
                return outcomes::log_undeliverable_outcome(work, row, &recipient, &why).await;
            }
        }
    }
    Ok(())
}
