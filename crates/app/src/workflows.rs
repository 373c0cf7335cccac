//! Workflows: check, run, list, show, cancel, event; as text, as documents, and drawn.

use crate::connect::{client, segment};
use crate::exit::{self, Failure};
use crate::house::read_manifest;
use crate::output::{self, Progress, dash, table};
use abbey_api::client::Client;
use abbey_api::*;
use abbey_daemon::{Home, manifest};
use clap::Subcommand;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use svg::Document;
use svg::node::element::{Line, Rectangle, Text, Title};

type Outcome = Result<u8, Failure>;

/// Longest wait in one request.
const WAIT: Duration = Duration::from_secs(20);

#[derive(Debug, Subcommand)]
pub(crate) enum WorkflowCommand {
    /// Check the workflows of a manifest, before anything runs.
    Check {
        /// Draw this one, as SVG.
        #[arg(long, value_name = "WORKFLOW")]
        svg: Option<String>,
        /// The manifest.
        #[arg(short, long, default_value = "abbey.yaml")]
        file: PathBuf,
    },
    /// Start a run.
    Run {
        /// Which workflow.
        workflow: String,
        /// Its input, `KEY=VALUE`; a value that is JSON is taken as that, anything else as text.
        input: Vec<String>,
        /// Wait for its end; the exit status tells it.
        #[arg(long)]
        wait: bool,
        /// Give up waiting after this many seconds.
        #[arg(long, default_value_t = 900, value_name = "SECONDS")]
        timeout: u64,
        /// The same key starts one run only.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// List runs, newest first.
    List {
        /// Only those that go on.
        #[arg(long)]
        open: bool,
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show a run with its steps.
    Show {
        /// WF-3.
        run: String,
        /// Draw it, as SVG.
        #[arg(long)]
        svg: bool,
    },
    /// Call a run off; what was done is undone.
    Cancel {
        /// WF-3.
        run: String,
    },
    /// Tell of something that happened.
    Event {
        /// What.
        event: String,
        /// Only this run hears of it: WF-3.
        #[arg(long, value_name = "RUN")]
        run: Option<String>,
        /// What is known of it, as JSON.
        #[arg(long, value_name = "JSON")]
        data: Option<String>,
        /// The same key starts a workflow once only.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
}

pub(crate) async fn run(home: &Home, json: bool, command: WorkflowCommand) -> Outcome {
    match command {
        WorkflowCommand::Check { svg, file } => check(json, svg.as_deref(), &file),
        WorkflowCommand::Run {
            workflow,
            input,
            wait,
            timeout,
            idempotency_key,
        } => {
            let client = client(home)?;
            let body = RunWorkflowBody {
                input: pairs(&input)?,
            };
            let path = format!("/api/v1/workflows/{}/runs", segment(&workflow));
            let doc: WorkflowDoc = client.post(&path, &body, &key(idempotency_key)).await?;
            match wait {
                true => rest(&client, json, &doc.run.id, Duration::from_secs(timeout)).await,
                false => {
                    show(json, &doc);
                    Ok(exit::OK)
                }
            }
        }
        WorkflowCommand::List { open, limit } => {
            let path = format!("/api/v1/workflow-runs?open={open}&limit={limit}");
            let doc: WorkflowsDoc = client(home)?.get(&path).await?;
            match json {
                true => output::json(&doc),
                false => list(&doc),
            }
            Ok(exit::OK)
        }
        WorkflowCommand::Show { run, svg } => {
            let doc: WorkflowDoc = client(home)?.get(&path_of(&run)).await?;
            match svg {
                true => output::line(&drawn_run(&doc.run).to_string()),
                false => show(json, &doc),
            }
            Ok(exit::OK)
        }
        WorkflowCommand::Cancel { run } => {
            let path = format!("{}/cancel", path_of(&run));
            let none = serde_json::json!({});
            let doc: WorkflowDoc = client(home)?.post(&path, &none, &[]).await?;
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
            let path = format!("/api/v1/events/{}", segment(&event));
            let doc: HeardDoc = client(home)?
                .post(&path, &body, &key(idempotency_key))
                .await?;
            match json {
                true => output::json(&doc),
                false => output::line(&format!(
                    "told {}; started {}",
                    names(&doc.told),
                    names(&doc.started)
                )),
            }
            Ok(exit::OK)
        }
    }
}

fn path_of(run: &str) -> String {
    format!("/api/v1/workflow-runs/{}", segment(run))
}

fn key(key: Option<String>) -> Vec<(&'static str, String)> {
    key.map(|k| ("idempotency-key", k)).into_iter().collect()
}

fn names(list: &[String]) -> String {
    match list {
        [] => "none".to_owned(),
        list => list.join(", "),
    }
}

pub(crate) fn pairs(input: &[String]) -> Result<BTreeMap<String, Value>, Failure> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').ok_or_else(|| {
            Failure::plain(format!("`{text}` is not KEY=VALUE")).with_code(exit::USAGE)
        })?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        Ok((name.to_owned(), value))
    };
    input.iter().map(pair).collect()
}

