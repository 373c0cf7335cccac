//! How a task is printed, and waiting for its end.

use crate::durations::now;
use crate::exit::{self, Failure, Outcome};
use crate::output::{self, Progress, text_or_dash};
use crate::text::{Text, Tone};
use abbey_api::client::Client;
use abbey_api::{TaskDoc, TaskView, UsageSource, WaitQuery, WaitingForView};
use abbey_model::{Millis, TaskState, WaitKind, WaitingFor};
use std::time::{Duration, Instant};

/// Longest time that one request waits on the server.
const WAIT: Duration = Duration::from_secs(20);
/// Time that the first request waits on the server.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Time that a caller waits through, whatever a task waits for.
const SHORT_WAIT: Millis = Millis::from_secs(30);

/// As [`wait_for_end_read_by`], for the operator's client.
pub(crate) async fn wait_for_end(
    client: &Client,
    json: bool,
    id: &str,
    patience: Duration,
) -> Outcome {
    wait_for_end_read_by(json, patience, async |wait| {
        let query = WaitQuery {
            wait_ms: u64::try_from(wait.as_millis()).ok(),
        };
        Ok(Some(client.tasks().show(id, &query).await?))
    })
    .await
}

/// Waits at most `patience` until a task has ended, is parked for longer than 30 seconds, needs a person, or is offered to
/// agents that are stopped, then prints it. `read` waits on the server at most the time that it is given, and returns none
/// if the task can't be read just now. Exit code: 0 done, 1 failed, 5 blocked or waiting for approval, 8 parked or offered
/// to agents that are stopped, 124 not over yet.
pub(crate) async fn wait_for_end_read_by(
    json: bool,
    patience: Duration,
    read: impl AsyncFn(Duration) -> Result<Option<TaskDoc>, Failure>,
) -> Outcome {
    let until = Instant::now() + patience;
    let mut progress = Progress::new();
    // The first look is short, so that a wait that nothing but a person ends is reported at once.
    let mut longest = FIRST_WAIT;
    loop {
        let left = until.saturating_duration_since(Instant::now()).min(longest);
        let asked = Instant::now();
        let Some(doc) = read(left).await? else {
            continue;
        };
        // A wait that is over soon does not end the request early.
        let waits_long = asked.elapsed() < left;
        if let Some(code) = exit_code(&doc.task, waits_long, Instant::now() >= until) {
            progress.end();
            if let (exit::PARKED, Some(why)) = (code, held_up(&doc.task)) {
                output::print_message(&format!("{} waits for {why}", doc.task.number));
            }
            print_task(json, &doc);
            return Ok(code);
        }
        progress.show(&format!("{} is {}", doc.task.number, doc.task.state));
        longest = WAIT;
    }
}

/// Exit code of a command that waited for a task; none to wait on. `over` says that the time for waiting is.
fn exit_code(task: &TaskView, waits_long: bool, over: bool) -> Option<u8> {
    match task.state {
        TaskState::Done => Some(exit::OK),
        TaskState::Failed | TaskState::TimedOut | TaskState::Cancelled | TaskState::Unverified => {
            Some(exit::FAILURE)
        }
        TaskState::Blocked | TaskState::AwaitingApproval => Some(exit::APPROVAL),
        TaskState::Parked if waits_long => Some(exit::PARKED),
        TaskState::Ready if held_up(task).is_some() && (over || !ends_soon(task)) => {
            Some(exit::PARKED)
        }
        _ if over => Some(exit::TIMEOUT),
        _ => None,
    }
}

/// What a task waits for, in a few words: `budget of writer until …`; its details are in `task show` and `task why`. None
/// for a task that works or has ended.
pub(crate) fn waits_for(task: &TaskView) -> Option<String> {
    let wait = task.waiting_for.as_ref()?;
    // People know a task by its number.
    let name = match wait.name.strip_prefix("task:") {
        Some(id) if id == task.id => task.number.clone(),
        Some(_) => "a task above it".to_owned(),
        None => wait.name.clone(),
    };
    let brief = WaitingFor {
        kind: wait.kind,
        name,
        until: wait.until.map(|time| time.0),
    };
    // A wait for an agent that can do it has no name, and nothing but its details.
    let details = match wait.kind {
        WaitKind::Agent => Some("an eligible agent"),
        _ => None,
    };
    let text = WaitingForView::new(&brief, details).text;
    Some(output::with_local_times(&text))
}

