//! Workflows as documents.

use crate::boot::house::House;
use crate::work::workflows::digest;
use abbey_api::{DeclaredDoc, DeclaredStep, DeclaredView, StepView, Time, VERSION, WorkflowView};
use abbey_engine::workflow::{Act, At, Field, Handle, Step, Workflow};
use abbey_model::Slug;
use abbey_plan::Mistake;
use abbey_store::WorkflowRow;
use serde_json::Value;
use std::collections::BTreeMap;

/// What is declared in the plan that is in force.
pub(crate) fn declared(house: &House) -> DeclaredDoc {
    let current = house.current();
    current.map_or_else(|| of(&BTreeMap::new()), |c| of(&c.house.workflows))
}

/// What a manifest declares, checked whole.
///
/// # Errors
/// Every mistake of the manifest, with its place.
pub fn declared_in(manifest: &str) -> Result<DeclaredDoc, Vec<Mistake>> {
    abbey_plan::parse(manifest).map(|house| of(&house.workflows))
}

fn of(workflows: &BTreeMap<Slug, Workflow>) -> DeclaredDoc {
    let all = workflows.iter();
    DeclaredDoc {
        version: VERSION,
        workflows: all.map(|(name, workflow)| one(name, workflow)).collect(),
    }
}

fn one(name: &Slug, workflow: &Workflow) -> DeclaredView {
    let field = |(name, field): (&String, &Field)| {
        let mark = if field.default.is_some() { "?" } else { "" };
        (name.clone(), format!("{}{mark}", field.of))
    };
    let step = |(name, step): (&Slug, &Step)| DeclaredStep {
        name: name.to_string(),
        kind: step.act.kind().to_owned(),
        about: about(step),
        needs: step.needs.iter().map(ToString::to_string).collect(),
    };
    DeclaredView {
        name: name.to_string(),
        digest: digest(workflow),
        input: workflow.input.iter().map(field).collect(),
        steps: workflow.steps.iter().map(step).collect(),
    }
}

fn about(step: &Step) -> String {
    let who = |agent: &Option<Slug>| match agent {
        Some(agent) => format!("{agent}: "),
        None => String::new(),
    };
    let act = match &step.act {
        Act::Task { agent, text } => format!("{}{text}", who(agent)),
        Act::Skill { agent, skill } => format!("{}{skill}", who(agent)),
        Act::Approval { ask, .. } => ask.clone(),
        Act::Event { name } => name.to_string(),
        Act::Pause(time) => format!("{} s", time.0 / 1000),
    };
    let first = act.lines().next().unwrap_or_default();
    match step.each.is_some() {
        true => format!("for each: {first}"),
        false => first.to_owned(),
    }
}

fn word(at: &At) -> &'static str {
    match at {
        At::Working(_) => "working",
        At::Waiting(_) => "waiting",
        At::Retry(_) => "retry",
        At::Done(_) => "done",
        At::Skipped => "skipped",
        At::Failed(_) => "failed",
    }
}

/// One run as it stands.
pub(crate) fn run(house: &House, row: &WorkflowRow) -> WorkflowView {
    let run = &row.run;
    let mut steps = Vec::new();
    for (name, step) in &row.workflow.steps {
        let items = run.steps.get(name).map_or(&[][..], Vec::as_slice);
        let blank = StepView {
            step: name.to_string(),
            index: 0,
            kind: step.act.kind().to_owned(),
            needs: step.needs.iter().map(ToString::to_string).collect(),
            state: "not_started".to_owned(),
            began: None,
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
                state: word(&item.at).to_owned(),
                began: match item.at {
                    At::Working(Some(Handle::Task(n))) => Some(format!("TASK-{n}")),
                    At::Working(Some(Handle::Approval(n))) => Some(format!("APPR-{n}")),
                    _ => None,
                },
                attempts: item.attempts,
                result: match &item.at {
                    At::Done(output) => Some(output.clone()),
                    At::Failed(why) => Some(Value::String(why.clone())),
                    _ => None,
                },
                undo: item.undo.as_ref().map(|u| word(u).to_owned()),
                ..blank.clone()
            });
        }
    }
    let current = house.current();
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
        changed: declared.is_none_or(|(_, w)| digest(w) != row.digest),
        state: run.state.name().to_owned(),
        by: row.by.to_string(),
        trace: house.traces.workflow(row.number),
        input: run.input.clone(),
        steps,
        heard: run.heard.keys().map(ToString::to_string).collect(),
        failure: run.failure.clone(),
        output: run.output.clone(),
        next_at: row.next_at.filter(|_| !run.state.is_over()).map(Time),
        began_at: row.created_at.into(),
        ended_at: run.ended_at.map(Time),
    }
}
