//! `abbey task`: adds, lists, shows, explains, cancels, retries, exports and imports tasks.

use crate::commands::work_queue;
use crate::connect::operator_client;
use crate::durations::parse_duration;
use crate::exit::{self, Failure, Outcome};
use crate::output::{self, print_table, text_or_dash};
use crate::task_output::{print_task, shorten_title, wait_for_end, waits_for};
use crate::text::{Text, Tone};
use crate::transcript::{print_transcript, print_transcripts_document, read_session_events};
use abbey_api::client::Client;
use abbey_api::headers::IdempotencyKey;
use abbey_api::{AddTask, EvidenceView, TaskQuery, TaskView, TasksDoc, VERSION, WaitQuery};
use abbey_daemon::Home;
use abbey_support::input::read_input_text;
use clap::{Args, Subcommand};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// Add a task.
    #[command(after_help = "Example:\n  abbey task add \"show system stats\" --to merlin --wait")]
    Add(TaskAddArgs),
    /// List tasks, newest first.
    #[command(after_help = "Example:\n  abbey task list --state running,blocked --agent merlin")]
    List {
        /// Only tasks in these states, separated by commas.
        #[arg(long)]
        state: Option<String>,
        /// Only tasks of this agent.
        #[arg(long)]
        agent: Option<String>,
        /// Number of tasks to list.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Show a task with its runs and its result.
    #[command(after_help = "Example:\n  abbey task show TASK-12 --tree")]
    Show {
        /// Number of the task, like `TASK-12`.
        task: String,
        /// Show the task with all its subtasks instead.
        #[arg(long)]
        tree: bool,
        /// Show instead what its agents and their models wrote, the calls of tools and what these answered. The agents
        /// must be running.
        #[arg(long, conflicts_with = "tree")]
        transcript: bool,
    },
    /// Explain why a task waits or how it ended.
    #[command(after_help = "Example:\n  abbey task why TASK-12")]
    Why {
        /// Number of the task, like `TASK-12`.
        task: String,
    },
    /// Cancel a task and its subtasks.
    #[command(after_help = "Example:\n  abbey task cancel TASK-12")]
    Cancel {
        /// Number of the task, like `TASK-12`.
        task: String,
    },
    /// Queue a task again that failed, timed out, was cancelled or is unverified.
    #[command(after_help = "Example:\n  abbey task retry TASK-12")]
    Retry {
        /// Number of the task, like `TASK-12`.
        task: String,
    },
    /// Queue a blocked task again, once what it was blocked on is done.
    #[command(after_help = "Example:\n  abbey task unblock TASK-12")]
    Unblock {
        /// Number of the task, like `TASK-12`.
        task: String,
    },
    /// Print every task as JSON Lines, oldest first.
    #[command(after_help = "Example:\n  abbey task export")]
    Export {
        /// Print the work queue as Markdown instead, for editing.
        #[arg(long)]
        markdown: bool,
    },
    /// Add the tasks of a file, once each, however often it is imported.
    ///
    /// A `.md` file is read as an edited work queue. Any other file is JSON Lines with the key `text` and the optional
    /// keys `to`, `priority` and `tokens`.
    #[command(after_help = "Example:\n  abbey task import tasks.jsonl")]
    Import {
        /// File to read.
        file: PathBuf,
    },
    /// Synchronise a work queue in Markdown with the house, in both directions.
    ///
    /// Lines that people added or edited become tasks; changes of tasks are written into the file.
    #[command(after_help = "Example:\n  abbey task sync WORK-QUEUE.md --watch")]
    Sync {
        /// The work queue; created if it does not exist.
        #[arg(default_value = "WORK-QUEUE.md")]
        file: PathBuf,
        /// Keep running, and synchronise again whenever the file or the house changes.
        #[arg(long)]
        watch: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TaskAddArgs {
    /// Text of the task.
    pub(crate) text: String,
    /// Agent that gets the task; without it, an agent is chosen by skill.
    #[arg(long, value_name = "AGENT")]
    pub(crate) to: Option<String>,
    /// Priority, from P0 (urgent) to P3 (low).
    #[arg(long)]
    pub(crate) priority: Option<String>,
    /// Limit on tokens over all runs.
    #[arg(long)]
    pub(crate) tokens: Option<u64>,
    /// Evidence that is verified before the task counts as done; may be given several times: `file:PATH` in the agent's
    /// workspace, `command:["PROGRAM",…]` that exits 0 there, or `review:AGENT` that approves it.
    #[arg(long, value_name = "EVIDENCE")]
    pub(crate) evidence: Vec<EvidenceView>,
    /// A second request with the same key returns the first task instead of adding another.
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Wait until the task has ended; the exit code gives the outcome.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Longest wait; then the exit code is 124.
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

/// `abbey task`: adds, lists, shows, explains, cancels, retries, unblocks, exports, imports or synchronises tasks.
pub(crate) async fn cmd_task(home: &Home, json: bool, command: TaskCommand) -> Outcome {
    let client = operator_client(home)?;
    match command {
        TaskCommand::Add(args) => add(&client, json, args).await,
        TaskCommand::List {
            state,
            agent,
            limit,
        } => {
            let when_empty = match state.is_some() || agent.is_some() {
                true => {
                    "no task is like that; `abbey task list` lists those of every state and agent"
                }
                false => "no tasks; `abbey task add TEXT` adds one",
            };
            let query = TaskQuery {
                state,
                agent,
                limit: Some(limit),
                cursor: None,
            };
            let doc = client.tasks().list(&query).await?;
            if json {
                output::print_json(&doc);
            } else {
                let row = |t: &TaskView| {
                    vec![
                        Text::from(&t.number),
                        Text::from(t.state),
                        t.priority.to_string().into(),
                        text_or_dash(t.assignee.clone()).into(),
                        text_or_dash(t.verified).into(),
                        text_or_dash(waits_for(t)).into(),
                        shorten_title(&t.title).into(),
                    ]
                };
                print_table(
                    &[
                        "TASK",
                        "STATE",
                        "PRIORITY",
                        "ASSIGNEE",
                        "VERIFIED",
                        "WAITS FOR",
                        "TITLE",
                    ],
                    doc.tasks.iter().map(row).collect(),
                    when_empty,
                );
            }
            Ok(exit::OK)
        }
        TaskCommand::Show {
            task, tree: true, ..
        } => print_tree(&client, json, &task).await,
        TaskCommand::Show {
            task,
            transcript: true,
            ..
        } => print_task_transcript(home, &client, json, &task).await,
        TaskCommand::Show { task, .. } => {
            let now = WaitQuery::default();
            let doc = client.tasks().show(&task, &now).await?;
            print_task(json, &doc);
            Ok(exit::OK)
        }
        TaskCommand::Why { task } => {
            let doc = client.tasks().why(&task).await?;
            if json {
                output::print_json(&doc);
            } else {
                output::print_text(&Text::from(format!("{} is ", doc.task)).join(doc.state.into()));
                output::print_reasons(&doc.reasons);
            }
            Ok(exit::OK)
        }
        TaskCommand::Export { markdown: true } => work_queue::export_work_queue(&client).await,
        TaskCommand::Export { markdown: false } => export(&client).await,
        TaskCommand::Import { file } if file.extension().is_some_and(|e| e == "md") => {
            work_queue::import_work_queue(&client, json, &file).await
        }
        TaskCommand::Import { file } => import(&client, json, &file).await,
        TaskCommand::Sync { file, watch } => {
            work_queue::sync_work_queue(home, json, &file, watch).await
        }
        TaskCommand::Cancel { task } => {
            print_task(json, &client.tasks().cancel(&task, None).await?);
            Ok(exit::OK)
        }
        TaskCommand::Unblock { task } => {
            print_task(json, &client.tasks().unblock(&task, None).await?);
            Ok(exit::OK)
        }
        TaskCommand::Retry { task } => {
            print_task(json, &client.tasks().retry(&task, None).await?);
            Ok(exit::OK)
        }
    }
}

async fn export(client: &Client) -> Outcome {
    let mut all: Vec<TaskView> = Vec::new();
    let mut query = TaskQuery {
        limit: Some(1000),
        ..TaskQuery::default()
    };
    loop {
        let page = client.tasks().list(&query).await?;
        all.extend(page.tasks);
        match page.cursor {
            Some(next) => query.cursor = Some(next),
            None => break,
        }
    }
    for task in all.iter().rev() {
        let line = serde_json::json!({
            "text": task.title, "to": task.assignee, "priority": task.priority,
            "number": task.number, "state": task.state,
        });
        output::print_json_line(&line);
    }
    Ok(exit::OK)
}

/// Longest file of tasks that is imported, bytes.
const IMPORT_MAX: u64 = 64 << 20;

async fn import(client: &Client, json: bool, file: &Path) -> Outcome {
    let wrong = |text: String| Failure::plain(text).with_code(exit::USAGE);
    let text = read_input_text(file, IMPORT_MAX)
        .map_err(|e| Failure::unusable_path("cannot read", file, e))?;
    // The whole file is parsed before the first task is added.
    let mut bodies: Vec<(usize, AddTask)> = Vec::new();
    for (i, line) in text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty())
    {
        let parse = || -> serde_json::Result<AddTask> {
            let mut fields: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(line)?;
            // An exported line also has these; a new task gets its own.
            fields.retain(|key, _| !["number", "state"].contains(&key.as_str()));
            serde_json::from_value(fields.into())
        };
        let body = parse().map_err(|e| {
            wrong(format!(
                "{}:{}: the line is not a valid task: {e}",
                file.display(),
                i + 1
            ))
        })?;
        bodies.push((i, body));
    }
    let mut rows = Vec::new();
    for (i, body) in &bodies {
        // The idempotency key is the number and the content of the line.
        let line = serde_json::to_vec(body).unwrap_or_default();
        let key = format!("import-{i}-{}", abbey_support::digest::sha256_hex(&line));
        let doc = client.tasks().add(body, Some(IdempotencyKey(key))).await?;
        rows.push(doc.task);
    }
    if json {
        output::print_json(&TasksDoc {
            version: VERSION,
            tasks: rows,
            cursor: None,
        });
    } else {
        let row = |t: &TaskView| {
            vec![
                Text::from(&t.number),
                Text::from(t.state),
                shorten_title(&t.title).into(),
            ]
        };
        print_table(
            &["TASK", "STATE", "TITLE"],
            rows.iter().map(row).collect(),
            "the file contains no tasks",
        );
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
    let key = args.idempotency_key.map(IdempotencyKey);
    let doc = client.tasks().add(&body, key).await?;
    if !args.wait {
        print_task(json, &doc);
        return Ok(exit::OK);
    }
    wait_for_end(client, json, &doc.task.id, args.timeout).await
}

/// Prints the transcripts of a task's runs, in the order of their beginning.
async fn print_task_transcript(home: &Home, client: &Client, json: bool, task: &str) -> Outcome {
    let doc = client.tasks().show(task, &WaitQuery::default()).await?;
    let mut runs_of: Vec<(String, Vec<String>)> = Vec::new();
    for run in doc.task.runs {
        match runs_of.iter_mut().find(|(agent, _)| *agent == run.agent) {
            Some((_, runs)) => runs.push(run.id),
            None => runs_of.push((run.agent, vec![run.id])),
        }
    }
    if runs_of.is_empty() {
        let text = format!("{} has no run yet", doc.task.number);
        return Err(Failure::plain(text).with_code(exit::NOT_FOUND));
    }
    let mut transcripts = Vec::new();
    for (agent, runs) in runs_of {
        let events = read_session_events(home, &agent, &runs).await?;
        if events.is_empty() && !json {
            let text = format!("the session of `{agent}` has nothing about this task any more");
            output::print_message(&text);
        }
        transcripts.push((agent, events));
    }
    match json {
        true => print_transcripts_document(&transcripts),
        false => transcripts.iter().for_each(|(_, e)| print_transcript(e)),
    }
    Ok(exit::OK)
}

/// Prints a task with all its subtasks.
async fn print_tree(client: &Client, json: bool, task: &str) -> Outcome {
    let doc = client.tasks().tree(task).await?;
    if json {
        output::print_json(&doc);
        return Ok(exit::OK);
    }
    for row in &doc.rows {
        let indent = "  ".repeat(usize::try_from(row.depth).unwrap_or(0));
        let task = &row.task;
        let number = Text::from(&task.number).and(Tone::Plain, " ");
        let more = format!(
            " ({} for {}): {}",
            task.assignee.as_deref().unwrap_or("unassigned"),
            task.author,
            shorten_title(&task.title)
        );
        let line = number.join(task.state.into()).and(Tone::Plain, &more);
        output::print_hanging(indent, line);
    }
    Ok(exit::OK)
}
