//! `abbey approvals`: lists requests for approval, and decides them.

use crate::connect::operator_client;
use crate::exit::{self, Outcome};
use crate::output;
use crate::text::{Text, Tone};
use abbey_api::{ApprovalView, ApprovalsQuery, DecideBody, Silence};
use abbey_daemon::Home;
use abbey_model::ApprovalState;
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum ApprovalCommand {
    /// Approve exactly this action with these arguments, once.
    #[command(after_help = "Example:\n  abbey approvals approve APPR-7 --note \"after 18:00\"")]
    Approve(DecideArgs),
    /// Deny the action; its task fails.
    #[command(after_help = "Example:\n  abbey approvals deny APPR-7 --note \"too risky\"")]
    Deny(DecideArgs),
    /// Return the request to the agent for revision; the note states what to change.
    #[command(
        after_help = "Example:\n  abbey approvals revise APPR-7 --note \"only the staging database\""
    )]
    Revise(DecideArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DecideArgs {
    /// Number of the request, like `APPR-7`.
    pub(crate) approval: String,
    /// Text for the agent that asked.
    #[arg(long)]
    pub(crate) note: Option<String>,
}

/// `abbey approvals`: lists approval requests, or approves, denies or returns one for revision.
pub(crate) async fn cmd_approvals(
    home: &Home,
    json: bool,
    all: bool,
    command: Option<ApprovalCommand>,
) -> Outcome {
    let client = operator_client(home)?;
    let command = match command {
        None => {
            let query = ApprovalsQuery {
                all: Some(all),
                ..ApprovalsQuery::default()
            };
            let mut doc = client.approvals().list(&query).await?;
            while let Some(cursor) = doc.cursor.take() {
                let next = ApprovalsQuery {
                    cursor: Some(cursor),
                    ..query.clone()
                };
                let more = client.approvals().list(&next).await?;
                doc.approvals.extend(more.approvals);
                doc.cursor = more.cursor;
            }
            match json {
                true => output::print_json(&doc),
                false if doc.approvals.is_empty() && all => {
                    output::print_lines("no agent has requested an approval yet");
                }
                false if doc.approvals.is_empty() => output::print_lines(
                    "no requests wait for a decision; `abbey approvals --all` lists the decided ones",
                ),
                false => doc.approvals.iter().for_each(print_approval),
            }
            return Ok(exit::OK);
        }
        Some(command) => command,
    };
    let approvals = client.approvals();
    let view = match command {
        ApprovalCommand::Approve(DecideArgs { approval, note }) => {
            approvals.approve(&approval, &DecideBody { note }).await?
        }
        ApprovalCommand::Deny(DecideArgs { approval, note }) => {
            approvals.deny(&approval, &DecideBody { note }).await?
        }
        ApprovalCommand::Revise(DecideArgs { approval, note }) => {
            approvals.revise(&approval, &DecideBody { note }).await?
        }
    };
    match json {
        true => output::print_json(&view),
        false => print_approval(&view),
    }
    Ok(exit::OK)
}

/// Prints everything that a decision needs.
fn print_approval(view: &ApprovalView) {
    let id = Text::toned(Tone::Heading, &view.id).and(Tone::Plain, " ");
    let request = format!(
        ": agent {} requests `{}` for {}",
        view.agent, view.action, view.task
    );
    output::print_hanging("", id.join(view.state.into()).and(Tone::Plain, &request));
    output::print_hanging("  arguments: ", view.args.to_string());
    if !view.why.is_empty() {
        output::print_hanging("  reason: ", &view.why);
    }
    let until = output::local_time(view.expires_at);
    let deadline = match (view.state, view.silence) {
        (ApprovalState::Approved, _) => format!("to be used before {until}"),
        (_, Silence::Approve) => format!("approved at {until} unless decided before"),
        (_, Silence::Deny) => format!("denied at {until} unless decided before"),
    };
    let digest = view.hash.get(..16).unwrap_or(&view.hash);
    output::print_hanging("  ", format!("{deadline}; digest {digest}"));
    if let (Some(by), Some(at)) = (&view.decided_by, &view.decided_at) {
        let note = view
            .note
            .as_deref()
            .map_or_else(String::new, |n| format!(": {n}"));
        let at = output::local_time(*at);
        output::print_hanging("  ", format!("decided by {by} at {at}{note}"));
    }
}
