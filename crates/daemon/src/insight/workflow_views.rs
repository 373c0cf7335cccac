//! Workflows and their runs as API documents.

use crate::work::state::WorkState;
use crate::work::workflows::workflow_digest;
use abbey_api::{
    DeclaredDoc, DeclaredStep, DeclaredView, StepKind, StepState, StepView, Time, VERSION,
    WorkflowState, WorkflowView,
};
use abbey_engine::workflow::{
    InputField, State, StepAction, StepProgress, WorkHandle, Workflow, WorkflowStep,
};
use abbey_model::Slug;
use abbey_plan::Mistake;
use abbey_store::WorkflowRow;
use serde_json::Value;
use std::collections::BTreeMap;

/// Workflows of the plan in force as an API document; empty before the first plan.
pub(crate) fn declared_workflows(work: &WorkState) -> DeclaredDoc {
    let current = work.core.plan.current();
    current.map_or_else(
        || declared_doc(&BTreeMap::new()),
        |c| declared_doc(&c.house.workflows),
    )
}

/// Workflows that a manifest declares as an API document, after checking the whole manifest.
///
/// # Errors
/// Every mistake of the manifest with its position.
pub fn parse_declared_workflows(manifest: &str) -> Result<DeclaredDoc, Vec<Mistake>> {
    abbey_plan::parse(manifest).map(|house| declared_doc(&house.workflows))
}

fn declared_doc(workflows: &BTreeMap<Slug, Workflow>) -> DeclaredDoc {
    let all = workflows.iter();
    DeclaredDoc {
        version: VERSION,
        workflows: all
            .map(|(name, workflow)| declared_view(name, workflow))
            .collect(),
        cursor: None,
    }
}

fn declared_view(name: &Slug, workflow: &Workflow) -> DeclaredView {
    let field = |(name, field): (&String, &InputField)| {
        let mark = if field.default.is_some() { "?" } else { "" };
        (name.clone(), format!("{}{mark}", field.of))
    };
    let step = |(name, step): (&Slug, &WorkflowStep)| DeclaredStep {
        name: name.to_string(),
        kind: step_kind(&step.act),
        about: describe_step(step),
        needs: step.needs.iter().map(ToString::to_string).collect(),
    };
    DeclaredView {
        name: name.to_string(),
        digest: workflow_digest(workflow),
        input: workflow.input.iter().map(field).collect(),
        steps: workflow.steps.iter().map(step).collect(),
        warnings: abbey_plan::workflow_warnings(workflow),
    }
}

/// One line that describes a step: agent and text, skill, question, event, or pause.
fn describe_step(step: &WorkflowStep) -> String {
    let who = |agent: &Option<Slug>| match agent {
        Some(agent) => format!("{agent}: "),
        None => String::new(),
    };
    let act = match &step.act {
        StepAction::Task { agent, text } => format!("{}{text}", who(agent)),
        StepAction::Skill { agent, skill } => format!("{}{skill}", who(agent)),
        StepAction::Approval { ask, .. } => ask.clone(),
        StepAction::Event { name } => name.to_string(),
        StepAction::Pause(time) => time.human(),
    };
    let first = act.lines().next().unwrap_or_default();
    match step.each.is_some() {
        true => format!("for each: {first}"),
        false => first.to_owned(),
    }
}

const fn step_kind(act: &StepAction) -> StepKind {
    match act {
        StepAction::Task { .. } => StepKind::Task,
        StepAction::Skill { .. } => StepKind::Skill,
        StepAction::Approval { .. } => StepKind::Approval,
        StepAction::Event { .. } => StepKind::Event,
        StepAction::Pause(_) => StepKind::Pause,
    }
}

const fn run_state(state: State) -> WorkflowState {
    match state {
        State::Running => WorkflowState::Running,
        State::Undoing => WorkflowState::Undoing,
        State::Done => WorkflowState::Done,
        State::Failed => WorkflowState::Failed,
        State::Cancelled => WorkflowState::Cancelled,
    }
}

const fn step_state(at: &StepProgress) -> StepState {
    match at {
        StepProgress::Working(_) => StepState::Working,
        StepProgress::Waiting(_) => StepState::Waiting,
        StepProgress::Retry(_) => StepState::Retry,
        StepProgress::Done(_) => StepState::Done,
        StepProgress::Skipped => StepState::Skipped,
        StepProgress::Failed(_) => StepState::Failed,
    }
}

/// A workflow run of the store as an API document, with the state of each step.
pub(crate) fn workflow_run_view(work: &WorkState, row: &WorkflowRow) -> WorkflowView {
    let run = &row.run;
    let mut steps = Vec::new();
    for (name, step) in &row.workflow.steps {
        let items = run.steps.get(name).map_or(&[][..], Vec::as_slice);
        let blank = StepView {
            step: name.to_string(),
            index: 0,
            kind: step_kind(&step.act),
            needs: step.needs.iter().map(ToString::to_string).collect(),
            state: StepState::NotStarted,
            began: None,
            event: None,
            until: None,
            attempts: 0,
            result: None,
            undo: None,
        };
        if items.is_empty() && !run.steps.contains_key(name) {
            steps.push(blank.clone());
        }
        for (index, item) in items.iter().enumerate() {
            steps.push(StepView {
                index: u32::try_from(index).unwrap_or(u32::MAX),
                state: step_state(&item.at),
                began: match item.at {
                    StepProgress::Working(Some(WorkHandle::Task(n))) => Some(format!("TASK-{n}")),
                    StepProgress::Working(Some(WorkHandle::Approval(n))) => {
                        Some(format!("APPR-{n}"))
                    }
                    _ => None,
                },
                event: match (&item.at, &step.act) {
                    (StepProgress::Waiting(_), StepAction::Event { name }) => {
                        Some(name.to_string())
                    }
                    _ => None,
                },
                until: match item.at {
                    StepProgress::Waiting(until) => until.map(Time),
                    StepProgress::Retry(at) => Some(Time(at)),
                    _ => None,
                },
                attempts: item.attempts,
                result: match &item.at {
                    StepProgress::Done(output) => Some(output.clone()),
                    StepProgress::Failed(why) => Some(Value::String(why.clone())),
                    _ => None,
                },
                undo: item.undo.as_ref().map(step_state),
                ..blank.clone()
            });
        }
    }
    let current = work.core.plan.current();
    let declared = current.as_ref().and_then(|c| {
        c.house
            .workflows
            .iter()
            .find(|(n, _)| n.as_str() == row.name)
    });
    WorkflowView {
        id: format!("WF-{}", row.number),
        workflow: row.name.clone(),
        digest: row.digest.clone(),
        changed: declared.is_none_or(|(_, w)| workflow_digest(w) != row.digest),
        state: run_state(run.state),
        by: row.by.to_string(),
        trace: work.traces.trace_of_workflow(row.number),
        input: run.input.clone(),
        steps,
        heard: run
            .events_heard()
            .into_iter()
            .map(ToString::to_string)
            .collect(),
        ignored: run
            .ignored
            .iter()
            .map(|(name, why)| (name.to_string(), why.clone()))
            .collect(),
        incident: run.incident(),
        failure: run.failure.clone(),
        output: run.output.clone(),
        next_at: row.next_at.filter(|_| !run.state.is_over()).map(Time),
        began_at: row.created_at.into(),
        ended_at: run.ended_at.map(Time),
    }
}