/// Whether the time for a task is over soon, so that it ends by itself while its caller waits.
fn ends_soon(task: &TaskView) -> bool {
    let due = task.link.as_ref().and_then(|link| link.due_at);
    due.is_some_and(|due| due.0.since(now()) < SHORT_WAIT)
}

/// What a task waits for, if every agent that could claim it was stopped or paused by the operator: nobody does before one of
/// them is started.
fn held_up(task: &TaskView) -> Option<&str> {
    let waiting = task.waiting_for.as_ref();
    let waiting = waiting.filter(|w| !w.stopped_agents.is_empty())?;
    Some(&waiting.text)
}

/// Prints a task with its runs, evidence and result, or its JSON document.
pub(crate) fn print_task(json: bool, doc: &TaskDoc) {
    if json {
        output::print_json(doc);
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
    let more = format!(
        "{verified} ({}{skill})",
        t.assignee.as_deref().unwrap_or("unassigned")
    );
    let number = Text::from(format!("{} is ", t.number));
    output::print_text(&number.join(t.state.into()).and(Tone::Plain, &more));
    output::print_hanging("  ", shorten_title(&t.title));
    if let Some(waiting) = &t.waiting_for {
        output::print_hanging("  waiting for: ", output::with_local_times(&waiting.text));
    }
    if let Some(failure) = &t.failure {
        let label = match t.state {
            TaskState::Unverified => "  unverified: ",
            _ => "  last failure: ",
        };
        output::print_hanging(label, output::with_local_times(failure));
    }
    for evidence in t.link.iter().flat_map(|l| &l.evidence) {
        output::print_hanging("  evidence: ", evidence.to_string());
    }
    output::print_hanging("  trace: ", &t.trace);
    for run in &t.runs {
        let tokens = match (run.usage.input, run.usage.output) {
            (Some(i), Some(o)) if run.usage.source == UsageSource::Provider => {
                format!("{i} + {o} tokens")
            }
            (Some(_), Some(_)) => "no tokens".to_owned(),
            _ => "tokens unknown".to_owned(),
        };
        let model = run.actual_model.as_ref().map_or_else(
            || "no model used".to_owned(),
            |m| format!("model {m}, {tokens}"),
        );
        let counted = match &run.reported_usage {
            Some(r) if (Some(r.input), Some(r.output)) != (run.usage.input, run.usage.output) => {
                format!(" (the runtime counted {} + {})", r.input, r.output)
            }
            _ => String::new(),
        };
        let flag = match (run.flagged, run.claims.is_empty()) {
            (false, _) => String::new(),
            (true, true) => ", FLAGGED: the result claims an action without a receipt".to_owned(),
            (true, false) => {
                let claims: Vec<String> = run.claims.iter().map(|c| format!("\"{c}\"")).collect();
                format!(
                    ", FLAGGED: the result claims actions without a receipt of their kind: {}",
                    claims.join(", ")
                )
            }
        };
        let line = format!(
            "run {} {} ({}), {model}{counted}{flag}",
            run.id,
            run.state,
            text_or_dash(run.reason)
        );
        output::print_hanging("  ", line);
    }
    if let Some(result) = &t.result {
        output::print_line(&format!("  result ({}):", result.source));
        for text in result.text.lines() {
            output::print_hanging("    ", text);
        }
    }
}

/// First line of a title; cut to 60 characters with an ellipsis if it is longer.
pub(crate) fn shorten_title(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    if first.chars().count() <= 60 {
        first.to_owned()
    } else {
        format!("{}…", first.chars().take(59).collect::<String>())
    }
}
