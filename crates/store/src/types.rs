//! What goes into the store's operations and what comes out.

use abbey_engine::admission::{AgentFact, Route};
use abbey_engine::authority::Bounds;
use abbey_engine::matcher::Match;
use abbey_engine::supervision::History;
use abbey_engine::task::Phase;
use abbey_engine::workflow::Workflow;
use abbey_model::{
    BudgetAmounts, EndReason, Evidence, Generation, LeaseToken, Metric, Millis, Principal,
    Priority, Recipient, ResultSource, RunId, RunState, SagaId, Scope, Slug, TaskId, TaskRef,
    TaskState, Timestamp, ToolPolicy, Window, Wish,
};
use allocation::Allocation;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The allocator's rows as the store keeps them: text, so that the store knows no planner.
pub mod allocation {
    use serde::{Deserialize, Serialize};

    /// One allocation.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Allocation {
        /// Kind of resource.
        pub kind: String,
        /// The thing.
        pub value: String,
        /// Its owner.
        pub owner: String,
        /// What for.
        pub purpose: String,
    }
}

/// What admission needs beside the ledger.
#[derive(Debug, Clone)]
pub struct Intake {
    /// Match of the text against every skill of the house.
    pub fit: Match,
    /// The agents; their budgets are filled in by the store.
    pub agents: Vec<AgentFact>,
}

/// A task to be added.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// What is to be done.
    pub text: String,
    /// Who adds it.
    pub author: Principal,
    /// Who is to do it; anybody fit when absent.
    pub assignee: Option<Slug>,
    /// Lane.
    pub priority: Priority,
    /// Limits of its own, over all runs.
    pub budget: BudgetAmounts,
    /// Narrows the agent's policy.
    pub policy: Option<ToolPolicy>,
    /// Key and digest of the request.
    pub idempotency: Option<(String, String)>,
    /// For admission.
    pub intake: Intake,
    /// For work that was given on.
    pub delegated: Option<Delegated>,
}

/// Work that was given to somebody by name, with what is wanted back.
#[derive(Debug, Clone, Default)]
pub struct Delegated {
    /// The work of which this is a piece, and the right to it; none for what begins a chain.
    pub parent: Option<(TaskRef, LeaseToken)>,
    /// Fields that the result must have.
    pub expects: Vec<String>,
    /// Time for all of it.
    pub within: Option<Millis>,
    /// Who gets the result.
    pub deliver: Recipient,
    /// Most tokens that the edge grants.
    pub tokens: Option<u64>,
    /// How far delegation may go.
    pub bounds: Bounds,
    /// The step of a workflow that it does, as `WF-3/build`.
    pub step: Option<String>,
    /// What is given along, as data.
    pub data: serde_json::Map<String, Value>,
    /// What must hold before it counts as done.
    pub evidence: Vec<Evidence>,
}

/// Where a piece of work hangs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Number of the work that it is a piece of.
    pub parent: Option<u64>,
    /// Number of what was asked first, to which all of it is charged.
    pub root: u64,
    /// Who gave it on, in order.
    pub chain: Vec<Slug>,
    /// Fields that the result must have.
    pub expects: Vec<String>,
    /// Who gets the result.
    pub deliver: Recipient,
    /// First instant at which it is too late.
    pub due: Option<Timestamp>,
    /// The step of a workflow that it does or is a piece of, as `WF-3/build`.
    #[serde(default)]
    pub step: Option<String>,
    /// What is given along, as data.
    #[serde(default)]
    pub data: serde_json::Map<String, Value>,
    /// What must hold before it counts as done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
}

impl Link {
    /// Of work that begins a chain.
    pub(crate) fn root(number: u64) -> Link {
        Link {
            parent: None,
            root: number,
            chain: Vec::new(),
            expects: Vec::new(),
            deliver: Recipient::Kept,
            due: None,
            step: None,
            data: serde_json::Map::new(),
            evidence: Vec::new(),
        }
    }
}

/// The end of a piece of work, for whoever is to hear of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Number of the task.
    pub task: u64,
    /// Who hears of it.
    pub recipient: Recipient,
    /// Since when.
    pub at: Timestamp,
}

/// A question for a yes.
#[derive(Debug, Clone)]
pub struct AskApproval {
    /// The task that needs it.
    pub task: TaskRef,
    /// Who asks.
    pub agent: Slug,
    /// Its right to the task.
    pub token: LeaseToken,
    /// What is to be done, in a word.
    pub action: String,
    /// With what exactly.
    pub args: Value,
    /// Why.
    pub why: String,
    /// Time until silence is taken for an answer.
    pub within: Millis,
    /// Which answer.
    pub silence: abbey_engine::approval::Verdict,
}

