//! A run that waits for a task that it gave: it keeps its lease, does not count among the runs of its agent, and its wall
//! time stands still while nobody works on that task, in sum for at most [`STANDSTILL_MAX`].
//!
//! ```text
//! (works) ─begin_wait─▶ waits, time stands still ◀─set_worked_on─▶ waits, time passes ─end_wait─▶ (works)
//!                                 └─ not continued before `until`: as if it worked ─┘
//! ```

use super::phase::{Lease, Phase};
use abbey_model::{Millis, PastWait, Timestamp, WaitKind};
use serde::{Deserialize, Serialize};

/// Most time for which the wall time of one run stands still. A run that used it up no longer waits: it counts as a run
/// that works, whatever it does. A night and a day are enough for a subtask that waits for the next day's budget.
pub const STANDSTILL_MAX: Millis = Millis::from_secs(24 * 3600);

/// Wait of a run for a task that it gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubtaskWait {
    /// Number of the task.
    pub on: u64,
    /// Instant at which the wait began; none for one that an earlier version of Abbey began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// First instant at which the wait no longer counts, unless the worker continues it before.
    pub until: Timestamp,
    /// Instant since which the wall time stands still, as far as it is not part of the end of the wall time yet; none while
    /// somebody works on the task.
    pub still_since: Option<Timestamp>,
}

impl Lease {
    /// First instant at which the run has used up its wall time, as far as its wait is known now.
    pub fn wall_deadline(&self) -> Timestamp {
        self.wall_ends_at + self.standstill(Timestamp(i64::MAX))
    }

    /// Whether the run waits for a task that it gave at `now`, so that its agent has room for another run.
    pub fn is_waiting(&self, now: Timestamp) -> bool {
        self.waits.as_ref().is_some_and(|w| now < w.until)
    }

    /// Begins a wait for a task, or continues it until `until`. A run that has waited for [`STANDSTILL_MAX`] begins none.
    pub fn begin_wait(&mut self, on: u64, until: Timestamp, worked_on: bool, now: Timestamp) {
        let continues = self.is_waiting(now) && self.waits.as_ref().is_some_and(|w| w.on == on);
        if !continues {
            self.end_wait(now);
            self.waits = Some(SubtaskWait {
                on,
                since: Some(now),
                until,
                still_since: Some(now),
            });
        }
        self.count_standstill(now);
        if self.stood_still >= STANDSTILL_MAX {
            self.waits = None;
            return;
        }
        if let Some(wait) = &mut self.waits {
            wait.until = wait.until.max(until);
        }
        self.set_worked_on(on, worked_on, now);
    }

    /// Lets the wall time pass while somebody works on the task, and stand still otherwise.
    pub fn set_worked_on(&mut self, on: u64, worked_on: bool, now: Timestamp) {
        if self.waits.as_ref().is_none_or(|w| w.on != on) {
            return;
        }
        self.count_standstill(now);
        if let Some(wait) = &mut self.waits {
            wait.still_since = match worked_on {
                true => None,
                false => wait.still_since.or(Some(now)),
            };
        }
    }

    /// Ends the wait: the run works again.
    pub fn end_wait(&mut self, now: Timestamp) {
        self.count_standstill(now);
        self.waits = None;
    }

    /// The wait of this lease as one that is over at `now`, if `next` no longer waits as part of it.
    pub fn wait_over(&self, next: Option<&Lease>, now: Timestamp) -> Option<PastWait> {
        let wait = self.waits.as_ref()?;
        let since = wait.since?;
        let goes_on = next.and_then(|l| l.waits.as_ref());
        if goes_on.is_some_and(|w| w.on == wait.on && w.since == wait.since) {
            return None;
        }
        Some(PastWait {
            kind: WaitKind::Subtask,
            name: format!("TASK-{}", wait.on),
            since,
            ended: now.min(wait.until).max(since),
        })
    }

    /// Time for which the wall time stands still until `end`, beyond what is part of its end already.
    fn standstill(&self, end: Timestamp) -> Millis {
        let Some(SubtaskWait {
            until,
            still_since: Some(since),
            ..
        }) = &self.waits
        else {
            return Millis(0);
        };
        let left = Millis((STANDSTILL_MAX.0 - self.stood_still.0).max(0));
        end.min(*until).since(*since).min(left)
    }

    /// Makes the time for which the wall time has stood still part of its end.
    fn count_standstill(&mut self, now: Timestamp) {
        let stood = self.standstill(now);
        self.wall_ends_at = self.wall_ends_at + stood;
        self.stood_still = Millis(self.stood_still.0 + stood.0);
        if let Some(wait) = &mut self.waits {
            wait.still_since = wait.still_since.map(|since| since.max(now));
        }
    }
}

