//! Tasks and their runs.

use crate::evidence::EvidenceView;
use crate::headers::{IdempotencyKey, IfMatch};
use crate::macros::{documents, operations, queries, requests};
use crate::time::Time;
use abbey_model::words;
use abbey_model::{EndReason, Priority, ResultSource, RunState, TaskState, WaitKind, WaitingFor};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

words! {
    /// What stands behind a finished task.
    Verification {
        /// A deterministic program ended with 0.
        Skill = "skill",
        /// Declared evidence was checked.
        Evidence = "evidence",
        /// Another agent approved the result; nothing else was declared as evidence.
        Review = "review",
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
    /// A task.
    TaskDoc {
        /// Always 1.
        version: u32,
        /// The task.
        task: TaskView,
    }
    /// A page of tasks.
    TasksDoc {
        /// Always 1.
        version: u32,
        /// Tasks, newest first.
        tasks: Vec<TaskView>,
        /// Names the next page; absent on the last one.
        cursor: Option<String>,
    }
    /// A task, its state and its runs.
    TaskView {
        /// Identifier, `task_…`.
        id: String,
        /// Number, as `TASK-12`.
        number: String,
        /// What is to be done.
        title: String,
        /// State of the task.
        state: TaskState,
        /// Agent that is to do it.
        assignee: Option<String>,
        /// Priority, from P0 (urgent) to P3 (low).
        priority: Priority,
        /// Principal that added it.
        author: String,
        /// Number of runs so far.
        attempts: u32,
        /// What stands behind a finished task.
        verified: Option<Verification>,
        /// What it waits for; absent while it runs and after its end.
        waiting_for: Option<WaitingForView>,
        /// Skill that does it.
        skill: Option<String>,
        /// Skills that fit it partly, where a model does it, best first.
        #[serde(default)]
        suggested_skills: Vec<String>,
        /// Result, once it is done.
        result: Option<ResultView>,
        /// Why the last run failed.
        failure: Option<String>,
        /// Trace that it belongs to, with everything that came of the same request; 32 hexadecimal digits.
        #[serde(default)]
        trace: String,
        /// Where it belongs, for delegated work and steps of workflows.
        #[serde(default)]
        link: Option<LinkView>,
        /// Runs, oldest first.
        runs: Vec<RunView>,
        /// Version of the task; grows with every change.
        revision: u64,
        /// When it was added.
        created_at: Time,
        /// When it last changed.
        updated_at: Time,
    }
    /// What a task waits for.
    WaitingForView {
        /// Kind of thing.
        kind: WaitKind,
        /// Its name: the scope of a budget, a provider, the number of an approval, an agent; empty when there is none.
        name: String,
        /// First instant at which the wait can be over; absent when only an event ends it.
        until: Option<Time>,
        /// The whole in words.
        text: String,
        /// Agents that would do it, if an operator stopped or paused each of them: it waits until one is started.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        stopped_agents: Vec<String>,
    }
    /// Result of a task.
    ResultView {
        /// Result in words.
        text: String,
        /// What produced it.
        source: ResultSource,
        /// Result as data.
        data: Value,
    }
    /// A run: one attempt at a task.
    RunView {
        /// Identifier, `run_…`.
        id: String,
        /// State of the run.
        state: RunState,
        /// Why it ended.
        reason: Option<EndReason>,
        /// Agent that did it.
        agent: String,
        /// Model that the manifest named.
        configured_model: Option<String>,
        /// Model that calls were sent to.
        effective_model: Option<String>,
        /// Model that the provider reported.
        actual_model: Option<String>,
        /// Tokens used.
        usage: UsageView,
        /// Tokens that the runtime itself counted; absent when it reported none. Charged is `usage`.
        #[serde(default)]
        reported_usage: Option<ReportedUsageView>,
        /// Cost in billionths of a US dollar; absent when a price is not known.
        cost_nano_usd: Option<u64>,
        /// Digest of the charter.
        charter_hash: Option<String>,
        /// Digest of the assembled prompt.
        prompt_hash: Option<String>,
        /// First and last byte of the run in the session file.
        session: Option<Vec<u64>>,
        /// Number of tool calls with a receipt.
        receipts: Option<u32>,
        /// Whether the result claims actions without a receipt of their kind.
        flagged: bool,
        /// Those claims, shortened.
        #[serde(default)]
        claims: Vec<String>,
        /// When it started.
        started_at: Time,
        /// When it ended.
        ended_at: Option<Time>,
    }
    /// Tokens of a run as its runtime counted them.
    #[derive(Copy, Default)]
    ReportedUsageView {
        /// Input tokens.
        input: u64,
        /// Output tokens.
        output: u64,
        /// Input tokens from the provider's cache.
        cached: u64,
    }
    /// Tokens of a run; an absent number is unknown, not zero.
    UsageView {
        /// Input tokens.
        input: Option<u64>,
        /// Output tokens.
        output: Option<u64>,
        /// Input tokens from the provider's cache.
        cached: Option<u64>,
        /// Where the numbers come from.
        source: UsageSource,
    }
    /// Why a task waits, or how it ended.
    WhyDoc {
        /// Always 1.
        version: u32,
        /// Number, as `TASK-12`.
        task: String,
        /// State of the task.
        state: TaskState,
        /// Reasons, most important first.
        reasons: Vec<Reason>,
    }
    /// A reason.
    Reason {
        /// Stable name of the reason.
        code: String,
        /// Explanation.
        text: String,
    }
    /// Where a task belongs.
    LinkView {
        /// Task that this is a subtask of, as `TASK-12`.
        parent: Option<String>,
        /// Task at the top, as `TASK-11`; it pays for all of them.
        root: String,
        /// Agents that delegated it on, in order.
        chain: Vec<String>,
        /// Fields that the result's `data` must have.
        expects: Vec<String>,
        /// Recipient of the result: `kept`, or `agent:NAME`.
        deliver: String,
        /// Deadline.
        due_at: Option<Time>,
        /// Step of a workflow that it belongs to, as `WF-3/build`.
        step: Option<String>,
        /// Data that was given with it.
        data: Map<String, Value>,
        /// What must hold for it to count as done.
        #[serde(default)]
        evidence: Vec<EvidenceView>,
    }
    /// A task with all its subtasks, depth first.
    TreeDoc {
        /// Always 1.
        version: u32,
        /// The task itself comes first.
        rows: Vec<TreeRow>,
    }
    /// A task of a tree.
    TreeRow {
        /// Distance from the first task.
        depth: u32,
        /// The task.
        task: TaskView,
    }
}

impl WaitingForView {
    /// What a task waits for, with its details in words where there are some.
    pub fn new(waiting_for: &WaitingFor, details: Option<&str>) -> Self {
        let WaitingFor { kind, name, until } = waiting_for;
        let until = until.map(Time);
        let subject = match kind {
            WaitKind::Budget => format!("budget of {}", name.replace(':', " ")),
            WaitKind::Provider => format!("provider {name}"),
            WaitKind::Approval => format!("approval of {name}"),
            WaitKind::Blocked => name.clone(),
            WaitKind::Agent => String::new(),
            WaitKind::Claim => format!("a claim by {name}"),
            WaitKind::Subtask => format!("the subtask {name}"),
            WaitKind::Retry => "its next attempt".to_owned(),
        };
        let mut text = subject;
        if let Some(until) = until {
            let word = if *kind == WaitKind::Retry {
                "at"
            } else {
                "until"
            };
            text = format!("{text} {word} {until}");
        }
        let text = match details {
            Some(details) if text.is_empty() => details.to_owned(),
            Some(details) => format!("{text}: {details}"),
            None => text,
        };
        WaitingForView {
            kind: *kind,
            name: name.clone(),
            until,
            text,
            stopped_agents: Vec::new(),
        }
    }
}

requests! {
    /// A task to add.
    AddTask {
        /// What is to be done.
        text: String,
        /// Slug of the agent that is to do it; the house chooses one when not given.
        #[serde(default)]
        to: Option<String>,
        /// P0 to P3, or urgent, high, medium, low; medium when not given.
        #[serde(default)]
        priority: Option<String>,
        /// Skill that is to run, instead of matching the text.
        #[serde(default)]
        skill: Option<String>,
        /// Arguments of the skill; a text becomes a value of the type that the skill declares.
        #[serde(default)]
        args: BTreeMap<String, Value>,
        /// Most tokens over all runs; at least 1.
        #[serde(default)]
        tokens: Option<u64>,
        /// What must hold for the task to count as done.
        #[serde(default)]
        evidence: Vec<EvidenceView>,
    }
    /// Work for an agent that is named.
    DelegateBody {
        /// Slug of the agent.
        to: String,
        /// What is to be done.
        text: String,
        /// Fields that the result's `data` must have.
        #[serde(default)]
        expects: Vec<String>,
        /// Time limit for all of it, milliseconds.
        #[serde(default)]
        deadline_ms: Option<i64>,
        /// Recipient of the result: `agent:NAME`, `me`, or `kept` (the default).
        #[serde(default)]
        deliver: Option<String>,
        /// Most tokens over all runs; at least 1.
        #[serde(default)]
        tokens: Option<u64>,
        /// Task that this is a subtask of; agents name one whose lease they hold, or none for a task on their own initiative.
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
        /// One task with its runs; `wait_ms` waits until it has ended, is parked or needs a person.
        GET "/api/v1/tasks/{task}" show(task) [query WaitQuery] -> json(TaskDoc);
        /// Why a task waits, or how it ended.
        GET "/api/v1/tasks/{task}/why" why(task) -> json(WhyDoc);
        /// Cancels a task with its subtasks.
        POST "/api/v1/tasks/{task}/cancel" cancel(task) [header seen: Option<IfMatch>] -> json(TaskDoc);
        /// Starts a finished task again.
        POST "/api/v1/tasks/{task}/retry" retry(task) [header seen: Option<IfMatch>] -> json(TaskDoc);
        /// Ends the wait of a blocked task.
        POST "/api/v1/tasks/{task}/unblock" unblock(task) [header seen: Option<IfMatch>] -> json(TaskDoc);
        /// The task with its subtasks, depth first.
        GET "/api/v1/tasks/{task}/tree" tree(task) -> json(TreeDoc);
        /// Delegates work to an agent by name.
        POST "/api/v1/delegations" delegate() [body DelegateBody] [header key: Option<IdempotencyKey>] -> json(TaskDoc);
        /// One run.
        GET "/api/v1/runs/{run}" run(run) -> json(RunView);
    }
}
