//! The transition function of a task.

use super::event::{Event, Refusal, RunEnd, Step};
use super::phase::{Admission, Lease, Phase, Task};
use abbey_model::{EndReason, LeaseToken, Millis, Principal, PrincipalKind, RunState, Timestamp};

/// Length of a lease unless the manifest says otherwise.
pub const LEASE_TTL: Millis = Millis::from_secs(30);
/// Attempts that infrastructure may cost before a task is quarantined.
pub const ATTEMPTS_MAX: u32 = 3;
const BACKOFF_BASE: Millis = Millis::from_secs(2);
const BACKOFF_CAP: Millis = Millis::from_secs(300);

/// Applies an event that principal `who` causes to a task. Returns the task afterwards, and the run that starts or ends
/// with it.
///
/// # Errors
/// A [`Refusal`] when the event is not allowed in this state or for this principal, or carries a token or instant that
/// is no longer valid.
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
                        stood_still: Millis(0),
                        waits: None,
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
            let mut lease = Lease {
                expires_at: now + *ttl,
                ..lease.clone()
            };
            if lease.waits.is_some() && !lease.is_waiting(now) {
                lease.end_wait(now);
            }
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
        Event::Wait {
            token,
            reason,
            reasons,
        } => {
            assert!(!reasons.is_empty(), "a parked task has a reason");
            let lease = held(task, *token, who, now, event.name())?;
            let end = RunEnd {
                run: lease.run,
                state: RunState::Failed,
                reason: *reason,
            };
            let reasons = reasons.clone();
            let mut next = ended(task, Phase::Parked { reasons }, end);
            next.task.attempts = task.attempts.saturating_sub(1);
            Ok(next)
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
        Event::HolderLost { token, by_order } => match task.phase.lease() {
            // Nobody's fault, so it is offered again at once and has as many attempts as before.
            Some(lease) if lease.token == *token && *by_order => {
                let end = RunEnd {
                    run: lease.run,
                    state: RunState::Interrupted,
                    reason: EndReason::Stopped,
                };
                let mut next = ended(task, Phase::Pending { not_before: now }, end);
                next.task.attempts = task.attempts.saturating_sub(1);
                Ok(next)
            }
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
            Some(lease) if now >= lease.wall_deadline() => {
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

/// Pause before the next attempt at a task after `attempts` failed ones: doubling from 2 s up to 5 min.
pub fn backoff(attempts: u32) -> Millis {
    let factor = 1i64 << attempts.saturating_sub(1).min(20);
    Millis(BACKOFF_BASE.0.saturating_mul(factor).min(BACKOFF_CAP.0))
}
