//! `abbey activity`: shows, verifies and exports the audit log.

use crate::connect::client;
use crate::exit::{self, Outcome};
use crate::http_stream::bytes;
use crate::output;
use abbey_api::*;
use abbey_daemon::Home;
use clap::{Args, Subcommand};
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use hyper::Method;
use std::time::Duration;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ActivityArgs {
    /// Wait for new entries and print them.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Number of existing entries to print.
    #[arg(short = 'n', long, default_value_t = 50)]
    pub(crate) last: u64,
    #[command(subcommand)]
    pub(crate) command: Option<ActivityCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ActivityCommand {
    /// Verify every hash and signature of the audit log.
    #[command(after_help = "Example:\n  abbey activity verify")]
    Verify,
    /// Print the whole audit log as JSON Lines.
    #[command(after_help = "Example:\n  abbey activity export")]
    Export,
}

fn print_entry(json: bool, entry: &EntryView) {
    if json {
        output::line(&serde_json::to_string(entry).unwrap_or_default());
    } else {
        output::line(&format!(
            "{:>6} {} {} {} {} {}",
            entry.seq, entry.at, entry.actor, entry.action, entry.entity, entry.detail
        ));
    }
}

pub(crate) async fn cmd_activity(home: &Home, json: bool, args: ActivityArgs) -> Outcome {
    let client = client(home)?;
    match args.command {
        Some(ActivityCommand::Verify) => {
            let doc: VerifyDoc = client
                .timeout(Duration::from_secs(600))
                .get("/api/v1/activity/verify")
                .await?;
            if json {
                output::json(&doc);
            } else if doc.ok {
                output::line(&format!(
                    "ok: {} entries, {} signed checkpoints, head {}",
                    doc.entries, doc.checkpoints, doc.head
                ));
            } else {
                output::line(&format!(
                    "entry {} does not verify: {}",
                    doc.first_bad.unwrap_or(0),
                    doc.why.clone().unwrap_or_default()
                ));
            }
            Ok(if doc.ok { exit::OK } else { exit::FAILURE })
        }
        Some(ActivityCommand::Export) => {
            let mut cursor = Some("0".to_owned());
            while let Some(after) = cursor {
                let doc: ActivityDoc = client
                    .get(&format!("/api/v1/activity?limit=1000&cursor={after}"))
                    .await?;
                doc.entries.iter().for_each(|e| print_entry(true, e));
                cursor = doc.cursor;
            }
            Ok(exit::OK)
        }
        None => {
            let doc: ActivityDoc = client
                .get(&format!(
                    "/api/v1/activity?limit=1000&last={}",
                    args.last.min(1000)
                ))
                .await?;
            doc.entries.iter().for_each(|e| print_entry(json, e));
            if !args.follow {
                return Ok(exit::OK);
            }
            let mut seen = doc
                .entries
                .last()
                .map_or_else(|| "0".to_owned(), |e| e.seq.to_string());
            loop {
                // A broken stream resumes after the last entry that arrived.
                let response = client
                    .open(
                        Method::GET,
                        "/api/v1/events",
                        None,
                        &[("last-event-id", seen.clone())],
                    )
                    .await?;
                let mut events = Box::pin(bytes(response).eventsource());
                while let Some(Ok(event)) = events.next().await {
                    seen.clone_from(&event.id);
                    match serde_json::from_str::<EntryView>(&event.data) {
                        Ok(entry) => print_entry(json, &entry),
                        Err(_) => output::say(&format!("{}: {}", event.event, event.data)),
                    }
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}
