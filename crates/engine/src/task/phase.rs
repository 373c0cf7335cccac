//! A task as its state machine sees it: phase, lease, and where admission sends it.

use abbey_model::{
    EndReason, Generation, LeaseToken, Principal, RunId, Slug, TaskState, Timestamp, Verified,
    WaitCode,
};
use serde::{Deserialize, Serialize};

/// The time-bounded right of one incarnation to work on one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Fencing token.
    pub token: LeaseToken,
    /// The attempt that this lease pays for.
    pub run: RunId,
    /// The agent that holds it.
    pub holder: Slug,
    /// The boot of the holder's cell.
    pub generation: Generation,
    /// First instant at which it is over.
    pub expires_at: Timestamp,
    /// First instant at which the run has used up its wall time.
    pub wall_ends_at: Timestamp,
}

/// One reason why a task waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// For programs.
    pub code: WaitCode,
    /// For people.
    pub text: String,
}

/// State of a task with exactly the data that exists in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Phase {
    /// Waits to be admitted, or for the pause before its next attempt. No agent sees it. Admission moves it on, not
    /// before `not_before`.
    Pending {
        /// First instant at which it may be offered.
        not_before: Timestamp,
    },
    /// Cannot start as the house stands: no eligible agent, no budget left, an ambiguous skill. It is admitted again
    /// whenever one of these changes, and may be escalated.
    Parked {
        /// Never empty.
        reasons: Vec<Wait>,
    },
    /// Offered to its candidates. The first claim wins; a candidate sees it in its poll for work.
    Ready {
        /// Who may claim it; never empty.
        candidates: Vec<Slug>,
    },
    /// One agent holds the lease and works. The lease must be renewed before `expires_at`; whoever comes later, or
    /// with an older token, is refused, so a task has at most one worker whose writes count.
    Running {
        /// Lease of the agent that works.
        lease: Lease,
    },
    /// Its worker needs something from somebody and ended the run. An operator unblocks it.
    Blocked {
        /// Person or thing that it waits for.
        on: String,
        /// What is asked.
        why: String,
    },
    /// Its worker asked for an approval and ended the run. A decision resumes the task or fails it; at `until` the
    /// decision agreed on for silence applies.
    AwaitingApproval {
        /// Number of the approval.
        approval: u64,
        /// First instant at which no decision counts as the agreed one.
        until: Timestamp,
    },
    /// Over, with a result that something stands behind: evidence, a skill, or (`none`) the worker's word.
    Done {
        /// What stands behind it.
        verified: Verified,
    },
    /// Over, with a result whose declared evidence could not be checked. May be retried by hand.
    Unverified,
    /// Over without a result: a run failed for good, an approval was denied, or too many attempts were lost. May be
    /// retried by hand.
    Failed {
        /// Why the last run ended.
        reason: EndReason,
        /// Whether the house gave up after repeated losses.
        quarantined: bool,
    },
    /// Over because the wall time of its run, or the time for the whole task, was used up. May be retried by hand.
    TimedOut,
    /// Over because its author, an operator or the house cancelled it. Its subtasks are cancelled with it. May be
    /// retried by hand.
    Cancelled,
}

impl Phase {
    /// State of the task, without the data of the phase.
    pub const fn state(&self) -> TaskState {
        match self {
            Phase::Pending { .. } => TaskState::Pending,
            Phase::Parked { .. } => TaskState::Parked,
            Phase::Ready { .. } => TaskState::Ready,
            Phase::Running { .. } => TaskState::Running,
            Phase::Blocked { .. } => TaskState::Blocked,
            Phase::AwaitingApproval { .. } => TaskState::AwaitingApproval,
            Phase::Done { .. } => TaskState::Done,
            Phase::Unverified => TaskState::Unverified,
            Phase::Failed { .. } => TaskState::Failed,
            Phase::TimedOut => TaskState::TimedOut,
            Phase::Cancelled => TaskState::Cancelled,
        }
    }

    /// Lease of a running task.
    pub const fn lease(&self) -> Option<&Lease> {
        match self {
            Phase::Running { lease } => Some(lease),
            _ => None,
        }
    }
}

/// What the machine knows of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Where it stands.
    pub phase: Phase,
    /// Fencing token of the newest lease; 0 before the first.
    pub token: LeaseToken,
    /// Runs that were started since the task was added or retried by hand.
    pub attempts: u32,
    /// Who added it.
    pub author: Principal,
}

/// Where admission sends a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// These agents may claim it.
    Offer(Vec<Slug>),
    /// It cannot start, for these reasons.
    Park(Vec<Wait>),
}
