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

pub use declared::{Act, Condition, Field, Source, Step, Test, Type, Undo, With, Workflow};

use abbey_model::{Slug, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;

/// Longest list for whose each a step runs.
pub const EACH_MAX: usize = 1000;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Steps begin as soon as what they need is done.
    Running,
    /// A step failed, the time was up, or the run was cancelled: finished steps are undone, the newest first.
    Undoing,
    /// Every step is settled; the output is known.
    Done,
    /// A step failed or the time was up, and every undo is over.
    Failed,
    /// It was cancelled, and every undo is over.
    Cancelled,
}

impl State {
    /// Whether nothing more happens.
    pub const fn is_over(self) -> bool {
        matches!(self, State::Done | State::Failed | State::Cancelled)
    }

    /// Its name.
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

/// What was begun outside of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handle {
    /// A task, by number.
    Task(u64),
    /// A question to a person, by number.
    Approval(u64),
}

/// What is known of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// It goes on.
    Open,
    /// It is done, with this.
    Done(Json),
    /// It is over, and not done.
    Failed(String),
}

/// Where a step stands, for one of its list or alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum At {
    /// Begun; the handle is known as soon as it is written down.
    Working(Option<Handle>),
    /// It happens when this instant comes, unless an event comes first.
    Waiting(Option<Timestamp>),
    /// Failed, and tried again then.
    Retry(Timestamp),
    /// Over.
    Done(Json),
    /// Skipped by its condition.
    Skipped,
    /// Over.
    Failed(String),
}

impl At {
    fn is_settled(&self) -> bool {
        matches!(self, At::Done(_) | At::Skipped | At::Failed(_))
    }
}

/// One of the list of a step, or the step alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// The one of the list.
    pub value: Json,
    /// Where it stands.
    pub at: At,
    /// Attempts that were begun.
    pub attempts: u32,
    /// Since when.
    pub began_at: Timestamp,
    /// When it was settled.
    pub ended_at: Option<Timestamp>,
    /// Its place among those that are done.
    pub order: u32,
    /// Where its undoing stands.
    pub undo: Option<At>,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Where it stands.
    pub state: State,
    /// What it was given.
    pub input: BTreeMap<String, Json>,
    /// Steps that were opened.
    pub steps: BTreeMap<Slug, Vec<Item>>,
    /// Events that were heard of, each once.
    pub heard: BTreeMap<Slug, Json>,
    /// When it began.
    pub began_at: Timestamp,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// Whether a cancellation was requested.
    #[serde(rename = "called_off")]
    pub cancel_requested: bool,
    /// Why it failed.
    pub failure: Option<String>,
    /// What it gives.
    pub output: Option<Json>,
    done: u32,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Begin, and tell the run the handle.
    Begin(Box<Begin>),
    /// Call off; an end that came first stands.
    Cancel(Handle),
}

/// Something to be begun.
#[derive(Debug, Clone, PartialEq)]
pub struct Begin {
    /// Which step.
    pub step: Slug,
    /// Which of its list.
    pub index: usize,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// Whether it undoes the step.
    pub undo: bool,
    /// A task, a skill or an approval.
    pub act: Act,
    /// What it is given.
    pub data: Map<String, Json>,
}

impl Run {
    /// A run that begins, with an input that the workflow accepted.
    pub fn new(input: BTreeMap<String, Json>, now: Timestamp) -> Run {
        Run {
            state: State::Running,
            input,
            steps: BTreeMap::new(),
            heard: BTreeMap::new(),
            began_at: now,
            ended_at: None,
            cancel_requested: false,
            failure: None,
            output: None,
            done: 0,
        }
    }

    /// Remembers what was begun.
    pub fn bind(&mut self, begin: &Begin, handle: Handle) {
        if let Some(item) = self
            .steps
            .get_mut(&begin.step)
            .and_then(|items| items.get_mut(begin.index))
        {
            match begin.undo {
                true => item.undo = Some(At::Working(Some(handle))),
                false => item.at = At::Working(Some(handle)),
            }
        }
    }

