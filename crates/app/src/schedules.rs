//! Schedules: list, show, run.

use crate::cli::ScheduleCommand;
use crate::connect::{client, segment};
use crate::exit::{self, Failure};
use crate::output::{self, dash, table};
use abbey_api::client::Client;
use abbey_api::{ScheduleDoc, ScheduleView, SchedulesDoc};
use abbey_daemon::Home;

type Outcome = Result<u8, Failure>;

pub(crate) async fn run(home: &Home, json: bool, command: ScheduleCommand) -> Outcome {
    let client = client(home)?;
    match command {
        ScheduleCommand::List => list(&client, json).await,
        ScheduleCommand::Show { schedule } => {
            let doc: ScheduleDoc = client.get(&path(&schedule)?).await?;
            show(json, &doc);
            Ok(exit::OK)
        }
        ScheduleCommand::Run { schedule } => {
            let path = format!("{}/run", path(&schedule)?);
            let doc: ScheduleDoc = client.post(&path, &serde_json::json!({}), &[]).await?;
            show(json, &doc);
            Ok(exit::OK)
        }
    }
}

fn path(name: &str) -> Result<String, Failure> {
    match name.split_once('/') {
        Some((agent, name)) => Ok(format!(
            "/api/v1/schedules/{}/{}",
            segment(agent),
            segment(name)
        )),
        None => Err(Failure::plain(format!(
            "`{name}` is no schedule: say AGENT/NAME, as `abbey schedule list` shows them"
        ))
        .with_code(exit::USAGE)),
    }
}

async fn list(client: &Client, json: bool) -> Outcome {
    let doc: SchedulesDoc = client.get("/api/v1/schedules").await?;
    if json {
        output::json(&doc);
        return Ok(exit::OK);
    }
    let row = |s: &ScheduleView| {
        vec![
            s.name.clone(),
            s.when.clone(),
            dash(s.next_at.map(|t| t.to_string())),
            format!("{} / {} / {}", s.fired, s.skipped, s.missed),
            dash(s.last_task.clone()),
        ]
    };
    table(
        &[
            "SCHEDULE",
            "WHEN",
            "NEXT",
            "FIRED / SKIPPED / MISSED",
            "LAST TASK",
        ],
        doc.schedules.iter().map(row).collect(),
    );
    Ok(exit::OK)
}

fn show(json: bool, doc: &ScheduleDoc) {
    if json {
        output::json(doc);
        return;
    }
    let s = &doc.schedule;
    output::line(&format!("{} ({}): {}", s.name, s.when, s.task));
    output::line(&format!(
        "  next {}; overlap {}, catch up {}",
        dash(s.next_at.map(|t| t.to_string())),
        s.overlap,
        s.catch_up
    ));
    for line in &doc.history {
        output::line(&format!(
            "  {} {} {}",
            line.instant,
            line.outcome,
            dash(line.task.clone())
        ));
    }
}
