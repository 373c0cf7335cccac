//! Tasks: add, list, show, why, cancel, retry.

use crate::cli::{DelegateArgs, TaskAddArgs, TaskCommand};
use crate::connect::{client, segment};
use crate::exit::{self, Failure};
use crate::output::{self, Progress, dash, table};
use crate::queue;
use abbey_api::client::Client;
use abbey_api::*;
use abbey_daemon::Home;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

type Outcome = Result<u8, Failure>;

/// Longest wait in one request.
const WAIT: Duration = Duration::from_secs(20);

pub(crate) async fn run(home: &Home, json: bool, command: TaskCommand) -> Outcome {
    let client = client(home)?;
    match command {
        TaskCommand::Add(args) => add(&client, json, args).await,
        TaskCommand::List {
            state,
            agent,
            limit,
        } => {
            let mut path = format!("/api/v1/tasks?limit={limit}");
            for (key, value) in [("state", state), ("agent", agent)] {
                if let Some(value) = value {
                    path.push_str(&format!("&{key}={}", segment(&value)));
                }
            }
            let doc: TasksDoc = client.get(&path).await?;
            if json {
                output::json(&doc);
            } else {
                let row = |t: &TaskView| {
                    vec![
                        t.number.clone(),
                        t.state.clone(),
                        t.priority.clone(),
                        dash(t.assignee.clone()),
                        dash(t.verified.clone()),
                        short(&t.title),
                    ]
                };
                table(
                    &["TASK", "STATE", "PRIORITY", "ASSIGNEE", "VERIFIED", "TITLE"],
                    doc.tasks.iter().map(row).collect(),
                );
            }
            Ok(exit::OK)
        }
        TaskCommand::Show { task, tree: true } => tree(&client, json, &task).await,
        TaskCommand::Show { task, tree: false } => {
            let doc: TaskDoc = client
                .get(&format!("/api/v1/tasks/{}", segment(&task)))
                .await?;
            print(json, &doc);
            Ok(exit::OK)
        }
        TaskCommand::Why { task } => {
            let doc: WhyDoc = client
                .get(&format!("/api/v1/tasks/{}/why", segment(&task)))
                .await?;
            if json {
                output::json(&doc);
            } else {
                output::line(&format!("{} is {}", doc.task, doc.state));
                for reason in &doc.reasons {
                    output::line(&format!("  {}: {}", reason.code, reason.text));
                }
            }
            Ok(exit::OK)
        }
        TaskCommand::Export { markdown: true } => queue::export(&client).await,
        TaskCommand::Export { markdown: false } => export(&client).await,
        TaskCommand::Import { file } if file.extension().is_some_and(|e| e == "md") => {
            queue::import(&client, json, &file).await
        }
        TaskCommand::Import { file } => import(&client, json, &file).await,
        TaskCommand::Sync { file, watch } => queue::sync(home, json, &file, watch).await,
        TaskCommand::Cancel { task } => change(&client, json, &task, "cancel").await,
        TaskCommand::Retry { task } => change(&client, json, &task, "retry").await,
    }
}

async fn change(client: &Client, json: bool, task: &str, verb: &str) -> Outcome {
    let doc: TaskDoc = client
        .post(
            &format!("/api/v1/tasks/{}/{verb}", segment(task)),
            &serde_json::json!({}),
            &[],
        )
        .await?;
    print(json, &doc);
    Ok(exit::OK)
}

async fn export(client: &Client) -> Outcome {
    let mut all: Vec<TaskView> = Vec::new();
    let mut cursor = String::new();
    loop {
        let page: TasksDoc = client
            .get(&format!("/api/v1/tasks?limit=1000{cursor}"))
            .await?;
        all.extend(page.tasks);
        match page.cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    for task in all.iter().rev() {
        let line = serde_json::json!({
            "text": task.title, "to": task.assignee, "priority": task.priority,
            "number": task.number, "state": task.state,
        });
        output::line(&line.to_string());
    }
    Ok(exit::OK)
}

async fn import(client: &Client, json: bool, file: &Path) -> Outcome {
    let wrong = |text: String| Failure::plain(text).with_code(exit::USAGE);
    let text = std::fs::read_to_string(file)
        .map_err(|e| wrong(format!("`{}` cannot be read: {e}", file.display())))?;
    // Everything is read before anything is added.
    let mut bodies: Vec<(usize, AddTask)> = Vec::new();
    for (i, line) in text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty())
    {
        let body = serde_json::from_str(line)
            .map_err(|e| wrong(format!("{}:{}: {e}", file.display(), i + 1)))?;
        bodies.push((i, body));
    }
    let mut rows = Vec::new();
    for (i, body) in &bodies {
        // The place and the content of a line make its key.
        let line = serde_json::to_vec(body).unwrap_or_default();
        let key = format!("import-{i}-{}", abbey_support::digest::sha256_hex(&line));
        let doc: TaskDoc = client
            .post("/api/v1/tasks", body, &[("idempotency-key", key)])
            .await?;
        rows.push(doc.task);
    }
    if json {
        output::json(&TasksDoc {
            version: VERSION,
            tasks: rows,
            cursor: None,
        });
    } else {
        let row = |t: &TaskView| vec![t.number.clone(), t.state.clone(), short(&t.title)];
        table(&["TASK", "STATE", "TITLE"], rows.iter().map(row).collect());
    }
    Ok(exit::OK)
}