    /// What was begun and is not known to be over.
    pub fn open(&self) -> Vec<Handle> {
        let items = self.steps.values().flatten();
        let places = items.flat_map(|item| [Some(&item.at), item.undo.as_ref()]);
        places
            .filter_map(|at| match at {
                Some(At::Working(handle)) => *handle,
                _ => None,
            })
            .collect()
    }

    /// The next instant at which something happens by itself.
    pub fn next(&self, workflow: &Workflow) -> Option<Timestamp> {
        if self.state.is_over() {
            return None;
        }
        let items = self.steps.values().flatten();
        let own = items.filter_map(|item| match item.at {
            At::Retry(at) | At::Waiting(Some(at)) => Some(at),
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
        !items.is_empty() && items.iter().all(|i| i.at == At::Skipped)
    }

    /// A value; null where there is none.
    fn value(&self, workflow: &Workflow, source: &Source, item: &Json) -> Json {
        match source {
            Source::Literal(value) => value.clone(),
            Source::Input(name) => self.input.get(name).cloned().unwrap_or_default(),
            Source::Item => item.clone(),
            Source::Step(step, field) => {
                let of = |item: &Item| match &item.at {
                    At::Done(output) => output.get(field).cloned().unwrap_or_default(),
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

    fn values(&self, workflow: &Workflow, with: &With, item: &Json) -> Map<String, Json> {
        let value =
            |(name, source): (&String, &Source)| (name.clone(), self.value(workflow, source, item));
        with.iter().map(value).collect()
    }
}

/// What a result lacks of what was declared.
fn lacking(expects: &BTreeMap<String, Type>, output: &Json) -> Option<String> {
    let wrong = |(name, of): (&String, &Type)| match output.get(name) {
        Some(value) if of.fits(value) => None,
        Some(_) => Some(format!("`{name}` is no {of}")),
        None => Some(format!("it has no `{name}`")),
    };
    let all: Vec<String> = expects.iter().filter_map(wrong).collect();
    (!all.is_empty()).then(|| format!("the result is not what was asked for: {}", all.join(", ")))
}

/// Brings a run as far as it goes by itself.
pub fn advance(
    workflow: &Workflow,
    run: &mut Run,
    facts: &dyn Fn(Handle) -> Fact,
    now: Timestamp,
) -> Vec<Effect> {
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
fn observe(workflow: &Workflow, run: &mut Run, facts: &dyn Fn(Handle) -> Fact, now: Timestamp) {
    let mut done = run.done;
    for (name, items) in &mut run.steps {
        let Some(step) = workflow.steps.get(name) else {
            continue;
        };
        for item in items {
            if let Some(At::Working(Some(handle))) = item.undo {
                match facts(handle) {
                    Fact::Open => {}
                    Fact::Done(value) => item.undo = Some(At::Done(value)),
                    Fact::Failed(why) => item.undo = Some(At::Failed(why)),
                }
            }
            let fact = match (&item.at, &step.act) {
                (At::Working(Some(handle)), _) => facts(*handle),
                (At::Waiting(until), Act::Event { name }) => match run.heard.get(name) {
                    Some(data) => Fact::Done(data.clone()),
                    None if until.is_some_and(|at| now >= at) => {
                        Fact::Failed(format!("`{name}` did not happen in time"))
                    }
                    None => Fact::Open,
                },
                (At::Waiting(Some(at)), _) if now >= *at => Fact::Done(Json::Object(Map::new())),
                _ => Fact::Open,
            };
            let failed = match fact {
                Fact::Open => continue,
                Fact::Failed(why) => Some(why),
                Fact::Done(output) => match lacking(&step.expects, &output) {
                    None => {
                        done += 1;
                        (item.at, item.order) = (At::Done(output), done);
                        item.ended_at = Some(now);
                        None
                    }
                    lacking => lacking,
                },
            };
            if let Some(why) = failed {
                let again = item.attempts <= step.retry;
                item.at = match again {
                    true => At::Retry(now + step.retry_after),
                    false => At::Failed(why),
                };
                item.ended_at = (!again).then_some(now);
            }
        }
    }
    run.done = done;
}

/// Why the run cannot go on.
fn broken(workflow: &Workflow, run: &Run, now: Timestamp) -> Option<String> {
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
            At::Failed(why) => Some(format!("step `{name}` failed: {why}")),
            _ => None,
        })
    })
    .next()
}

/// Cancels what is in progress; what is done is undone from now on.
fn start_undoing(run: &mut Run, now: Timestamp, effects: &mut Vec<Effect>) {
    run.state = State::Undoing;
    // What was to begin in this very pass never begins.
    effects.clear();
    for item in run.steps.values_mut().flatten() {
        if let At::Working(Some(handle)) = item.at {
            effects.push(Effect::Cancel(handle));
        }
        if !item.at.is_settled() {
            item.at = At::Failed("cancelled".to_owned());
            item.ended_at = Some(now);
        }
    }
}

/// Opens every step whose turn it is, and begins again what waits for that. Whether anything was opened.
fn open_steps(
    workflow: &Workflow,
    run: &mut Run,
    now: Timestamp,
    effects: &mut Vec<Effect>,
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
        let ready = |item: &Item| match item.at {
            At::Retry(at) => now >= at,
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
fn items(workflow: &Workflow, run: &Run, step: &Step, now: Timestamp) -> Vec<Item> {
    let item = |value: Json, at: At| Item {
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
        return vec![item(Json::Null, At::Skipped)];
    }
    let Some(each) = &step.each else {
        return vec![item(Json::Null, At::Retry(now))];
    };
    match run.value(workflow, each, &Json::Null) {
        Json::Array(list) if list.len() <= EACH_MAX => {
            let one = |value| item(value, At::Retry(now));
            list.into_iter().map(one).collect()
        }
        Json::Array(list) => {
            let why = format!("its list has {} entries, more than {EACH_MAX}", list.len());
            vec![item(Json::Null, At::Failed(why))]
        }
        // A step that was skipped or may fail has no list.
        Json::Null => vec![item(Json::Null, At::Skipped)],
        _ => vec![item(
            Json::Null,
            At::Failed("what it is to run for is no list".to_owned()),
        )],
    }
}

fn begin(
    workflow: &Workflow,
    run: &mut Run,
    (name, step): (&Slug, &Step),
    index: usize,
    now: Timestamp,
    effects: &mut Vec<Effect>,
) {
    let Some(item) = run.steps.get(name).and_then(|items| items.get(index)) else {
        return;
    };
    let attempt = item.attempts + 1;
    let data = run.values(workflow, &step.with, &item.value);
    let at = match &step.act {
        Act::Pause(time) => At::Waiting(Some(now + *time)),
        Act::Event { .. } => At::Waiting(step.within.map(|within| now + within)),
        act @ (Act::Task { .. } | Act::Skill { .. } | Act::Approval { .. }) => {
            effects.push(Effect::Begin(Box::new(Begin {
                step: name.clone(),
                index,
                attempt,
                undo: false,
                act: act.clone(),
                data,
            })));
            At::Working(None)
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
fn undo(workflow: &Workflow, run: &mut Run, effects: &mut Vec<Effect>) {
    let working = |item: &Item| matches!(item.undo, Some(At::Working(_)));
    if run.steps.values().flatten().any(working) {
        return;
    }
    let undone = |(name, items): (&Slug, &Vec<Item>)| {
        workflow.steps.get(name)?.undo.as_ref()?;
        let left = items.iter().enumerate();
        let left = left.filter(|(_, i)| matches!(i.at, At::Done(_)) && i.undo.is_none());
        let newest = left.max_by_key(|(_, i)| i.order)?;
        Some((newest.1.order, name.clone(), newest.0))
    };
    let newest = run.steps.iter().filter_map(undone).max();
    let Some((_, name, index)) = newest else {
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
    effects.push(Effect::Begin(Box::new(Begin {
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
        item.undo = Some(At::Working(None));
    }
}

#[cfg(test)]
mod tests;
