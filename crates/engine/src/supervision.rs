//! Supervision of a cell: the next action, from its desired and its observed state.
//!
//! Level-triggered: [`decide`] is called with a fresh observation on every pass and remembers
//! only the history of failures. Start-up, crash recovery and the ordinary case are one path.

use abbey_model::{ExitKind, ExitRecord, Generation, Millis, Observed, Presence, Timestamp};

const BACKOFF_BASE: Millis = Millis::from_secs(1);
const BACKOFF_CAP: Millis = Millis::from_secs(300);
/// Uptime after which earlier failures are forgotten.
pub const STABLE_AFTER: Millis = Millis::from_secs(60);
/// Failures in a row after which a cell is shown as degraded.
pub const CRASH_LOOP: u32 = 3;
/// Uptime from which on a program that nothing can probe counts as started, if none of its newest boots failed.
const SETTLES_AFTER: Millis = Millis::from_secs(3);
/// Uptime that a program needs beyond twice the life of a boot that failed early.
const SETTLES_BEYOND: Millis = Millis::from_secs(5);

/// Desired state of a cell with its specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Desired {
    /// Running, started from the specification with this digest.
    Up {
        /// Digest of the values that only a restart can change.
        spec: String,
    },
    /// Suspended. A cell that is down is started first, and suspended once it is ready.
    Paused {
        /// Digest of everything that a restart is needed for.
        spec: String,
    },
    /// Suspended for a short time, for a copy of its files, if it runs from this specification; a cell that is down stays
    /// down meanwhile, because it would change them.
    Held {
        /// Digest of everything that a restart is needed for.
        spec: String,
    },
    /// Stopped, with no process left.
    Down,
}

/// What supervision remembers of a cell between two passes.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct History {
    /// Number of the newest boot.
    pub generation: Generation,
    /// Number of failures in a row.
    pub failures: u32,
    /// Number of starts after the first, without those after a stop that was desired.
    pub restarts: u64,
    /// Whether the cell was desired to be down since its newest start, so that its next start is no restart.
    #[serde(default)]
    pub stopped: bool,
    /// Record of the last exit.
    pub last_exit: Option<ExitRecord>,
    /// Earliest instant of the next start.
    pub retry_at: Option<Timestamp>,
    /// Digest of the specification that was started last; failures of another one say nothing about it.
    #[serde(default)]
    pub tried: Option<String>,
    /// Instant of the newest start.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// Boots in a row that failed within [`STABLE_AFTER`]; a request of an operator does not forget them.
    #[serde(default)]
    pub early_ends: u32,
    /// How long the last of them lived.
    #[serde(default)]
    pub lived: Millis,
}

/// Next action on a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing is to be done.
    Rest,
    /// Nothing is to be done before this instant.
    WaitUntil(Timestamp),
    /// Start the cell as boot of this number.
    Start(Generation),
    /// Request the cell to stop.
    Stop,
    /// Suspend every process of the cell.
    Pause,
    /// Resume the processes of the cell.
    Resume,
    /// Kill the remaining processes of the cell and remove what is left of it.
    Sweep,
}

