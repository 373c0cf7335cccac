//! `abbey schedule`: lists, shows, fires, adds and removes schedules.

use crate::connect::operator_client;
use crate::consent::Consent;
use crate::durations;
use crate::exit::{self, Failure, Outcome};
use crate::key_values::parse_key_values;
use crate::manifest_arg::ManifestArg;
use crate::manifest_file::{
    self, agent_edit_failure, apply_edit, edit_manifest, manifest_failure, parse_slug,
};
use crate::output::{self, print_table, text_or_dash};
use abbey_api::client::Client;
use abbey_api::{ScheduleDoc, ScheduleView, SchedulesQuery};
use abbey_daemon::{Home, manifest};
use abbey_model::Slug;
use clap::{Args, Subcommand};
use serde_json::json;

#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// List schedules with their next instant and their history in numbers.
    #[command(after_help = "Example:\n  abbey schedule list")]
    List,
    /// Show a schedule with its history, or list the schedules if none is named.
    #[command(after_help = "Example:\n  abbey schedule show merlin/morning -n 50")]
    Show {
        /// Schedule, as `AGENT/NAME` [default: all, without their history].
        schedule: Option<String>,
        /// Number of lines of the history, newest first [default: 20; all with `--json`].
        #[arg(short = 'n', long, value_name = "N", requires = "schedule")]
        lines: Option<usize>,
    },
    /// Fire a schedule now, in addition to its own instants.
    #[command(after_help = "Example:\n  abbey schedule run merlin/morning")]
    Run {
        /// Schedule, as `AGENT/NAME`.
        schedule: String,
    },
    /// Add a schedule to its agent in the manifest, and apply it.
    #[command(
        after_help = "Example:\n  abbey schedule add merlin/morning --cron \"0 8 * * 1-5\" --task \"Write the daily brief.\""
    )]
    Add(Box<ScheduleAddArgs>),
    /// Remove a schedule from the manifest, and apply it.
    #[command(after_help = "Example:\n  abbey schedule rm merlin/morning")]
    Rm {
        /// Schedule, as `AGENT/NAME`.
        schedule: String,
        #[command(flatten)]
        manifest: ManifestArg,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("when").required(true))]
#[command(group = clap::ArgGroup::new("does").required(true))]
pub(crate) struct ScheduleAddArgs {
    /// Schedule, as `AGENT/NAME`.
    pub(crate) schedule: String,
    /// Cron pattern: minute, hour, day of month, month, weekday.
    #[arg(long, group = "when")]
    pub(crate) cron: Option<String>,
    /// Interval, like `30m`.
    #[arg(long, group = "when")]
    pub(crate) every: Option<String>,
    /// One instant to come, like `2026-12-01T10:00:00Z`.
    #[arg(long, group = "when", value_parser = parse_future_instant)]
    pub(crate) at: Option<String>,
    /// Text of the task that it adds.
    #[arg(long, group = "does")]
    pub(crate) task: Option<String>,
    /// Skill that it runs.
    #[arg(long, group = "does")]
    pub(crate) skill: Option<String>,
    /// Workflow that it starts.
    #[arg(long, group = "does")]
    pub(crate) workflow: Option<String>,
    /// Arguments of the skill or input of the workflow, `KEY=VALUE`; may be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) with: Vec<String>,
    /// Time zone of the cron pattern, like `Europe/Ljubljana` [default: the time zone of the house].
    #[arg(long)]
    pub(crate) timezone: Option<String>,
    /// Longest random delay, like `5m`.
    #[arg(long)]
    pub(crate) jitter: Option<String>,
    /// What happens when the previous task still runs: `skip`, `queue` or `replace`.
    #[arg(long)]
    pub(crate) overlap: Option<String>,
    /// How many missed instants are caught up: `skip`, `once` or a number.
    #[arg(long)]
    pub(crate) catch_up: Option<String>,
    /// Time limit of each task, like `10m`.
    #[arg(long)]
    pub(crate) timeout: Option<String>,
    #[command(flatten)]
    pub(crate) manifest: ManifestArg,
}

