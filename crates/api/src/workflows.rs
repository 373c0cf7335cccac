//! Workflows, their runs, and events.

use crate::headers::IdempotencyKey;
use crate::macros::{documents, operations, queries, requests};
use crate::tasks::WaitQuery;
use crate::time::Time;
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
    /// Workflows of the house, as declared.
    DeclaredDoc {
        /// Always 1.
        version: u32,
        /// Every workflow of the house.
        workflows: Vec<DeclaredView>,
        /// Names the next page; absent on the last one.
        #[serde(default)]
        cursor: Option<String>,
    }
    /// A workflow as declared.
    DeclaredView {
        /// Name of the workflow.
        name: String,
        /// Digest of the declaration; a run keeps the one that it started with.
        digest: String,
        /// Inputs: name to type, with `?` where there is a default.
        input: BTreeMap<String, String>,
        /// Its steps.
        steps: Vec<DeclaredStep>,
        /// What is allowed in it, but cannot do what its author meant.
        #[serde(default)]
        warnings: Vec<String>,
    }
    /// A step as declared.
    DeclaredStep {
        /// Name of the step.
        name: String,
        /// Kind of the step.
        kind: StepKind,
        /// What it does, in one line.
        about: String,
        /// Steps that come before it.
        needs: Vec<String>,
    }
    /// What an event led to.
    HeardDoc {
        /// Always 1.
        version: u32,
        /// Runs that it was delivered to, as `WF-3`.
        told: Vec<String>,
        /// Runs that it started, as `WF-4`.
        started: Vec<String>,
        /// Runs that wait for an event of this name and cannot use its data.
        #[serde(default)]
        ignored: Vec<IgnoredEventView>,
    }
    /// A run that ignored an event.
    IgnoredEventView {
        /// The run, as `WF-3`.
        run: String,
        /// Why it ignored the event.
        why: String,
    }
    /// A page of runs of workflows.
    WorkflowsDoc {
        /// Always 1.
        version: u32,
        /// Runs, newest first.
        runs: Vec<WorkflowView>,
        /// Names the next page; absent on the last one.
        #[serde(default)]
        cursor: Option<String>,
    }
    /// A run of a workflow.
    WorkflowDoc {
        /// Always 1.
        version: u32,
        /// The run.
        run: WorkflowView,
    }
    /// A run of a workflow and its steps.
    WorkflowView {
        /// Number, as `WF-3`.
        id: String,
        /// Name of the workflow.
        workflow: String,
        /// Digest of the declaration that it follows.
        digest: String,
        /// Whether the workflow is declared differently now.
        changed: bool,
        /// State of the run.
        state: WorkflowState,
        /// Principal that started it.
        by: String,
        /// Trace of everything that came of it; 32 hexadecimal digits.
        trace: String,
        /// Inputs by name.
        input: BTreeMap<String, Value>,
        /// Steps, including those that have not started.
        steps: Vec<StepView>,
        /// Events that it received.
        heard: Vec<String>,
        /// Why the last event of a name was ignored; the run waits on.
        #[serde(default)]
        ignored: BTreeMap<String, String>,
        /// What was done and could not be undone, so that a person must look after it.
        #[serde(default)]
        incident: Option<String>,
        /// Why it failed.
        failure: Option<String>,
        /// Output, once it is done.
        output: Option<Value>,
        /// Next instant at which it advances without an outside event.
        next_at: Option<Time>,
        /// When it started.
        began_at: Time,
        /// When it ended.
        ended_at: Option<Time>,
    }
    /// A step of a run; one for each item where the step has a list.
    StepView {
        /// Name of the step.
        step: String,
        /// Index in the list of items.
        index: u32,
        /// Kind of the step.
        kind: StepKind,
        /// Steps that come before it.
        needs: Vec<String>,
        /// State of the step.
        state: StepState,
        /// Open task or approval, as `TASK-12` or `APPR-4`.
        began: Option<String>,
        /// Event that it waits for.
        #[serde(default)]
        event: Option<String>,
        /// When its wait for an event or its pause is over, or its next attempt begins.
        #[serde(default)]
        until: Option<Time>,
        /// Attempts that were started.
        attempts: u32,
        /// Output, or why it failed.
        result: Option<Value>,
        /// State of undoing it.
        undo: Option<StepState>,
    }
}

requests! {
    /// Request for a run of a workflow.
    RunWorkflowBody {
        /// Inputs by name.
        #[serde(default)]
        input: BTreeMap<String, Value>,
    }
    /// An event.
    EventBody {
        /// Data of the event.
        #[serde(default)]
        data: Value,
        /// Run that the event is for, as `WF-3`; when not given, every run that waits for it and every workflow that starts at it.
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
