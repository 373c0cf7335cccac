//! Life of a cell in the eyes of its shim: named states, and the one function that leads from one to the next.
//!
//! ```text
//!            announced            stop requested               end
//!  Starting ───────────▶ Running ───────────────▶ Stopping ─────────▶ Ended
//!      │   warm   ▲ begun    ▲│                      │ deadline        ▲
//!      └────────▶ Waiting ───┘│ guest failed         ▼                 │
//!                             └──────────────────▶ Killing ────────────┤
//!                      template sealed: Keeping ───────────────────────┘
//! ```
//!
//! [`CellPhase::after`] is pure: it gets an event and gives the next phase and what the shim has to do. Time is in the
//! events.

use abbey_model::ExitKind;
use std::time::{Duration, Instant};

/// Part of the time to end by itself after which a terminal is hung up: shells ignore a request to terminate.
const HANG_UP_AFTER: u32 = 10;

/// Whether the program announced that it is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadinessState {
    /// It did, or does not have to.
    Announced,
    /// It has to by this instant.
    Due(Instant),
}

/// Why a cell is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KillReason {
    /// It did not end within the time that the request to stop gave it.
    StopTimedOut,
    /// Its guest broke the protocol or could not start its program.
    GuestFailed,
}

/// State of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CellPhase {
    /// The child runs and has not announced that it is up. Ends with the announcement, with a microVM that waits, with
    /// a request to stop, with the end of the child, or at `due` as [`ExitKind::NotReady`]; being paused does not stop
    /// that clock.
    Starting {
        /// Instant by which the program has to announce that it is up.
        due: Instant,
        /// Whether every process of the cell is paused.
        paused: bool,
    },
    /// The child runs and is ready. Lasts until a request to stop or the end of the child.
    Running {
        /// Whether every process of the cell is paused.
        paused: bool,
        /// Whether a microVM that waited was given its program.
        begun: bool,
    },
    /// A microVM has everything in memory, is paused, and has no program yet. It counts as ready. Ends when it begins
    /// its program, when somebody resumes it, or with a request to stop.
    Waiting,
    /// The program was asked to end, and everything in the cell runs. Each deadline is cleared when it has passed. Ends
    /// with the child, or at `kill_at`.
    Stopping {
        /// When everything left in the cell is killed.
        kill_at: Instant,
        /// When the terminal is hung up.
        hang_up_at: Option<Instant>,
        /// When the program around a guest is asked to end.
        terminate_at: Option<Instant>,
        /// As before the request.
        readiness: ReadinessState,
        /// As before the request.
        begun: bool,
    },
    /// Everything in the cell was killed, and the child has not been collected. Ends with the child.
    Killing {
        /// Why.
        reason: KillReason,
        /// Whether somebody asked the cell to stop.
        stop_requested: bool,
        /// As before.
        readiness: ReadinessState,
        /// As before.
        begun: bool,
    },
    /// The child of a template has ended; its sealed memory is kept for microVMs that start from it. Ends with a
    /// request to stop.
    Keeping {
        /// Whether somebody asked to pause it; there is nothing left to pause.
        paused: bool,
    },
    /// The cell is over, for this reason. What is left of it is killed, and the exit record is written.
    Ended(ExitKind),
}

/// What happened to a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PhaseEvent {
    /// The program announced that it is up.
    Announced,
    /// Every process was paused, or resumed.
    Paused(bool),
    /// A microVM has everything in memory and was paused.
    Warmed,
    /// A microVM was given its program.
    Begun,
    /// Somebody asked the cell to stop.
    StopRequested {
        /// Time of the request.
        now: Instant,
        /// Time for the program to end by itself.
        grace: Duration,
        /// Whether the program runs on a terminal.
        terminal: bool,
        /// Whether the program runs in a guest.
        guest: bool,
    },
    /// The guest broke the protocol, or could not start its program.
    GuestFailed,
    /// Time passed.
    Clock(Instant),
    /// The child, which is the program itself, ended; how, as the kernel reports it.
    ProgramEnded(ExitKind),
    /// The child, which runs a guest, ended; the reason takes a request to stop into account.
    GuestEnded(ExitKind),
    /// The child of a template ended, and its memory was sealed.
    TemplateSealed,
}

