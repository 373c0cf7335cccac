//! Tasks and their runs.

use crate::Time;
use crate::evidence::EvidenceView;
use crate::headers::{IdempotencyKey, IfMatch};
use crate::macros::{documents, operations, queries, requests};
use abbey_model::words;
use abbey_model::{EndReason, Priority, ResultSource, RunState, TaskState};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

words! {
    /// What stands behind a finished task.
    Verification {
        /// A deterministic program ended with 0.
        Skill = "skill",
        /// Declared evidence was checked.
        Evidence = "evidence",
        /// The agent's word alone.
        None = "none",
        /// Declared evidence could not be checked.
        Unverified = "unverified",
    }
}

words! {
    /// Where the number of tokens of a run comes from.
    UsageSource {
        /// No model was called.
        None = "none",
        /// The provider reported it.
        Provider = "provider",
        /// A call's usage is not known.
        Unknown = "unknown",
    }
}

documents! {
    /// `abbey task show`.
    TaskDoc {
        /// Always 1.
        version: u32,
        /// The task.
        task: TaskView,
    }
    /// `abbey task list`.
    TasksDoc {
        /// Always 1.
        version: u32,
        /// The tasks, newest first.
        tasks: Vec<TaskView>,
        /// Opaque; names the next page.
        cursor: Option<String>,
    }
    /// A task.
    TaskView {
        /// `task_…`.
        id: String,
        /// `TASK-12`.
        number: String,
        /// What is to be done.
        title: String,
        /// State.
        state: TaskState,
        /// Who is to do it.
        assignee: Option<String>,
        /// P0 to P3.
        priority: Priority,
        /// Who added it.
        author: String,
        /// Runs so far.
        attempts: u32,
        /// What stands behind a `done`.
        verified: Option<Verification>,
        /// Why it waits.
        waiting_for: Option<String>,
        /// The skill that was matched.
        skill: Option<String>,
        /// The result.
        result: Option<ResultView>,
        /// Last word of a failed run.
        failure: Option<String>,
        /// Trace that it belongs to, with all that came of the same request; 32 hexadecimal digits.
        #[serde(default)]
        trace: String,
        /// Where it hangs, for work that was given on.
        #[serde(default)]
        link: Option<LinkView>,
        /// Attempts, oldest first.
        runs: Vec<RunView>,
        /// Grows with every change.
        revision: u64,
        /// When it was added.
        created_at: Time,
        /// When it last changed.
        updated_at: Time,
    }
    /// A result.
    ResultView {
        /// For people.
        text: String,
        /// `skill`, `model` or `command`.
        source: ResultSource,
        /// For programs.
        data: Value,
    }
    /// One attempt.
    RunView {
        /// `run_…`.
        id: String,
        /// State.
        state: RunState,
        /// Why it ended.
        reason: Option<EndReason>,
        /// Who worked.
        agent: String,
        /// Model of the manifest.
        configured_model: Option<String>,
        /// Model that calls went to.
        effective_model: Option<String>,
        /// Model that answered.
        actual_model: Option<String>,
        /// Tokens.
        usage: UsageView,
        /// Cost; absent when a price is not known.
        cost_nano_usd: Option<u64>,
        /// Digest of the charter.
        charter_hash: Option<String>,
        /// Digest of the assembled prompt.
        prompt_hash: Option<String>,
        /// Bytes of the session file that belong to it.
        session: Option<Vec<u64>>,
        /// Tool calls with a receipt.
        receipts: Option<u32>,
        /// Whether the result claims actions without a receipt.
        flagged: bool,
        /// When it began.
        started_at: Time,
        /// When it ended.
        ended_at: Option<Time>,
    }
    /// Tokens of a run; absent numbers are unknown, not zero.
    UsageView {
        /// Input tokens.
        input: Option<u64>,
        /// Output tokens.
        output: Option<u64>,
        /// Input tokens from the provider's cache.
        cached: Option<u64>,
        /// `none`, `provider` or `unknown`.
        source: UsageSource,
    }
    /// `abbey task why`.
    WhyDoc {
        /// Always 1.
        version: u32,
        /// `TASK-12`.
        task: String,
        /// State.
        state: TaskState,
        /// Why.
        reasons: Vec<Reason>,
    }
    /// A reason for programs and people.
    Reason {
        /// Stable word.
        code: String,
        /// For people.
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
        data: Map<String, Value>,
        /// What must hold before it counts as done.
        #[serde(default)]
        evidence: Vec<EvidenceView>,
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
}

requests! {
    /// `POST tasks`.
    AddTask {
        /// What is to be done.
        text: String,
        /// Who is to do it.
        #[serde(default)]
        to: Option<String>,
        /// P0 to P3, or urgent, high, medium, low.
        #[serde(default)]
        priority: Option<String>,
        /// Skill to run, in place of matching.
        #[serde(default)]
        skill: Option<String>,
        /// Its arguments.
        #[serde(default)]
        args: BTreeMap<String, String>,
        /// Most tokens over all runs.
        #[serde(default)]
        tokens: Option<u64>,
        /// What must hold before it counts as done.
        #[serde(default)]
        evidence: Vec<EvidenceView>,
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
}

queries! {
    /// Which tasks to list.
    TaskQuery {
        /// States, separated by commas.
        state: Option<String>,
        /// Slug of the agent that is to do it.
        agent: Option<String>,
        /// Most rows of one page.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<u32>,
        /// `cursor` of the page before.
        cursor: Option<String>,
    }
    /// How long to wait.
    WaitQuery {
        /// Waits this long, in milliseconds, for the work to come to rest.
        wait_ms: Option<u64>,
    }
}

operations! {
    /// Tasks: `client.tasks()`.
    TasksClient {
        /// A page of tasks, newest first.
        GET "/api/v1/tasks" list() [query TaskQuery] -> json(TasksDoc);
        /// Adds a task.
        POST "/api/v1/tasks" add() [body AddTask] [header key: Option<IdempotencyKey>] -> json(TaskDoc);
        /// One task with its runs; `wait_ms` waits until it comes to rest.
        GET "/api/v1/tasks/{task}" show(task) [query WaitQuery] -> json(TaskDoc);
        /// Why it waits, or how it ended.
        GET "/api/v1/tasks/{task}/why" why(task) -> json(WhyDoc);
        /// Cancels it.
        POST "/api/v1/tasks/{task}/cancel" cancel(task) [header seen: Option<IfMatch>] -> json(TaskDoc);
        /// Starts it again.
        POST "/api/v1/tasks/{task}/retry" retry(task) [header seen: Option<IfMatch>] -> json(TaskDoc);
        /// Ends its wait for somebody.
        POST "/api/v1/tasks/{task}/unblock" unblock(task) [header seen: Option<IfMatch>] -> json(TaskDoc);
        /// The task with its subtasks, depth first.
        GET "/api/v1/tasks/{task}/tree" tree(task) -> json(TreeDoc);
        /// Gives work to an agent by name.
        POST "/api/v1/delegations" delegate() [body DelegateBody] [header key: Option<IdempotencyKey>] -> json(TaskDoc);
        /// One run.
        GET "/api/v1/runs/{run}" run(run) -> json(RunView);
    }
}
