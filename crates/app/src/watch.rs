//! Things that go on: logs, activity, programs in cells.

use crate::cli::{ActivityArgs, ActivityCommand, LogsArgs};
use crate::connect::{client, segment};
use crate::exit::{self, Failure};
use crate::output;
use abbey_api::*;
use abbey_daemon::Home;
use eventsource_stream::Eventsource;
use futures_util::{Stream, StreamExt};
use http_body_util::BodyStream;
use hyper::Method;
use std::time::Duration;

pub(crate) type Outcome = Result<u8, Failure>;

pub(crate) async fn logs(home: &Home, json: bool, owner: &str, args: &LogsArgs) -> Outcome {
    let client = client(home)?;
    let (kind, name) = owner.split_once('/').unwrap_or(("agents", owner));
    let mut lines = args.lines;
    let mut newest = None;
    loop {
        let doc: LogDoc = client
            .get(&format!(
                "/api/v1/{kind}/{}/logs?lines={lines}",
                segment(name)
            ))
            .await?;
        let fresh: Vec<&LogLine> = doc
            .lines
            .iter()
            .filter(|l| newest.is_none_or(|n| l.at > n))
            .collect();
        for l in &fresh {
            if json {
                output::line(&serde_json::to_string(l).unwrap_or_default())
            } else {
                output::line(&format!("{} {} {}", l.at, l.stream, l.text))
            }
        }
        newest = fresh.last().map(|l| l.at).or(newest);
        if !args.follow {
            return Ok(exit::OK);
        }
        lines = 1000;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
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

pub(crate) async fn activity(home: &Home, json: bool, args: ActivityArgs) -> Outcome {
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

pub(crate) fn bytes(
    response: hyper::Response<hyper::body::Incoming>,
) -> impl Stream<Item = Result<bytes::Bytes, hyper::Error>> {
    BodyStream::new(response.into_body()).filter_map(async |frame| match frame {
        Ok(frame) => frame.into_data().ok().map(Ok),
        Err(error) => Some(Err(error)),
    })
}
