//! Tasks: how they are added and admitted, their rows, and their results.

use super::DelegationLink;
use super::DelegationRequest;
use abbey_engine::admission::{AgentFact, Route};
use abbey_engine::matcher::Match;
use abbey_engine::task::Phase;
use abbey_model::{
    BudgetAmounts, EndReason, LeaseToken, Millis, Principal, Priority, ResultSource, Slug, TaskId,
    TaskRef, TaskState, Timestamp, ToolPolicy,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Facts for admission, besides budgets.
#[derive(Debug, Clone)]
pub struct Intake {
    /// Match of the task's text against every skill of the house.
    pub fit: Match,
    /// The agents that are considered; the store fills in their budgets.
    pub agents: Vec<AgentFact>,
    /// Why that skill does it, or none; a clause.
    pub reason: String,
    /// Skills that fit the text partly, for a model, best first.
    pub suggested: Vec<String>,
}

/// A task to be added.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// The work, as its author wrote it.
    pub text: String,
    /// Author, from authentication.
    pub author: Principal,
    /// Agent that is to do it; any eligible agent when absent.
    pub assignee: Option<Slug>,
    /// Priority in the queue.
    pub priority: Priority,
    /// Limits of this task over all its runs.
    pub budget: BudgetAmounts,
    /// Policy that narrows the agent's own.
    pub policy: Option<ToolPolicy>,
    /// Idempotency key, and digest of the request that it stands for.
    pub idempotency: Option<(String, String)>,
    /// Facts for admission.
    pub intake: Intake,
    /// Delegation that the task comes from, if any.
    pub delegated: Option<DelegationRequest>,
}

/// New values of a task that is not running.
#[derive(Debug, Clone)]
pub struct TaskEdit {
    /// The work, as its author wrote it.
    pub text: String,
    /// Priority in the queue.
    pub priority: Priority,
    /// Agent that is to do it; any eligible agent when absent.
    pub assignee: Option<Slug>,
    /// Facts for admission.
    pub intake: Intake,
}

/// Answer to adding a task.
#[derive(Debug, Clone)]
pub struct Added {
    /// The task.
    pub task: TaskRow,
    /// Whether the task is new; false when its idempotency key was known.
    pub new: bool,
}

/// A filter for tasks.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Tasks in one of these states; in any when empty.
    pub states: Vec<TaskState>,
    /// Tasks of this agent.
    pub assignee: Option<Slug>,
    /// Tasks that this principal added.
    pub author: Option<Principal>,
    /// Tasks with numbers below this one, for the next page.
    pub before: Option<u64>,
    /// Most tasks in the answer.
    pub limit: u32,
}

/// Tasks for a view of the work queue: some of those that have not ended, some of those that have, and some by number.
#[derive(Debug, Clone, Default)]
pub struct QueueFilter {
    /// Most tasks that have not ended, newest first.
    pub open_max: u32,
    /// Most tasks that have ended, newest first.
    pub ended_max: u32,
    /// Numbers of tasks that are read in any case, at most 10,000.
    pub numbers: Vec<u64>,
}

/// A stored task.
#[derive(Debug, Clone)]
pub struct TaskRow {
    /// Identifier.
    pub id: TaskId,
    /// Short number: `TASK-7`.
    pub number: u64,
    /// The work, as its author wrote it.
    pub text: String,
    /// State with its data.
    pub phase: Phase,
    /// Agent that is to do it, once decided.
    pub assignee: Option<Slug>,
    /// Whether the author named the assignee.
    pub pinned: bool,
    /// Priority in the queue.
    pub priority: Priority,
    /// Author.
    pub author: Principal,
    /// Runs since it was added or retried by hand.
    pub attempts: u32,
    /// Fencing token of the newest lease; 0 before the first.
    pub token: LeaseToken,
    /// Skill that was matched, with its arguments.
    pub route: Route,
    /// Policy that narrows the agent's own.
    pub policy: Option<ToolPolicy>,
    /// Result of the run that completed it.
    pub result: Option<Outcome>,
    /// Text of the last failure.
    pub failure: Option<String>,
    /// Place in a tree of subtasks, for delegated work.
    pub link: Option<DelegationLink>,
    /// Version: raised by every change.
    pub version: u64,
    /// Instant at which it was added.
    pub created_at: Timestamp,
    /// Instant of the last change.
    pub updated_at: Timestamp,
}

impl TaskRow {
    /// State of the task, without the data of its phase.
    pub const fn state(&self) -> TaskState {
        self.phase.state()
    }
}

/// Result of a run that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Text for people.
    pub text: String,
    /// Whether a skill, a model or a command gave it.
    pub source: ResultSource,
    /// Data for programs: an object, or null.
    #[serde(default)]
    pub data: Value,
}

/// A failure as the worker reports it.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Reason of the run's end.
    pub reason: EndReason,
    /// Text for people.
    pub text: String,
}

/// A task without an eligible agent, for its receiver.
#[derive(Debug, Clone)]
pub struct NewEscalation {
    /// Task to escalate.
    pub task: TaskRef,
    /// Time for a decision; unlimited when absent.
    pub within: Option<Millis>,
    /// Values of the task for an agent that decides; none when the operator decides.
    pub edit: Option<TaskEdit>,
    /// Reason why no agent is eligible.
    pub why: String,
}

/// A stored escalation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escalation {
    /// Number of the task.
    pub task: u64,
    /// Receiver: an agent, or `operator`.
    pub receiver: String,
    /// End of the time for a decision; none when there is none, or it is over.
    pub until: Option<Timestamp>,
}
