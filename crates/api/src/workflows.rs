//! Workflows, their runs, and events.

use crate::Time;
use crate::headers::IdempotencyKey;
use crate::macros::{documents, operations, queries, requests};
use crate::tasks::WaitQuery;
use abbey_model::words;
use serde_json::Value;
use std::collections::BTreeMap;

words! {
    /// State of a run of a workflow.
    WorkflowState {
        /// Steps are being done.
        Running = "running",
        /// Steps that were done are being undone.
        Undoing = "undoing",
        /// Every step is settled.
        Done = "done",
        /// A step failed, or the time was up.
        Failed = "failed",
        /// It was cancelled.
        Cancelled = "cancelled",
    }
}

words! {
    /// Kind of a step.
    StepKind {
        /// An agent does a task.
        Task = "task",
        /// A skill runs.
        Skill = "skill",
        /// A person decides.
        Approval = "approval",
        /// It waits for an event.
        Event = "event",
        /// It waits for some time.
        Pause = "pause",
    }
}

words! {
    /// State of a step.
    StepState {
        /// Steps before it are not settled.
        NotStarted = "not_started",
        /// Its task, skill or approval is open.
        Working = "working",
        /// Waiting for an event or an instant.
        Waiting = "waiting",
        /// Waiting for its next attempt.
        Retry = "retry",
        /// Done.
        Done = "done",
        /// Skipped, as its condition did not hold.
        Skipped = "skipped",
        /// Failed.
        Failed = "failed",
    }
}

documents! {
    /// `abbey workflow check`: what is declared.
    DeclaredDoc {
        /// Always 1.
        version: u32,
        /// Every workflow of the house.
        workflows: Vec<DeclaredView>,
        /// Names the next page; absent on the last one.
        #[serde(default)]
        cursor: Option<String>,
    }
    /// One workflow as it is declared.
    DeclaredView {
        /// Its name.
        name: String,
        /// Digest of the declaration; a run keeps the one that it began with.
        digest: String,
        /// Its input: name to type, with `?` where it has a default.
        input: BTreeMap<String, String>,
        /// Its steps.
        steps: Vec<DeclaredStep>,
    }
    /// One step as it is declared.
    DeclaredStep {
        /// Its name.
        name: String,
        /// `task`, `skill`, `approval`, `event` or `pause`.
        kind: StepKind,
        /// What it does, in a line.
        about: String,
        /// Steps that come before.
        needs: Vec<String>,
    }
    /// Runs that heard of an event or began with it.
    HeardDoc {
        /// Always 1.
        version: u32,
        /// `WF-3`.
        told: Vec<String>,
        /// `WF-4`.
        started: Vec<String>,
    }
    /// `abbey workflow list`.
    WorkflowsDoc {
        /// Always 1.
        version: u32,
        /// Runs, newest first.
        runs: Vec<WorkflowView>,
        /// Names the next page; absent on the last one.
        #[serde(default)]
        cursor: Option<String>,
    }
    /// `abbey workflow show`.
    WorkflowDoc {
        /// Always 1.
        version: u32,
        /// The run.
        run: WorkflowView,
    }
    /// A run of a workflow.
    WorkflowView {
        /// `WF-3`.
        id: String,
        /// Name of the workflow.
        workflow: String,
        /// Digest of the declaration that it follows.
        digest: String,
        /// Whether the workflow is declared otherwise by now.
        changed: bool,
        /// `running`, `undoing`, `done`, `failed` or `cancelled`.
        state: WorkflowState,
        /// Who started it.
        by: String,
        /// Trace of all that came of it; 32 hexadecimal digits.
        trace: String,
        /// What it was given.
        input: BTreeMap<String, Value>,
        /// Its steps, those that were not reached included.
        steps: Vec<StepView>,
        /// Events that it heard of.
        heard: Vec<String>,
        /// Why it failed.
        failure: Option<String>,
        /// What it gives.
        output: Option<Value>,
        /// When something happens by itself.
        next_at: Option<Time>,
        /// When it began.
        began_at: Time,
        /// When it was over.
        ended_at: Option<Time>,
    }
    /// One step of a run; one for each of its list, where it has one.
    StepView {
        /// Its name.
        step: String,
        /// Its place in the list.
        index: u32,
        /// `task`, `skill`, `approval`, `event` or `pause`.
        kind: StepKind,
        /// Steps that come before.
        needs: Vec<String>,
        /// `not_started`, `working`, `waiting`, `retry`, `done`, `skipped` or `failed`.
        state: StepState,
        /// `TASK-12` or `APPR-4` while that goes on.
        began: Option<String>,
        /// Attempts that were begun.
        attempts: u32,
        /// What came of it, or why nothing did.
        result: Option<Value>,
        /// Where its undoing stands.
        undo: Option<StepState>,
    }
}

requests! {
    /// A run of a workflow is asked for.
    RunWorkflowBody {
        /// What it is given.
        #[serde(default)]
        input: BTreeMap<String, Value>,
    }
    /// Something happened.
    EventBody {
        /// What is known of it.
        #[serde(default)]
        data: Value,
        /// `WF-3`: only this run is told. Otherwise every run that waits for it, and every workflow that starts at
        /// it.
        #[serde(default)]
        run: Option<String>,
    }
}

queries! {
    /// Which runs to list.
    WorkflowRunsQuery {
        /// Only runs that are not over.
        open: Option<bool>,
        /// Most rows of one page.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<u32>,
        /// `cursor` of the page before.
        cursor: Option<String>,
    }
    /// Which workflows to list.
    DeclaredQuery {
        /// Most rows of one page.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<u32>,
        /// `cursor` of the page before.
        cursor: Option<String>,
    }
}

operations! {
    /// Workflows: `client.workflows()`.
    WorkflowsClient {
        /// Every workflow as it is declared.
        GET "/api/v1/workflows" list() [query DeclaredQuery] -> json(DeclaredDoc);
        /// Starts a run.
        POST "/api/v1/workflows/{workflow}/runs" start(workflow) [body RunWorkflowBody] [header key: Option<IdempotencyKey>] -> json(WorkflowDoc);
        /// Runs of workflows, newest first.
        GET "/api/v1/workflow-runs" runs() [query WorkflowRunsQuery] -> json(WorkflowsDoc);
        /// One run; `wait_ms` waits for its end.
        GET "/api/v1/workflow-runs/{run}" run(run) [query WaitQuery] -> json(WorkflowDoc);
        /// Cancels a run; steps that were done are undone.
        POST "/api/v1/workflow-runs/{run}/cancel" cancel(run) -> json(WorkflowDoc);
        /// Reports an event: runs that wait for it go on, workflows that start at it start.
        POST "/api/v1/events/{event}" report_event(event) [body EventBody] [header key: Option<IdempotencyKey>] -> json(HeardDoc);
    }
}