/// Accepts the text of an instant that is not over.
fn parse_future_instant(text: &str) -> Result<String, String> {
    let at = manifest::parse_instant(text)?;
    match at <= durations::now() {
        true => Err("it is over, so nothing would start".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// `abbey schedule`: lists schedules, shows or fires one, or adds or removes one in the manifest and applies it.
pub(crate) async fn cmd_schedule(home: &Home, json: bool, command: ScheduleCommand) -> Outcome {
    let client = operator_client(home)?;
    match command {
        ScheduleCommand::Add(args) => {
            let (agent, name) = parse_name(&args.schedule)?;
            let does = manifest_entry(&args)?;
            let file = args.manifest.path(home);
            let edited = edit_manifest(home, &file, |text| {
                manifest::add_schedule(text, &agent, &name, &does)
                    .map_err(|m| agent_edit_failure(text, &agent, &m))
            })
            .await?;
            apply_edit(
                home,
                &file,
                edited,
                None,
                Consent::Ask,
                manifest_file::print_applied_plan(json),
            )
            .await
        }
        ScheduleCommand::Rm { schedule, manifest } => {
            let (agent, name) = parse_name(&schedule)?;
            let file = manifest.path(home);
            let edited = edit_manifest(home, &file, |text| {
                manifest::remove_schedule(text, &agent, &name).map_err(|m| {
                    manifest_failure(&m)
                        .with_code(exit::NOT_FOUND)
                        .hint("`abbey schedule list` lists the schedules as AGENT/NAME")
                })
            })
            .await?;
            apply_edit(
                home,
                &file,
                edited,
                None,
                Consent::Ask,
                manifest_file::print_applied_plan(json),
            )
            .await
        }
        ScheduleCommand::List => list_schedules(&client, json).await,
        ScheduleCommand::Show {
            schedule: None,
            lines: _,
        } => list_schedules(&client, json).await,
        ScheduleCommand::Show {
            schedule: Some(schedule),
            lines,
        } => {
            let (agent, name) = split(&schedule)?;
            let doc = client.schedules().show(agent, name).await?;
            print_schedule(json, doc, lines);
            Ok(exit::OK)
        }
        ScheduleCommand::Run { schedule } => {
            let (agent, name) = split(&schedule)?;
            let doc = client.schedules().fire(agent, name).await?;
            print_schedule(json, doc, None);
            Ok(exit::OK)
        }
    }
}

/// Lines of the history that people get if they do not say how many.
const HISTORY_LINES: usize = 20;

fn parse_name(text: &str) -> Result<(Slug, Slug), Failure> {
    let (agent, name) = text.split_once('/').ok_or_else(|| {
        Failure::plain(format!("invalid schedule `{text}`: write AGENT/NAME"))
            .with_code(exit::USAGE)
    })?;
    Ok((parse_slug(agent)?, parse_slug(name)?))
}

/// The manifest entry of a schedule, on one line; values are quoted as JSON, which is valid YAML.
fn manifest_entry(args: &ScheduleAddArgs) -> Result<String, Failure> {
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
        let pairs = parse_key_values(&args.with)?;
        let pair = |(key, value): (&String, &serde_json::Value)| format!("{}: {value}", json!(key));
        let pairs: Vec<String> = pairs.iter().map(pair).collect();
        parts.push(format!("with: {{ {} }}", pairs.join(", ")));
    }
    Ok(format!("{{ {} }}", parts.join(", ")))
}

/// Agent and name of a schedule.
fn split(schedule: &str) -> Result<(&str, &str), Failure> {
    schedule.split_once('/').ok_or_else(|| {
        Failure::plain(format!(
            "invalid schedule `{schedule}`: write AGENT/NAME, as `abbey schedule list` prints it"
        ))
        .with_code(exit::USAGE)
    })
}

async fn list_schedules(client: &Client, json: bool) -> Outcome {
    let doc = client.schedules().list(&SchedulesQuery::default()).await?;
    if json {
        output::print_json(&doc);
        return Ok(exit::OK);
    }
    let row = |s: &ScheduleView| {
        vec![
            s.name.clone(),
            s.when.clone(),
            text_or_dash(s.next_at.map(output::local_time)),
            format!("{} / {} / {}", s.fired, s.skipped, s.missed),
            text_or_dash(s.last_task.clone()),
        ]
    };
    print_table(
        &[
            "SCHEDULE",
            "WHEN",
            "NEXT",
            "FIRED / SKIPPED / MISSED",
            "LAST TASK",
        ],
        doc.schedules.iter().map(row).collect(),
        "no schedules; `abbey schedule add AGENT/NAME --every 1h --task TEXT` adds one",
    );
    Ok(exit::OK)
}

/// Prints a schedule with at most `lines` of its history, the newest; by default 20, or all as JSON.
fn print_schedule(json: bool, mut doc: ScheduleDoc, lines: Option<usize>) {
    let most = lines.unwrap_or(if json { usize::MAX } else { HISTORY_LINES });
    let older = doc.history.len().saturating_sub(most);
    doc.history.truncate(most);
    if json {
        output::print_json(&doc);
        return;
    }
    let s = &doc.schedule;
    output::print_line(&format!("{} ({}): {}", s.name, s.when, s.task));
    output::print_line(&format!(
        "  next {}; overlap {}, catch up {}",
        text_or_dash(s.next_at.map(output::local_time)),
        s.overlap,
        s.catch_up
    ));
    for line in &doc.history {
        output::print_line(&format!(
            "  {} {} {}",
            output::local_time(line.instant),
            line.outcome,
            text_or_dash(line.task.clone())
        ));
    }
    match (doc.history.is_empty(), older) {
        (true, 0) => output::print_line("  it has not fired yet"),
        (_, 0) => {}
        (_, older) => output::print_line(&format!(
            "  and {older} older; `-n {}` shows them",
            older + doc.history.len()
        )),
    }
}
