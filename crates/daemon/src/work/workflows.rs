//! Runs of workflows: started, advanced when a step ends or an event arrives, cancelled (S3-29 to
//! S3-33). A step and what it starts are one transaction, so a crash never leaves a step half
//! started.

use crate::core::error::Result;
use crate::work::state::WorkState;
use abbey_api::{EventBody, HeardDoc, IgnoredEventView, Problem, VERSION};
use abbey_engine::workflow::{EventVerdict, State, StepAction, StepStart, Workflow};
use abbey_model::{FaultKind, Millis, Principal, Slug};
use abbey_store::{Intakes, NewRun, Topic, WorkflowRow, WorkflowSignal};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Longest pause between two passes, after which a changed clock is noticed.
const PASS_INTERVAL_MAX: Duration = Duration::from_secs(30);
/// Largest input or event, bytes.
const DATA_MAX: usize = 256 << 10;
/// How long a step that could not be undone is reported after the last change of its run.
const INCIDENTS_FOR: Millis = Millis::from_secs(7 * 86_400);
/// Most runs that receive one event.
const HEARING_MAX: u32 = 10_000;

fn invalid(text: impl Into<String>) -> crate::core::error::Error {
    Problem::new(FaultKind::Invalid, text.into()).into()
}

/// Digest of a workflow's declaration.
pub(crate) fn workflow_digest(workflow: &Workflow) -> String {
    abbey_support::digest::sha256_hex(serde_json::to_vec(workflow).unwrap_or_default())
}

/// Advances workflow runs whenever tasks, approvals or timers allow it, until the control plane
/// stops.
pub(crate) async fn run_workflow_engine(work: Arc<WorkState>) {
    let mut tasks = work.core.store.subscribe(Topic::Work);
    let mut approvals = work.core.store.subscribe(Topic::Approvals);
    let mut runs = work.core.store.subscribe(Topic::Workflows);
    loop {
        let pause = match advance_due_runs(&work).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::error!(
                    error = error.chain(),
                    "workflow runs could not be advanced; retrying in 5 seconds"
                );
                Duration::from_secs(5)
            }
        };
        tokio::select! {
            () = work.core.rt.stopped() => return,
            _ = tasks.changed() => {}
            _ = approvals.changed() => {}
            _ = runs.changed() => {}
            () = work.core.rt.sleep(pause) => {}
        }
    }
}

/// Advances every run that can proceed, and returns the time until the next timer of a run. A run
/// that fails does not hold up the others.
pub(crate) async fn advance_due_runs(work: &Arc<WorkState>) -> Result<Duration> {
    let mut stuck: Vec<u64> = Vec::new();
    loop {
        let (mut due, next) = work.core.store.workflows_due().await?;
        due.retain(|number| !stuck.contains(number));
        if due.is_empty() {
            let now = work.core.store.now();
            let pause = next.map_or(PASS_INTERVAL_MAX, |at| {
                at.since(now).to_std().min(PASS_INTERVAL_MAX)
            });
            return Ok(pause.max(Duration::from_millis(20)));
        }
        for number in due {
            // A run that fails does not hold up the others.
            if let Err(error) = advance_run(work, number, WorkflowSignal::Refresh).await {
                tracing::error!(
                    run = number,
                    error = error.chain(),
                    "a workflow run could not be advanced; `abbey workflow show` shows its steps"
                );
                stuck.push(number);
            }
        }
    }
}

/// Function that computes the admission input of the task that a step begins.
pub(crate) fn intakes_for_steps(work: &Arc<WorkState>) -> Intakes {
    let work = Arc::clone(work);
    Box::new(move |begin: &StepStart| match &begin.act {
        StepAction::Skill { skill, .. } => {
            let args = begin.data.iter().map(|(k, v)| (k.clone(), v.clone()));
            work.intake_for_skill(skill, args.collect())
        }
        // Only what was written in the definition is matched, never what flows through it.
        StepAction::Task { text, .. } => work.intake_for_text(text),
        StepAction::Approval { .. } | StepAction::Event { .. } | StepAction::Pause(_) => {
            work.intake_for_text("")
        }
    })
}

/// Advances one run with a signal.
async fn advance_run(
    work: &Arc<WorkState>,
    number: u64,
    nudge: WorkflowSignal,
) -> Result<WorkflowRow> {
    let row = work
        .core
        .store
        .advance_workflow(number, nudge, intakes_for_steps(work))
        .await?;
    Ok(row)
}

/// Checks the input of a workflow of the plan, and returns the run to be started.
///
/// # Errors
/// `NotFound` for an unknown workflow, `Invalid` for an input that does not match its declaration.
pub(crate) fn check_new_run(
    work: &WorkState,
    name: &Slug,
    input: BTreeMap<String, Value>,
    by: Principal,
    key: Option<String>,
) -> Result<NewRun> {
    let current = work.core.plan.current();
    let workflow = current.as_ref().and_then(|c| c.house.workflows.get(name));
    let workflow = workflow.ok_or_else(|| {
        Problem::new(
            FaultKind::NotFound,
            format!("there is no workflow `{name}`"),
        )
        .remedy("`abbey workflow check` lists the workflows of the manifest")
    })?;
    let size = serde_json::to_vec(&input).map_or(0, |v| v.len());
    if size > DATA_MAX {
        return Err(invalid(format!(
            "the input of a workflow may have at most {DATA_MAX} bytes"
        )));
    }
    let input = workflow.validate_input(input).map_err(|wrong| {
        invalid(format!(
            "the input of the workflow `{name}` is not valid: {}",
            wrong.join("; ")
        ))
    })?;
    Ok(NewRun {
        name: name.to_string(),
        digest: workflow_digest(workflow),
        workflow: workflow.clone(),
        input,
        by,
        key,
    })
}

