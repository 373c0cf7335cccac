//! The agent API: what an agent learns and does as itself. Its name comes from its credential.

use crate::approvals::{ApprovalBody, ApprovalView, ApprovalsDoc, ApprovalsQuery, UseBody};
use crate::budgets::BudgetScope;
use crate::documents::{DocumentBody, DocumentDoc, DocumentQuery, DocumentsDoc, DocumentsQuery};
use crate::headers::{IdempotencyKey, Lease, OptionalLease};
use crate::macros::{documents, operations, queries, requests};
use crate::skills::{
    SkillFileDoc, SkillFileQuery, SkillTextDoc, SkillView, SkillsDoc, SkillsQuery,
};
use crate::tasks::ReportedUsageView;
use crate::tasks::{DelegateBody, TaskDoc, TaskView, TasksDoc, WaitQuery};
use crate::time::Time;
use abbey_model::{EndReason, ResultSource};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

documents! {
    /// What an agent learns about itself.
    SelfDoc {
        /// Always 1.
        version: u32,
        /// Slug of the agent.
        agent: String,
        /// Name for people.
        display_name: String,
        /// Role, as the manifest describes it.
        role: String,
        /// Name of the house.
        house: String,
        /// Number of the state that this was read from.
        snapshot: u64,
        /// Budgets of the agent and of the house.
        budget: Vec<BudgetScope>,
        /// Tasks that it holds or may claim.
        tasks: Vec<TaskView>,
        /// Model for its calls.
        model: Option<String>,
        /// Digest of its charter.
        charter_hash: String,
        /// Tool policy.
        policy: Value,
        /// Number of the plan that last changed its configuration; to be named when waiting for work.
        config: u64,
        /// Agent that it reports to.
        #[serde(default)]
        reports_to: Option<String>,
        /// Other agents of the house, those first that it may delegate to or ask, or has a relation to; at most 64.
        #[serde(default)]
        colleagues: Vec<ColleagueView>,
        /// Number of other agents that `colleagues` leaves out.
        #[serde(default)]
        colleagues_left_out: u32,
        /// When this was read, by the clock of the house.
        #[serde(default)]
        now: Option<Time>,
        /// Time zone of the house.
        #[serde(default)]
        timezone: String,
        /// The same instant in that time zone, like `Sunday, 2026-11-29 11:40 +01:00`.
        #[serde(default)]
        local_time: String,
    }
    /// Another agent, as an agent sees it.
    ColleagueView {
        /// Slug of the agent.
        name: String,
        /// Name for people.
        display_name: String,
        /// Role, as the manifest describes it.
        role: String,
        /// How it stands to the reading agent, in words.
        relations: Vec<String>,
        /// Whether the reading agent may delegate to it.
        may_delegate: bool,
        /// Whether the reading agent may ask it.
        may_ask: bool,
        /// Whether only tasks for `skills` may be delegated to it.
        only_skills: bool,
        /// Skills for which the reading agent may delegate tasks to it; at most 32.
        skills: Vec<String>,
    }
    /// An offer of a task.
    OfferDoc {
        /// Always 1.
        version: u32,
        /// Identifier, `task_…`.
        task: String,
        /// Number, as `TASK-12`.
        number: String,
        /// What is to be done.
        text: String,
        /// Version of the task, for the claim.
        revision: u64,
        /// Number of the state that the offer was made from.
        snapshot: u64,
        /// Skill that does the task, where one was matched.
        skill: Option<SkillView>,
        /// Skills of the agent that fit the task partly, where a model does it, best first.
        #[serde(default)]
        suggested_skills: Vec<String>,
        /// Arguments of the skill.
        args: BTreeMap<String, Value>,
        /// Model for its calls.
        model: Option<String>,
        /// Tool policy of this run.
        policy: Value,
        /// Trace that it belongs to; 32 hexadecimal digits.
        #[serde(default)]
        trace: String,
        /// Why the previous run failed.
        #[serde(default)]
        failure: Option<String>,
        /// For an agent that works by files: the program that does the work, or an empty list where another program does it.
        #[serde(default)]
        files: Option<Vec<String>>,
        /// Digest of the charter that this run is under.
        charter_hash: String,
        /// Fields that the result's `data` must have.
        #[serde(default)]
        expects: Vec<String>,
        /// Data that was given with the task; data, not instructions.
        #[serde(default)]
        data: Map<String, Value>,
        /// Evidence that is verified before the task counts as done, in words.
        #[serde(default)]
        evidence: Vec<String>,
        /// Decided approvals of this task, oldest first.
        #[serde(default)]
        approvals: Vec<ApprovalView>,
    }
    /// A granted claim.
    ClaimDoc {
        /// Always 1.
        version: u32,
        /// Identifier, `task_…`.
        task: String,
        /// Identifier of the run, `run_…`.
        run: String,
        /// Lease on the task.
        lease: LeaseDoc,
    }
    /// A lease on a task.
    LeaseDoc {
        /// Fencing token, sent in the header `Abbey-Lease`.
        token: u64,
        /// Time until it expires, milliseconds.
        ttl_ms: i64,
    }
    /// Tools of the tool servers that an agent uses.
    ToolsDoc {
        /// Always 1.
        version: u32,
        /// Tools.
        tools: Vec<ToolView>,
        /// Names the next page; absent on the last one.
        #[serde(default)]
        cursor: Option<String>,
    }
    /// A tool.
    ToolView {
        /// Service that offers it.
        service: String,
        /// Name at that service.
        name: String,
        /// What it does.
        description: String,
        /// Arguments, as JSON Schema.
        args: Value,
    }
    /// Result of a tool call.
    ToolDoc {
        /// Always 1.
        version: u32,
        /// Whether the tool reports success.
        ok: bool,
        /// Output of the tool.
        text: String,
    }
    /// The charter of an agent.
    CharterDoc {
        /// Always 1.
        version: u32,
        /// Its text.
        charter: String,
        /// Digest of the text.
        hash: String,
        /// Language that the agent speaks, a language tag, where the manifest names one.
        language: Option<String>,
    }
    /// An entry was written to the audit log.
    LoggedDoc {
        /// Always 1.
        version: u32,
        /// Number of the entry.
        seq: u64,
    }
}

