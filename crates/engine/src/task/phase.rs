//! A task as its state machine sees it: phase, lease, and where admission sends it.

use super::waits::SubtaskWait;
use crate::budget::Demand;
use abbey_model::{
    EndReason, Generation, LeaseToken, Millis, Principal, RunId, Slug, TaskState, Timestamp,
    Verified, WaitCode, WaitKind, WaitingFor,
};
use serde::{Deserialize, Serialize};

/// Time-limited right of one boot of an agent's cell to work on one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Fencing token; each lease of a task has a higher one than the lease before.
    pub token: LeaseToken,
    /// Run that the lease is for.
    pub run: RunId,
    /// Agent that holds the lease.
    pub holder: Slug,
    /// Boot of the holder's cell.
    pub generation: Generation,
    /// First instant at which the lease is no longer valid.
    pub expires_at: Timestamp,
    /// First instant at which the run has used up its wall time.
    /// Later by the time for which it stands still: [`Lease::wall_deadline`].
    pub wall_ends_at: Timestamp,
    /// Time for which its wall time has stood still, as far as it is part of `wall_ends_at`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stood_still: Millis,
    /// Wait of the run for a task that it gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<SubtaskWait>,
}

fn is_zero(time: &Millis) -> bool {
    *time == Millis(0)
}

/// Reason why a task waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// Reason for programs.
    pub code: WaitCode,
    /// Reason for people.
    pub text: String,
    /// What it waits for; none when a person must change the manifest or the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<WaitingFor>,
    /// Amount that a budget must have left first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demand: Option<Demand>,
}

impl Wait {
    /// A wait that only a change of the manifest or of the task ends.
    pub fn without_end(code: WaitCode, text: String) -> Wait {
        Wait {
            code,
            text,
            waiting_for: None,
            demand: None,
        }
    }
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
    /// Cannot start as the house stands: no eligible agent, no budget left, a provider that cools down, an ambiguous
    /// skill. It is admitted again whenever one of these changes and at the earliest instant of its reasons, and may be
    /// escalated.
    Parked {
        /// Reasons why it cannot start; never empty.
        reasons: Vec<Wait>,
    },
    /// Offered to its candidates. The first claim wins; a candidate sees it in its poll for work.
    Ready {
        /// Agents that may claim it; never empty.
        candidates: Vec<Slug>,
    },
    /// One agent holds the lease and works. The lease must be renewed before `expires_at`; a write that comes later, or
    /// with an older token, is refused, so the writes of at most one worker count.
    Running {
        /// Lease of the agent that works.
        lease: Lease,
    },
    /// The worker needs something from outside and ended the run. An operator unblocks the task.
    Blocked {
        /// Person or thing that it waits for.
        on: String,
        /// What is needed from it.
        why: String,
    },
    /// The worker requested an approval and ended the run. The decision resumes the task or fails it; from `until` on
    /// the default decision applies.
    AwaitingApproval {
        /// Number of the approval.
        approval: u64,
        /// First instant at which the default decision applies.
        until: Timestamp,
    },
    /// Ended with a result that is confirmed by evidence or a skill, or that (`none`) only the worker reports.
    Done {
        /// What confirms the result.
        verified: Verified,
    },
    /// Ended with a result whose declared evidence could not be checked. An operator may retry it.
    Unverified,
    /// Ended without a result: a run failed for good, an approval was denied, or too many attempts were lost. An
    /// operator may retry it.
    Failed {
        /// Reason why the last run ended.
        reason: EndReason,
        /// Whether the task is not retried because too many attempts were lost.
        quarantined: bool,
    },
    /// Ended because the wall time of its run, or the time for the whole task, was used up. An operator may retry it.
    TimedOut,
    /// Ended because its author, an operator or the house cancelled it, with its subtasks. An operator may retry it.
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

    /// What the task waits for; none while it works and after its end.
    pub fn waiting_for(&self) -> Option<WaitingFor> {
        let (kind, name, until) = match self {
            Phase::Pending { not_before } => (WaitKind::Retry, String::new(), Some(*not_before)),
            Phase::Parked { reasons } => {
                let named = reasons.iter().find_map(|r| r.waiting_for.clone());
                return Some(named.unwrap_or_else(|| WaitingFor {
                    kind: WaitKind::Agent,
                    name: String::new(),
                    until: None,
                }));
            }
            Phase::Ready { candidates } => {
                let names: Vec<&str> = candidates.iter().map(Slug::as_str).collect();
                (WaitKind::Claim, names.join(" or "), None)
            }
            Phase::Blocked { on, .. } => (WaitKind::Blocked, on.clone(), None),
            Phase::AwaitingApproval { approval, until } => {
                (WaitKind::Approval, format!("APPR-{approval}"), Some(*until))
            }
            Phase::Running { lease } => match &lease.waits {
                Some(wait) => (WaitKind::Subtask, format!("TASK-{}", wait.on), None),
                None => return None,
            },
            Phase::Done { .. }
            | Phase::Unverified
            | Phase::Failed { .. }
            | Phase::TimedOut
            | Phase::Cancelled => return None,
        };
        Some(WaitingFor { kind, name, until })
    }

    /// First instant at which a parked task is to be admitted again by itself; none when only an event does that.
    pub fn parked_until(&self) -> Option<Timestamp> {
        self.parked_instants().min()
    }

    /// As [`Phase::parked_until`], of the instants after `now`: a task that was admitted again and has to wait on for what
    /// was to be over by now still has its other reasons.
    pub fn parked_until_after(&self, now: Timestamp) -> Option<Timestamp> {
        self.parked_instants().filter(|at| *at > now).min()
    }

    fn parked_instants(&self) -> impl Iterator<Item = Timestamp> {
        let reasons = match self {
            Phase::Parked { reasons } => reasons.as_slice(),
            _ => &[],
        };
        let ends = |r: &Wait| r.waiting_for.as_ref().and_then(|w| w.until);
        reasons.iter().filter_map(ends)
    }

    /// Whether `next` is the same stay as this phase, so that what it waits for began before: the same state, for a parked
    /// task also the same thing that it waits for, and for a running one the same run.
    pub fn continues_in(&self, next: &Phase) -> bool {
        let waits = |phase: &Phase| phase.waiting_for().map(|w| w.key());
        match (self, next) {
            (Phase::Parked { .. }, Phase::Parked { .. })
            | (Phase::Blocked { .. }, Phase::Blocked { .. })
            | (Phase::AwaitingApproval { .. }, Phase::AwaitingApproval { .. }) => {
                waits(self) == waits(next)
            }
            (Phase::Running { lease: old }, Phase::Running { lease: new }) => old.run == new.run,
            _ => self.state() == next.state(),
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

/// State of a task, as far as its state machine needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// State with its data.
    pub phase: Phase,
    /// Fencing token of the newest lease; 0 before the first.
    pub token: LeaseToken,
    /// Number of runs since the task was added or an operator retried it, without those that only had to wait.
    pub attempts: u32,
    /// Principal that added the task.
    pub author: Principal,
}

/// Decision of admission about a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// The task is offered to these agents.
    Offer(Vec<Slug>),
    /// The task cannot start, for these reasons.
    Park(Vec<Wait>),
}