/// What the shim has to do on the way into a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PhaseAction {
    /// Ask the program to end within this time.
    RequestStop(Duration),
    /// Close the program's terminal.
    HangUp,
    /// Ask the program around a guest to end.
    Terminate,
    /// Kill the child and everything below it.
    Kill,
}

impl CellPhase {
    /// First phase of a cell whose program was started. `ready_due` is the deadline for its readiness announcement,
    /// if it must make one.
    pub(super) fn initial(ready_due: Option<Instant>) -> CellPhase {
        match ready_due {
            Some(due) => CellPhase::Starting { due, paused: false },
            None => CellPhase::Running {
                paused: false,
                begun: false,
            },
        }
    }

    /// Phase that follows after an event, and the actions that the shim must take. An event without meaning in this
    /// phase changes nothing.
    pub(super) fn after(&self, event: PhaseEvent) -> (CellPhase, Vec<PhaseAction>) {
        use CellPhase::{Ended, Keeping, Killing, Running, Starting, Stopping, Waiting};
        let mut actions = Vec::new();
        let next = match (self.clone(), event) {
            (Starting { paused, .. }, PhaseEvent::Announced) => Running {
                paused,
                begun: false,
            },
            (
                Stopping {
                    kill_at,
                    hang_up_at,
                    terminate_at,
                    begun,
                    ..
                },
                PhaseEvent::Announced,
            ) => Stopping {
                kill_at,
                hang_up_at,
                terminate_at,
                readiness: ReadinessState::Announced,
                begun,
            },

            (Starting { due, .. }, PhaseEvent::Paused(paused)) => Starting { due, paused },
            (Running { begun, .. }, PhaseEvent::Paused(paused)) => Running { paused, begun },
            (Waiting, PhaseEvent::Paused(false)) => Running {
                paused: false,
                begun: false,
            },
            (Keeping { .. }, PhaseEvent::Paused(paused)) => Keeping { paused },

            (Starting { .. } | Running { begun: false, .. }, PhaseEvent::Warmed) => Waiting,
            (Waiting, PhaseEvent::Begun) => Running {
                paused: true,
                begun: true,
            },
            (
                Running {
                    paused,
                    begun: false,
                },
                PhaseEvent::Begun,
            ) => Running {
                paused,
                begun: true,
            },

            (
                Starting { .. } | Running { .. } | Waiting,
                PhaseEvent::StopRequested {
                    now,
                    grace,
                    terminal,
                    guest,
                },
            ) => {
                actions.push(PhaseAction::RequestStop(grace));
                Stopping {
                    kill_at: now + grace,
                    hang_up_at: terminal.then(|| now + grace / HANG_UP_AFTER),
                    terminate_at: guest.then(|| now + grace * 9 / 10),
                    readiness: self.readiness(),
                    begun: self.has_begun(),
                }
            }
            (
                Killing {
                    reason,
                    readiness,
                    begun,
                    ..
                },
                PhaseEvent::StopRequested { .. },
            ) => Killing {
                reason,
                stop_requested: true,
                readiness,
                begun,
            },
            // There is nothing to wait for.
            (Keeping { .. }, PhaseEvent::StopRequested { .. }) => Ended(ExitKind::Stopped),

            (
                Starting { .. } | Running { .. } | Waiting | Stopping { .. },
                PhaseEvent::GuestFailed,
            ) => {
                actions.push(PhaseAction::Kill);
                self.killing(KillReason::GuestFailed)
            }

            (Stopping { kill_at, .. }, PhaseEvent::Clock(now)) if now >= kill_at => {
                actions.push(PhaseAction::Kill);
                self.killing(KillReason::StopTimedOut)
            }
            (Starting { .. } | Stopping { .. } | Killing { .. }, PhaseEvent::Clock(now)) if matches!(self.readiness(), ReadinessState::Due(due) if now >= due) => {
                Ended(ExitKind::NotReady)
            }
            (
                Stopping {
                    kill_at,
                    hang_up_at,
                    terminate_at,
                    readiness,
                    begun,
                },
                PhaseEvent::Clock(now),
            ) => {
                let mut due = |at: Option<Instant>, action| match at {
                    Some(at) if now >= at => {
                        actions.push(action);
                        None
                    }
                    at => at,
                };
                Stopping {
                    kill_at,
                    hang_up_at: due(hang_up_at, PhaseAction::HangUp),
                    terminate_at: due(terminate_at, PhaseAction::Terminate),
                    readiness,
                    begun,
                }
            }

            (
                Killing {
                    reason: KillReason::StopTimedOut,
                    ..
                },
                PhaseEvent::ProgramEnded(_) | PhaseEvent::GuestEnded(_),
            ) => Ended(ExitKind::Killed),
            (_, PhaseEvent::ProgramEnded(_)) if self.stop_requested() => Ended(ExitKind::Stopped),
            (_, PhaseEvent::ProgramEnded(exit) | PhaseEvent::GuestEnded(exit)) => Ended(exit),
            // A template that nobody wants any more is not kept.
            (_, PhaseEvent::TemplateSealed) if self.stop_requested() => Ended(ExitKind::Stopped),
            (_, PhaseEvent::TemplateSealed) => Keeping { paused: false },

            (phase, _) => phase,
        };
        (next, actions)
    }

