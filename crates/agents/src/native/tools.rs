//! Built-in tools of a model: their definitions, and their execution within the tool policy.

use super::captured::{run_captured, shorten};
use super::model_turn::ToolCall;
use super::skill_tools;
use super::workspace::{read, write};
use crate::lease_files::TASK_VARIABLE;
use crate::runtime::driver::Lease;
use abbey_api::client::AgentClient;
use abbey_api::headers::IdempotencyKey;
use abbey_api::{ApprovalBody, DelegateBody, TaskView, UseBody, WaitQuery};
use abbey_model::{TaskState, Tool, ToolPolicy};
use serde_json::{Value, json};
use std::time::Duration;

/// Longest part of a tool's answer that a model is shown, in bytes.
const SHOWN_MAX: usize = 32 << 10;
/// Longest part of each output of a program that is kept, in bytes.
const OUTPUT_MAX: usize = 24 << 10;
/// Longest time of one program.
const SHELL_MAX: Duration = Duration::from_secs(300);

/// Answer of a tool, and whether it did what was requested.
pub(super) struct Receipt {
    pub(super) ok: bool,
    pub(super) text: String,
}

/// Definitions of the tools that the policy grants, in a fixed order and in the format of chat
/// completions.
pub(super) fn tool_definitions(policy: &ToolPolicy) -> Vec<Value> {
    let text = |doc: &str| json!({ "type": "string", "description": doc });
    let others = policy.tools.iter().filter(|tool| !is_for_skills(**tool));
    let others = others
        .map(|tool| {
            let (doc, properties, required): (&str, Value, &[&str]) = match tool {
                Tool::Shell => (
                    "Runs a program in the cell, by argument vector. No shell interprets it.",
                    json!({ "argv": { "type": "array", "items": { "type": "string" }, "minItems": 1 } }),
                    &["argv"],
                ),
                Tool::ReadFile => ("Reads a text file of the workspace.", json!({ "path": text("Relative path.") }), &["path"]),
                Tool::WriteFile => (
                    "Creates or replaces a text file of the workspace.",
                    json!({ "path": text("Relative path."), "content": text("Whole content.") }),
                    &["path", "content"],
                ),
                Tool::EditFile => (
                    "Replaces one exact text, which must occur once, in a file of the workspace.",
                    json!({ "path": text("Relative path."), "old": text("Text to replace."), "new": text("Text in its place.") }),
                    &["path", "old", "new"],
                ),
                Tool::Memory => (
                    "Long-term memory: `list` shows the index, `read` a note, `save` writes one, `search` finds lines by words.",
                    json!({ "action": { "enum": ["list", "read", "save", "search"] }, "query": text("Words to search for, all of which a line must have."), "name": text("Name of the note: lower-case letters, digits, hyphens."), "content": text("Text of the note.") }),
                    &["action"],
                ),
                Tool::SearchSkills | Tool::RunSkillScript => ("", Value::Null, &[]),
                Tool::Delegate => (
                    "Delegates a subtask to another agent, and waits for the result unless `wait` is false.",
                    json!({
                        "to": text("Name of the agent."),
                        "task": text("What to do, with everything that the agent needs to know."),
                        "wait": { "type": "boolean", "description": "Whether to wait for the result; true by default." },
                        "expects": { "type": "array", "items": { "type": "string" }, "description": "Fields that the data of the result must have." },
                        "deadline_s": { "type": "integer", "minimum": 1, "description": "Seconds until the result must be there." },
                        "deliver": text("Recipient of the result when `wait` is false: `me`, or `agent:NAME`."),
                    }),
                    &["to", "task"],
                ),
                Tool::Ask => (
                    "Asks another agent a question about this task, and waits for the answer unless `wait` is false.",
                    json!({
                        "to": text("Name of the agent."),
                        "question": text("The question, with everything that the agent needs to answer it."),
                        "wait": { "type": "boolean", "description": "Whether to wait for the answer; true by default." },
                        "deadline_s": { "type": "integer", "minimum": 1, "description": "Seconds until the answer must be there." },
                        "deliver": text("Recipient of the answer when `wait` is false: `me`, or `agent:NAME`."),
                    }),
                    &["to", "question"],
                ),
                Tool::Document => (
                    "Shared documents: `list` them, `read` one, `write` a new version of a text that you may write, `append` an entry to a log.",
                    json!({
                        "action": { "enum": ["list", "read", "write", "append"] },
                        "name": text("Name of the document."),
                        "text": text("The new text, or the entry to append."),
                        "seen": { "type": "integer", "minimum": 0, "description": "For `write`: the version that you read, or 0 for a new document. Refused when there is a newer version." },
                    }),
                    &["action"],
                ),
                Tool::Approval => (
                    "Requests a person's approval for one exact action: this run ends then, and a later run continues after the decision. Or uses an approval, immediately before the action is carried out.",
                    json!({
                        "use": text("Id of an approval to use, such as `APPR-7`. Leave it out to request an approval."),
                        "action": text("Short name of the action."),
                        "args": { "type": "object", "description": "Exact arguments of the action. The approval is valid for these only." },
                        "why": text("Why the action is needed."),
                        "within_s": { "type": "integer", "minimum": 1, "description": "Seconds until the decision; without one by then, the request is denied." },
                    }),
                    &["action"],
                ),
                Tool::Finish => (
                    "Ends the task with a result.",
                    json!({
                        "result": text("The result, for the author of the task."),
                        "data": { "type": "object", "description": "Expected fields, if the task names any." },
                    }),
                    &["result"],
                ),
            };
            function(tool.name(), doc, properties, required)
        });
    others.chain(skill_tools::definitions(policy)).collect()
}

