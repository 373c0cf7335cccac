//! Approvals: asked, decided, used.

use abbey_model::{LeaseToken, Millis, Slug, TaskRef, Timestamp};
use serde_json::Value;

/// A request for an approval, by the holder of a task.
#[derive(Debug, Clone)]
pub struct ApprovalRequest {
    /// Task whose holder asks.
    pub task: TaskRef,
    /// Agent, from authentication.
    pub agent: Slug,
    /// Fencing token of its lease.
    pub token: LeaseToken,
    /// Action in a word, such as `deploy`.
    pub action: String,
    /// Exact arguments of the action.
    pub args: Value,
    /// Reason, for the person who decides.
    pub why: String,
    /// Time for a decision.
    pub within: Millis,
    /// Decision when the time is over without one.
    pub silence: abbey_engine::approval::Verdict,
}

/// A filter for approvals.
#[derive(Debug, Clone, Default)]
pub struct ApprovalFilter {
    /// Approvals that this task requested.
    pub task: Option<u64>,
    /// Approvals that tasks of this agent requested.
    pub agent: Option<Slug>,
    /// Also those that are decided; otherwise only pending ones.
    pub all: bool,
    /// Approvals with numbers below this one, for the next page.
    pub before: Option<u64>,
    /// Most approvals in the answer; 1,000 when absent.
    pub limit: Option<u32>,
}

/// Use of an approval that was given.
#[derive(Debug, Clone)]
pub struct ApprovalUse {
    /// Number of the approval.
    pub number: u64,
    /// Agent, from authentication.
    pub agent: Slug,
    /// Fencing token of its lease.
    pub token: LeaseToken,
    /// Action that is done now; must be the one that was approved.
    pub action: String,
    /// Exact arguments of the action.
    pub args: Value,
}

/// Task or workflow step that requested an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApprovalRequester {
    /// The task of an agent.
    Task {
        /// Number of the task.
        task: u64,
        /// Agent that held it.
        agent: Slug,
    },
    /// A step of a workflow.
    Workflow {
        /// Number of the run.
        run: u64,
        /// Step that asks.
        step: Slug,
    },
}

/// A stored approval.
#[derive(Debug, Clone, PartialEq)]
pub struct ApprovalRow {
    /// Number: `APPR-7`.
    pub number: u64,
    /// Task or workflow step that requested it.
    pub asker: ApprovalRequester,
    /// Action to approve.
    pub action: String,
    /// Exact arguments of the action.
    pub args: Value,
    /// Digest of action and arguments.
    pub hash: String,
    /// Reason, for the person who decides.
    pub why: String,
    /// State of the approval.
    pub state: abbey_engine::approval::State,
    /// Decision that applies when none is made in time.
    pub silence: abbey_engine::approval::Verdict,
    /// First instant at which `silence` applies.
    pub expires_at: Timestamp,
    /// Principal that decided.
    pub decided_by: Option<String>,
    /// Note of the person who decided.
    pub note: Option<String>,
    /// Instant of the request.
    pub created_at: Timestamp,
    /// Instant of the decision.
    pub decided_at: Option<Timestamp>,
    /// First instant at which it can no longer be used; none unless it is granted and unused.
    pub good_until: Option<Timestamp>,
}
