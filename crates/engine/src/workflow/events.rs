//! Events from outside, as a run judges them: one that is not what its steps wait for changes nothing.

use super::{StepAction, StepProgress, Workflow, WorkflowRun, WorkflowStep, lacking};
use abbey_model::Slug;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};

/// What a run makes of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventVerdict {
    /// Its data count from now on.
    Accepted,
    /// An event of this name counts already; the first one does.
    Known,
    /// No step that waits for it can use its data, for this reason.
    Ignored(String),
}

/// Outside events that a run took in.
pub(super) struct HeardEvents<'r> {
    pub(super) before: &'r BTreeMap<Slug, Json>,
    pub(super) events: &'r BTreeMap<Slug, Vec<Json>>,
}

impl<'r> HeardEvents<'r> {
    /// Data of the first event of this name that a step can use. One that only another step can use is none for it.
    pub(super) fn usable(&self, name: &Slug, step: &WorkflowStep) -> Option<&'r Json> {
        let events = self.events.get(name).map_or(&[][..], Vec::as_slice);
        let mut all = self.before.get(name).into_iter().chain(events);
        all.find(|data| lacking(&step.expects, data).is_none())
    }
}

impl WorkflowRun {
    /// Names of the outside events that were reported to the run and that a step could use.
    pub fn events_heard(&self) -> BTreeSet<&Slug> {
        self.heard_before.keys().chain(self.events.keys()).collect()
    }

    fn heard_events(&self) -> HeardEvents<'_> {
        HeardEvents {
            before: &self.heard_before,
            events: &self.events,
        }
    }

    /// Steps that wait for an event of this name, or will.
    fn listeners<'w>(&self, workflow: &'w Workflow, name: &Slug) -> Vec<&'w WorkflowStep> {
        let waits = |step: &Slug| {
            let items = self.steps.get(step);
            items.is_none_or(|items| items.iter().any(|i| !i.at.is_settled()))
        };
        let steps = workflow.steps.iter().filter(|(step, _)| waits(step));
        let listens =
            |step: &&WorkflowStep| matches!(&step.act, StepAction::Event { name: n } if n == name);
        steps.map(|(_, step)| step).filter(listens).collect()
    }

    /// Whether an event of this name could still change anything: a step waits for it or will, and none came that the
    /// step can use.
    pub fn awaits_event(&self, workflow: &Workflow, name: &Slug) -> bool {
        let heard = self.heard_events();
        let listeners = self.listeners(workflow, name);
        listeners.iter().any(|s| heard.usable(name, s).is_none())
    }

    /// Judges an event without changing the run.
    pub fn judge_event(&self, workflow: &Workflow, name: &Slug, data: &Json) -> EventVerdict {
        let listeners = self.listeners(workflow, name);
        let missing: Vec<String> = listeners
            .iter()
            .filter_map(|step| lacking(&step.expects, data))
            .collect();
        if let Some(why) = missing.first().filter(|_| missing.len() == listeners.len()) {
            return EventVerdict::Ignored(why.clone());
        }
        let heard = self.heard_events();
        let helps = |step: &&WorkflowStep| {
            heard.usable(name, step).is_none() && lacking(&step.expects, data).is_none()
        };
        match listeners.iter().any(helps) || !self.events_heard().contains(name) {
            true => EventVerdict::Accepted,
            false => EventVerdict::Known,
        }
    }

    /// Takes an event in and returns what was made of it. The reason of an ignored one is kept for who asks.
    pub fn hear(&mut self, workflow: &Workflow, name: Slug, data: Json) -> EventVerdict {
        let verdict = self.judge_event(workflow, &name, &data);
        match &verdict {
            EventVerdict::Accepted => {
                self.ignored.remove(&name);
                self.events.entry(name).or_default().push(data);
            }
            EventVerdict::Known => {}
            EventVerdict::Ignored(why) => drop(self.ignored.insert(name, why.clone())),
        }
        verdict
    }

    /// Steps that were done and could not be undone, each with its index in the list of items and the reason. What they
    /// did is still there, so a person must look after it.
    pub fn failed_undos(&self) -> Vec<(&Slug, usize, &str)> {
        let items = self.steps.iter().flat_map(|(step, items)| {
            let items = items.iter().enumerate();
            items.map(move |(index, item)| (step, index, item))
        });
        let failed = items.filter_map(|(step, index, item)| match &item.undo {
            Some(StepProgress::Failed(why)) => Some((step, index, why.as_str())),
            _ => None,
        });
        failed.collect()
    }

    /// What could not be undone, as one clause; none if nothing failed.
    pub fn incident(&self) -> Option<String> {
        let failed = self.failed_undos();
        let clauses: Vec<String> = failed
            .iter()
            .map(|(step, index, why)| {
                let several = self.steps.get(*step).is_some_and(|items| items.len() > 1);
                match several {
                    true => format!("step `{step}` [{index}] could not be undone: {why}"),
                    false => format!("step `{step}` could not be undone: {why}"),
                }
            })
            .collect();
        (!clauses.is_empty()).then(|| clauses.join("; "))
    }
}