/// Whether a grant stands for tools that [`skill_tools`] defines and performs.
fn is_for_skills(tool: Tool) -> bool {
    matches!(tool, Tool::SearchSkills | Tool::RunSkillScript)
}

/// Names of the tools that a policy grants, in the order of their definitions.
pub(super) fn tool_names(policy: &ToolPolicy) -> Vec<&'static str> {
    let others = policy.tools.iter().filter(|tool| !is_for_skills(**tool));
    let others = others.map(|tool| tool.name());
    others.chain(skill_tools::tool_names(policy)).collect()
}

/// Definition of one tool in the format of chat completions.
pub(super) fn function(name: &str, doc: &str, properties: Value, required: &[&str]) -> Value {
    json!({ "type": "function", "function": {
        "name": name, "description": doc,
        "parameters": { "type": "object", "properties": properties, "required": required, "additionalProperties": false },
    } })
}

/// Performs a tool call of the model within the tool policy, and returns the answer.
pub(super) async fn call_tool(
    client: &AgentClient,
    policy: &ToolPolicy,
    lease: &Lease,
    call: &ToolCall,
) -> Receipt {
    let args = serde_json::from_str::<Value>(&call.arguments);
    let args = args.map_err(|e| format!("the arguments are not JSON: {e}"));
    if skill_tools::tool_names(policy).contains(&call.name.as_str()) {
        return Receipt::of(match args {
            Ok(args) => skill_tools::call(client, policy, &lease.task, (&call.name, &args)).await,
            Err(why) => Err(why),
        });
    }
    let outcome = match call.name.parse::<Tool>() {
        Ok(tool) if policy.tools.contains(&tool) => match args {
            Ok(args) => perform(client, policy, lease, tool, &args).await,
            Err(why) => Err(why),
        },
        Ok(tool) => Err(format!("the tool `{tool}` is not granted")),
        Err(error) => Err(error),
    };
    Receipt::of(outcome)
}

impl Receipt {
    /// Converts the outcome of a call into the answer for the model: head and tail, if it is too long.
    pub(super) fn of(outcome: Result<String, String>) -> Receipt {
        let (ok, text) = match outcome {
            Ok(text) => (true, text),
            Err(text) => (false, format!("refused or failed: {text}")),
        };
        let text = shorten(text, SHOWN_MAX);
        Receipt { ok, text }
    }
}

