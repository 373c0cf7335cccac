//! Things that go on: logs, activity, programs in cells.

use crate::cli::{ActivityArgs, ActivityCommand, LogsArgs};
use crate::connect::{client, segment};
use crate::exit::{self, Failure};
use crate::output;
use abbey_api::client::Error;
use abbey_api::*;
use abbey_daemon::Home;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use eventsource_stream::Eventsource;
use futures_util::{Stream, StreamExt};
use http_body_util::BodyStream;
use hyper::Method;
use serde_json::Value;
use std::io::{IsTerminal, Read, Write};
use std::time::Duration;

type Outcome = Result<u8, Failure>;

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

fn bytes(
    response: hyper::Response<hyper::body::Incoming>,
) -> impl Stream<Item = Result<bytes::Bytes, hyper::Error>> {
    BodyStream::new(response.into_body()).filter_map(async |frame| match frame {
        Ok(frame) => frame.into_data().ok().map(Ok),
        Err(error) => Some(Err(error)),
    })
}

/// Runs a program in a cell and passes its output and status through; 125 when Abbey failed.
pub(crate) async fn exec(home: &Home, agent: &str, argv: Vec<String>) -> Outcome {
    let mut input = Vec::new();
    if !std::io::stdin().is_terminal() {
        let _nothing = std::io::stdin()
            .lock()
            .take(1 << 20)
            .read_to_end(&mut input);
    }
    let body = ExecBody {
        argv,
        stdin: (!input.is_empty()).then(|| BASE64.encode(&input)),
    };
    let failed = |f: Failure| f.with_code(125);
    let client = client(home).map_err(failed)?;
    let body = serde_json::to_value(body).unwrap_or_default();
    let path = format!("/api/v1/agents/{}/exec", segment(agent));
    let response = client
        .open(Method::POST, &path, Some(body), &[])
        .await
        .map_err(|e| failed(e.into()))?;
    let ok = response.status().is_success();
    let mut stream = Box::pin(bytes(response));
    let mut pending = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| failed(Error::Broken(e.into()).into()))?;
        pending.extend_from_slice(&chunk);
        if !ok {
            continue;
        }
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let told: Value = serde_json::from_slice(&line).unwrap_or_default();
            if let Some(code) = told["exit"].as_u64() {
                if let Some(why) = told["error"].as_str() {
                    eprintln!("error: {why}");
                }
                return Ok(u8::try_from(code).unwrap_or(125));
            }
            let decode = |key: &str| told[key].as_str().and_then(|t| BASE64.decode(t).ok());
            if let Some(bytes) = decode("stdout") {
                let _reader_gone = std::io::stdout().lock().write_all(&bytes);
            }
            if let Some(bytes) = decode("stderr") {
                let _reader_gone = std::io::stderr().lock().write_all(&bytes);
            }
        }
    }
    match serde_json::from_slice::<Problem>(&pending) {
        Ok(problem) => Err(failed(problem.into())),
        Err(_) => Err(failed(Failure::plain("the program's output was cut off"))),
    }
}
