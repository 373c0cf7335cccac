//! A skill that needs a person's yes: its program says what it would do, the run ends, and it runs again under the yes.

use super::tools::Right;
use abbey_api::client::AgentClient;
use abbey_api::headers::Lease;
use abbey_api::{ApprovalBody, OfferDoc, SkillView, UseBody};
use abbey_model::ApprovalState;
use serde_json::Value;

/// What was said about this skill with these arguments, last.
pub(super) enum Word {
    /// Nobody was asked, or the yes was used.
    Nothing,
    /// Yes: which.
    Yes(String),
    /// No, in words.
    No(String),
}

pub(super) fn action(skill: &str) -> String {
    format!("skill:{skill}")
}

/// Looks in what came with the offer.
pub(super) fn decided(offer: &OfferDoc, skill: &str, args: &Value) -> Word {
    let action = action(skill);
    let mut asked = offer.approvals.iter().rev();
    let Some(last) = asked.find(|a| a.action == action && a.args == *args) else {
        return Word::Nothing;
    };
    let note = last
        .note
        .as_deref()
        .map_or_else(String::new, |n| format!(": {n}"));
    match last.state {
        ApprovalState::Approved => Word::Yes(last.id.clone()),
        ApprovalState::Denied | ApprovalState::Revise => {
            Word::No(format!("{} is {}{note}", last.id, last.state))
        }
        _ => Word::Nothing,
    }
}

/// Whether the house itself looks at the yes, as it does what the skill asks of it.
pub(super) fn is_the_houses(skill: &SkillView) -> bool {
    skill.grants.iter().any(|g| g.starts_with("op:"))
}

/// Uses a yes up.
pub(super) async fn take(
    client: &AgentClient,
    right: &Right,
    number: &str,
    body: &UseBody,
) -> Result<(), String> {
    let used = client.me().use_approval(number, body, Lease(right.lease));
    let used = used.await;
    used.map(drop).map_err(|e| e.to_string())
}

/// Asks; the right to the task is gone then, and it waits.
pub(super) async fn ask(
    client: &AgentClient,
    right: &Right,
    (skill, args): (&str, Value),
    why: &str,
) -> Result<String, String> {
    let body = ApprovalBody {
        task: right.task.clone(),
        action: action(skill),
        args,
        why: why.to_owned(),
        within_ms: None,
    };
    let asked = client.me().request_approval(&body, Lease(right.lease));
    Ok(asked.await.map_err(|e| e.to_string())?.id)
}