/// Everything that can be known before anything runs.
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
            let text = format!("`{}` declares no workflow `{name}`", file.display());
            Failure::plain(text)
                .hint(format!("it declares {}", self::names(&names)))
                .with_code(exit::NOT_FOUND)
        })?;
        let node = |s: &DeclaredStep| Node {
            name: s.name.clone(),
            kind: s.kind.clone(),
            needs: s.needs.clone(),
            state: None,
        };
        let nodes = found.steps.iter().map(node).collect();
        output::line(&drawn(&found.name, nodes).to_string());
        return Ok(exit::OK);
    }
    if json {
        output::json(&doc);
        return Ok(exit::OK);
    }
    for workflow in &doc.workflows {
        let input = workflow.input.iter().map(|(n, t)| format!("{n}: {t}"));
        let input: Vec<String> = input.collect();
        output::line(&format!("{} ({})", workflow.name, input.join(", ")));
        for step in &workflow.steps {
            let needs = match step.needs.as_slice() {
                [] => String::new(),
                needs => format!(", after {}", needs.join(", ")),
            };
            output::line(&format!(
                "  {} ({}{needs}): {}",
                step.name, step.kind, step.about
            ));
        }
    }
    output::line(&format!("{} workflows, no mistakes", doc.workflows.len()));
    Ok(exit::OK)
}