    fn killing(&self, reason: KillReason) -> CellPhase {
        CellPhase::Killing {
            reason,
            stop_requested: self.stop_requested(),
            readiness: self.readiness(),
            begun: self.has_begun(),
        }
    }

    fn readiness(&self) -> ReadinessState {
        match self {
            CellPhase::Starting { due, .. } => ReadinessState::Due(*due),
            CellPhase::Stopping { readiness, .. } | CellPhase::Killing { readiness, .. } => {
                *readiness
            }
            CellPhase::Running { .. }
            | CellPhase::Waiting
            | CellPhase::Keeping { .. }
            | CellPhase::Ended(_) => ReadinessState::Announced,
        }
    }

    /// Whether the program has announced readiness or need not do so.
    pub(super) fn is_ready(&self) -> bool {
        self.readiness() == ReadinessState::Announced
    }

    /// Whether a stop of the cell was requested.
    pub(super) fn stop_requested(&self) -> bool {
        match self {
            CellPhase::Stopping { .. } => true,
            CellPhase::Killing { stop_requested, .. } => *stop_requested,
            _ => false,
        }
    }

    /// Whether the cell did not stop in time and was killed.
    pub(super) fn stop_timed_out(&self) -> bool {
        let timed_out = KillReason::StopTimedOut;
        matches!(self, CellPhase::Killing { reason, .. } if *reason == timed_out)
    }

    /// Whether every process of the cell is paused.
    pub(super) fn is_paused(&self) -> bool {
        match self {
            CellPhase::Starting { paused, .. }
            | CellPhase::Running { paused, .. }
            | CellPhase::Keeping { paused } => *paused,
            CellPhase::Waiting => true,
            CellPhase::Stopping { .. } | CellPhase::Killing { .. } | CellPhase::Ended(_) => false,
        }
    }

    /// Whether a request to pause the cell is allowed in this phase.
    pub(super) fn may_pause(&self) -> bool {
        matches!(
            self,
            CellPhase::Starting { .. }
                | CellPhase::Running { .. }
                | CellPhase::Waiting
                | CellPhase::Keeping { .. }
        )
    }

    /// Whether a microVM that has warmed up may be paused until it gets its program.
    pub(super) fn may_wait(&self) -> bool {
        !self.is_paused()
            && matches!(
                self,
                CellPhase::Starting { .. } | CellPhase::Running { begun: false, .. }
            )
    }

    /// Whether a waiting microVM may be given its program in this phase.
    pub(super) fn may_begin(&self) -> bool {
        matches!(
            self,
            CellPhase::Waiting | CellPhase::Running { begun: false, .. }
        )
    }

    /// Whether a microVM that waited was given its program.
    pub(super) fn has_begun(&self) -> bool {
        match self {
            CellPhase::Running { begun, .. }
            | CellPhase::Stopping { begun, .. }
            | CellPhase::Killing { begun, .. } => *begun,
            CellPhase::Starting { .. }
            | CellPhase::Waiting
            | CellPhase::Keeping { .. }
            | CellPhase::Ended(_) => false,
        }
    }