async fn add(client: &Client, json: bool, args: TaskAddArgs) -> Outcome {
    let body = AddTask {
        text: args.text,
        to: args.to,
        priority: args.priority,
        skill: None,
        args: BTreeMap::new(),
        tokens: args.tokens,
        evidence: args.evidence,
    };
    let headers: Vec<(&str, String)> = args
        .idempotency_key
        .map(|k| ("idempotency-key", k))
        .into_iter()
        .collect();
    let doc: TaskDoc = client.post("/api/v1/tasks", &body, &headers).await?;
    if !args.wait {
        print(json, &doc);
        return Ok(exit::OK);
    }
    wait(
        client,
        json,
        &doc.task.id,
        Duration::from_secs(args.timeout),
    )
    .await
}

/// Work for an agent by name.
pub(crate) async fn delegate(home: &Home, json: bool, args: DelegateArgs) -> Outcome {
    let client = client(home)?;
    let body = DelegateBody {
        to: args.agent,
        text: args.text,
        expects: args.expects,
        deadline_ms: args.deadline.map(|s| s.saturating_mul(1000)),
        deliver: args.deliver,
        tokens: args.tokens,
        task: None,
    };
    let headers: Vec<(&str, String)> = args
        .idempotency_key
        .map(|k| ("idempotency-key", k))
        .into_iter()
        .collect();
    let doc: TaskDoc = client.post("/api/v1/delegations", &body, &headers).await?;
    if !args.wait {
        print(json, &doc);
        return Ok(exit::OK);
    }
    let patience = Duration::from_secs(args.timeout);
    wait(&client, json, &doc.task.id, patience).await
}

/// The tree below a task.
async fn tree(client: &Client, json: bool, task: &str) -> Outcome {
    let doc: TreeDoc = client
        .get(&format!("/api/v1/tasks/{}/tree", segment(task)))
        .await?;
    if json {
        output::json(&doc);
        return Ok(exit::OK);
    }
    for row in &doc.rows {
        let indent = "  ".repeat(usize::try_from(row.depth).unwrap_or(0));
        let task = &row.task;
        output::line(&format!(
            "{indent}{} {} ({} for {}): {}",
            task.number,
            task.state,
            task.assignee.as_deref().unwrap_or("unassigned"),
            task.author,
            short(&task.title)
        ));
    }
    Ok(exit::OK)
}

/// Waits for the end of a task; the exit status tells it.
pub(crate) async fn wait(client: &Client, json: bool, id: &str, patience: Duration) -> Outcome {
    let until = Instant::now() + patience;
    let mut progress = Progress::new();
    loop {
        let left = until.saturating_duration_since(Instant::now()).min(WAIT);
        let doc: TaskDoc = client
            .get(&format!("/api/v1/tasks/{id}?wait_ms={}", left.as_millis()))
            .await?;
        let code = match doc.task.state.as_str() {
            "done" => Some(exit::OK),
            "failed" | "timed_out" | "cancelled" | "unverified" => Some(exit::FAILURE),
            "blocked" | "awaiting_approval" => Some(exit::APPROVAL),
            "parked" => Some(exit::PARKED),
            _ if Instant::now() >= until => Some(exit::TIMEOUT),
            _ => None,
        };
        if let Some(code) = code {
            progress.end();
            print(json, &doc);
            return Ok(code);
        }
        progress.show(&format!("{} is {}", doc.task.number, doc.task.state));
    }
}

fn short(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    if first.chars().count() <= 60 {
        first.to_owned()
    } else {
        format!("{}…", first.chars().take(59).collect::<String>())
    }
}

fn print(json: bool, doc: &TaskDoc) {
    if json {
        output::json(doc);
        return;
    }
    let t = &doc.task;
    let skill = t
        .skill
        .as_ref()
        .map_or_else(String::new, |s| format!(" by skill {s}"));
    let verified = t
        .verified
        .as_ref()
        .map_or_else(String::new, |v| format!(", verified: {v}"));
    output::line(&format!(
        "{} is {}{verified} ({}{skill})",
        t.number,
        t.state,
        t.assignee.as_deref().unwrap_or("unassigned")
    ));
    output::line(&format!("  {}", short(&t.title)));
    if let Some(waiting) = &t.waiting_for {
        output::line(&format!("  waiting for: {waiting}"));
    }
    if let Some(failure) = &t.failure {
        output::line(&format!("  last failure: {failure}"));
    }
    for evidence in t.link.iter().flat_map(|l| &l.evidence) {
        output::line(&format!("  evidence: {evidence}"));
    }
    output::line(&format!("  trace: {}", t.trace));
    for run in &t.runs {
        let tokens = match (run.usage.input, run.usage.output) {
            (Some(i), Some(o)) if run.usage.source == "provider" => format!("{i} + {o} tokens"),
            (Some(_), Some(_)) => "no model".to_owned(),
            _ => "tokens unknown".to_owned(),
        };
        let flag = if run.flagged {
            ", FLAGGED: it claims an action without a receipt"
        } else {
            ""
        };
        output::line(&format!(
            "  run {} {} ({}), {tokens}, model {}{flag}",
            run.id,
            run.state,
            dash(run.reason.clone()),
            dash(run.actual_model.clone())
        ));
    }
    if let Some(result) = &t.result {
        output::line(&format!("  result ({}):", result.source));
        for text in result.text.lines() {
            output::line(&format!("    {text}"));
        }
    }
}
