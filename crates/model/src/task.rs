//! States and reasons of tasks and runs. The rules between them are in `abbey-engine`.

use crate::words::words;
use serde::{Deserialize, Serialize};

words! {
    /// State of a task.
    TaskState {
        /// Waiting for an instant: new, or between attempts.
        Pending = "pending",
        /// Cannot start; the reasons say why.
        Parked = "parked",
        /// Offered; any of its candidates may claim it.
        Ready = "ready",
        /// Held by a lease.
        Running = "running",
        /// Waiting for a named person or agent.
        Blocked = "blocked",
        /// Waiting for the operator's yes.
        AwaitingApproval = "awaiting_approval",
        /// Finished; `verified` says what stands behind it.
        Done = "done",
        /// Finished, but its declared evidence could not be checked.
        Unverified = "unverified",
        /// Finished without success.
        Failed = "failed",
        /// Ran out of its wall time.
        TimedOut = "timed_out",
        /// Called off.
        Cancelled = "cancelled",
    }
}

impl TaskState {
    /// Whether nothing more happens by itself.
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            TaskState::Done
                | TaskState::Unverified
                | TaskState::Failed
                | TaskState::TimedOut
                | TaskState::Cancelled
        )
    }
}

words! {
    /// State of a run.
    RunState {
        /// Created, not yet begun.
        Queued = "queued",
        /// Claimed; the worker prepares.
        Starting = "starting",
        /// The worker reported that it works.
        Running = "running",
        /// Ended well.
        Succeeded = "succeeded",
        /// Ended badly.
        Failed = "failed",
        /// Ran out of time.
        TimedOut = "timed_out",
        /// Called off.
        Cancelled = "cancelled",
        /// Its holder died.
        Interrupted = "interrupted",
        /// Its lease ran out and the right went on.
        Superseded = "superseded",
    }
}

impl RunState {
    /// Whether the run is over.
    pub const fn is_terminal(self) -> bool {
        !matches!(
            self,
            RunState::Queued | RunState::Starting | RunState::Running
        )
    }
}

words! {
    /// Why a run ended.
    EndReason {
        /// The work was done.
        Completed = "completed",
        /// The agent said that it failed.
        AgentError = "agent_error",
        /// A deterministic skill ended with a status other than 0.
        SkillFailed = "skill_failed",
        /// The model or its provider failed.
        ProviderError = "provider_error",
        /// A budget refused the next call.
        BudgetExhausted = "budget_exhausted",
        /// The wall time of the run passed.
        WallTime = "wall_time",
        /// The output limit of the run was reached.
        OutputLimit = "output_limit",
        /// The turn limit of the run was reached.
        TurnLimit = "turn_limit",
        /// The cell died under the run.
        CellLost = "cell_lost",
        /// The lease ran out.
        LeaseExpired = "lease_expired",
        /// The operator or the author called it off.
        CancelledByRequest = "cancelled_by_request",
        /// Somebody said no to what it needs.
        Denied = "denied",
        /// The time for the whole work was over.
        Overdue = "overdue",
        /// The agent waits for somebody.
        Blocked = "blocked",
        /// Declared evidence was not there.
        EvidenceFailed = "evidence_failed",
    }
}

impl EndReason {
    /// Whether the house may try again by itself: what infrastructure broke, and what is not there yet although the
    /// agent said so; not the agent's own error.
    pub const fn may_retry(self) -> bool {
        matches!(
            self,
            EndReason::CellLost
                | EndReason::LeaseExpired
                | EndReason::ProviderError
                | EndReason::EvidenceFailed
        )
    }
}

words! {
    /// What stands behind a `done`.
    Verified {
        /// A deterministic program ended with 0.
        Skill = "skill",
        /// Declared evidence was checked.
        Evidence = "evidence",
        /// Nothing but the agent's word.
        None = "none",
    }
}

words! {
    /// Where a result came from.
    ResultSource {
        /// A deterministic skill.
        Skill = "skill",
        /// A model.
        Model = "model",
        /// A command.
        Command = "command",
    }
}

words! {
    /// Why a task waits (S2-28).
    WaitCode {
        /// No agent of the house fits.
        NoCapableAgent = "no_capable_agent",
        /// Several skills fit about equally well and no model is there to decide.
        AmbiguousSkill = "ambiguous_skill",
        /// No skill fits and no model is configured.
        NoModel = "no_model",
        /// A budget has nothing left.
        Budget = "budget",
        /// The assignee is stopped, paused or not up.
        AgentDown = "agent_down",
        /// The assignee works at its limit.
        AgentBusy = "agent_busy",
        /// Waiting for its instant after a failed attempt.
        Backoff = "backoff",
        /// Offered and waiting for a claim.
        Offered = "offered",
        /// Held by a lease.
        Leased = "leased",
        /// Waiting for a person or agent.
        BlockedOn = "blocked_on",
        /// Gave up after too many attempts.
        Quarantined = "quarantined",
        /// Over.
        Terminal = "terminal",
    }
}

words! {
    /// Priority lane; P0 is the most urgent.
    Priority {
        /// Urgent.
        P0 = "P0",
        /// High.
        P1 = "P1",
        /// Medium, the default.
        P2 = "P2",
        /// Low.
        P3 = "P3",
    }
}

impl Priority {
    /// Lane number, 0 the most urgent.
    pub const fn lane(self) -> u8 {
        self as u8
    }
}

/// Fencing token of a lease: grows with every claim of one task, so a late holder is known.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct LeaseToken(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for state in TaskState::ALL {
            assert_eq!(state.name().parse::<TaskState>().unwrap(), *state);
        }
        for reason in EndReason::ALL {
            assert_eq!(reason.name().parse::<EndReason>().unwrap(), *reason);
        }
    }

    #[test]
    fn only_infrastructure_and_lacking_evidence_retry() {
        let retrying: Vec<_> = EndReason::ALL.iter().filter(|r| r.may_retry()).collect();
        assert_eq!(
            retrying,
            [
                &EndReason::ProviderError,
                &EndReason::CellLost,
                &EndReason::LeaseExpired,
                &EndReason::EvidenceFailed
            ]
        );
    }
}