/// Waits for the end of a run; the exit status tells it.
async fn rest(client: &Client, json: bool, run: &str, patience: Duration) -> Outcome {
    let until = Instant::now() + patience;
    let mut progress = Progress::new();
    loop {
        let left = until.saturating_duration_since(Instant::now()).min(WAIT);
        let path = format!("{}?wait_ms={}", path_of(run), left.as_millis());
        let doc: WorkflowDoc = client.get(&path).await?;
        let code = match doc.run.state.as_str() {
            "done" => Some(exit::OK),
            "failed" | "cancelled" => Some(exit::FAILURE),
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
        let settled = r.steps.iter().filter(|s| s.state == "done").count();
        vec![
            r.id.clone(),
            r.workflow.clone(),
            r.state.clone(),
            format!("{settled} of {}", r.steps.len()),
            r.by.clone(),
            r.began_at.to_string(),
        ]
    };
    table(
        &["RUN", "WORKFLOW", "STATE", "DONE", "BY", "BEGAN"],
        doc.runs.iter().map(row).collect(),
    );
}

fn show(json: bool, doc: &WorkflowDoc) {
    if json {
        output::json(doc);
        return;
    }
    let run = &doc.run;
    output::line(&format!(
        "{} {} {}, by {}",
        run.id, run.workflow, run.state, run.by
    ));
    if run.changed {
        output::line(
            "  the workflow is declared otherwise by now; this run follows what it began with",
        );
    }
    if let Some(why) = &run.failure {
        output::line(&format!("  because {why}"));
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
            .map_or_else(String::new, |u| format!(", undoing {u}"));
        let result = match &step.result {
            None => String::new(),
            Some(Value::String(text)) => format!(": {text}"),
            Some(value) => format!(": {}", value["text"].as_str().unwrap_or_default()),
        };
        let first = result.lines().next().unwrap_or_default();
        output::line(&format!(
            "  {place} ({}) {}{again} {}{undo}{first}",
            step.kind,
            step.state,
            dash(step.began.clone())
        ));
    }
    if let Some(output) = &run.output {
        output::line(&format!("  gives {output}"));
    }
}

/// One box of a drawing.
struct Node {
    name: String,
    kind: String,
    needs: Vec<String>,
    state: Option<String>,
}

fn drawn_run(run: &WorkflowView) -> Document {
    let mut nodes: Vec<Node> = Vec::new();
    for step in &run.steps {
        // Of a list, what is worst of it.
        let rank = |state: &str| match state {
            "failed" => 3,
            "working" | "waiting" | "retry" => 2,
            "done" => 1,
            _ => 0,
        };
        match nodes.iter_mut().find(|n| n.name == step.step) {
            Some(node) => {
                let known = node.state.as_deref().unwrap_or_default();
                if rank(&step.state) > rank(known) {
                    node.state = Some(step.state.clone());
                }
            }
            None => nodes.push(Node {
                name: step.step.clone(),
                kind: step.kind.clone(),
                needs: step.needs.clone(),
                state: Some(step.state.clone()),
            }),
        }
    }
    drawn(&format!("{} {}", run.id, run.workflow), nodes)
}

/// A column for each distance from the start, lines from what comes before.
fn drawn(title: &str, nodes: Vec<Node>) -> Document {
    const BOX: (u32, u32) = (170, 44);
    const STEP: (u32, u32) = (230, 64);
    let mut column: BTreeMap<&str, u32> = BTreeMap::new();
    // There is no circle: the check has seen to it, and each pass settles at least one more.
    for _ in 0..nodes.len() {
        for node in &nodes {
            let before = node.needs.iter().filter_map(|n| column.get(n.as_str()));
            let at = before.max().map_or(0, |c| c + 1);
            column.insert(&node.name, at);
        }
    }
    let mut rows: BTreeMap<u32, u32> = BTreeMap::new();
    let mut places: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for node in &nodes {
        let at = column.get(node.name.as_str()).copied().unwrap_or(0);
        let row = rows.entry(at).or_insert(0);
        places.insert(&node.name, (20 + at * STEP.0, 20 + *row * STEP.1));
        *row += 1;
    }
    let width = 40 + rows.keys().max().map_or(0, |c| c * STEP.0) + BOX.0;
    let height = 20 + rows.values().max().copied().unwrap_or(1) * STEP.1;
    let mut drawing = Document::new()
        .set("viewBox", (0, 0, width, height))
        .set("font-family", "sans-serif")
        .add(Title::new(title));
    for node in &nodes {
        let Some(to) = places.get(node.name.as_str()) else {
            continue;
        };
        for from in node.needs.iter().filter_map(|n| places.get(n.as_str())) {
            let line = Line::new()
                .set("x1", from.0 + BOX.0)
                .set("y1", from.1 + BOX.1 / 2)
                .set("x2", to.0)
                .set("y2", to.1 + BOX.1 / 2)
                .set("stroke", "#888");
            drawing = drawing.add(line);
        }
    }
    for node in &nodes {
        let Some((x, y)) = places.get(node.name.as_str()).copied() else {
            continue;
        };
        let fill = match node.state.as_deref() {
            Some("done") => "#dcefdc",
            Some("failed") => "#f6d7d3",
            Some("working" | "waiting" | "retry") => "#fdf0cc",
            _ => "#f4f1ea",
        };
        let label = |text: String, dy: u32, size: u32| {
            Text::new(text)
                .set("x", x + 10)
                .set("y", y + dy)
                .set("font-size", size)
        };
        let second = match &node.state {
            Some(state) => format!("{}, {state}", node.kind),
            None => node.kind.clone(),
        };
        drawing = drawing
            .add(
                Rectangle::new()
                    .set("x", x)
                    .set("y", y)
                    .set("width", BOX.0)
                    .set("height", BOX.1)
                    .set("rx", 6)
                    .set("fill", fill)
                    .set("stroke", "#555"),
            )
            .add(label(node.name.clone(), 18, 14))
            .add(label(second, 35, 10));
    }
    drawing
}
