//! Documents of shared work: delegation, the org chart, approvals, schedules. Keys may be added, none removed or
//! renamed.

use crate::views::documents;
use crate::{TaskView, Time};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

documents! {
    /// `abbey report NAME`.
    ReportDoc {
        /// Always 1.
        version: u32,
        /// Which report.
        name: String,
        /// When it was made.
        at: Time,
        /// Language of its texts.
        language: String,
        /// What probes and rows say; empty when the probe failed.
        observed: Vec<Observation>,
        /// What that means: `info`, `warn` or `error`. No advice.
        interpretation: Vec<Finding>,
        /// What an operator might do: `note` or `action`, always conditional.
        notes: Vec<Finding>,
    }
    /// `abbey report`.
    ReportsDoc {
        /// Always 1.
        version: u32,
        /// Every report, with what it is about.
        reports: Vec<Observation>,
    }
    /// One thing that was seen.
    Observation {
        /// What.
        label: String,
        /// How it is.
        value: String,
    }
    /// One conclusion or piece of advice.
    Finding {
        /// How serious, or what it is.
        kind: String,
        /// In words.
        text: String,
    }
    /// Where a piece of work hangs.
    LinkView {
        /// `TASK-12` that it is a piece of.
        parent: Option<String>,
        /// `TASK-11` that was asked first; all of it is charged to that.
        root: String,
        /// Who gave it on, in order.
        chain: Vec<String>,
        /// Fields that the result must have.
        expects: Vec<String>,
        /// Who gets the result: `kept`, or `agent:NAME`.
        deliver: String,
        /// When it is too late.
        due_at: Option<Time>,
        /// The step of a workflow that it does or is a piece of, as `WF-3/build`.
        step: Option<String>,
        /// What was given along, as data.
        data: serde_json::Map<String, Value>,
        /// What must hold before it counts as done.
        #[serde(default)]
        evidence: Vec<crate::EvidenceView>,
    }
    /// Work given to somebody by name.
    DelegateBody {
        /// To whom.
        to: String,
        /// What is to be done.
        text: String,
        /// Fields that the result's `data` must have.
        #[serde(default)]
        expects: Vec<String>,
        /// Time for all of it, milliseconds.
        #[serde(default)]
        deadline_ms: Option<i64>,
        /// Who gets the result: `agent:NAME`, `me`, or `kept` (the default).
        #[serde(default)]
        deliver: Option<String>,
        /// Most tokens over all runs.
        #[serde(default)]
        tokens: Option<u64>,
        /// Task that this is a piece of; agents name the one whose lease they show.
        #[serde(default)]
        task: Option<String>,
    }
    /// A task with everything that hangs on it, depth first.
    TreeDoc {
        /// Always 1.
        version: u32,
        /// The task itself comes first.
        rows: Vec<TreeRow>,
    }
    /// One of them.
    TreeRow {
        /// Distance from the first.
        depth: u32,
        /// The task.
        task: TaskView,
    }
    /// A question for a yes, by the holder of a task.
    ApprovalBody {
        /// The task.
        task: String,
        /// What is to be done, in a word.
        action: String,
        /// With what exactly; the yes is for this and nothing else.
        #[serde(default)]
        args: Value,
        /// Why.
        #[serde(default)]
        why: String,
        /// Time for an answer, milliseconds; a day when not given. Silence is a no.
        #[serde(default)]
        within_ms: Option<i64>,
    }
    /// A yes that is used now.
    UseBody {
        /// For what.
        action: String,
        /// With what exactly.
        #[serde(default)]
        args: Value,
    }
    /// What somebody decides.
    DecideBody {
        /// For the one who asked.
        #[serde(default)]
        note: Option<String>,
    }
    /// `abbey approvals`.
    ApprovalsDoc {
        /// Always 1.
        version: u32,
        /// Newest first.
        approvals: Vec<ApprovalView>,
    }
    /// One approval.
    ApprovalView {
        /// `APPR-7`.
        id: String,
        /// The task that needs it, or the run of a workflow, as `WF-3`.
        task: String,
        /// Who asks; of a workflow, its step.
        agent: String,
        /// What is to be done.
        action: String,
        /// With what exactly.
        args: Value,
        /// Digest of both.
        hash: String,
        /// Why.
        why: String,
        /// `pending`, `approved`, `denied`, `revise`, `used` or `lapsed`.
        state: String,
        /// What silence means: `approve` or `deny`.
        silence: String,
        /// When silence is taken for an answer.
        expires_at: Time,
        /// Who decided.
        decided_by: Option<String>,
        /// What they said.
        note: Option<String>,
        /// When it was asked.
        created_at: Time,
        /// When it was decided.
        decided_at: Option<Time>,
    }
    /// `abbey schedule list`.
    SchedulesDoc {
        /// Always 1.
        version: u32,
        /// Every schedule of the house.
        schedules: Vec<ScheduleView>,
    }
    /// A schedule with what it did.
    ScheduleDoc {
        /// Always 1.
        version: u32,
        /// The schedule.
        schedule: ScheduleView,
        /// Newest first.
        history: Vec<ScheduleLineView>,
    }
    /// One schedule.
    ScheduleView {
        /// `AGENT/NAME`.
        name: String,
        /// Whose work it is.
        agent: String,
        /// When it fires, as it was written.
        when: String,
        /// What is to be done; of a workflow, its name.
        task: String,
        /// Whether that starts a workflow.
        workflow: bool,
        /// When the one before is not over.
        overlap: String,
        /// What of the missed ones fires.
        catch_up: String,
        /// Its next instant.
        next_at: Option<Time>,
        /// Instants that fired.
        fired: u64,
        /// Instants at which the one before was in the way.
        skipped: u64,
        /// Instants that passed while nobody looked, and did not fire.
        missed: u64,
        /// The newest task, or the newest run of a workflow.
        last_task: Option<String>,
    }
    /// One instant of a schedule.
    ScheduleLineView {
        /// When it was to fire.
        instant: Time,
        /// When it did.
        at: Time,
        /// What came of it.
        outcome: String,
        /// `TASK-12`.
        task: Option<String>,
    }
    /// The org chart, with what is declared beside it and what follows.
    OrgDoc {
        /// Always 1.
        version: u32,
        /// Everybody, a superior before those below.
        agents: Vec<OrgRow>,
        /// What follows from the edges.
        findings: Vec<String>,
    }
    /// One agent's place.
    OrgRow {
        /// Slug.
        name: String,
        /// What it is for.
        role: String,
        /// Who is above; the operator is above all.
        reports_to: Option<String>,
        /// Distance from the operator.
        depth: u32,
        /// Whom it may give work to.
        delegates_to: Vec<String>,
        /// Whom it may ask something.
        #[serde(default)]
        asks: Vec<String>,
        /// Whom its work can reach by being given on.
        reaches: Vec<String>,
        /// Declared relations by kind; no right comes of them.
        relations: std::collections::BTreeMap<String, Vec<String>>,
    }
    /// `abbey workflow check`: what is declared.
    DeclaredDoc {
        /// Always 1.
        version: u32,
        /// Every workflow of the house.
        workflows: Vec<DeclaredView>,
    }
    /// One workflow as it is declared.
    DeclaredView {
        /// Its name.
        name: String,
        /// Digest of the declaration; a run keeps the one that it began with.
        digest: String,
        /// Its input: name to type, with `?` where it has a default.
        input: std::collections::BTreeMap<String, String>,
        /// Its steps.
        steps: Vec<DeclaredStep>,
    }
    /// One step as it is declared.
    DeclaredStep {
        /// Its name.
        name: String,
        /// `task`, `skill`, `approval`, `event` or `pause`.
        kind: String,
        /// What it does, in a line.
        about: String,
        /// Steps that come before.
        needs: Vec<String>,
    }
    /// A run of a workflow is asked for.
    RunWorkflowBody {
        /// What it is given.
        #[serde(default)]
        input: std::collections::BTreeMap<String, Value>,
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
        state: String,
        /// Who started it.
        by: String,
        /// Trace of all that came of it; 32 hexadecimal digits.
        trace: String,
        /// What it was given.
        input: std::collections::BTreeMap<String, Value>,
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
        kind: String,
        /// Steps that come before.
        needs: Vec<String>,
        /// `not_started`, `working`, `waiting`, `retry`, `done`, `skipped` or `failed`.
        state: String,
        /// `TASK-12` or `APPR-4` while that goes on.
        began: Option<String>,
        /// Attempts that were begun.
        attempts: u32,
        /// What came of it, or why nothing did.
        result: Option<Value>,
        /// Where its undoing stands.
        undo: Option<String>,
    }
}