/// Decides the next action on a cell from its desired state, what was observed on the host, and its history. Returns
/// the updated history as well.
pub fn decide(
    desired: &Desired,
    observed: &Observed,
    history: &History,
    now: Timestamp,
) -> (History, Action) {
    let mut next = history.clone();
    match (desired, observed) {
        (Desired::Up { spec } | Desired::Paused { spec }, Observed::Nothing) => {
            let changed = history.tried.as_ref().is_some_and(|tried| tried != spec);
            if changed {
                next.failures = 0;
                next.early_ends = 0;
            } else if let Some(at) = history.retry_at
                && now < at
            {
                return (next, Action::WaitUntil(at));
            }
            next.tried = Some(spec.clone());
            if next.generation.0 > 0 && !next.stopped {
                next.restarts += 1;
            }
            next.stopped = false;
            next.generation.0 += 1;
            next.retry_at = None;
            next.started_at = Some(now);
            let generation = next.generation;
            (next, Action::Start(generation))
        }
        (
            Desired::Up { spec } | Desired::Paused { spec } | Desired::Held { spec },
            Observed::Running {
                generation,
                spec: running,
                started_at,
                stopping,
                ready,
                paused,
                worker: _,
            },
        ) => {
            next.generation = next.generation.max(*generation);
            if *stopping {
                return (next, Action::Rest);
            }
            if spec != running || *generation < history.generation {
                return (next, Action::Stop);
            }
            let pauses = !matches!(desired, Desired::Up { .. });
            match (pauses, *paused) {
                // What is suspended while it starts would count as never ready when it is resumed.
                (true, false) if !*ready && matches!(desired, Desired::Paused { .. }) => {
                    return (next, Action::Rest);
                }
                (true, false) => return (next, Action::Pause),
                (true, true) => return (next, Action::Rest),
                (false, true) => return (next, Action::Resume),
                (false, false) => {}
            }
            if *ready && (next.failures > 0 || next.early_ends > 0) {
                if now.since(*started_at) >= STABLE_AFTER {
                    next.failures = 0;
                    next.early_ends = 0;
                } else {
                    return (next, Action::WaitUntil(*started_at + STABLE_AFTER));
                }
            }
            (next, Action::Rest)
        }
        (
            Desired::Down,
            Observed::Running {
                generation,
                stopping,
                ..
            },
        ) => {
            next.generation = next.generation.max(*generation);
            next.stopped = true;
            (
                next,
                if *stopping {
                    Action::Rest
                } else {
                    Action::Stop
                },
            )
        }
        (desired, Observed::Exited(record)) => {
            next.generation = next.generation.max(record.generation);
            next.stopped |= *desired == Desired::Down;
            note_exit(&mut next, record.clone(), now);
            (next, Action::Sweep)
        }
        (_, Observed::Orphaned { generation }) => {
            next.generation = next.generation.max(*generation);
            let record = ExitRecord {
                generation: *generation,
                exit: ExitKind::Lost,
                ended_at: now,
                spent: None,
            };
            note_exit(&mut next, record, now);
            (next, Action::Sweep)
        }
        (desired @ (Desired::Down | Desired::Held { .. }), Observed::Nothing) => {
            next.stopped |= *desired == Desired::Down;
            next.failures = 0;
            next.retry_at = None;
            (next, Action::Rest)
        }
    }
}

/// History after a start that was refused before there was a cell: it is tried again as after a crash.
pub fn after_refused_start(history: &History, now: Timestamp) -> History {
    let failures = history.failures.saturating_add(1);
    History {
        failures,
        retry_at: Some(now + backoff(failures)),
        ..history.clone()
    }
}

/// History once an operator asked for the cell: what failed is tried again at once, and failures are counted anew.
pub fn after_request(history: &History) -> History {
    History {
        failures: 0,
        retry_at: None,
        ..history.clone()
    }
}

fn note_exit(history: &mut History, record: ExitRecord, now: Timestamp) {
    // The same record is seen again when a sweep could not finish; it counts once.
    if history.last_exit.as_ref() == Some(&record) {
        return;
    }
    if record.exit.was_requested() {
        history.failures = 0;
        history.retry_at = None;
    } else if record.exit == ExitKind::HostRestarted {
        // It says nothing about the cell.
        history.retry_at = None;
    } else {
        history.failures = history.failures.saturating_add(1);
        history.retry_at = Some(now + backoff(history.failures));
        note_early_end(history, &record);
    }
    history.last_exit = Some(record);
}

/// Counts a boot whose program failed soon after its start. A shim that disappeared says nothing about the program.
fn note_early_end(history: &mut History, record: &ExitRecord) {
    let started = history.started_at.filter(|_| record.exit != ExitKind::Lost);
    let Some(started_at) = started.filter(|_| record.generation == history.generation) else {
        return;
    };
    let lived = record.ended_at.since(started_at);
    if lived < STABLE_AFTER {
        history.early_ends = history.early_ends.saturating_add(1);
        history.lived = lived;
    } else {
        history.early_ends = 0;
    }
}

