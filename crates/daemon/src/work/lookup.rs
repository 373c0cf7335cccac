//! Parsing and resolving names in requests: slugs, tasks, agents and priorities; and waiting for a
//! task.

use crate::core::error::Result;
use crate::work::state::WorkState;
use abbey_api::Problem;
use abbey_model::{FaultKind, Millis, Priority, Slug, TaskRef, TaskState, Timestamp, Tokens};
use abbey_store::Topic;
use std::time::Duration;

/// Parses a slug of a URL.
///
/// # Errors
/// `NotFound` if it is not a valid slug.
pub(crate) fn parse_slug(text: &str) -> Result<Slug> {
    Ok(text
        .parse()
        .map_err(|e: abbey_model::SlugError| Problem::new(FaultKind::NotFound, e.to_string()))?)
}

/// Parses a reference to a task: its id, `TASK-7` or `7`.
///
/// # Errors
/// `NotFound` if it is neither.
pub(crate) fn parse_task_ref(text: &str) -> Result<TaskRef> {
    Ok(text.parse().map_err(|_: abbey_model::IdError| {
        let beginning: String = text.chars().take(64).collect();
        let text = format!("`{beginning}` is no task");
        Problem::new(FaultKind::NotFound, text)
            .remedy("write its number, like `TASK-12`; `abbey task list` lists them")
    })?)
}

/// Parses the name of an agent of the plan.
///
/// # Errors
/// `NotFound` if there is no such agent.
pub(crate) fn find_agent_slug(work: &WorkState, text: &str) -> Result<Slug> {
    let slug = parse_slug(text)?;
    match work.core.plan.current() {
        Some(current) if current.house.agents.contains_key(&slug) => Ok(slug),
        _ => Err(
            Problem::new(FaultKind::NotFound, format!("there is no agent `{slug}`"))
                .remedy("`abbey ps` lists the agents")
                .into(),
        ),
    }
}

/// Words before a colon that name a kind of work and no agent.
const LABELS: [&str; 20] = [
    "bug", "build", "chore", "ci", "doc", "docs", "feat", "feature", "fix", "http", "https",
    "idea", "note", "perf", "question", "refactor", "style", "task", "test", "todo",
];

/// The agent that the text of a task begins with, as in `atlas: sweep the yard`; none if it begins with no name.
///
/// # Errors
/// `NotFound` if it begins with what must be the name of an agent, and there is none of this name.
pub(crate) fn find_agent_prefix(work: &WorkState, text: &str) -> Result<Option<Slug>> {
    let Some((name, rest)) = text.split_once(':') else {
        return Ok(None);
    };
    let is_name = name.parse::<Slug>().is_ok() && rest.starts_with(' ') && !LABELS.contains(&name);
    match is_name {
        true => find_agent_slug(work, name).map(Some),
        false => Ok(None),
    }
}

/// Parses a priority, `P0` to `P3` or a word such as `high`; `P2` for `None`.
///
/// # Errors
/// `Invalid` for any other text.
pub(crate) fn parse_priority(text: Option<&str>) -> Result<Priority> {
    let word = match text {
        None | Some("medium") => return Ok(Priority::P2),
        Some("urgent") => "P0",
        Some("high") => "P1",
        Some("low") => "P3",
        Some(other) => other,
    };
    Ok(word.to_uppercase().parse().map_err(|e: String| {
        Problem::new(FaultKind::Invalid, e).remedy("use P0 to P3, or urgent, high, medium or low")
    })?)
}

/// Token limit of a new task; 0 when it has none.
///
/// # Errors
/// `Invalid` for a limit of 0, under which no model could be called.
pub(crate) fn parse_token_limit(tokens: Option<u64>) -> Result<Tokens> {
    match tokens {
        Some(0) => Err(Problem::new(
            FaultKind::Invalid,
            "a token limit of 0 lets the task call no model",
        )
        .remedy("give at least 1, or leave the limit out; a skill's program needs no tokens")
        .into()),
        tokens => Ok(Tokens(tokens.unwrap_or(0))),
    }
}

/// Wait of a parked task that callers wait through.
const SHORT_WAIT: Millis = Millis::from_secs(30);

/// Waits until a task has ended, is parked for longer than [`SHORT_WAIT`], blocked or awaiting approval, or `patience` is
/// over, and returns it as it is then.
pub(crate) async fn wait_until_ended_or_waiting(
    work: &WorkState,
    task: TaskRef,
    patience: Duration,
) -> Result<abbey_store::TaskRow> {
    let until = work.core.rt.now() + patience;
    let mut tasks = work.core.store.subscribe(Topic::Work);
    loop {
        tasks.mark_unchanged();
        let row = work.core.store.task(task).await?;
        let short = |until: Timestamp| until.since(work.core.store.now()) < SHORT_WAIT;
        let due = row.link.as_ref().and_then(|link| link.due);
        let resting = match row.state() {
            // A wait that is over soon ends by itself, also because the time for the whole task is.
            TaskState::Parked => ![row.phase.parked_until(), due]
                .into_iter()
                .flatten()
                .any(short),
            TaskState::Blocked | TaskState::AwaitingApproval => true,
            state => state.is_terminal(),
        };
        if resting || work.core.rt.now() >= until {
            return Ok(row);
        }
        let _changed_or_over = work.core.rt.timeout_at(until, tasks.changed()).await;
    }
}
