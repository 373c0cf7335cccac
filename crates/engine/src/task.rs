//! The state machine of a task: which principal may move it from which state to which, and what a lease means.
//!
//! ```text
//!            ┌────────── Admit(park) ─────────┐
//!            ▼                                │
//! Pending ─Admit─▶ Ready ◀──Admit── Parked ◀──┘
//!    ▲               │ Claim (grants the lease: token + 1)
//!    │               ▼
//!    │◀─backoff── Running ──Complete──▶ Done | Unverified
//!    │               │ ├──Fail, too many losses──▶ Failed
//!    │               │ └──WallTime──▶ TimedOut
//!    │◀─Answered── AwaitingApproval ◀──Ask── Running
//!    └──Unblock── Blocked        Cancel: from every state that is not terminal
//!    ▲
//!    └── Retry, from Failed, TimedOut, Cancelled and Unverified
//! ```
//!
//! A lease is over at its instant, whether or not a sweep has come by: a holder that is late by
//! one millisecond is refused, and its token never becomes valid again.

use abbey_model::{
    EndReason, Generation, LeaseToken, Millis, Principal, PrincipalKind, RunId, RunState, Slug,
    TaskState, Timestamp, Verified, WaitCode,
};
use serde::{Deserialize, Serialize};

/// Length of a lease unless the manifest says otherwise.
pub const LEASE_TTL: Millis = Millis::from_secs(30);
/// Attempts that infrastructure may cost before a task is quarantined.
pub const ATTEMPTS_MAX: u32 = 3;
const BACKOFF_BASE: Millis = Millis::from_secs(2);
const BACKOFF_CAP: Millis = Millis::from_secs(300);

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
    /// The state without its data.
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

    /// The lease, while there is one.
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
    /// Word for messages and the activity log.
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

    /// Which kinds of principal may cause this event at all. An agent is further held to tasks
    /// that it is a candidate for, holds or wrote.
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