/// Starts a run of a workflow, or returns the run that was started with the same `key`; true if it
/// is new.
pub(crate) async fn start_run(
    work: &Arc<WorkState>,
    name: &Slug,
    input: BTreeMap<String, Value>,
    by: Principal,
    key: Option<String>,
) -> Result<(WorkflowRow, bool)> {
    let new = check_new_run(work, name, input, by, key)?;
    let (number, new) = work.core.store.start_workflow(new).await?;
    let row = match new {
        true => advance_run(work, number, WorkflowSignal::Refresh).await?,
        false => work.core.store.workflow(number).await?,
    };
    Ok((row, new))
}

/// Runs of which a step could not be undone, of the last 7 days, newest first.
pub(crate) async fn recent_incidents(work: &WorkState) -> Result<Vec<WorkflowRow>> {
    let since = work.core.store.now() + Millis(-INCIDENTS_FOR.0);
    Ok(work.core.store.workflow_incidents(since).await?)
}

/// Parses the number of a workflow run, written `WF-3` or `3`.
///
/// # Errors
/// `NotFound` for any other text.
pub(crate) fn parse_run_number(text: &str) -> Result<u64> {
    let digits = text.strip_prefix("WF-").unwrap_or(text);
    digits.parse().map_err(|_| {
        Problem::new(
            FaultKind::NotFound,
            format!("there is no workflow run `{text}`"),
        )
        .remedy("`abbey workflow list` lists the runs")
        .into()
    })
}

/// Cancels a workflow run as `by`.
pub(crate) async fn cancel_run(
    work: &Arc<WorkState>,
    number: u64,
    by: Principal,
) -> Result<WorkflowRow> {
    advance_run(work, number, WorkflowSignal::Cancel(by)).await
}

/// Waits until a workflow run has ended or `patience` is over, and returns it as it is then.
pub(crate) async fn wait_until_run_ends(
    work: &Arc<WorkState>,
    number: u64,
    patience: Duration,
) -> Result<WorkflowRow> {
    let until = work.core.rt.now() + patience;
    let mut runs = work.core.store.subscribe(Topic::Workflows);
    loop {
        runs.mark_unchanged();
        let row = work.core.store.workflow(number).await?;
        if row.run.state.is_over() || work.core.rt.now() >= until {
            return Ok(row);
        }
        let _changed_or_over = work.core.rt.timeout_at(until, runs.changed()).await;
    }
}

/// Input of a run that an event or a delivery starts: its data as `payload`, if the workflow declares that.
pub(crate) fn payload_input(workflow: Option<&Workflow>, data: Value) -> BTreeMap<String, Value> {
    if !workflow.is_some_and(|w| w.input.contains_key("payload")) {
        return BTreeMap::new();
    }
    let payload = match data {
        payload @ Value::Object(_) => payload,
        other => serde_json::json!({ "value": other }),
    };
    BTreeMap::from([("payload".to_owned(), payload)])
}

/// Delivers an event to one run, or to every run that waits for it, and starts the workflows that
/// it triggers. A repeated `key` starts them once.
pub(crate) async fn publish_event(
    work: &Arc<WorkState>,
    name: &Slug,
    body: EventBody,
    by: Principal,
    key: Option<String>,
) -> Result<HeardDoc> {
    if body.data.to_string().len() > DATA_MAX {
        return Err(invalid(format!(
            "the data of an event may have at most {DATA_MAX} bytes"
        )));
    }
    let signal = |data: Value| WorkflowSignal::Event {
        name: name.clone(),
        data,
        by: by.clone(),
    };
    let mut heard = HeardDoc {
        version: VERSION,
        told: Vec::new(),
        started: Vec::new(),
        ignored: Vec::new(),
    };
    let open = match &body.run {
        Some(run) => vec![work.core.store.workflow(parse_run_number(run)?).await?],
        None => {
            let mut open = work.core.store.workflows(true, HEARING_MAX).await?;
            open.retain(|row| {
                row.run.state == State::Running && row.run.awaits_event(&row.workflow, name)
            });
            open
        }
    };
    for row in open {
        let verdict = row.run.judge_event(&row.workflow, name, &body.data);
        advance_run(work, row.number, signal(body.data.clone())).await?;
        let run = format!("WF-{}", row.number);
        match verdict {
            EventVerdict::Ignored(why) => heard.ignored.push(IgnoredEventView { run, why }),
            EventVerdict::Accepted | EventVerdict::Known => heard.told.push(run),
        }
    }
    if body.run.is_some() {
        return Ok(heard);
    }
    let current = work.core.plan.current();
    let workflows = current.iter().flat_map(|c| &c.house.workflows);
    for (workflow, declared) in workflows.filter(|(_, w)| w.on.contains(name)) {
        let input = payload_input(Some(declared), body.data.clone());
        let key = key.as_ref().map(|k| format!("event {name} {k} {workflow}"));
        let (row, _) = start_run(work, workflow, input, by.clone(), key).await?;
        heard.started.push(format!("WF-{}", row.number));
    }
    Ok(heard)
}
