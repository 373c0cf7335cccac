//! Runs of workflows: from what is declared and what has happened to what is to be begun or cancelled now
//! (S3-29 to S3-33).
//!
//! ```text
//! step: (not started) ─needs settled─▶ Working ─▶ Done
//!            │ condition              │ failed ─▶ Retry ─▶ Working … ─▶ Failed
//!            └─▶ Skipped
//! run:  Running ─every step settled─▶ Done
//!          └─ a step failed, time is up, cancelled ─▶ Undoing ─newest first─▶ Failed | Cancelled
//! ```
//!
//! A run is a value. Whoever keeps it writes it down together with what [`advance`] asked for, in one transaction, so
//! a step that is written as done is never begun again.

mod declared;
mod events;

pub use declared::{
    Comparison, Condition, InputField, StepAction, StepArguments, Undo, ValueSource, ValueType,
    Workflow, WorkflowStep,
};

pub use events::EventVerdict;
use events::HeardEvents;

use abbey_model::{Slug, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;

/// Longest list for whose each a step runs.
pub const EACH_MAX: usize = 1000;

/// State of a workflow run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Steps begin as soon as what they need is done.
    Running,
    /// A step failed, the time was up, or the run was cancelled: finished steps are undone, the newest first.
    Undoing,
    /// Every step has ended; the output is known.
    Done,
    /// A step failed or the time was up, and everything that can be undone is undone.
    Failed,
    /// The run was cancelled, and everything that can be undone is undone.
    Cancelled,
}

impl State {
    /// Whether the run has ended and nothing more happens.
    pub const fn is_over(self) -> bool {
        matches!(self, State::Done | State::Failed | State::Cancelled)
    }

    /// Name of the state in JSON and in the database.
    pub const fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Undoing => "undoing",
            State::Done => "done",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }
}

/// Task or approval that was created for a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkHandle {
    /// A task, by number.
    Task(u64),
    /// An approval, by number.
    Approval(u64),
}

/// Outcome of a task or approval that a step waits for.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkOutcome {
    /// It has not ended.
    Open,
    /// It succeeded with this output.
    Done(Json),
    /// It failed for this reason.
    Failed(String),
}

/// Progress of a step, or of one item of a step that runs for each item of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepProgress {
    /// Started; the handle is known once the task or approval is stored.
    Working(Option<WorkHandle>),
    /// Waits for an event until this instant, or for the end of a pause.
    Waiting(Option<Timestamp>),
    /// To be started at this instant, for the first time or again.
    Retry(Timestamp),
    /// Succeeded with this output.
    Done(Json),
    /// Skipped because of a condition.
    Skipped,
    /// Failed for this reason.
    Failed(String),
}

impl StepProgress {
    fn is_settled(&self) -> bool {
        matches!(
            self,
            StepProgress::Done(_) | StepProgress::Skipped | StepProgress::Failed(_)
        )
    }
}

/// State of a step, or of one item of a step that runs for each item of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepItem {
    /// The list item; null for a step without a list.
    pub value: Json,
    /// Progress of the item.
    pub at: StepProgress,
    /// Number of attempts that were started.
    pub attempts: u32,
    /// Instant at which the step became ready.
    pub began_at: Timestamp,
    /// Instant at which it succeeded, failed or was skipped.
    pub ended_at: Option<Timestamp>,
    /// Rank in the order in which items of the run succeeded; they are undone in reverse.
    pub order: u32,
    /// Progress of undoing it.
    pub undo: Option<StepProgress>,
}