/// Applies one event.
///
/// # Errors
/// A [`Refusal`] when the event is illegal in this state, comes from a principal without the
/// right, or carries a token or instant that is no longer valid. The task is unchanged then.
pub fn step(task: &Task, event: &Event, who: &Principal, now: Timestamp) -> Result<Step, Refusal> {
    let not_allowed = || Refusal::NotAllowed {
        who: who.clone(),
        event: event.name(),
    };
    if !event.permits(who.kind()) {
        return Err(not_allowed());
    }
    let illegal = || Refusal::Illegal {
        state: task.phase.state(),
        event: event.name(),
    };
    match event {
        Event::Admit(admission) => match task.phase {
            Phase::Pending { .. } | Phase::Parked { .. } | Phase::Ready { .. } => {
                Ok(moved(task, admitted(admission)))
            }
            Phase::Running { .. }
            | Phase::Blocked { .. }
            | Phase::AwaitingApproval { .. }
            | Phase::Done { .. }
            | Phase::Unverified
            | Phase::Failed { .. }
            | Phase::TimedOut
            | Phase::Cancelled => Err(illegal()),
        },
        Event::Claim {
            run,
            generation,
            ttl,
            wall,
        } => {
            let claimant = who.agent().ok_or_else(not_allowed)?;
            match &task.phase {
                Phase::Ready { candidates } if candidates.contains(claimant) => {
                    let token = LeaseToken(task.token.0 + 1);
                    let lease = Lease {
                        token,
                        run: *run,
                        holder: claimant.clone(),
                        generation: *generation,
                        expires_at: now + *ttl,
                        wall_ends_at: now + *wall,
                    };
                    let mut next = moved(task, Phase::Running { lease });
                    next.task.token = token;
                    next.task.attempts += 1;
                    next.begins = Some(*run);
                    Ok(next)
                }
                Phase::Ready { .. } => Err(not_allowed()),
                Phase::Running { lease } => Err(Refusal::Held {
                    holder: lease.holder.clone(),
                    until: lease.expires_at,
                }),
                _ => Err(illegal()),
            }
        }
        Event::Renew { token, ttl } => {
            let lease = held(task, *token, who, now, event.name())?;
            let lease = Lease {
                expires_at: now + *ttl,
                ..lease.clone()
            };
            Ok(moved(task, Phase::Running { lease }))
        }
        Event::Complete { token, verified } => {
            let lease = held(task, *token, who, now, event.name())?;
            let end = RunEnd {
                run: lease.run,
                state: RunState::Succeeded,
                reason: EndReason::Completed,
            };
            let phase = match *verified {
                Some(verified) => Phase::Done { verified },
                None => Phase::Unverified,
            };
            Ok(ended(task, phase, end))
        }
        Event::Fail { token, reason } => {
            let lease = held(task, *token, who, now, event.name())?;
            Ok(failed(task, lease, *reason, now))
        }
        Event::Block { token, on, why } => {
            let lease = held(task, *token, who, now, event.name())?;
            let end = RunEnd {
                run: lease.run,
                state: RunState::Succeeded,
                reason: EndReason::Blocked,
            };
            Ok(ended(
                task,
                Phase::Blocked {
                    on: on.clone(),
                    why: why.clone(),
                },
                end,
            ))
        }
        Event::Ask {
            token,
            approval,
            until,
        } => {
            let lease = held(task, *token, who, now, event.name())?;
            let end = RunEnd {
                run: lease.run,
                state: RunState::Succeeded,
                reason: EndReason::Blocked,
            };
            let phase = Phase::AwaitingApproval {
                approval: *approval,
                until: *until,
            };
            Ok(ended(task, phase, end))
        }
        Event::Answered { goes_on } => match (&task.phase, goes_on) {
            (Phase::AwaitingApproval { .. }, true) => {
                Ok(moved(task, Phase::Pending { not_before: now }))
            }
            (Phase::AwaitingApproval { .. }, false) => Ok(moved(
                task,
                Phase::Failed {
                    reason: EndReason::Denied,
                    quarantined: false,
                },
            )),
            _ => Err(illegal()),
        },
        Event::Unblock => match task.phase {
            Phase::Blocked { .. } => Ok(moved(task, Phase::Pending { not_before: now })),
            _ => Err(illegal()),
        },
        Event::Edit => match task.phase {
            Phase::Pending { .. } | Phase::Parked { .. } | Phase::Ready { .. } => {
                Ok(moved(task, task.phase.clone()))
            }
            _ => Err(illegal()),
        },
        Event::HolderLost { token } => match task.phase.lease() {
            Some(lease) if lease.token == *token => {
                Ok(failed(task, lease, EndReason::CellLost, now))
            }
            Some(lease) => Err(Refusal::Fenced {
                given: token.0,
                current: lease.token.0,
            }),
            None => Err(illegal()),
        },
        Event::Expire => match task.phase.lease() {
            Some(lease) if now >= lease.expires_at => {
                Ok(failed(task, lease, EndReason::LeaseExpired, now))
            }
            Some(_) => Err(Refusal::NotDue),
            None => Err(illegal()),
        },
        Event::WallTime => match task.phase.lease() {
            Some(lease) if now >= lease.wall_ends_at => {
                Ok(failed(task, lease, EndReason::WallTime, now))
            }
            Some(_) => Err(Refusal::NotDue),
            None => Err(illegal()),
        },
        Event::Overdue => {
            if task.phase.state().is_terminal() {
                return Err(illegal());
            }
            Ok(match task.phase.lease() {
                Some(lease) => {
                    let end = RunEnd {
                        run: lease.run,
                        state: RunState::TimedOut,
                        reason: EndReason::Overdue,
                    };
                    ended(task, Phase::TimedOut, end)
                }
                None => moved(task, Phase::TimedOut),
            })
        }
        Event::Cancel => {
            if task.phase.state().is_terminal() {
                return Err(illegal());
            }
            // An agent may cancel only what it added itself.
            if who.kind() == PrincipalKind::Agent && *who != task.author {
                return Err(not_allowed());
            }
            Ok(match task.phase.lease() {
                Some(lease) => {
                    let end = RunEnd {
                        run: lease.run,
                        state: RunState::Cancelled,
                        reason: EndReason::CancelledByRequest,
                    };
                    ended(task, Phase::Cancelled, end)
                }
                None => moved(task, Phase::Cancelled),
            })
        }
        Event::Retry => match task.phase {
            Phase::Failed { .. } | Phase::TimedOut | Phase::Cancelled | Phase::Unverified => {
                let mut next = moved(task, Phase::Pending { not_before: now });
                next.task.attempts = 0;
                Ok(next)
            }
            _ => Err(illegal()),
        },
    }
}