impl Phase {
    /// Whether somebody works on the task now: an agent runs it, and does not wait in turn for a subtask on which nobody
    /// works.
    pub fn is_worked_on(&self) -> bool {
        let stands = |lease: &Lease| {
            let wait = lease.waits.as_ref();
            wait.is_some_and(|w| w.still_since.is_some())
        };
        self.lease().is_some_and(|lease| !stands(lease))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abbey_model::{Generation, Id, LeaseToken};
    use proptest::prelude::*;

    fn lease() -> Lease {
        Lease {
            token: LeaseToken(1),
            run: Id::v7(1, 1),
            holder: "a".parse().unwrap(),
            generation: Generation(1),
            expires_at: Timestamp(30_000),
            wall_ends_at: Timestamp(10_000),
            stood_still: Millis(0),
            waits: None,
        }
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp(ms)
    }

    #[test]
    fn wall_time_stands_still_while_nobody_works_on_the_subtask() {
        let mut run = lease();
        run.begin_wait(7, at(5_000), false, at(1_000));
        assert_eq!(
            run.wall_deadline(),
            at(14_000),
            "until the wait must be continued"
        );
        run.begin_wait(7, at(9_000), false, at(5_000 - 1));
        assert_eq!(run.wall_deadline(), at(18_000));
        // Somebody begins: 5 seconds stood still, and time passes now.
        run.set_worked_on(7, true, at(6_000));
        assert_eq!(run.wall_deadline(), at(15_000));
        assert!(run.is_waiting(at(6_000)) && !run.is_waiting(at(9_000)));
        // Another subtask changes nothing.
        run.set_worked_on(8, false, at(6_500));
        run.set_worked_on(7, false, at(7_000));
        run.end_wait(at(8_000));
        assert_eq!((run.wall_deadline(), run.waits), (at(16_000), None));
    }

    #[test]
    fn a_wait_that_is_not_continued_ends_by_itself() {
        let mut run = lease();
        run.begin_wait(7, at(5_000), false, at(1_000));
        assert!(!run.is_waiting(at(5_000)));
        run.begin_wait(7, at(9_000), true, at(8_000));
        assert_eq!(run.wall_deadline(), at(14_000), "4 of the 7 seconds");
        let mut run = lease();
        run.begin_wait(7, at(5_000), false, at(1_000));
        run.end_wait(at(60_000));
        assert_eq!(run.wall_deadline(), at(14_000));
    }

    #[test]
    fn a_task_that_waits_for_work_is_not_worked_on() {
        let mut run = lease();
        let works = |run: &Lease| Phase::Running { lease: run.clone() }.is_worked_on();
        assert!(works(&run));
        run.begin_wait(7, at(5_000), false, at(1_000));
        assert!(!works(&run));
        run.set_worked_on(7, true, at(2_000));
        assert!(works(&run));
        assert!(!Phase::Cancelled.is_worked_on());
    }

    #[test]
    fn a_run_stands_still_for_a_day_at_most() {
        let mut run = lease();
        let wall = run.wall_deadline();
        for hour in 0..48i64 {
            let now = at(hour * 3_600_000);
            run.begin_wait(7, now + Millis::from_secs(3600), false, now);
        }
        assert_eq!(run.wall_deadline(), wall + STANDSTILL_MAX);
        assert!(!run.is_waiting(at(47 * 3_600_000)), "it keeps its place");
    }

    #[test]
    fn a_wait_that_is_over_is_known_with_its_start() {
        let mut run = lease();
        run.begin_wait(7, at(5_000), false, at(1_000));
        let before = run.clone();
        run.begin_wait(7, at(9_000), false, at(4_000));
        assert_eq!(before.wait_over(Some(&run), at(4_000)), None, "it goes on");
        let over = run.wait_over(None, at(8_000)).unwrap();
        assert_eq!((over.since, over.ended), (at(1_000), at(8_000)));
        assert_eq!(
            (over.kind, over.name.as_str()),
            (WaitKind::Subtask, "TASK-7")
        );
        let late = run.wait_over(None, at(60_000)).unwrap();
        assert_eq!(
            late.ended,
            at(9_000),
            "it was over when it was not continued"
        );
    }

    proptest! {
        /// However a worker begins, continues and ends waits: its wall time ends later by exactly the time for which it
        /// waited and nobody worked on the task, and never by more than the limit.
        #[test]
        fn wall_time_stands_still_for_the_real_waits_only(
            moves in proptest::collection::vec((0u8..5, 1i64..3, 1i64..40_000_000, 1i64..20_000_000), 1..60),
        ) {
            let mut run = lease();
            let wall = run.wall_ends_at;
            let (mut now, mut stood) = (at(0), 0i64);
            // What an outside observer knows: the task, the end of the promise, whether somebody works on it.
            let mut waits: Option<(u64, Timestamp, bool)> = None;
            for (what, on, patience, pause) in moves {
                let on = on.unsigned_abs();
                match what {
                    0 | 1 => {
                        let until = now + Millis(patience);
                        run.begin_wait(on, until, what == 1, now);
                        let continued = waits.filter(|(n, end, _)| *n == on && now < *end);
                        let end = continued.map_or(until, |(_, end, _)| end.max(until));
                        waits = (stood < STANDSTILL_MAX.0).then_some((on, end, what == 1));
                    }
                    2 => {
                        run.end_wait(now);
                        waits = None;
                    }
                    _ => {
                        run.set_worked_on(on, what == 3, now);
                        if let Some((n, _, worked_on)) = &mut waits
                            && *n == on
                        {
                            *worked_on = what == 3;
                        }
                    }
                }
                let later = now + Millis(pause);
                if let Some((_, end, false)) = waits {
                    stood = (stood + later.min(end).since(now).0).min(STANDSTILL_MAX.0);
                }
                now = later;
                prop_assert!(run.wall_deadline() <= wall + STANDSTILL_MAX);
            }
            run.end_wait(now);
            prop_assert_eq!(run.wall_deadline(), wall + Millis(stood));
            prop_assert_eq!(run.stood_still, Millis(stood));
        }
    }
}
