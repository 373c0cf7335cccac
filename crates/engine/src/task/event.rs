//! What can happen to a task, which principals may cause it, and what a step results in.

use super::phase::{Admission, Task, Wait};
use abbey_model::{
    EndReason, Generation, LeaseToken, Millis, Principal, PrincipalKind, RunId, RunState, Slug,
    TaskState, Timestamp, Verified,
};

/// Something that happens to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The house decided again which agents are eligible.
    Admit(Admission),
    /// An agent claims a ready task.
    Claim {
        /// Identifier for the new run.
        run: RunId,
        /// Boot of the claimant's cell.
        generation: Generation,
        /// Length of the lease.
        ttl: Millis,
        /// Most wall time of the run.
        wall: Millis,
    },
    /// The holder of the lease is alive and renews it.
    Renew {
        /// Fencing token of the lease.
        token: LeaseToken,
        /// Length of the lease from now.
        ttl: Millis,
    },
    /// The holder of the lease finished the task.
    Complete {
        /// Fencing token of the lease.
        token: LeaseToken,
        /// What confirms the result; none where declared evidence could not be checked.
        verified: Option<Verified>,
    },
    /// The holder of the lease failed, or a limit of its run ended it.
    Fail {
        /// Fencing token of the lease.
        token: LeaseToken,
        /// Reason of the end.
        reason: EndReason,
    },
    /// The holder of the lease cannot go on now, through no fault of its own: a budget or a provider made it wait. The
    /// run ends and costs no attempt.
    Wait {
        /// Fencing token of the lease.
        token: LeaseToken,
        /// Reason of the run's end.
        reason: EndReason,
        /// What it waits for; never empty.
        reasons: Vec<Wait>,
    },
    /// The holder of the lease cannot go on without something from outside.
    Block {
        /// Fencing token of the lease.
        token: LeaseToken,
        /// Person or thing that the task waits for.
        on: String,
        /// What is needed from it.
        why: String,
    },
    /// The holder of the lease requests an approval.
    Ask {
        /// Fencing token of the lease.
        token: LeaseToken,
        /// Number of the approval.
        approval: u64,
        /// First instant at which the default decision applies.
        until: Timestamp,
    },
    /// The approval was decided.
    Answered {
        /// Whether the task resumes; otherwise it fails.
        goes_on: bool,
    },
    /// The reason why the task was blocked is gone.
    Unblock,
    /// Text, priority or assignee of the task changed while no agent held it.
    Edit,
    /// The cell of the holder is gone.
    HolderLost {
        /// Token that it held.
        token: LeaseToken,
        /// Whether it was stopped or restarted by order, or its host restarted: nothing that the agent or its cell did.
        by_order: bool,
    },
    /// The lease expired.
    Expire,
    /// The run's wall time is used up.
    WallTime,
    /// The due time of the whole task is over.
    Overdue,
    /// The task is cancelled.
    Cancel,
    /// An operator starts a finished task again.
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
            Event::Wait { .. } => "wait",
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
            | Event::Wait { .. }
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

/// Why an event was refused. The task is unchanged then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The event is not possible in this state.
    #[error("`{event}` is not possible for a task in state {state}")]
    Illegal {
        /// State of the task.
        state: TaskState,
        /// Name of the event.
        event: &'static str,
    },
    /// The principal may not cause this event on this task.
    #[error("{who} may not perform `{event}` on this task")]
    NotAllowed {
        /// Principal that caused the event.
        who: Principal,
        /// The event.
        event: &'static str,
    },
    /// Another agent holds the lease.
    #[error("another agent holds the lease of this task; wait until it ends or expires")]
    Held {
        /// Agent that holds the lease.
        holder: Slug,
        /// Instant at which the lease ends unless it is renewed.
        until: Timestamp,
    },
    /// The token is not the one of the current lease.
    #[error("{}; discard this work and poll for new work", fenced(*given, *current))]
    Fenced {
        /// Token that the caller presented.
        given: u64,
        /// Token of the newest lease.
        current: u64,
    },
    /// The lease has expired.
    #[error("the lease expired {late_ms} ms ago, so this write is refused; poll for new work")]
    LeaseOver {
        /// Milliseconds since the lease expired.
        late_ms: i64,
    },
    /// The lease or wall time is not over yet.
    #[error("the lease of the task is still valid, so it cannot expire yet")]
    NotDue,
}

/// Why a lease with the token `given` is not the current one. The newest token is still that of a lease that has ended.
fn fenced(given: u64, current: u64) -> String {
    match given < current {
        true => format!(
            "lease token {given} is not the newest one ({current}): the task was claimed again"
        ),
        false => format!("the lease with token {given} has ended, and nobody holds the task"),
    }
}

/// End of a run that a transition of its task causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunEnd {
    /// Run that ends.
    pub run: RunId,
    /// Final state of the run.
    pub state: RunState,
    /// Reason of the end.
    pub reason: EndReason,
}

/// Result of applying an event to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The task after the event.
    pub task: Task,
    /// Run that starts with the event.
    pub begins: Option<RunId>,
    /// Run that ends with the event.
    pub ends: Option<RunEnd>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_holder_learns_why_it_is_late() {
        let told = |given, current| Refusal::Fenced { given, current }.to_string();
        assert_eq!(
            told(1, 3),
            "lease token 1 is not the newest one (3): the task was claimed again; discard this work and poll for new work"
        );
        assert_eq!(
            told(1, 1),
            "the lease with token 1 has ended, and nobody holds the task; discard this work and poll for new work"
        );
    }
}