/// State of one run of a workflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkflowRun {
    /// State of the run as a whole.
    pub state: State,
    /// Input values by name.
    pub input: BTreeMap<String, Json>,
    /// Steps that became ready, each with its items.
    pub steps: BTreeMap<Slug, Vec<StepItem>>,
    /// Data of the outside events that an earlier version of Abbey took in, one for each name. Such a version needs the key.
    #[serde(default, rename = "heard")]
    heard_before: BTreeMap<Slug, Json>,
    /// Data of the outside events that were reported to the run and that a step could use, by name, oldest first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    events: BTreeMap<Slug, Vec<Json>>,
    /// Why the last event of a name was ignored, for names of which none was accepted since.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ignored: BTreeMap<Slug, String>,
    /// Instant at which the run started.
    pub began_at: Timestamp,
    /// Instant at which the run ended.
    pub ended_at: Option<Timestamp>,
    /// Whether a cancellation was requested.
    #[serde(rename = "called_off")]
    pub cancel_requested: bool,
    /// Reason why the run failed.
    pub failure: Option<String>,
    /// Output of a run that is done.
    pub output: Option<Json>,
    done: u32,
}

/// What the caller of [`advance`] must do for a run.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkflowEffect {
    /// Create a task or approval and report it with [`WorkflowRun::record_started`].
    Begin(Box<StepStart>),
    /// Cancel a task or approval unless it has ended.
    Cancel(WorkHandle),
}

/// Start of a step's action, or of its undo action.
#[derive(Debug, Clone, PartialEq)]
pub struct StepStart {
    /// Name of the step.
    pub step: Slug,
    /// Index of the item in the step's list.
    pub index: usize,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Whether the action undoes the step.
    pub undo: bool,
    /// Action to start: a task, a skill or an approval.
    pub act: StepAction,
    /// Arguments of the action.
    pub data: Map<String, Json>,
}

impl WorkflowRun {
    /// A run at its start, before its first step, with an input that [`Workflow::validate_input`] accepted.
    pub fn new(input: BTreeMap<String, Json>, now: Timestamp) -> WorkflowRun {
        WorkflowRun {
            state: State::Running,
            input,
            steps: BTreeMap::new(),
            heard_before: BTreeMap::new(),
            events: BTreeMap::new(),
            ignored: BTreeMap::new(),
            began_at: now,
            ended_at: None,
            cancel_requested: false,
            failure: None,
            output: None,
            done: 0,
        }
    }

    /// Records the task or approval that was created for a step of this run.
    pub fn record_started(&mut self, begin: &StepStart, handle: WorkHandle) {
        if let Some(item) = self
            .steps
            .get_mut(&begin.step)
            .and_then(|items| items.get_mut(begin.index))
        {
            match begin.undo {
                true => item.undo = Some(StepProgress::Working(Some(handle))),
                false => item.at = StepProgress::Working(Some(handle)),
            }
        }
    }

    /// Tasks and approvals that the run waits for.
    pub fn open_handles(&self) -> Vec<WorkHandle> {
        let items = self.steps.values().flatten();
        let places = items.flat_map(|item| [Some(&item.at), item.undo.as_ref()]);
        places
            .filter_map(|at| match at {
                Some(StepProgress::Working(handle)) => *handle,
                _ => None,
            })
            .collect()
    }

    /// Next instant at which the run can advance without an outside event: a pause, another attempt or the time limit
    /// is over.
    pub fn next_deadline(&self, workflow: &Workflow) -> Option<Timestamp> {
        if self.state.is_over() {
            return None;
        }
        let items = self.steps.values().flatten();
        let own = items.filter_map(|item| match item.at {
            StepProgress::Retry(at) | StepProgress::Waiting(Some(at)) => Some(at),
            _ => None,
        });
        let due = workflow.within.map(|within| self.began_at + within);
        let due = due.filter(|_| self.state == State::Running);
        own.chain(due).min()
    }

    fn settled(&self, step: &Slug) -> bool {
        self.steps
            .get(step)
            .is_some_and(|items| items.iter().all(|i| i.at.is_settled()))
    }

    fn skipped(&self, step: &Slug) -> bool {
        let items = self.steps.get(step).map_or(&[][..], Vec::as_slice);
        !items.is_empty() && items.iter().all(|i| i.at == StepProgress::Skipped)
    }

