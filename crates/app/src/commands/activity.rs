//! `abbey activity`: shows, verifies and exports the audit log.

use crate::connect::operator_client;
use crate::exit::{self, Outcome, require_readable};
use crate::output;
use crate::shown;
use crate::stdout;
use crate::text::{Text, Tone};
use crate::units::describe_details;
use abbey_api::client::Client;
use abbey_api::headers::LastEventId;
use abbey_api::{ActivityQuery, EntryView, SinkView, SinksDoc, VerifyDoc};
use abbey_daemon::{ExportHeader, Home};
use clap::{Args, Subcommand};
use futures_util::StreamExt;
use std::path::PathBuf;
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
    /// Also print the steps of the privileged helper; with `--json` they are always printed.
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(subcommand)]
    pub(crate) command: Option<ActivityCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ActivityCommand {
    /// Verify every hash and signature of the audit log, of this house or in an exported file.
    ///
    /// The log of the house is compared with the signed heads that hostd keeps outside the database. A file needs no
    /// house.
    #[command(
        after_help = "Examples:\n  abbey activity verify\n  abbey activity verify log.jsonl --key 5f0c…"
    )]
    Verify(VerifyArgs),
    /// Sign the audit log with a new key from here on.
    ///
    /// The earlier key confirms the new one in an entry of the log and is deleted, so the whole log verifies as before. To
    /// be run when the key may be known to somebody. Backups that were made before keep the earlier key, if they have one.
    #[command(after_help = "Example:\n  abbey activity rotate-key")]
    RotateKey,
    /// List the checkpoint sinks, and up to which entry each has the signed heads of the audit log.
    #[command(after_help = "Example:\n  abbey activity sinks")]
    Sinks,
    /// Print the whole audit log as JSON Lines, with its signatures.
    #[command(after_help = "Example:\n  abbey activity export")]
    Export,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// An export to verify in place of the log of the house.
    pub(crate) file: Option<PathBuf>,
    /// Public key that must have signed the export first, in hexadecimal digits.
    #[arg(long, requires = "file", value_name = "HEX")]
    pub(crate) key: Option<String>,
    /// File of signed heads that the export must agree with, such as a copy that is kept elsewhere.
    #[arg(long, requires = "file", value_name = "FILE")]
    pub(crate) checkpoints: Option<PathBuf>,
}

fn print_verification(json: bool, doc: &VerifyDoc) -> u8 {
    if json {
        output::print_json(doc);
    } else if doc.ok {
        output::print_line(&format!(
            "ok: {} entries, {} signed checkpoints, head {}, key {}",
            doc.entries,
            doc.checkpoints,
            doc.head,
            output::text_or_dash(doc.key.as_ref())
        ));
    } else {
        output::print_line(&format!(
            "entry {} does not verify: {}",
            doc.first_bad.unwrap_or(0),
            doc.why.clone().unwrap_or_default()
        ));
    }
    if !json {
        doc.notes.iter().for_each(|note| output::print_lines(note));
    }
    if doc.ok { exit::OK } else { exit::FAILURE }
}

/// Prints how far each sink is. Exit code 7 if the newest delivery to one failed.
fn print_sinks(json: bool, doc: &SinksDoc) -> Outcome {
    if json {
        output::print_json(doc);
    } else {
        let row = |sink: &SinkView| {
            let state = match (&sink.failing, sink.missing) {
                (Some(why), missing) => Text::toned(
                    Tone::Bad,
                    &format!("{missing} signed heads are missing: {why}"),
                ),
                (None, 0) => "has every signed head".into(),
                (None, missing) => format!("{missing} signed heads are on their way").into(),
            };
            vec![
                Text::from(&sink.name),
                Text::from(&sink.target),
                output::text_or_dash(sink.delivered).into(),
                output::text_or_dash(sink.delivered_at.map(output::local_time)).into(),
                state,
            ]
        };
        output::print_table(
            &["SINK", "TARGET", "ENTRY", "SIGNED", "STATE"],
            doc.sinks.iter().map(row).collect(),
            "no checkpoint sinks; the key `checkpoint_sinks` of the manifest declares them",
        );
    }
    Ok(match doc.sinks.iter().any(|s| s.failing.is_some()) {
        true => exit::DEGRADED,
        false => exit::OK,
    })
}

