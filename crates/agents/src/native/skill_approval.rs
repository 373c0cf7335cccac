//! Skills that need an approval: the program describes what it would do, the run ends, and a later run executes it under
//! the approval.

use crate::runtime::driver::{Assignment, Lease, TurnEnd};
use abbey_api::client::AgentClient;
use abbey_api::{ApprovalBody, ApprovalView, OfferDoc, SkillView, UseBody};
use abbey_model::{ApprovalState, EndReason};
use serde_json::Value;

/// The last decision about a skill with these arguments.
pub(super) enum Decision {
    /// No request is open, or its approval was used.
    None,
    /// Approved, under this id.
    Approved(String),
    /// Denied, with the note.
    Denied(String),
}

/// Name of the action to which approvals of a skill are bound, `skill:NAME`.
pub(super) fn approval_action(skill: &str) -> String {
    format!("skill:{skill}")
}

/// Last unused decision about this skill with these arguments, among the approvals in a task's
/// offer.
pub(super) fn last_decision(offer: &OfferDoc, skill: &str, args: &Value) -> Decision {
    let action = approval_action(skill);
    let mut requests = offer.approvals.iter().rev();
    let Some(last) = requests.find(|a| a.action == action && a.args == *args) else {
        return Decision::None;
    };
    let note = last
        .note
        .as_deref()
        .map_or_else(String::new, |n| format!(": {n}"));
    match last.state {
        ApprovalState::Approved => Decision::Approved(last.id.clone()),
        ApprovalState::Denied | ApprovalState::Revise => {
            Decision::Denied(format!("{} is {}{note}", last.id, last.state))
        }
        _ => Decision::None,
    }
}

/// A request of an earlier run with its state, for whoever does the task now.
pub(super) fn describe_request(a: &ApprovalView) -> String {
    let note = a
        .note
        .as_deref()
        .map_or_else(String::new, |n| format!(": {n}"));
    format!("{} ({} {}) is {}{note}", a.id, a.action, a.args, a.state)
}

/// Whether the skill requests an operation of the control plane, which then marks the approval as
/// used itself.
pub(super) fn is_used_by_control_plane(skill: &SkillView) -> bool {
    skill.grants.iter().any(|g| g.starts_with("op:"))
}

/// Marks an approval as used, just before the skill's program runs under it.
pub(super) async fn use_approval(
    client: &AgentClient,
    lease: &Lease,
    approval: &str,
    body: &UseBody,
) -> Result<(), String> {
    let used = client
        .me()
        .use_approval(approval, body, lease.header())
        .await;
    used.map(drop).map_err(|e| e.to_string())
}

/// Requests an approval for running the skill. The request ends the run, releases the lease and
/// parks the task.
pub(super) async fn request_approval(
    assignment: &Assignment,
    (skill, args): (&str, Value),
    why: &str,
) -> TurnEnd {
    let lease = &assignment.lease;
    let body = ApprovalBody {
        task: lease.task.clone(),
        action: approval_action(skill),
        args,
        why: why.to_owned(),
        within_ms: None,
    };
    let me = assignment.client.me();
    match me.request_approval(&body, lease.header()).await {
        Ok(approval) => TurnEnd::AwaitsApproval {
            text: format!("requested approval {}", approval.id),
        },
        Err(error) => TurnEnd::Failed {
            reason: EndReason::SkillFailed,
            text: error.to_string(),
        },
    }
}