    /// A value; null where there is none.
    fn value(&self, workflow: &Workflow, source: &ValueSource, item: &Json) -> Json {
        match source {
            ValueSource::Literal(value) => value.clone(),
            ValueSource::Input(name) => self.input.get(name).cloned().unwrap_or_default(),
            ValueSource::Item => item.clone(),
            ValueSource::Step(step, field) => {
                let of = |item: &StepItem| match &item.at {
                    StepProgress::Done(output) => output.get(field).cloned().unwrap_or_default(),
                    _ => Json::Null,
                };
                let items = self.steps.get(step).map_or(&[][..], Vec::as_slice);
                match workflow.steps.get(step).is_some_and(|s| s.each.is_some()) {
                    true => items.iter().map(of).collect(),
                    false => items.first().map(of).unwrap_or_default(),
                }
            }
        }
    }

    fn values(&self, workflow: &Workflow, with: &StepArguments, item: &Json) -> Map<String, Json> {
        let value = |(name, source): (&String, &ValueSource)| {
            (name.clone(), self.value(workflow, source, item))
        };
        with.iter().map(value).collect()
    }
}

/// What a result lacks of what was declared.
fn lacking(expects: &BTreeMap<String, ValueType>, output: &Json) -> Option<String> {
    let wrong = |(name, of): (&String, &ValueType)| match output.get(name) {
        Some(value) if of.fits(value) => None,
        Some(_) => Some(format!("`{name}` is no {of}")),
        None => Some(format!("it has no `{name}`")),
    };
    let all: Vec<String> = expects.iter().filter_map(wrong).collect();
    (!all.is_empty()).then(|| format!("the result is not what was asked for: {}", all.join(", ")))
}

/// Advances a run as far as possible at instant `now`. `facts` tells the outcome of each task and approval that it
/// waits for. Returns what the caller must start or cancel, in the same transaction as it stores the run.
pub fn advance(
    workflow: &Workflow,
    run: &mut WorkflowRun,
    facts: &dyn Fn(WorkHandle) -> WorkOutcome,
    now: Timestamp,
) -> Vec<WorkflowEffect> {
    let mut effects = Vec::new();
    if run.state.is_over() {
        return effects;
    }
    observe(workflow, run, facts, now);
    if run.state == State::Running {
        // What a step waits for may have happened before it was its turn, so each step that opens is checked.
        while broken(workflow, run, now).is_none() && open_steps(workflow, run, now, &mut effects) {
            observe(workflow, run, facts, now);
        }
        // A step that could not even begin is as good as failed.
        if let Some(why) = broken(workflow, run, now) {
            run.failure = Some(why);
            start_undoing(run, now, &mut effects);
        } else if workflow.steps.keys().all(|s| run.settled(s)) {
            run.state = State::Done;
            run.output = Some(Json::Object(run.values(
                workflow,
                &workflow.output,
                &Json::Null,
            )));
        }
    }
    if run.state == State::Undoing {
        undo(workflow, run, &mut effects);
    }
    if run.state.is_over() {
        run.ended_at = Some(now);
    }
    effects
}

/// Takes in what happened.
fn observe(
    workflow: &Workflow,
    run: &mut WorkflowRun,
    facts: &dyn Fn(WorkHandle) -> WorkOutcome,
    now: Timestamp,
) {
    let mut done = run.done;
    let heard = HeardEvents {
        before: &run.heard_before,
        events: &run.events,
    };
    for (name, items) in &mut run.steps {
        let Some(step) = workflow.steps.get(name) else {
            continue;
        };
        for item in items {
            if let Some(StepProgress::Working(Some(handle))) = item.undo {
                match facts(handle) {
                    WorkOutcome::Open => {}
                    WorkOutcome::Done(value) => item.undo = Some(StepProgress::Done(value)),
                    WorkOutcome::Failed(why) => item.undo = Some(StepProgress::Failed(why)),
                }
            }
            let fact = match (&item.at, &step.act) {
                (StepProgress::Working(Some(handle)), _) => facts(*handle),
                (StepProgress::Waiting(until), StepAction::Event { name }) => {
                    match heard.usable(name, step) {
                        Some(data) => WorkOutcome::Done(data.clone()),
                        None if until.is_some_and(|at| now >= at) => {
                            WorkOutcome::Failed(format!("`{name}` did not happen in time"))
                        }
                        None => WorkOutcome::Open,
                    }
                }
                (StepProgress::Waiting(Some(at)), _) if now >= *at => {
                    WorkOutcome::Done(Json::Object(Map::new()))
                }
                _ => WorkOutcome::Open,
            };
            let failed = match fact {
                WorkOutcome::Open => continue,
                WorkOutcome::Failed(why) => Some(why),
                WorkOutcome::Done(output) => match lacking(&step.expects, &output) {
                    None => {
                        done += 1;
                        (item.at, item.order) = (StepProgress::Done(output), done);
                        item.ended_at = Some(now);
                        None
                    }
                    lacking => lacking,
                },
            };
            if let Some(why) = failed {
                let again = item.attempts <= step.retry;
                item.at = match again {
                    true => StepProgress::Retry(now + step.retry_after),
                    false => StepProgress::Failed(why),
                };
                item.ended_at = (!again).then_some(now);
            }
        }
    }
    run.done = done;
}

