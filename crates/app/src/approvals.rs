//! Approvals: the inbox, and the answers.

use crate::cli::{ApprovalCommand, DecideArgs};
use crate::connect::{client, segment};
use crate::exit::{self, Failure};
use crate::output;
use abbey_api::{ApprovalView, ApprovalsDoc, DecideBody};
use abbey_daemon::Home;

pub(crate) async fn run(
    home: &Home,
    json: bool,
    all: bool,
    command: Option<ApprovalCommand>,
) -> Result<u8, Failure> {
    let client = client(home)?;
    let (verb, DecideArgs { approval, note }) = match command {
        None => {
            let doc: ApprovalsDoc = client.get(&format!("/api/v1/approvals?all={all}")).await?;
            match json {
                true => output::json(&doc),
                false if doc.approvals.is_empty() => output::line("nothing waits for a yes"),
                false => doc.approvals.iter().for_each(show),
            }
            return Ok(exit::OK);
        }
        Some(ApprovalCommand::Approve(args)) => ("approve", args),
        Some(ApprovalCommand::Deny(args)) => ("deny", args),
        Some(ApprovalCommand::Revise(args)) => ("revise", args),
    };
    let path = format!("/api/v1/approvals/{}/{verb}", segment(&approval));
    let view: ApprovalView = client.post(&path, &DecideBody { note }, &[]).await?;
    match json {
        true => output::json(&view),
        false => show(&view),
    }
    Ok(exit::OK)
}

/// Everything that a careful person looks at before a yes.
fn show(view: &ApprovalView) {
    output::line(&format!(
        "{} {}: {} wants to do `{}` for {}",
        view.id, view.state, view.agent, view.action, view.task
    ));
    output::line(&format!("  with {}", view.args));
    if !view.why.is_empty() {
        output::line(&format!("  because {}", view.why));
    }
    output::line(&format!(
        "  {} {} unless answered by then; digest {}",
        if view.silence == "approve" {
            "approved at"
        } else {
            "denied at"
        },
        view.expires_at,
        view.hash.get(..16).unwrap_or(&view.hash)
    ));
    if let (Some(by), Some(at)) = (&view.decided_by, &view.decided_at) {
        let note = view
            .note
            .as_deref()
            .map_or_else(String::new, |n| format!(": {n}"));
        output::line(&format!("  decided by {by} at {at}{note}"));
    }
}