/// A yes that is used now.
#[derive(Debug, Clone)]
pub struct UseApproval {
    /// Which.
    pub number: u64,
    /// By whom.
    pub agent: Slug,
    /// Its right to the task.
    pub token: LeaseToken,
    /// For what.
    pub action: String,
    /// With what exactly.
    pub args: Value,
}

/// What needs an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asker {
    /// The task of an agent.
    Task {
        /// Its number.
        task: u64,
        /// Who holds it.
        agent: Slug,
    },
    /// A step of a workflow.
    Workflow {
        /// Number of the run.
        run: u64,
        /// The step.
        step: Slug,
    },
}

/// An approval as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct ApprovalRow {
    /// Number: `APPR-7`.
    pub number: u64,
    /// Who asks, and for what.
    pub asker: Asker,
    /// What is to be done.
    pub action: String,
    /// With what exactly.
    pub args: Value,
    /// Digest of both.
    pub hash: String,
    /// Why.
    pub why: String,
    /// Where it stands.
    pub state: abbey_engine::approval::State,
    /// What silence means.
    pub silence: abbey_engine::approval::Verdict,
    /// When silence is taken for an answer.
    pub expires_at: Timestamp,
    /// Who decided.
    pub decided_by: Option<String>,
    /// What they said.
    pub note: Option<String>,
    /// When it was asked.
    pub created_at: Timestamp,
    /// When it was decided.
    pub decided_at: Option<Timestamp>,
}

/// A workflow to be run.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Its name.
    pub name: String,
    /// What is declared, as the run will follow it whatever becomes of the declaration.
    pub workflow: Workflow,
    /// Digest of that.
    pub digest: String,
    /// What it is given.
    pub input: BTreeMap<String, Value>,
    /// Who starts it.
    pub by: Principal,
    /// The same key starts the same run.
    pub key: Option<String>,
}

/// What happens to a run from outside.
#[derive(Debug, Clone)]
pub enum Nudge {
    /// Nothing: what it waited for may be over.
    Look,
    /// It is called off.
    CallOff(Principal),
    /// Something happened.
    Event {
        /// What.
        name: Slug,
        /// What is known of it.
        data: Value,
        /// Who says so.
        by: Principal,
    },
}

/// What admission needs to know of the tasks that a run begins.
pub type Intakes = Box<dyn Fn(&abbey_engine::workflow::Begin) -> Intake + Send>;

/// A run of a workflow as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkflowRow {
    /// Number: `WF-3`.
    pub number: u64,
    /// Name of the workflow.
    pub name: String,
    /// Digest of the declaration that it follows.
    pub digest: String,
    /// The declaration.
    pub workflow: Workflow,
    /// Where it stands.
    pub run: abbey_engine::workflow::Run,
    /// Who started it.
    pub by: Principal,
    /// When something happens by itself.
    pub next_at: Option<Timestamp>,
    /// When it began.
    pub created_at: Timestamp,
}

/// What is known of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRow {
    /// Digest of what it says.
    pub digest: String,
    /// When it was first seen.
    pub since: Timestamp,
    /// Everything up to here is settled.
    pub settled: Timestamp,
    /// Instants that fired.
    pub fired: u64,
    /// Instants at which the one before was in the way.
    pub skipped: u64,
    /// Instants that passed while nobody looked.
    pub missed: u64,
    /// Number of the newest task.
    pub last_task: Option<u64>,
    /// Number of the newest run of a workflow.
    pub last_run: Option<u64>,
}

/// One instant of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleLine {
    /// When it was to fire.
    pub instant: Timestamp,
    /// When it was settled.
    pub at: Timestamp,
    /// What came of it.
    pub outcome: String,
    /// Number of the task.
    pub task: Option<u64>,
}

/// Instants of a schedule to be settled.
pub struct Fire {
    /// `agent/name`.
    pub name: String,
    /// Who fires it.
    pub by: Principal,
    /// Everything up to here is settled afterwards.
    pub through: Timestamp,
    /// So many were missed and do not fire.
    pub missed: u64,
    /// The instant that fires, and what is to be done.
    pub work: Option<(Timestamp, Work)>,
    /// What happens when the one before is not over.
    pub overlap: abbey_engine::timetable::Overlap,
}

/// What an instant begins.
pub enum Work {
    /// A task.
    Task(Box<NewTask>),
    /// A workflow; the rest is for what calling off the one before begins.
    Run(Box<NewRun>, Intakes),
}

/// Outcome of adding.
#[derive(Debug, Clone)]
pub struct Added {
    /// The task.
    pub task: TaskRow,
    /// Whether it is new; false when the key was known.
    pub new: bool,
}

