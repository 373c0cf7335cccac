//! `abbey workflow`: checks, runs, lists, shows and cancels workflows, and reports events to them.

use crate::connect::operator_client;
use crate::durations::parse_duration;
use crate::exit::{self, Failure, Outcome};
use crate::key_values::parse_key_values;
use crate::manifest_arg::ManifestArg;
use crate::manifest_file::read_manifest;
use crate::output::{self, Progress, print_table, text_or_dash};
use crate::text::Text;
use crate::workflow_drawing::{Node, draw_run, draw_steps};
use abbey_api::client::Client;
use abbey_api::headers::IdempotencyKey;
use abbey_api::{
    DeclaredStep, EventBody, RunWorkflowBody, StepState, WaitQuery, WorkflowDoc, WorkflowRunsQuery,
    WorkflowState, WorkflowView, WorkflowsDoc,
};
use abbey_daemon::{Home, manifest};
use clap::Subcommand;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Longest wait in one request.
const WAIT: Duration = Duration::from_secs(20);

#[derive(Debug, Subcommand)]
pub(crate) enum WorkflowCommand {
    /// Check the workflows of a manifest; nothing runs.
    #[command(after_help = "Example:\n  abbey workflow check --svg release")]
    Check {
        /// Print this workflow as SVG instead.
        #[arg(long, value_name = "WORKFLOW")]
        svg: Option<String>,
        #[command(flatten)]
        manifest: ManifestArg,
    },
    /// Start a run of a workflow.
    #[command(after_help = "Example:\n  abbey workflow run release version=1.4 --wait")]
    Run {
        /// Name of the workflow.
        workflow: String,
        /// Input, as `KEY=VALUE`; a value that is valid JSON is read as JSON, any other as text.
        input: Vec<String>,
        /// Wait until the run has ended; the exit code gives the outcome.
        #[arg(long)]
        wait: bool,
        /// Longest wait; then the exit code is 124.
        #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_duration)]
        timeout: Duration,
        /// A second request with the same key returns the first run instead of starting another.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// List runs, newest first.
    #[command(after_help = "Example:\n  abbey workflow list --open")]
    List {
        /// Only runs that have not ended.
        #[arg(long)]
        open: bool,
        /// Number of runs to list.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show a run with its steps.
    #[command(after_help = "Example:\n  abbey workflow show WF-3 --svg")]
    Show {
        /// Number of the run, like `WF-3`.
        run: String,
        /// Print the run as SVG instead.
        #[arg(long)]
        svg: bool,
    },
    /// Cancel a run; completed steps are compensated.
    #[command(after_help = "Example:\n  abbey workflow cancel WF-3")]
    Cancel {
        /// Number of the run, like `WF-3`.
        run: String,
    },
    /// Report an event to waiting runs, and start the workflows that it triggers.
    #[command(after_help = "Example:\n  abbey workflow event shipped --data '{\"order\": 7}'")]
    Event {
        /// Name of the event.
        event: String,
        /// Deliver the event to this run only, like `WF-3`.
        #[arg(long, value_name = "RUN")]
        run: Option<String>,
        /// Data of the event, as JSON.
        #[arg(long, value_name = "JSON")]
        data: Option<String>,
        /// A second event with the same key starts no second run.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
}

/// `abbey workflow`: checks the workflows of a manifest, starts, lists, shows or cancels runs, or reports an event
/// to them.
pub(crate) async fn cmd_workflow(home: &Home, json: bool, command: WorkflowCommand) -> Outcome {
    match command {
        WorkflowCommand::Check { svg, manifest } => {
            check(json, svg.as_deref(), &manifest.path(home))
        }
        WorkflowCommand::Run {
            workflow,
            input,
            wait,
            timeout,
            idempotency_key,
        } => {
            let client = operator_client(home)?;
            let body = RunWorkflowBody {
                input: parse_key_values(&input)?,
            };
            let key = idempotency_key.map(IdempotencyKey);
            let doc = client.workflows().start(&workflow, &body, key).await?;
            match wait {
                true => wait_for_end(&client, json, &doc.run.id, timeout).await,
                false => {
                    show(json, &doc);
                    Ok(exit::OK)
                }
            }
        }
        WorkflowCommand::List { open, limit } => {
            let query = WorkflowRunsQuery {
                open: Some(open),
                limit: Some(limit),
                cursor: None,
            };
            let doc = operator_client(home)?.workflows().runs(&query).await?;
            match json {
                true => output::print_json(&doc),
                false => list(&doc),
            }
            Ok(exit::OK)
        }
        WorkflowCommand::Show { run, svg } => {
            let now = WaitQuery::default();
            let doc = operator_client(home)?.workflows().run(&run, &now).await?;
            match svg {
                true => output::print_line(&draw_run(&doc.run).to_string()),
                false => show(json, &doc),
            }
            Ok(exit::OK)
        }
        WorkflowCommand::Cancel { run } => {
            let doc = operator_client(home)?.workflows().cancel(&run).await?;
            show(json, &doc);
            Ok(exit::OK)
        }
        WorkflowCommand::Event {
            event,
            run,
            data,
            idempotency_key,
        } => {
            let data = match data {
                None => Value::Null,
                Some(text) => serde_json::from_str(&text).map_err(|e| {
                    Failure::plain(format!("`--data` is not JSON: {e}")).with_code(exit::USAGE)
                })?,
            };
            let body = EventBody { data, run };
            let key = idempotency_key.map(IdempotencyKey);
            let client = operator_client(home)?;
            let doc = client.workflows().report_event(&event, &body, key).await?;
            match json {
                true => output::print_json(&doc),
                false => {
                    output::print_line(&format!(
                        "delivered to {}; started {}",
                        names(&doc.told),
                        names(&doc.started)
                    ));
                    for ignored in &doc.ignored {
                        output::print_line(&format!("{} ignored it: {}", ignored.run, ignored.why));
                    }
                }
            }
            Ok(exit::OK)
        }
    }
}

fn names(list: &[String]) -> String {
    match list {
        [] => "none".to_owned(),
        list => list.join(", "),
    }
}

/// Checks every workflow of the manifest and prints its steps.
fn check(json: bool, svg: Option<&str>, file: &std::path::Path) -> Outcome {
    let text = read_manifest(file)?.manifest;
    let doc = manifest::workflows(&text).map_err(|mistakes| {
        let lines: Vec<String> = mistakes
            .iter()
            .map(|m| format!("{}:{m}", file.display()))
            .collect();
        Failure::plain(lines.join("\n  ")).with_code(exit::USAGE)
    })?;
    if let Some(name) = svg {
        let found = doc.workflows.iter().find(|w| w.name == name);
        let found = found.ok_or_else(|| {
            let names: Vec<String> = doc.workflows.iter().map(|w| w.name.clone()).collect();
            let text = format!("`{}` has no workflow `{name}`", file.display());
            Failure::plain(text)
                .hint(format!(
                    "use one of the workflows of this manifest: {}",
                    self::names(&names)
                ))
                .with_code(exit::NOT_FOUND)
        })?;
        let node = |s: &DeclaredStep| Node {
            name: s.name.clone(),
            kind: s.kind,
            needs: s.needs.clone(),
            state: None,
        };
        let nodes = found.steps.iter().map(node).collect();
        output::print_line(&draw_steps(&found.name, nodes).to_string());
        return Ok(exit::OK);
    }
    if json {
        output::print_json(&doc);
        return Ok(exit::OK);
    }
    for workflow in &doc.workflows {
        let input = workflow.input.iter().map(|(n, t)| format!("{n}: {t}"));
        let input: Vec<String> = input.collect();
        output::print_line(&format!("{} ({})", workflow.name, input.join(", ")));
        for step in &workflow.steps {
            let needs = match step.needs.as_slice() {
                [] => String::new(),
                needs => format!(", after {}", needs.join(", ")),
            };
            output::print_line(&format!(
                "  {} ({}{needs}): {}",
                step.name, step.kind, step.about
            ));
        }
    }
    let mut warnings = 0;
    for workflow in &doc.workflows {
        for warning in &workflow.warnings {
            output::print_hanging(format!("warning: {}: ", workflow.name), warning);
            warnings += 1;
        }
    }
    let warnings = match warnings {
        0 => String::new(),
        1 => ", 1 warning".to_owned(),
        n => format!(", {n} warnings"),
    };
    output::print_line(&format!(
        "{} workflows, no errors{warnings}",
        doc.workflows.len()
    ));
    Ok(exit::OK)
}

/// Waits until a run has ended; the exit code gives the outcome.
async fn wait_for_end(client: &Client, json: bool, run: &str, patience: Duration) -> Outcome {
    let until = Instant::now() + patience;
    let mut progress = Progress::new();
    loop {
        let left = until.saturating_duration_since(Instant::now()).min(WAIT);
        let wait = WaitQuery {
            wait_ms: u64::try_from(left.as_millis()).ok(),
        };
        let doc = client.workflows().run(run, &wait).await?;
        let code = match doc.run.state {
            WorkflowState::Done => Some(exit::OK),
            WorkflowState::Failed | WorkflowState::Cancelled => Some(exit::FAILURE),
            _ if Instant::now() >= until => Some(exit::TIMEOUT),
            _ => None,
        };
        if let Some(code) = code {
            progress.end();
            show(json, &doc);
            return Ok(code);
        }
        progress.show(&format!("{} is {}", doc.run.id, doc.run.state));
    }
}

fn list(doc: &WorkflowsDoc) {
    let row = |r: &WorkflowView| {
        let settled = r
            .steps
            .iter()
            .filter(|s| s.state == StepState::Done)
            .count();
        vec![
            Text::from(&r.id),
            Text::from(&r.workflow),
            Text::from(r.state),
            format!("{settled} of {}", r.steps.len()).into(),
            Text::from(&r.by),
            output::local_time(r.began_at).into(),
        ]
    };
    print_table(
        &["RUN", "WORKFLOW", "STATE", "DONE", "BY", "BEGAN"],
        doc.runs.iter().map(row).collect(),
        "no runs; `abbey workflow run NAME` starts one, `abbey workflow check` lists the workflows",
    );
}

fn show(json: bool, doc: &WorkflowDoc) {
    if json {
        output::print_json(doc);
        return;
    }
    let run = &doc.run;
    output::print_line(&format!(
        "{} {} {}, by {}",
        run.id, run.workflow, run.state, run.by
    ));
    if run.changed {
        output::print_line(
            "  the workflow was changed since; this run follows the version with which it began",
        );
    }
    if let Some(why) = &run.failure {
        output::print_hanging("  reason: ", why);
    }
    if let Some(incident) = &run.incident {
        output::print_hanging("  incident: ", incident);
    }
    for (event, why) in &run.ignored {
        output::print_hanging(format!("  ignored event {event}: "), why);
    }
    let several = |step: &str| run.steps.iter().filter(|s| s.step == step).count() > 1;
    for step in &run.steps {
        let place = match several(&step.step) {
            true => format!("{}[{}]", step.step, step.index),
            false => step.step.clone(),
        };
        let again = match step.attempts {
            0 | 1 => String::new(),
            n => format!(", attempt {n}"),
        };
        let undo = step
            .undo
            .as_ref()
            .map_or_else(String::new, |u| format!(", compensation {u}"));
        let result = match &step.result {
            None => String::new(),
            Some(Value::String(text)) => format!(": {text}"),
            Some(value) => format!(": {}", value["text"].as_str().unwrap_or_default()),
        };
        let first = result.lines().next().unwrap_or_default();
        let event = step.event.as_ref().map(|name| format!("for {name}"));
        let until = step
            .until
            .map(|time| format!("until {}", output::local_time(time)));
        let waits: Vec<String> = [step.began.clone(), event, until]
            .into_iter()
            .flatten()
            .collect();
        output::print_line(&format!(
            "  {place} ({}) {}{again} {}{undo}{first}",
            step.kind,
            step.state,
            text_or_dash(Some(waits.join(" ")).filter(|w| !w.is_empty()))
        ));
    }
    if let Some(output) = &run.output {
        output::print_hanging("  output: ", output.to_string());
    }
}