/// Why the run cannot go on.
fn broken(workflow: &Workflow, run: &WorkflowRun, now: Timestamp) -> Option<String> {
    if run.cancel_requested {
        return Some("it was cancelled".to_owned());
    }
    if workflow
        .within
        .is_some_and(|within| now >= run.began_at + within)
    {
        return Some("it took longer than its time".to_owned());
    }
    let must = workflow.steps.iter().filter(|(_, step)| !step.may_fail);
    must.filter_map(|(name, _)| {
        let items = run.steps.get(name)?;
        items.iter().find_map(|item| match &item.at {
            StepProgress::Failed(why) => Some(format!("step `{name}` failed: {why}")),
            _ => None,
        })
    })
    .next()
}

/// Cancels what is in progress; what is done is undone from now on.
fn start_undoing(run: &mut WorkflowRun, now: Timestamp, effects: &mut Vec<WorkflowEffect>) {
    run.state = State::Undoing;
    // What was to begin in this very pass never begins.
    effects.clear();
    for item in run.steps.values_mut().flatten() {
        if let StepProgress::Working(Some(handle)) = item.at {
            effects.push(WorkflowEffect::Cancel(handle));
        }
        if !item.at.is_settled() {
            item.at = StepProgress::Failed("cancelled".to_owned());
            item.ended_at = Some(now);
        }
    }
}

/// Opens every step whose turn it is, and begins again what waits for that. Whether anything was opened.
fn open_steps(
    workflow: &Workflow,
    run: &mut WorkflowRun,
    now: Timestamp,
    effects: &mut Vec<WorkflowEffect>,
) -> bool {
    let mut opened = false;
    for (name, step) in &workflow.steps {
        if !run.steps.contains_key(name) {
            if !step.needs.iter().all(|need| run.settled(need)) {
                continue;
            }
            opened = true;
            let items = items(workflow, run, step, now);
            run.steps.insert(name.clone(), items);
        }
        let ready = |item: &StepItem| match item.at {
            StepProgress::Retry(at) => now >= at,
            _ => false,
        };
        let ready: Vec<usize> = run.steps.get(name).map_or_else(Vec::new, |items| {
            let found = items.iter().enumerate().filter(|(_, item)| ready(item));
            found.map(|(index, _)| index).collect()
        });
        for index in ready {
            begin(workflow, run, (name, step), index, now, effects);
        }
    }
    opened
}