async fn perform(
    client: &AgentClient,
    policy: &ToolPolicy,
    lease: &Lease,
    tool: Tool,
    args: &Value,
) -> Result<String, String> {
    let get = |key: &str| {
        args[key]
            .as_str()
            .ok_or_else(|| format!("the argument `{key}` is missing"))
    };
    match tool {
        Tool::Shell => shell(lease, args).await,
        Tool::ReadFile => {
            let path = get("path")?;
            if policy.tools.contains(&Tool::SearchSkills)
                && let Some(read) = skill_tools::read_mounted(client, path).await
            {
                return read;
            }
            read(policy, path)
        }
        Tool::WriteFile => {
            let (path, content) = (get("path")?, get("content")?);
            write(policy, path, content)?;
            Ok(format!("wrote {} bytes to {path}", content.len()))
        }
        Tool::EditFile => {
            let (path, old, new) = (get("path")?, get("old")?, get("new")?);
            let text = read(policy, path)?;
            match text.matches(old).count() {
                1 => write(policy, path, &text.replacen(old, new, 1))
                    .map(|()| format!("changed {path}")),
                0 => Err(format!("the text does not occur in {path}")),
                n => Err(format!(
                    "the text occurs {n} times in {path}; give a longer, unique text"
                )),
            }
        }
        Tool::Memory => super::memory::use_memory(args["action"].as_str().unwrap_or("list"), &get),
        Tool::SearchSkills | Tool::RunSkillScript => Err(format!("there is no tool `{tool}`")),
        Tool::Delegate => delegate(client, lease, args, Delegation::Subtask).await,
        Tool::Ask => delegate(client, lease, args, Delegation::Question).await,
        Tool::Document => super::documents::use_documents(client, lease, args).await,
        Tool::Approval => approval(client, lease, args).await,
        Tool::Finish => Ok("finished".to_owned()),
    }
}

/// Longest wait for another agent when no deadline was given, in seconds.
const DELEGATE_WAIT_MAX: i64 = 600;

/// What another agent is given.
#[derive(Debug, Clone, Copy)]
enum Delegation {
    /// A subtask that they carry out.
    Subtask,
    /// A question that they answer.
    Question,
}

/// Delegates a subtask or a question. The idempotency key is derived from its content, so a run that is repeated after a
/// loss finds the subtask that the first one created.
async fn delegate(
    client: &AgentClient,
    lease: &Lease,
    args: &Value,
    delegation: Delegation,
) -> Result<String, String> {
    let (what, word) = match delegation {
        Delegation::Subtask => ("task", "delegate"),
        Delegation::Question => ("question", "ask"),
    };
    let text = |key: &str| args[key].as_str().map(str::to_owned);
    let seconds = args["deadline_s"].as_i64();
    let body = DelegateBody {
        to: text("to").ok_or("the argument `to` is missing")?,
        text: text(what).ok_or_else(|| format!("the argument `{what}` is missing"))?,
        expects: args["expects"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|f| f.as_str().map(str::to_owned))
            .collect(),
        deadline_ms: seconds.map(|s| s.saturating_mul(1000)),
        deliver: text("deliver"),
        tokens: None,
        task: Some(lease.task.clone()),
    };
    let key = abbey_support::digest::sha256_hex(serde_json::to_vec(&body).unwrap_or_default());
    let key = Some(IdempotencyKey(format!("{word} {} {key}", lease.task)));
    let given = match delegation {
        Delegation::Subtask => client.me().delegate(&body, Some(lease.part()), key).await,
        Delegation::Question => client.me().ask_agent(&body, Some(lease.part()), key).await,
    };
    let given = given.map_err(|e| e.to_string())?;
    // Only a person ends this wait, so the model decides what it does meanwhile.
    if let Some(waits) = wait_for_stopped_agent(&given.task) {
        return Ok(waits);
    }
    if args["wait"] == false {
        return Ok(format!(
            "{} was delegated to {} as {}; its state is {}",
            given.task.title, body.to, given.task.number, given.task.state
        ));
    }
    let patience = seconds
        .unwrap_or(DELEGATE_WAIT_MAX)
        .clamp(1, DELEGATE_WAIT_MAX * 10);
    let until = tokio::time::Instant::now() + Duration::from_secs(patience.unsigned_abs());
    loop {
        let wait = WaitQuery {
            wait_ms: Some(20_000),
        };
        let task = match client.me().delegated(&given.task.id, &wait).await {
            Ok(doc) => doc.task,
            // The control plane may be restarting; the subtask continues.
            Err(error)
                if error.kind() == abbey_model::FaultKind::Unavailable
                    && tokio::time::Instant::now() < until =>
            {
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            }
            Err(error) => return Err(error.to_string()),
        };
        if task.state.is_terminal() {
            let record = json!({
                "task": task.number, "by": task.assignee, "state": task.state, "verified": task.verified,
                "result": task.result.as_ref().map(|r| &r.text), "data": task.result.as_ref().map(|r| &r.data),
                "failure": task.failure,
            });
            return match task.state {
                TaskState::Done => Ok(record.to_string()),
                _ => Err(record.to_string()),
            };
        }
        if let Some(waits) = wait_for_stopped_agent(&task) {
            return Ok(waits);
        }
        if tokio::time::Instant::now() >= until {
            return Err(format!(
                "{} is still {}; it continues, and this run no longer waits for it",
                task.number, task.state
            ));
        }
    }
}