requests! {
    /// A claim of an offered task.
    ClaimBody {
        /// Version of the task that the agent saw.
        #[serde(default)]
        revision: Option<u64>,
    }
    /// Renewal of a lease.
    RenewBody {
        /// Facts of the run.
        #[serde(default)]
        facts: RunFactsView,
    }
    /// Result of a run that succeeded.
    CompleteBody {
        /// Result in words.
        text: String,
        /// What produced it.
        source: ResultSource,
        /// Result as data.
        #[serde(default)]
        data: Value,
        /// Facts of the run.
        #[serde(default)]
        facts: RunFactsView,
    }
    /// Report of a run that failed.
    FailBody {
        /// Why it failed.
        reason: EndReason,
        /// Explanation.
        text: String,
        /// Facts of the run.
        #[serde(default)]
        facts: RunFactsView,
    }
    /// A task that waits for something outside.
    BlockBody {
        /// Person or agent that must act.
        on: String,
        /// What they are asked to do.
        why: String,
    }
    /// A note for the audit log.
    NoteBody {
        /// Text of the note.
        text: String,
    }
    /// Arguments of a tool call.
    ToolBody {
        /// Arguments.
        #[serde(default)]
        arguments: Value,
    }
    /// Facts of a run; a fact that is absent keeps its earlier value.
    #[derive(Default)]
    RunFactsView {
        /// Digest of the assembled prompt.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prompt_hash: Option<String>,
        /// Digest of the skill that ran.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        skill_hash: Option<String>,
        /// First byte of the run in the session file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session_start: Option<u64>,
        /// First byte after the run in the session file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session_end: Option<u64>,
        /// Tool calls with a receipt.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        receipts: Option<u32>,
        /// Whether the result claims actions without a receipt of their kind.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        flagged: Option<bool>,
        /// Claims of the result for which there is no receipt of their kind.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        claims: Option<Vec<String>>,
        /// Tokens that the runtime itself has counted in the run so far.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reported_usage: Option<ReportedUsageView>,
    }
}

queries! {
    /// How to wait for work.
    NextQuery {
        /// Longest wait, milliseconds; at most 55000.
        wait_ms: Option<u64>,
        /// Configuration that the caller works under; naming it acknowledges it.
        config: Option<u64>,
    }
    /// Which tools to list.
    ToolsQuery {
        /// Most rows of one page.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<u32>,
        /// `cursor` of the page before.
        cursor: Option<String>,
    }
}