/// The lease, if this caller holds it now.
fn held<'a>(
    task: &'a Task,
    token: LeaseToken,
    who: &Principal,
    now: Timestamp,
    event: &'static str,
) -> Result<&'a Lease, Refusal> {
    let Some(lease) = task.phase.lease() else {
        // A late holder learns that it is late; others learn that the state is wrong.
        return Err(
            if token.0 != 0 && token <= task.token && task.token.0 != 0 {
                Refusal::Fenced {
                    given: token.0,
                    current: task.token.0,
                }
            } else {
                Refusal::Illegal {
                    state: task.phase.state(),
                    event,
                }
            },
        );
    };
    if who.agent() != Some(&lease.holder) {
        return Err(Refusal::Held {
            holder: lease.holder.clone(),
            until: lease.expires_at,
        });
    }
    if token != lease.token {
        return Err(Refusal::Fenced {
            given: token.0,
            current: lease.token.0,
        });
    }
    if now >= lease.expires_at {
        return Err(Refusal::LeaseOver {
            late_ms: now.since(lease.expires_at).0,
        });
    }
    Ok(lease)
}

fn admitted(admission: &Admission) -> Phase {
    match admission {
        Admission::Offer(candidates) => {
            assert!(
                !candidates.is_empty(),
                "an offer names at least one candidate"
            );
            Phase::Ready {
                candidates: candidates.clone(),
            }
        }
        Admission::Park(reasons) => {
            assert!(!reasons.is_empty(), "a parked task has a reason");
            Phase::Parked {
                reasons: reasons.clone(),
            }
        }
    }
}

fn moved(task: &Task, phase: Phase) -> Step {
    Step {
        task: Task {
            phase,
            ..task.clone()
        },
        begins: None,
        ends: None,
    }
}

fn ended(task: &Task, phase: Phase, end: RunEnd) -> Step {
    Step {
        task: Task {
            phase,
            ..task.clone()
        },
        begins: None,
        ends: Some(end),
    }
}

/// A run ended without success: try again after a pause, or give up.
fn failed(task: &Task, lease: &Lease, reason: EndReason, now: Timestamp) -> Step {
    let run_state = match reason {
        EndReason::CellLost => RunState::Interrupted,
        EndReason::LeaseExpired => RunState::Superseded,
        EndReason::WallTime => RunState::TimedOut,
        EndReason::CancelledByRequest => RunState::Cancelled,
        _ => RunState::Failed,
    };
    let end = RunEnd {
        run: lease.run,
        state: run_state,
        reason,
    };
    let phase = if reason == EndReason::WallTime {
        Phase::TimedOut
    } else if reason.may_retry() && task.attempts < ATTEMPTS_MAX {
        Phase::Pending {
            not_before: now + backoff(task.attempts),
        }
    } else {
        Phase::Failed {
            reason,
            quarantined: reason.may_retry(),
        }
    };
    ended(task, phase, end)
}

/// Pause before attempt `attempts + 1`: doubling, with a cap.
pub fn backoff(attempts: u32) -> Millis {
    let factor = 1i64 << attempts.saturating_sub(1).min(20);
    Millis(BACKOFF_BASE.0.saturating_mul(factor).min(BACKOFF_CAP.0))
}
