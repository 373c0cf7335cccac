//! Claims, leases, and runs.

use super::TaskRow;
use abbey_model::{
    EndReason, Generation, LeaseToken, Millis, RunId, RunState, Slug, TaskId, TaskRef, Timestamp,
};
use serde::{Deserialize, Serialize};

/// An agent's request for the lease of a task.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Task to claim.
    pub task: TaskRef,
    /// Agent, from authentication.
    pub agent: Slug,
    /// Boot of the agent's cell.
    pub generation: Generation,
    /// Length of the lease.
    pub ttl: Millis,
    /// Most wall time of the run.
    pub wall: Millis,
    /// Most runs of this agent at once.
    pub runs_max: u32,
    /// Version of the task that the agent saw; refused if the task changed since.
    pub seen: Option<u64>,
    /// Model that the manifest names.
    pub configured_model: Option<String>,
    /// Model that calls will go to, after overrides.
    pub effective_model: Option<String>,
    /// Digest of the agent's charter.
    pub charter_hash: Option<String>,
}

/// A granted claim.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The task, which is running now.
    pub task: TaskRow,
    /// Run that was started.
    pub run: RunId,
    /// Lease of the run.
    pub lease: LeaseView,
}

/// A lease as its holder sees it: a duration, since only the store's clock decides instants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseView {
    /// Fencing token.
    pub token: LeaseToken,
    /// Time until it ends.
    pub ttl: Millis,
}

/// Proof that the caller holds the lease of a task.
#[derive(Debug, Clone)]
pub struct LeaseProof {
    /// Agent, from authentication.
    pub agent: Slug,
    /// Fencing token of its lease.
    pub token: LeaseToken,
    /// Length of the lease when renewed.
    pub ttl: Millis,
}

/// Outcome of checking the evidence that a delegation declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvidenceCheck {
    /// Not checked; where evidence was declared, the same as unknown.
    NotRun,
    /// The evidence is present.
    Holds,
    /// The evidence could not be checked, and why.
    Unknown(String),
}

/// What a worker reports about its run; fields that a report leaves out stay as they were.
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
    /// Whether the result claims actions without a receipt of their kind.
    pub flagged: Option<bool>,
    /// Those claims.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<Vec<String>>,
    /// Tokens that the runtime itself counted, for comparison with what the model gateway metered.
    pub reported_usage: Option<ReportedUsage>,
}

/// Tokens of a run as its runtime counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedUsage {
    /// Input tokens.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// Input tokens that the provider read from its cache.
    pub cached: u64,
}

/// A stored run.
#[derive(Debug, Clone)]
pub struct RunRow {
    /// Identifier.
    pub id: RunId,
    /// Task that it is an attempt at.
    pub task: TaskId,
    /// Agent that works.
    pub agent: Slug,
    /// Boot of its cell.
    pub generation: Generation,
    /// State of the run.
    pub state: RunState,
    /// Reason of its end.
    pub reason: Option<EndReason>,
    /// Model that the manifest named.
    pub configured_model: Option<String>,
    /// Model that calls went to, after overrides.
    pub effective_model: Option<String>,
    /// Model that answered, as the provider named it.
    pub actual_model: Option<String>,
    /// Input tokens.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// Input tokens that the provider had cached.
    pub cached: u64,
    /// `none`, `provider` or `unknown`.
    pub usage_source: String,
    /// Cost of calls with a known price, in billionths of a dollar.
    pub cost_nano_usd: u64,
    /// Whether a call without a known price was among them.
    pub cost_unknown: bool,
    /// Digest of the agent's charter.
    pub charter_hash: Option<String>,
    /// Latest report of the worker.
    pub facts: RunFacts,
    /// Instant of the claim.
    pub started_at: Timestamp,
    /// Instant of its end.
    pub ended_at: Option<Timestamp>,
    /// Why it failed, as its worker reported it.
    pub failure: Option<String>,
}

/// Cost of a run that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunCost {
    /// Number of its task.
    pub task: u64,
    /// Skill that did the work, if one did.
    pub skill: Option<String>,
    /// Agent that did the run.
    pub agent: Slug,
    /// Input and output tokens.
    pub tokens: u64,
    /// Milliseconds from the claim to the end.
    pub time_ms: u64,
    /// Whether it succeeded.
    pub succeeded: bool,
}
