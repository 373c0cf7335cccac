//! Schedules: list, show, run.

use crate::agents;
use crate::cli::{ScheduleAddArgs, ScheduleCommand};
use crate::connect::{client, segment};
use crate::exit::{self, Failure};
use crate::output::{self, dash, table};
use abbey_api::client::Client;
use abbey_api::{ScheduleDoc, ScheduleView, SchedulesDoc};
use abbey_daemon::{Home, manifest};
use abbey_model::Slug;
use serde_json::json;

type Outcome = Result<u8, Failure>;

pub(crate) async fn run(home: &Home, json: bool, command: ScheduleCommand) -> Outcome {
    let client = client(home)?;
    match command {
        ScheduleCommand::Add(args) => {
            let (agent, name) = names(&args.schedule)?;
            let does = written(&args)?;
            let edited = agents::edit(&args.file, |text| {
                let lives = manifest::parse(text).is_ok_and(|h| h.agents.contains_key(&agent));
                let code = if lives {
                    exit::CONFLICT
                } else {
                    exit::NOT_FOUND
                };
                manifest::add_schedule(text, &agent, &name, &does)
                    .map_err(|m| agents::mistakes(&m).with_code(code))
            })?;
            agents::apply_edit(home, &args.file, edited, None, agents::show(json)).await
        }
        ScheduleCommand::Rm { schedule, file } => {
            let (agent, name) = names(&schedule)?;
            let edited = agents::edit(&file, |text| {
                manifest::remove_schedule(text, &agent, &name)
                    .map_err(|m| agents::mistakes(&m).with_code(exit::NOT_FOUND))
            })?;
            agents::apply_edit(home, &file, edited, None, agents::show(json)).await
        }
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

fn names(text: &str) -> Result<(Slug, Slug), Failure> {
    let (agent, name) = text.split_once('/').ok_or_else(|| {
        Failure::plain(format!("`{text}` is no schedule: say AGENT/NAME")).with_code(exit::USAGE)
    })?;
    Ok((agents::slug(agent)?, agents::slug(name)?))
}

/// A schedule as it stands in a manifest, in one line; texts are quoted as JSON, which YAML reads.
fn written(args: &ScheduleAddArgs) -> Result<String, Failure> {
    let keys = [
        ("cron", &args.cron),
        ("every", &args.every),
        ("at", &args.at),
        ("task", &args.task),
        ("skill", &args.skill),
        ("workflow", &args.workflow),
        ("timezone", &args.timezone),
        ("jitter", &args.jitter),
        ("overlap", &args.overlap),
        ("catch_up", &args.catch_up),
        ("timeout", &args.timeout),
    ];
    let given = keys.iter().filter_map(|(k, v)| Some((k, v.as_ref()?)));
    let mut parts: Vec<String> = given.map(|(k, v)| format!("{k}: {}", json!(v))).collect();
    if !args.with.is_empty() {
        let pairs = crate::workflows::pairs(&args.with)?;
        let pair = |(key, value): (&String, &serde_json::Value)| format!("{}: {value}", json!(key));
        let pairs: Vec<String> = pairs.iter().map(pair).collect();
        parts.push(format!("with: {{ {} }}", pairs.join(", ")));
    }
    Ok(format!("{{ {} }}", parts.join(", ")))
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
