//! States and reasons of tasks and runs. The rules between them are in `abbey-engine`.

use crate::words::words;
use serde::{Deserialize, Serialize};

words! {
    /// State of a task.
    TaskState {
        /// Waiting for an instant: new, or between attempts.
        Pending = "pending",
        /// Cannot start; its wait reasons say why.
        Parked = "parked",
        /// Offered to its candidates; any of them may claim it.
        Ready = "ready",
        /// Claimed; a run works on it under a lease.
        Running = "running",
        /// Waiting for a named person or agent.
        Blocked = "blocked",
        /// Waiting for an approval.
        AwaitingApproval = "awaiting_approval",
        /// Finished; `verified` names the proof.
        Done = "done",
        /// Finished, but its declared evidence could not be checked.
        Unverified = "unverified",
        /// Finished without success.
        Failed = "failed",
        /// Ran out of its wall time.
        TimedOut = "timed_out",
        /// Cancelled.
        Cancelled = "cancelled",
    }
}

impl TaskState {
    /// Whether a task in this state has ended.
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
        /// Cancelled.
        Cancelled = "cancelled",
        /// The process that held its lease ended.
        Interrupted = "interrupted",
        /// Its lease expired, and the task was offered again.
        Superseded = "superseded",
    }
}

impl RunState {
    /// Whether a run in this state has ended.
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
        /// The agent reported a failure.
        AgentError = "agent_error",
        /// A skill's program exited with a status other than 0.
        SkillFailed = "skill_failed",
        /// The model or its provider failed.
        ProviderError = "provider_error",
        /// A budget refused a model call.
        BudgetExhausted = "budget_exhausted",
        /// The run exceeded its wall time.
        WallTime = "wall_time",
        /// The output limit of the run was reached.
        OutputLimit = "output_limit",
        /// The turn limit of the run was reached.
        TurnLimit = "turn_limit",
        /// The cell ended during the run.
        CellLost = "cell_lost",
        /// The cell was stopped or restarted by order during the run, or its host restarted. It costs no attempt.
        Stopped = "stopped",
        /// The lease expired.
        LeaseExpired = "lease_expired",
        /// Cancelled by the operator or the author.
        CancelledByRequest = "cancelled_by_request",
        /// An approval that it needs was denied.
        Denied = "denied",
        /// The deadline of the task passed.
        Overdue = "overdue",
        /// The agent waits for a person or another agent.
        Blocked = "blocked",
        /// Declared evidence was missing or wrong.
        EvidenceFailed = "evidence_failed",
    }
}

impl EndReason {
    /// Whether a task is attempted again automatically after a run ended for this reason: after failures of
    /// infrastructure and missing evidence, not after the agent's own errors.
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
    /// Proof that a task is done.
    Verified {
        /// A skill's program exited with 0.
        Skill = "skill",
        /// Declared evidence was verified.
        Evidence = "evidence",
        /// None but the agent's report.
        None = "none",
    }
}

words! {
    /// What produced a result.
    ResultSource {
        /// A skill's program.
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
        /// No agent is eligible.
        NoCapableAgent = "no_capable_agent",
        /// Several skills match about equally well, and no model is configured to decide.
        AmbiguousSkill = "ambiguous_skill",
        /// No skill matches, and no model is configured.
        NoModel = "no_model",
        /// A budget is exhausted.
        Budget = "budget",
        /// A model provider is cooling down after failures.
        Provider = "provider",
        /// The assignee is stopped, paused or not up.
        AgentDown = "agent_down",
        /// The assignee has as many runs as it may.
        AgentBusy = "agent_busy",
        /// Waiting for the next attempt after a failed one.
        Backoff = "backoff",
        /// Offered and waiting for a claim.
        Offered = "offered",
        /// Claimed; a run works on it under a lease.
        Leased = "leased",
        /// Waiting for a person or agent.
        BlockedOn = "blocked_on",
        /// No further attempt after too many failures.
        Quarantined = "quarantined",
        /// In a final state.
        Terminal = "terminal",
        /// How it was routed.
        Routed = "routed",
        /// How an attempt ended.
        Attempt = "attempt",
        /// What it waited for earlier.
        Waited = "waited",
        /// One of its subtasks is open.
        Subtask = "subtask",
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
    /// Number of the priority's lane in the queue; 0 is the most urgent.
    pub const fn lane(self) -> u8 {
        self as u8
    }
}

/// Fencing token of a lease: grows with every claim of a task, so a late holder is recognized.
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