/// What a model is told of a task that only stopped agents could do; none if the task waits for nothing else than work.
fn wait_for_stopped_agent(task: &TaskView) -> Option<String> {
    let waits = task.waiting_for.as_ref()?;
    (!waits.stopped_agents.is_empty()).then(|| {
        format!(
            "{} was delegated and has no result yet: it waits for {}. This run does not wait for it; the same call again shows whether it has ended. Go on without it, ask another agent, or say what is missing.",
            task.number, waits.text
        )
    })
}

/// Begins the tool's answer when an approval was requested, which ends the run.
pub(super) const REQUESTED: &str = "requested approval ";

async fn approval(client: &AgentClient, lease: &Lease, args: &Value) -> Result<String, String> {
    let text = |key: &str| args[key].as_str().unwrap_or_default().to_owned();
    let arguments = match &args["args"] {
        Value::Null => json!({}),
        given => given.clone(),
    };
    let number = text("use");
    if !number.is_empty() {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if !number.chars().all(plain) {
            return Err(format!("`{number}` is not an approval"));
        }
        let body = UseBody {
            action: text("action"),
            args: arguments,
        };
        let used = client
            .me()
            .use_approval(&number, &body, lease.header())
            .await;
        let used = used.map_err(|e| e.to_string())?;
        return Ok(format!(
            "approval {} is used: carry out the action now, once",
            used.id
        ));
    }
    let body = ApprovalBody {
        task: lease.task.clone(),
        action: text("action"),
        args: arguments,
        why: text("why"),
        within_ms: args["within_s"].as_i64().map(|s| s.saturating_mul(1000)),
    };
    let asked = client.me().request_approval(&body, lease.header()).await;
    let asked = asked.map_err(|e| e.to_string())?;
    Ok(format!("{REQUESTED}{}", asked.id))
}

async fn shell(lease: &Lease, args: &Value) -> Result<String, String> {
    let argv: Vec<&str> = args["argv"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let (program, rest) = argv.split_first().ok_or("`argv` names no program")?;
    let mut command = tokio::process::Command::new(program);
    command.args(rest).env(TASK_VARIABLE, &lease.task);
    let run = run_captured(&mut command, None, OUTPUT_MAX);
    let ended = tokio::time::timeout(SHELL_MAX, run)
        .await
        .map_err(|_| format!("`{program}` ran longer than {SHELL_MAX:?}"))?
        .map_err(|e| format!("could not run `{program}`: {e}"))?;
    ended.report()
}
