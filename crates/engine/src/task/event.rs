//! What can happen to a task, which principals may cause it, and what a step results in.

use super::phase::{Admission, Task};
use abbey_model::{
    EndReason, Generation, LeaseToken, Millis, Principal, PrincipalKind, RunId, RunState, Slug,
    TaskState, Timestamp, Verified,
};

/// Something that happens to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The house admitted the task again.
    Admit(Admission),
    /// An agent takes an offer.
    Claim {
        /// Identifier for the new run.
        run: RunId,
        /// Boot of the claimant's cell.
        generation: Generation,
        /// Length of the lease.
        ttl: Millis,
        /// Wall time of the run.
        wall: Millis,
    },
    /// The holder is alive.
    Renew {
        /// Its token.
        token: LeaseToken,
        /// Length of the lease from now.
        ttl: Millis,
    },
    /// The holder finished.
    Complete {
        /// Its token.
        token: LeaseToken,
        /// What stands behind it; none where declared evidence could not be checked.
        verified: Option<Verified>,
    },
    /// The holder gave up, or a limit of its run ended it.
    Fail {
        /// Its token.
        token: LeaseToken,
        /// Why.
        reason: EndReason,
    },
    /// The holder waits for somebody.
    Block {
        /// Its token.
        token: LeaseToken,
        /// Who unblocks it.
        on: String,
        /// What is asked.
        why: String,
    },
    /// The holder asks for an approval.
    Ask {
        /// Its token.
        token: LeaseToken,
        /// Number of the approval.
        approval: u64,
        /// First instant at which no decision counts as the agreed one.
        until: Timestamp,
    },
    /// The approval was decided.
    Answered {
        /// Whether the task resumes; otherwise it fails.
        goes_on: bool,
    },
    /// The wait is over.
    Unblock,
    /// Somebody changed what is to be done, by whom, or how urgently; before anybody holds it.
    Edit,
    /// The holder's cell is gone.
    HolderLost {
        /// Token that it held.
        token: LeaseToken,
    },
    /// The lease expired.
    Expire,
    /// The run's wall time is used up.
    WallTime,
    /// The time for the whole task is over.
    Overdue,
    /// It is cancelled.
    Cancel,
    /// An operator starts it again.
    Retry,
}

impl Event {
    /// Name of the event in messages and in the audit log.
    pub const fn name(&self) -> &'static str {
        match self {
            Event::Admit(_) => "admit",
            Event::Claim { .. } => "claim",
            Event::Renew { .. } => "renew",
            Event::Complete { .. } => "complete",
            Event::Fail { .. } => "fail",
            Event::Block { .. } => "block",
            Event::Ask { .. } => "ask",
            Event::Answered { .. } => "answered",
            Event::Unblock => "unblock",
            Event::Edit => "edit",
            Event::HolderLost { .. } => "holder_lost",
            Event::Expire => "expire",
            Event::WallTime => "wall_time",
            Event::Overdue => "overdue",
            Event::Cancel => "cancel",
            Event::Retry => "retry",
        }
    }

    /// Whether a kind of principal may cause this event at all. Agents are further limited to tasks that they are
    /// candidates for, hold or created.
    pub const fn permits(&self, who: PrincipalKind) -> bool {
        match self {
            Event::Claim { .. }
            | Event::Renew { .. }
            | Event::Complete { .. }
            | Event::Fail { .. }
            | Event::Ask { .. }
            | Event::Block { .. } => matches!(who, PrincipalKind::Agent),
            Event::Answered { .. } => matches!(who, PrincipalKind::Operator | PrincipalKind::House),
            Event::Admit(_)
            | Event::HolderLost { .. }
            | Event::Expire
            | Event::WallTime
            | Event::Overdue => matches!(who, PrincipalKind::House),
            Event::Unblock | Event::Retry => matches!(who, PrincipalKind::Operator),
            // The house edits a task that it escalates.
            Event::Edit => matches!(who, PrincipalKind::Operator | PrincipalKind::House),
            // The house cancels the subtasks of a cancelled task.
            Event::Cancel => true,
        }
    }
}

/// Why an event was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The event is not possible in this state.
    #[error("a task that is {state} cannot {event}")]
    Illegal {
        /// State of the task.
        state: TaskState,
        /// The event.
        event: &'static str,
    },
    /// This principal may not cause this event here.
    #[error("{who} may not {event} this task")]
    NotAllowed {
        /// Who tried.
        who: Principal,
        /// The event.
        event: &'static str,
    },
    /// Somebody else holds the lease.
    #[error("held by {holder} until its lease ends")]
    Held {
        /// The holder.
        holder: Slug,
        /// When its lease ends unless renewed.
        until: Timestamp,
    },
    /// The token is not the one of the current lease.
    #[error(
        "lease token {given} is not the current one ({current}): the task was claimed again; drop this work and poll for new work"
    )]
    Fenced {
        /// Token of the caller.
        given: u64,
        /// Newest token.
        current: u64,
    },
    /// The lease is over.
    #[error("the lease expired {late_ms} ms ago, so this write is refused; poll for new work")]
    LeaseOver {
        /// How late the caller is, in milliseconds.
        late_ms: i64,
    },
    /// The lease or wall time is not over yet.
    #[error("the lease is still valid")]
    NotDue,
}

/// The end of a run that a step caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunEnd {
    /// Run that ended.
    pub run: RunId,
    /// Its final state.
    pub state: RunState,
    /// Reason of its end.
    pub reason: EndReason,
}

/// Outcome of a legal step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The task afterwards.
    pub task: Task,
    /// The run that this step began.
    pub begins: Option<RunId>,
    /// The run that this step ended.
    pub ends: Option<RunEnd>,
}