operations! {
    /// What an agent does as itself: `client.me()`.
    MeClient {
        /// The agent, its budget, its tasks, and a snapshot number.
        GET "/api/v1/self" show() -> json(SelfDoc);
        /// Waits for work: an offer, or none; with the number of the newest configuration.
        GET "/api/v1/self/next" next() [query NextQuery] -> versioned(Option<OfferDoc>);
        /// A task that the agent works on, or was the last to work on, with its runs.
        GET "/api/v1/self/tasks/{task}" task(task) -> json(TaskDoc);
        /// Claims an offered task.
        POST "/api/v1/self/tasks/{task}/claim" claim(task) [body ClaimBody] -> json(ClaimDoc);
        /// Renews the lease.
        POST "/api/v1/self/tasks/{task}/renew" renew(task) [body RenewBody] [header lease: Lease] -> json(LeaseDoc);
        /// Completes the task.
        POST "/api/v1/self/tasks/{task}/complete" complete(task) [body CompleteBody] [header lease: Lease] -> json(TaskDoc);
        /// Reports that the run failed.
        POST "/api/v1/self/tasks/{task}/fail" fail(task) [body FailBody] [header lease: Lease] -> json(TaskDoc);
        /// Waits for a named person or agent.
        POST "/api/v1/self/tasks/{task}/block" block(task) [body BlockBody] [header lease: Lease] -> json(TaskDoc);
        /// Delegates a subtask, or a task on the agent's own initiative, to another agent.
        POST "/api/v1/self/delegate" delegate() [body DelegateBody] [header lease: Option<OptionalLease>] [header key: Option<IdempotencyKey>] -> json(TaskDoc);
        /// Tasks that the agent gave to others and that are open, newest first.
        GET "/api/v1/self/delegated" delegated_tasks() -> json(TasksDoc);
        /// A delegated subtask; `wait_ms` waits for its end.
        GET "/api/v1/self/delegated/{task}" delegated(task) [query WaitQuery] -> json(TaskDoc);
        /// Cancels a delegated subtask.
        POST "/api/v1/self/delegated/{task}/cancel" cancel_delegated(task) -> json(TaskDoc);
        /// Asks another agent a question, about the own task or on the agent's own initiative.
        POST "/api/v1/self/messages" ask_agent() [body DelegateBody] [header lease: Option<OptionalLease>] [header key: Option<IdempotencyKey>] -> json(TaskDoc);
        /// A question that was asked, with its answer; `wait_ms` waits for that.
        GET "/api/v1/self/messages/{task}" question(task) [query WaitQuery] -> json(TaskDoc);
        /// Approvals that the agent requested, newest first: those that wait for a decision, or all.
        GET "/api/v1/self/approvals" approvals() [query ApprovalsQuery] -> json(ApprovalsDoc);
        /// Requests an approval; the run ends and the task waits.
        POST "/api/v1/self/approvals" request_approval() [body ApprovalBody] [header lease: Lease] -> json(ApprovalView);
        /// Uses an approval, for exactly what it was given for.
        POST "/api/v1/self/approvals/{approval}/use" use_approval(approval) [body UseBody] [header lease: Lease] -> json(ApprovalView);
        /// Skills that the agent may use, or those that match a query.
        GET "/api/v1/self/skills" skills() [query SkillsQuery] -> json(SkillsDoc);
        /// Skills of other agents for which the agent may delegate tasks to them; `agents` names those.
        GET "/api/v1/self/colleagues/skills" skills_of_colleagues() [query SkillsQuery] -> json(SkillsDoc);
        /// Instructions of a skill that the agent may use, and its files.
        GET "/api/v1/self/skills/{skill}" skill(skill) -> json(SkillTextDoc);
        /// Content of one of its files.
        GET "/api/v1/self/skills/{skill}/file" skill_file(skill) [query SkillFileQuery] -> json(SkillFileDoc);
        /// Tools of the tool servers that the agent uses.
        GET "/api/v1/self/tools" tools() [query ToolsQuery] -> json(ToolsDoc);
        /// Calls a tool within a running task; each call is logged.
        POST "/api/v1/self/tools/{service}/{tool}" call_tool(service, tool) [body ToolBody] -> json(ToolDoc);
        /// Has the house perform an operation that the skill of the running task was granted; the answer may be a request for an approval.
        POST "/api/v1/self/operations/{operation}" operate(operation) -> json(Value);
        /// A host fact that the skill of the running task was granted.
        POST "/api/v1/self/facts/{fact}" fact(fact) [body Value] -> json(Value);
        /// Documents that the agent reads.
        GET "/api/v1/self/documents" documents() [query DocumentsQuery] -> json(DocumentsDoc);
        /// One of them.
        GET "/api/v1/self/documents/{document}" document(document) [query DocumentQuery] -> json(DocumentDoc);
        /// Writes a version, or adds to a log, where the agent may.
        POST "/api/v1/self/documents/{document}" write_document(document) [body DocumentBody] [header key: Option<IdempotencyKey>] -> json(DocumentDoc);
        /// The agent's charter.
        GET "/api/v1/self/charter" charter() -> json(CharterDoc);
        /// Writes a note to the audit log.
        POST "/api/v1/self/activity" note() [body NoteBody] -> json(LoggedDoc);
    }
}