/// A claim.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Which task.
    pub task: TaskRef,
    /// Who claims.
    pub agent: Slug,
    /// Boot of the claimant's cell.
    pub generation: Generation,
    /// Length of the lease.
    pub ttl: Millis,
    /// Wall time of the run.
    pub wall: Millis,
    /// Most runs of this agent at once.
    pub runs_max: u32,
    /// Version of the task that the claimant saw.
    pub seen: Option<u64>,
    /// Model of the manifest and after overrides.
    pub configured_model: Option<String>,
    /// Model that calls will go to.
    pub effective_model: Option<String>,
    /// Digest of the charter.
    pub charter_hash: Option<String>,
}

/// A granted claim.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The task, running.
    pub task: TaskRow,
    /// The new run.
    pub run: RunId,
    /// The right.
    pub lease: LeaseView,
}

/// A lease as its holder sees it: durations, no instants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseView {
    /// Fencing token.
    pub token: LeaseToken,
    /// Time until it ends.
    pub ttl: Millis,
}

/// Proof of a right: who and with which token.
#[derive(Debug, Clone)]
pub struct Hold {
    /// The agent, from authentication.
    pub agent: Slug,
    /// Its token.
    pub token: LeaseToken,
    /// Length of the lease when renewed.
    pub ttl: Millis,
}

/// What a worker reports of its run; absent fields stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunFacts {
    /// Digest of the assembled prompt.
    pub prompt_hash: Option<String>,
    /// Digest of the skill that ran.
    pub skill_hash: Option<String>,
    /// First byte of the run in the session file.
    pub session_start: Option<u64>,
    /// First byte after it.
    pub session_end: Option<u64>,
    /// Tool calls with a receipt.
    pub receipts: Option<u32>,
    /// Whether the result claims actions without a receipt.
    pub flagged: Option<bool>,
}

/// A result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// For people.
    pub text: String,
    /// Where it came from.
    pub source: ResultSource,
    /// For programs.
    #[serde(default)]
    pub data: Value,
}

/// Whether what was declared as evidence holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// Nobody looked; where evidence was declared, that is the same as unknown.
    No,
    /// It holds.
    Holds,
    /// It could not be told.
    Unknown,
}

/// A failure as its worker tells it.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Why.
    pub reason: EndReason,
    /// For people.
    pub text: String,
}

/// A task as it stands.
#[derive(Debug, Clone)]
pub struct TaskRow {
    /// Identifier.
    pub id: TaskId,
    /// Short number.
    pub number: u64,
    /// What is to be done.
    pub text: String,
    /// Where it stands.
    pub phase: Phase,
    /// Who is to do it, once decided.
    pub assignee: Option<Slug>,
    /// Whether the author named the assignee.
    pub pinned: bool,
    /// Lane.
    pub priority: Priority,
    /// Who added it.
    pub author: Principal,
    /// Runs so far.
    pub attempts: u32,
    /// Newest fencing token.
    pub token: LeaseToken,
    /// How the work is done.
    pub route: Route,
    /// Narrows the agent's policy.
    pub policy: Option<ToolPolicy>,
    /// The result, once there is one.
    pub result: Option<Outcome>,
    /// Last word of a failed run.
    pub failure: Option<String>,
    /// Where it hangs, for work that was given on.
    pub link: Option<Link>,
    /// Grows with every change.
    pub version: u64,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl TaskRow {
    /// The state without its data.
    pub const fn state(&self) -> TaskState {
        self.phase.state()
    }
}

/// Which tasks.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Only in these states; all when empty.
    pub states: Vec<TaskState>,
    /// Only of this agent.
    pub assignee: Option<Slug>,
    /// Only numbers below this one.
    pub before: Option<u64>,
    /// Most rows.
    pub limit: u32,
}

/// What a run cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunCost {
    /// Number of its task.
    pub task: u64,
    /// The skill that did it, if one did.
    pub skill: Option<String>,
    /// Who worked.
    pub agent: Slug,
    /// Tokens, input and output.
    pub tokens: u64,
    /// Milliseconds from its claim to its end.
    pub time_ms: u64,
    /// Whether it ended well.
    pub good: bool,
}

/// What an agent asked of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Who.
    pub agent: String,
    /// Which, as the provider called it last.
    pub model: String,
    /// In how many runs.
    pub runs: u64,
    /// Input tokens.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// Of the input, from the provider's cache.
    pub cached: u64,
    /// Money.
    pub cost_nano_usd: u64,
    /// Runs whose cost is not known.
    pub cost_unknown: u64,
}

/// A task as it is to be from now on.
#[derive(Debug, Clone)]
pub struct TaskEdit {
    /// What is to be done.
    pub text: String,
    /// Lane.
    pub priority: Priority,
    /// Who is to do it; anybody fit when absent.
    pub assignee: Option<Slug>,
    /// For admission.
    pub intake: Intake,
}