/// What a step consists of, nothing of it begun.
fn items(
    workflow: &Workflow,
    run: &WorkflowRun,
    step: &WorkflowStep,
    now: Timestamp,
) -> Vec<StepItem> {
    let item = |value: Json, at: StepProgress| StepItem {
        value,
        ended_at: at.is_settled().then_some(now),
        at,
        attempts: 0,
        began_at: now,
        order: 0,
        undo: None,
    };
    let all_skipped = !step.needs.is_empty() && step.needs.iter().all(|need| run.skipped(need));
    let holds = |c: &Condition| c.holds(&run.value(workflow, &c.value, &Json::Null));
    if all_skipped || !step.when.iter().all(holds) {
        return vec![item(Json::Null, StepProgress::Skipped)];
    }
    let Some(each) = &step.each else {
        return vec![item(Json::Null, StepProgress::Retry(now))];
    };
    match run.value(workflow, each, &Json::Null) {
        Json::Array(list) if list.len() <= EACH_MAX => {
            let one = |value| item(value, StepProgress::Retry(now));
            list.into_iter().map(one).collect()
        }
        Json::Array(list) => {
            let why = format!("its list has {} entries, more than {EACH_MAX}", list.len());
            vec![item(Json::Null, StepProgress::Failed(why))]
        }
        // A step that was skipped or may fail has no list.
        Json::Null => vec![item(Json::Null, StepProgress::Skipped)],
        _ => vec![item(
            Json::Null,
            StepProgress::Failed("what it is to run for is no list".to_owned()),
        )],
    }
}

fn begin(
    workflow: &Workflow,
    run: &mut WorkflowRun,
    (name, step): (&Slug, &WorkflowStep),
    index: usize,
    now: Timestamp,
    effects: &mut Vec<WorkflowEffect>,
) {
    let Some(item) = run.steps.get(name).and_then(|items| items.get(index)) else {
        return;
    };
    let attempt = item.attempts + 1;
    let data = run.values(workflow, &step.with, &item.value);
    let at = match &step.act {
        StepAction::Pause(time) => StepProgress::Waiting(Some(now + *time)),
        StepAction::Event { .. } => StepProgress::Waiting(step.within.map(|within| now + within)),
        act
        @ (StepAction::Task { .. } | StepAction::Skill { .. } | StepAction::Approval { .. }) => {
            effects.push(WorkflowEffect::Begin(Box::new(StepStart {
                step: name.clone(),
                index,
                attempt,
                undo: false,
                act: act.clone(),
                data,
            })));
            StepProgress::Working(None)
        }
    };
    if let Some(item) = run
        .steps
        .get_mut(name)
        .and_then(|items| items.get_mut(index))
    {
        (item.at, item.attempts) = (at, attempt);
    }
}

/// Undoes what is done, the newest first, one at a time; what cannot be undone is said and holds up nothing.
fn undo(workflow: &Workflow, run: &mut WorkflowRun, effects: &mut Vec<WorkflowEffect>) {
    let working = |item: &StepItem| matches!(item.undo, Some(StepProgress::Working(_)));
    if run.steps.values().flatten().any(working) {
        return;
    }
    let undone = |(name, items): (&Slug, &Vec<StepItem>)| {
        workflow.steps.get(name)?.undo.as_ref()?;
        let left = items.iter().enumerate();
        let left = left.filter(|(_, i)| matches!(i.at, StepProgress::Done(_)) && i.undo.is_none());
        let newest = left.max_by_key(|(_, i)| i.order)?;
        Some((newest.1.order, name.clone(), newest.0))
    };
    let newest = run.steps.iter().filter_map(undone).max();
    let Some((_, name, index)) = newest else {
        if let Some(incident) = run.incident() {
            let failure = run.failure.take();
            run.failure =
                Some(failure.map_or(incident.clone(), |why| format!("{why}; {incident}")));
        }
        run.state = match run.cancel_requested {
            true => State::Cancelled,
            false => State::Failed,
        };
        return;
    };
    let Some(undo) = workflow.steps.get(&name).and_then(|s| s.undo.clone()) else {
        return;
    };
    let value = run.steps[&name][index].value.clone();
    effects.push(WorkflowEffect::Begin(Box::new(StepStart {
        data: run.values(workflow, &undo.with, &value),
        step: name.clone(),
        index,
        attempt: 1,
        undo: true,
        act: undo.act,
    })));
    if let Some(item) = run
        .steps
        .get_mut(&name)
        .and_then(|items| items.get_mut(index))
    {
        item.undo = Some(StepProgress::Working(None));
    }
}

#[cfg(test)]
mod tests;