    /// Earliest instant at which a [`PhaseEvent::Clock`] changes the phase; none if no time limit runs.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let due = match self.readiness() {
            ReadinessState::Due(due) => Some(due),
            ReadinessState::Announced => None,
        };
        match self {
            CellPhase::Stopping {
                kill_at,
                hang_up_at,
                terminate_at,
                ..
            } => [Some(*kill_at), *hang_up_at, *terminate_at, due]
                .into_iter()
                .flatten()
                .min(),
            _ => due,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    /// Sends events in order; gives the last phase and all actions.
    fn after(
        first: CellPhase,
        events: impl IntoIterator<Item = PhaseEvent>,
    ) -> (CellPhase, Vec<PhaseAction>) {
        events
            .into_iter()
            .fold((first, Vec::new()), |(phase, mut all), event| {
                let (next, actions) = phase.after(event);
                all.extend(actions);
                (next, all)
            })
    }

    fn stop(now: Instant) -> PhaseEvent {
        PhaseEvent::StopRequested {
            now,
            grace: GRACE,
            terminal: false,
            guest: false,
        }
    }

    const fn running() -> CellPhase {
        CellPhase::Running {
            paused: false,
            begun: false,
        }
    }

    fn code(code: i32) -> ExitKind {
        ExitKind::Code { code }
    }

    #[test]
    fn a_program_that_does_not_announce_itself_in_time_is_not_ready() {
        let now = Instant::now();
        let due = now + GRACE;
        let first = CellPhase::initial(Some(due));
        assert!(!first.is_ready());
        assert_eq!(first.next_deadline(), Some(due));
        let (phase, _) = after(
            first.clone(),
            [PhaseEvent::Clock(now), PhaseEvent::Paused(true)],
        );
        assert!(phase.is_paused() && !phase.is_ready());
        let (phase, actions) = after(phase, [PhaseEvent::Clock(due)]);
        assert_eq!(phase, CellPhase::Ended(ExitKind::NotReady));
        assert_eq!(actions, []);
        // In time, it is ready for good.
        let (phase, _) = after(first, [PhaseEvent::Announced, PhaseEvent::Clock(due)]);
        assert_eq!(phase, running());
        assert_eq!(phase.next_deadline(), None);
    }

    #[test]
    fn a_program_that_ends_by_itself_ends_with_its_own_status() {
        let due = Instant::now() + GRACE;
        for first in [CellPhase::initial(None), CellPhase::initial(Some(due))] {
            let (phase, _) = after(first, [PhaseEvent::ProgramEnded(code(3))]);
            assert_eq!(phase, CellPhase::Ended(code(3)));
        }
    }

    #[test]
    fn a_program_that_ends_after_a_request_was_stopped() {
        let now = Instant::now();
        let (phase, actions) = after(running(), [stop(now)]);
        assert!(phase.stop_requested() && phase.is_ready());
        assert_eq!(phase.next_deadline(), Some(now + GRACE));
        // A second request does not extend the time.
        let (phase, more) = after(phase, [stop(now + GRACE / 2)]);
        assert_eq!(phase.next_deadline(), Some(now + GRACE));
        assert_eq!([actions, more].concat(), [PhaseAction::RequestStop(GRACE)]);
        let (phase, _) = after(phase, [PhaseEvent::ProgramEnded(code(0))]);
        assert_eq!(phase, CellPhase::Ended(ExitKind::Stopped));
    }

    #[test]
    fn a_program_that_outlives_its_time_to_stop_is_killed_once() {
        let now = Instant::now();
        let late = PhaseEvent::Clock(now + GRACE);
        let (phase, actions) = after(running(), [stop(now), late.clone(), late]);
        assert!(phase.stop_timed_out() && phase.stop_requested());
        assert_eq!(
            actions,
            [PhaseAction::RequestStop(GRACE), PhaseAction::Kill]
        );
        assert_eq!(phase.next_deadline(), None);
        for ended in [
            PhaseEvent::ProgramEnded(ExitKind::Signal { signal: 9 }),
            PhaseEvent::GuestEnded(ExitKind::Stopped),
        ] {
            assert_eq!(phase.after(ended).0, CellPhase::Ended(ExitKind::Killed));
        }
    }

    #[test]
    fn a_guest_on_a_terminal_is_hung_up_then_terminated_then_killed() {
        let now = Instant::now();
        let request = PhaseEvent::StopRequested {
            now,
            grace: GRACE,
            terminal: true,
            guest: true,
        };
        let mut phase = running().after(request).0;
        for (passed, expected) in [
            (GRACE / 10, PhaseAction::HangUp),
            (GRACE * 9 / 10, PhaseAction::Terminate),
            (GRACE, PhaseAction::Kill),
        ] {
            assert_eq!(phase.next_deadline(), Some(now + passed));
            let (before, none) =
                phase.after(PhaseEvent::Clock(now + passed - Duration::from_millis(1)));
            assert_eq!((before, none), (phase.clone(), vec![]));
            let (next, actions) = phase.after(PhaseEvent::Clock(now + passed));
            assert_eq!(actions, [expected]);
            phase = next;
        }
    }

    #[test]
    fn readiness_may_still_be_announced_or_missed_while_stopping() {
        let now = Instant::now();
        let due = now + GRACE / 2;
        let (stopping, _) = after(CellPhase::initial(Some(due)), [stop(now)]);
        assert!(!stopping.is_ready());
        let missed = stopping.after(PhaseEvent::Clock(due)).0;
        assert_eq!(missed, CellPhase::Ended(ExitKind::NotReady));
        let (ready, _) = after(stopping, [PhaseEvent::Announced, PhaseEvent::Clock(due)]);
        assert!(ready.is_ready() && ready.stop_requested());
    }

    #[test]
    fn a_failed_guest_is_killed_and_its_own_reason_is_kept() {
        let why = ExitKind::SpawnFailed {
            error: "no such program".to_owned(),
        };
        let (phase, actions) = after(
            running(),
            [PhaseEvent::GuestFailed, PhaseEvent::GuestFailed],
        );
        assert_eq!(actions, [PhaseAction::Kill]);
        assert!(!phase.stop_requested() && !phase.stop_timed_out());
        let (requested, _) = phase.after(stop(Instant::now()));
        assert!(requested.stop_requested());
        for phase in [phase, requested] {
            let (ended, _) = phase.after(PhaseEvent::GuestEnded(why.clone()));
            assert_eq!(ended, CellPhase::Ended(why.clone()));
        }
    }

    #[test]
    fn a_waiting_microvm_is_ready_and_begins_once() {
        let due = Instant::now() + GRACE;
        let (phase, _) = after(CellPhase::initial(Some(due)), [PhaseEvent::Warmed]);
        assert_eq!(phase, CellPhase::Waiting);
        assert!(phase.is_ready() && phase.is_paused() && phase.may_begin());
        assert!(!phase.has_begun() && !phase.may_wait());
        // Somebody who resumes it makes it wait again.
        assert!(phase.after(PhaseEvent::Paused(false)).0.may_wait());
        let (phase, _) = after(phase, [PhaseEvent::Begun, PhaseEvent::Paused(false)]);
        assert!(phase.has_begun() && !phase.is_paused());
        assert!(!phase.may_begin() && !phase.may_wait());
        assert_eq!(phase.after(PhaseEvent::Warmed).0, phase);
        // Also while it stops.
        assert!(phase.after(stop(Instant::now())).0.has_begun());
    }

    #[test]
    fn a_template_is_kept_until_somebody_stops_it() {
        let (phase, _) = after(running(), [PhaseEvent::TemplateSealed]);
        assert!(phase.is_ready() && !phase.stop_requested());
        assert_eq!(phase.after(PhaseEvent::GuestFailed).0, phase);
        let (ended, actions) = phase.after(stop(Instant::now()));
        assert_eq!(ended, CellPhase::Ended(ExitKind::Stopped));
        assert_eq!(actions, []);
        let (unwanted, _) = after(
            running(),
            [stop(Instant::now()), PhaseEvent::TemplateSealed],
        );
        assert_eq!(unwanted, CellPhase::Ended(ExitKind::Stopped));
    }
}