/// Prints the audit log with its signatures, up to the entry that the newest one covers.
async fn print_export(client: &Client) -> Outcome {
    let signed = client.activity().checkpoints().await?;
    output::print_json_line(&ExportHeader::new(signed.key));
    signed.lines.iter().for_each(output::print_json_line);
    let head = signed.lines.last().and_then(|l| l["seq"].as_u64());
    let mut cursor = Some(0);
    while cursor.is_some() {
        let query = ActivityQuery {
            cursor,
            limit: Some(1000),
            last: None,
        };
        let doc = client.activity().page(&query).await?;
        let covered = doc
            .entries
            .iter()
            .take_while(|e| head.is_none_or(|head| e.seq <= head));
        covered.for_each(|e| print_entry(true, e));
        cursor = doc.cursor.and_then(|c| c.parse().ok());
    }
    Ok(exit::OK)
}
/// Most entries that are read to find those that are shown.
const READ_MAX: u32 = 1000;

fn print_entry(json: bool, entry: &EntryView) {
    if json {
        return output::print_json_line(entry);
    }
    let first = format!("{:>6} {} ", entry.seq, output::local_time(entry.at));
    let detail = describe_details(&entry.detail);
    output::print_hanging(
        first,
        format!("{} {} {} {detail}", entry.actor, entry.action, entry.entity),
    );
}

/// Whether an entry is one of the helper's own steps, of which each change has many.
fn is_step_of_hostd(entry: &EntryView) -> bool {
    entry.action.starts_with("hostd.") && entry.action != "hostd.damaged"
}

/// `abbey activity`: prints entries of the audit log, as they arrive with `--follow`; `verify` checks every hash
/// and signature (exit code 1 if one is wrong), `export` prints all entries as JSON Lines.
pub(crate) async fn cmd_activity(home: &Home, json: bool, args: ActivityArgs) -> Outcome {
    if let Some(ActivityCommand::Verify(args)) = &args.command
        && let Some(file) = &args.file
    {
        require_readable("cannot read the export", file)?;
        if let Some(checkpoints) = &args.checkpoints {
            require_readable("cannot read the checkpoints", checkpoints)?;
        }
        let doc =
            abbey_daemon::verify_export(file, args.key.as_deref(), args.checkpoints.as_deref())?;
        return Ok(print_verification(json, &doc));
    }
    let client = operator_client(home)?;
    match args.command {
        Some(ActivityCommand::Verify(_)) => {
            let client = client.timeout(Duration::from_secs(600));
            let doc = client.activity().verify().await?;
            Ok(print_verification(json, &doc))
        }
        Some(ActivityCommand::Export) => print_export(&client).await,
        Some(ActivityCommand::Sinks) => print_sinks(json, &client.activity().sinks().await?),
        Some(ActivityCommand::RotateKey) => {
            let doc = client.activity().rotate_key().await?;
            match json {
                true => output::print_json(&doc),
                false => output::print_line(&format!(
                    "entry {}: key {} signs the audit log from here on, in place of {}",
                    doc.entry, doc.key, doc.previous_key
                )),
            }
            Ok(exit::OK)
        }
        None => {
            // Programs get everything.
            let all = args.all || json;
            let query = ActivityQuery {
                last: Some(if all {
                    args.last.min(READ_MAX.into())
                } else {
                    READ_MAX.into()
                }),
                limit: Some(READ_MAX),
                cursor: None,
            };
            let doc = client.activity().page(&query).await?;
            let shown = doc.entries.iter().filter(|e| all || !is_step_of_hostd(e));
            let shown: Vec<_> = shown.collect();
            let surplus = shown
                .len()
                .saturating_sub(usize::try_from(args.last).unwrap_or(usize::MAX));
            shown[surplus..].iter().for_each(|e| print_entry(json, e));
            if !args.follow {
                return Ok(exit::OK);
            }
            shown::note();
            let mut seen = doc.entries.last().map_or(0, |e| e.seq);
            loop {
                // A broken stream resumes after the last entry that arrived.
                let stream = client.activity().follow(Some(LastEventId(seen))).await?;
                let mut events = Box::pin(stream.events());
                while let Some(Ok(event)) = events.next().await {
                    seen = event.id.parse().unwrap_or(seen);
                    match serde_json::from_str::<EntryView>(&event.data) {
                        Ok(entry) if !all && is_step_of_hostd(&entry) => {}
                        Ok(entry) => print_entry(json, &entry),
                        Err(_) => {
                            output::print_message(&format!("{}: {}", event.event, event.data))
                        }
                    }
                    if stdout::is_broken() {
                        return Ok(exit::OK);
                    }
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}