/// Uptime from which on a running cell counts as started, from how its newest boots ended; `probed` is whether something
/// other than its uptime says that it works. A program that failed soon after a start has to live more than twice as long
/// as it did then, at most [`STABLE_AFTER`].
pub fn settle_time(history: &History, probed: bool) -> Millis {
    match (history.early_ends, probed) {
        (0, false) => SETTLES_AFTER,
        (ends, true) if ends < CRASH_LOOP => Millis(0),
        _ => {
            let longer = history.lived.0.saturating_mul(2);
            let needed = longer.saturating_add(SETTLES_BEYOND.0);
            Millis(needed.min(STABLE_AFTER.0))
        }
    }
}

/// Pause before a cell is started again after this many failures in a row: doubling from 1 s up to 5 min.
pub fn backoff(failures: u32) -> Millis {
    let factor = 1i64 << failures.saturating_sub(1).min(20);
    Millis(BACKOFF_BASE.0.saturating_mul(factor).min(BACKOFF_CAP.0))
}

/// Presence of a cell as users see it (S2-09), from its desired state, what was observed, and whether its address
/// answers (`ingress`).
pub fn presence(
    desired: &Desired,
    observed: &Observed,
    history: &History,
    ingress: bool,
) -> Presence {
    match observed {
        Observed::Running { stopping: true, .. } => Presence::Stopping,
        Observed::Running { paused: true, .. } => Presence::Paused,
        Observed::Running { ready: false, .. } => Presence::Starting,
        Observed::Running { worker, .. } => Presence::from_probes(ingress, *worker),
        Observed::Nothing | Observed::Exited(_) | Observed::Orphaned { .. } => match desired {
            Desired::Down | Desired::Held { .. } => Presence::Stopped,
            _ if history.failures >= CRASH_LOOP => Presence::Degraded,
            _ if history.failures > 0 => Presence::Down,
            _ => Presence::Starting,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: fn() -> Desired = || Desired::Up { spec: "a".into() };

    fn crashed(generation: u64, at: i64) -> Observed {
        Observed::Exited(ExitRecord {
            generation: Generation(generation),
            exit: ExitKind::Code { code: 1 },
            ended_at: Timestamp(at),
            spent: None,
        })
    }

    #[test]
    fn a_crash_loop_slows_down_to_the_cap_and_shows() {
        let mut history = History::default();
        let mut now = Timestamp(0);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let (h, action) = decide(&UP(), &Observed::Nothing, &history, now);
            let Action::Start(generation) = action else {
                panic!("expected a start, got {action:?}")
            };
            let (h, sweep) = decide(&UP(), &crashed(generation.0, now.0), &h, now);
            assert_eq!(sweep, Action::Sweep);
            let (h, wait) = decide(&UP(), &Observed::Nothing, &h, now);
            let Action::WaitUntil(at) = wait else {
                panic!("expected a pause, got {wait:?}")
            };
            pauses.push(at.since(now).0 / 1000);
            now = at;
            history = h;
        }
        assert_eq!(pauses[..5], [1, 2, 4, 8, 16]);
        assert_eq!(*pauses.last().unwrap(), 300);
        assert_eq!(
            presence(&UP(), &Observed::Nothing, &history, false),
            Presence::Degraded
        );
    }

    #[test]
    fn refused_starts_slow_down_and_another_specification_is_tried_at_once() {
        let mut history = History::default();
        let mut now = Timestamp(0);
        let mut pauses = Vec::new();
        for _ in 0..4 {
            let (h, action) = decide(&UP(), &Observed::Nothing, &history, now);
            assert!(matches!(action, Action::Start(_)), "{action:?}");
            history = after_refused_start(&h, now);
            let (_, wait) = decide(&UP(), &Observed::Nothing, &history, now);
            let Action::WaitUntil(at) = wait else {
                panic!("expected a pause, got {wait:?}")
            };
            pauses.push(at.since(now).0 / 1000);
            now = at;
        }
        assert_eq!(pauses, [1, 2, 4, 8]);
        let history = after_refused_start(&history, now);
        let other = Desired::Up { spec: "b".into() };
        let (h, action) = decide(&other, &Observed::Nothing, &history, now);
        assert!(matches!(action, Action::Start(_)), "{action:?}");
        assert_eq!(h.failures, 0);
        let (_, action) = decide(&UP(), &Observed::Nothing, &after_request(&history), now);
        assert!(matches!(action, Action::Start(_)), "{action:?}");
    }

    #[test]
    fn a_restart_of_the_host_is_no_failure_of_the_cell() {
        let history = History {
            generation: Generation(3),
            ..History::default()
        };
        let gone = Observed::Exited(ExitRecord {
            generation: Generation(3),
            exit: ExitKind::HostRestarted,
            ended_at: Timestamp(5),
            spent: None,
        });
        let (history, action) = decide(&UP(), &gone, &history, Timestamp(9));
        assert_eq!((history.failures, action), (0, Action::Sweep));
        let (history, action) = decide(&UP(), &Observed::Nothing, &history, Timestamp(9));
        assert_eq!(action, Action::Start(Generation(4)), "without a pause");
        assert_eq!(
            presence(&UP(), &Observed::Nothing, &history, false),
            Presence::Starting
        );
    }

    #[test]
    fn stable_uptime_forgets_failures() {
        let history = History {
            generation: Generation(3),
            failures: 4,
            ..History::default()
        };
        let running = Observed::Running {
            generation: Generation(3),
            spec: "a".into(),
            ready: true,
            started_at: Timestamp(0),
            stopping: false,
            paused: false,
            worker: true,
        };
        let (h, action) = decide(&UP(), &running, &history, Timestamp(10_000));
        assert_eq!(
            (h.failures, action),
            (4, Action::WaitUntil(Timestamp(60_000)))
        );
        let (h, action) = decide(&UP(), &running, &h, Timestamp(60_000));
        assert_eq!((h.failures, action), (0, Action::Rest));
    }

    #[test]
    fn a_program_that_failed_early_has_to_live_longer_to_count_as_started() {
        let mut history = History::default();
        assert_eq!(settle_time(&history, false), SETTLES_AFTER);
        assert_eq!(settle_time(&history, true), Millis(0));
        let mut now = Timestamp(0);
        for end in 1..=CRASH_LOOP {
            (history, _) = decide(&UP(), &Observed::Nothing, &history, now);
            now = now + Millis::from_secs(4);
            let crashed = crashed(history.generation.0, now.0);
            (history, _) = decide(&UP(), &crashed, &history, now);
            // Seen again, it counts once.
            (history, _) = decide(&UP(), &crashed, &history, now);
            assert_eq!(settle_time(&history, false), Millis::from_secs(13));
            let loops = end >= CRASH_LOOP;
            assert_eq!(settle_time(&history, true) > Millis(0), loops);
            // Whoever asks for it does not make it work.
            history = after_request(&history);
            assert_eq!(history.early_ends, end);
        }
        // Neither does stopping it by name, nor a shim that was killed.
        (history, _) = decide(&UP(), &Observed::Nothing, &history, now);
        let ended = |exit| {
            Observed::Exited(ExitRecord {
                generation: history.generation,
                exit,
                ended_at: now,
                spent: None,
            })
        };
        for exit in [ExitKind::Stopped, ExitKind::Lost] {
            let (after, _) = decide(&UP(), &ended(exit), &history, now);
            assert_eq!(after.early_ends, history.early_ends);
        }
        // A long life does, and so does another specification.
        let running = Observed::Running {
            generation: history.generation,
            spec: "a".into(),
            ready: true,
            started_at: now,
            stopping: false,
            paused: false,
            worker: true,
        };
        let (stable, _) = decide(&UP(), &running, &history, now + STABLE_AFTER);
        assert_eq!(settle_time(&stable, false), SETTLES_AFTER);
        let other = Desired::Up { spec: "b".into() };
        let (other, _) = decide(&other, &Observed::Nothing, &history, now);
        assert_eq!(settle_time(&other, false), SETTLES_AFTER);
        let old = History {
            early_ends: 1,
            lived: Millis::from_secs(50),
            ..History::default()
        };
        assert_eq!(settle_time(&old, false), STABLE_AFTER);
    }

    #[test]
    fn a_changed_specification_restarts_and_an_equal_one_is_adopted() {
        let running = |spec: &str| Observed::Running {
            generation: Generation(1),
            spec: spec.into(),
            ready: true,
            started_at: Timestamp(0),
            stopping: false,
            paused: false,
            worker: true,
        };
        let fresh = History::default();
        assert_eq!(
            decide(&UP(), &running("a"), &fresh, Timestamp(1)).1,
            Action::Rest
        );
        assert_eq!(
            decide(&UP(), &running("b"), &fresh, Timestamp(1)).1,
            Action::Stop
        );
        assert_eq!(
            decide(&Desired::Down, &running("a"), &fresh, Timestamp(1)).1,
            Action::Stop
        );
    }

    #[test]
    fn a_start_after_a_desired_stop_is_no_restart() {
        let stopped = Observed::Exited(ExitRecord {
            generation: Generation(1),
            exit: ExitKind::Stopped,
            ended_at: Timestamp(5),
            spent: None,
        });
        let first = decide(&UP(), &Observed::Nothing, &History::default(), Timestamp(0)).0;
        let ended = |desired: &Desired| {
            let swept = decide(desired, &stopped, &first, Timestamp(5)).0;
            decide(&UP(), &Observed::Nothing, &swept, Timestamp(9)).0
        };
        let again = ended(&Desired::Down);
        assert_eq!((again.generation, again.restarts), (Generation(2), 0));
        // So is one that found no cell any more, as between two starts of one that fails.
        let down = decide(&Desired::Down, &Observed::Nothing, &first, Timestamp(5)).0;
        assert_eq!(
            decide(&UP(), &Observed::Nothing, &down, Timestamp(9))
                .0
                .restarts,
            0
        );
        // A stop that only makes room for the next boot is one.
        assert_eq!(ended(&UP()).restarts, 1);
    }

    #[test]
    fn a_lost_shim_is_swept_before_anything_starts() {
        let orphan = Observed::Orphaned {
            generation: Generation(7),
        };
        let (h, action) = decide(&UP(), &orphan, &History::default(), Timestamp(5));
        assert_eq!(action, Action::Sweep);
        assert_eq!(h.generation, Generation(7));
        let (h, action) = decide(&UP(), &Observed::Nothing, &h, Timestamp(5_000));
        assert_eq!(action, Action::Start(Generation(8)));
        assert_eq!(h.restarts, 1);
    }

    #[test]
    fn a_paused_cell_that_ended_is_started_and_suspended_once_ready() {
        let paused = Desired::Paused { spec: "a".into() };
        let history = History::default();
        let running = |paused| Observed::Running {
            generation: Generation(1),
            spec: "a".into(),
            ready: true,
            started_at: Timestamp(0),
            stopping: false,
            paused,
            worker: true,
        };
        let action = |desired: &Desired, observed: &Observed| {
            decide(desired, observed, &history, Timestamp(1)).1
        };
        assert_eq!(action(&paused, &running(false)), Action::Pause);
        assert_eq!(action(&paused, &running(true)), Action::Rest);
        assert_eq!(action(&UP(), &running(true)), Action::Resume);
        assert_eq!(action(&Desired::Down, &running(true)), Action::Stop);
        let started = action(&paused, &Observed::Nothing);
        assert_eq!(started, Action::Start(Generation(1)));
        let held = Desired::Held { spec: "a".into() };
        assert_eq!(action(&held, &running(false)), Action::Pause);
        assert_eq!(action(&held, &Observed::Nothing), Action::Rest);
        let mut starting = running(false);
        if let Observed::Running { ready, .. } = &mut starting {
            *ready = false;
        }
        assert_eq!(action(&paused, &starting), Action::Rest);
        let word = presence(&paused, &running(true), &history, true);
        assert_eq!(word, Presence::Paused);
    }

    #[test]
    fn presence_of_a_running_cell_follows_from_both_probes() {
        let running = |worker| Observed::Running {
            generation: Generation(1),
            spec: "a".into(),
            ready: true,
            started_at: Timestamp(0),
            stopping: false,
            paused: false,
            worker,
        };
        let of = |worker, ingress| presence(&UP(), &running(worker), &History::default(), ingress);
        assert_eq!(of(true, true), Presence::Ready);
        assert_eq!(of(true, false), Presence::WorkerOnly);
        assert_eq!(of(false, true), Presence::IngressOnly);
        assert_eq!(of(false, false), Presence::Down);
    }
}
