//! Runs of workflows.

use super::Intake;
use abbey_engine::workflow::Workflow;
use abbey_model::{Principal, Slug, Timestamp};
use serde_json::Value;
use std::collections::BTreeMap;

/// A run of a workflow to start.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Name of the workflow.
    pub name: String,
    /// Declaration that the run follows, also when the manifest changes later.
    pub workflow: Workflow,
    /// Digest of the declaration.
    pub digest: String,
    /// Input by field.
    pub input: BTreeMap<String, Value>,
    /// Principal that starts it.
    pub by: Principal,
    /// Idempotency key: the same key starts the same run.
    pub key: Option<String>,
}

/// Outside signal to a workflow run.
#[derive(Debug, Clone)]
pub enum WorkflowSignal {
    /// Nothing: something that it waits for may be over.
    Refresh,
    /// A cancellation, with who asks for it.
    Cancel(Principal),
    /// An event that steps may wait for.
    Event {
        /// Name of the event.
        name: Slug,
        /// Data of the event.
        data: Value,
        /// Principal that reports it.
        by: Principal,
    },
}

/// Gives the facts for admission of a task that a run begins.
pub type Intakes = Box<dyn Fn(&abbey_engine::workflow::StepStart) -> Intake + Send>;

/// A stored run of a workflow.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkflowRow {
    /// Number: `WF-3`.
    pub number: u64,
    /// Name of the workflow.
    pub name: String,
    /// Digest of the declaration that it follows.
    pub digest: String,
    /// Declaration that it follows.
    pub workflow: Workflow,
    /// State of the run and its steps.
    pub run: abbey_engine::workflow::WorkflowRun,
    /// Principal that started it.
    pub by: Principal,
    /// Next instant at which it can be advanced without anything from outside.
    pub next_at: Option<Timestamp>,
    /// Instant of its start.
    pub created_at: Timestamp,
}