/// A run as it stands.
#[derive(Debug, Clone)]
pub struct RunRow {
    /// Identifier.
    pub id: RunId,
    /// Its task.
    pub task: TaskId,
    /// Who works.
    pub agent: Slug,
    /// Boot of its cell.
    pub generation: Generation,
    /// Where it stands.
    pub state: RunState,
    /// Why it ended.
    pub reason: Option<EndReason>,
    /// Model of the manifest.
    pub configured_model: Option<String>,
    /// Model that calls go to.
    pub effective_model: Option<String>,
    /// Model that answered.
    pub actual_model: Option<String>,
    /// Input tokens.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// Input tokens that the provider had cached.
    pub cached: u64,
    /// `none`, `provider` or `unknown`.
    pub usage_source: String,
    /// Cost of priced calls.
    pub cost_nano_usd: u64,
    /// Whether a call without a known price was among them.
    pub cost_unknown: bool,
    /// Digest of the charter.
    pub charter_hash: Option<String>,
    /// What the worker reported.
    pub facts: RunFacts,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// A hold for one model call.
#[derive(Debug, Clone)]
pub struct CallHold {
    /// Who calls.
    pub agent: Slug,
    /// For which run; the only live one when absent.
    pub run: Option<RunId>,
    /// Most that the call can use.
    pub amounts: BudgetAmounts,
    /// Where the call goes.
    pub model: String,
}

/// What a call used.
#[derive(Debug, Clone)]
pub enum CallUse {
    /// The provider said so.
    Known {
        /// Input tokens.
        input: u64,
        /// Output tokens.
        output: u64,
        /// Of the input, cached.
        cached: u64,
        /// Cost; none when the price is not known.
        cost: Option<u64>,
        /// Model that answered.
        model: Option<String>,
    },
    /// It was forwarded and nothing is known: all that was reserved.
    Unknown {
        /// Model that answered, where it said so.
        model: Option<String>,
    },
    /// It was never forwarded.
    Released,
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetLimit {
    /// Whose.
    pub scope: Scope,
    /// Of what.
    pub metric: Metric,
    /// When it starts again.
    pub window: Window,
    /// Most; none only counts.
    pub limit: Option<u64>,
    /// Level of warning, percent.
    pub warn_percent: u8,
}

/// An activity entry of its own.
#[derive(Debug, Clone)]
pub struct Note {
    /// Who.
    pub actor: Principal,
    /// `noun.verb`.
    pub action: String,
    /// To what.
    pub entity: String,
    /// Details.
    pub detail: Value,
}

/// A plan to be made current.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Its number.
    pub generation: u64,
    /// The one it was made against.
    pub based_on: u64,
    /// Who.
    pub actor: Principal,
    /// Text of the manifest.
    pub manifest: String,
    /// Directory of relative paths.
    pub base_dir: String,
    /// Digests of what is applied.
    pub applied: Value,
    /// Charters by agent.
    pub charters: Value,
    /// Steps, for the log.
    pub steps: Value,
    /// Every allocation afterwards.
    pub allocations: Vec<Allocation>,
    /// Highest uid ever given out.
    pub newest_uid: u32,
    /// Limits afterwards.
    pub budgets: Vec<BudgetLimit>,
    /// Time zone of the budgets.
    pub timezone: String,
}

/// A generation.
#[derive(Debug, Clone)]
pub struct GenerationRow {
    /// Its number.
    pub generation: u64,
    /// Text of the manifest.
    pub manifest: String,
    /// Directory of relative paths.
    pub base_dir: String,
    /// Digests of what is applied.
    pub applied: Value,
    /// Charters by agent.
    pub charters: Value,
    /// Every allocation.
    pub allocations: Vec<Allocation>,
    /// Highest uid ever given out.
    pub newest_uid: u32,
    /// When it became current.
    pub at: Timestamp,
}

/// A cell's wish and history.
#[derive(Debug, Clone, Default)]
pub struct CellRow {
    /// What the operator wants of it.
    pub wish: Wish,
    /// Supervision.
    pub history: History,
    /// When it was first wanted; anchor of wakes.
    pub since: Timestamp,
}

/// A change of a cell's row; absent fields stay.
#[derive(Debug, Clone, Default)]
pub struct CellChange {
    /// New wish, with who wishes.
    pub wish: Option<(Wish, Option<Principal>)>,
    /// New history, with the activity entry that explains it.
    pub history: Option<(History, Option<Note>)>,
}

/// A credential, by hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// SHA-256 of the credential, hexadecimal.
    pub hash: String,
    /// Whose.
    pub principal: Principal,
    /// What it is good for: `operator`, `agent`.
    pub scope: String,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

/// A saga that is not over.
#[derive(Debug, Clone)]
pub struct SagaRow {
    /// Identifier.
    pub id: SagaId,
    /// Which saga.
    pub kind: String,
    /// About what.
    pub subject: String,
    /// Names of its steps.
    pub steps: Vec<String>,
    /// Where it stands.
    pub state: abbey_engine::saga::State,
}
