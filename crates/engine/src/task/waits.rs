//! A run that waits for one of its subtasks: it keeps its lease, does not count among the runs of its agent, and its
//! wall time stands still while nobody works on the subtask.
//!
//! ```text
//! (works) ─begin_wait─▶ waits, time stands still ◀─set_worked_on─▶ waits, time passes ─end_wait─▶ (works)
//!                                 └─ not continued before `until`: as if it worked ─┘
//! ```

use super::phase::{Lease, Phase};
use abbey_model::Timestamp;
use serde::{Deserialize, Serialize};

/// Wait of a run for a subtask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubtaskWait {
    /// Number of the subtask.
    pub on: u64,
    /// First instant at which the wait no longer counts, unless the worker continues it before.
    pub until: Timestamp,
    /// Instant since which the wall time stands still; none while somebody works on the subtask.
    pub still_since: Option<Timestamp>,
}

impl Lease {
    /// First instant at which the run has used up its wall time, as far as its wait is known now.
    pub fn wall_deadline(&self) -> Timestamp {
        match &self.waits {
            Some(SubtaskWait {
                until,
                still_since: Some(since),
                ..
            }) if until > since => self.wall_ends_at + until.since(*since),
            _ => self.wall_ends_at,
        }
    }

    /// Whether the run waits for a subtask at `now`, so that its agent has room for another run.
    pub fn is_waiting(&self, now: Timestamp) -> bool {
        self.waits.as_ref().is_some_and(|w| now < w.until)
    }

    /// Begins a wait for a subtask, or continues it until `until`.
    pub fn begin_wait(&mut self, on: u64, until: Timestamp, worked_on: bool, now: Timestamp) {
        let continues = self.is_waiting(now) && self.waits.as_ref().is_some_and(|w| w.on == on);
        if !continues {
            self.end_wait(now);
            self.waits = Some(SubtaskWait {
                on,
                until,
                still_since: Some(now),
            });
        }
        if let Some(wait) = &mut self.waits {
            wait.until = wait.until.max(until);
        }
        self.set_worked_on(on, worked_on, now);
    }

    /// Lets the wall time pass while somebody works on the subtask, and stand still otherwise.
    pub fn set_worked_on(&mut self, on: u64, worked_on: bool, now: Timestamp) {
        let Some(wait) = self.waits.as_ref().filter(|w| w.on == on) else {
            return;
        };
        let still_since = match (wait.still_since, worked_on) {
            (None, false) => Some(now),
            (Some(_), true) => None,
            (same, _) => same,
        };
        if still_since.is_none() {
            self.wall_ends_at = self.wall_ends_at_after(now);
        }
        if let Some(wait) = &mut self.waits {
            wait.still_since = still_since;
        }
    }

    /// Ends the wait: the run works again.
    pub fn end_wait(&mut self, now: Timestamp) {
        self.wall_ends_at = self.wall_ends_at_after(now);
        self.waits = None;
    }

    /// End of the wall time, later by the time for which it has stood still.
    fn wall_ends_at_after(&self, now: Timestamp) -> Timestamp {
        match &self.waits {
            Some(SubtaskWait {
                until,
                still_since: Some(since),
                ..
            }) if now > *since => self.wall_ends_at + now.min(*until).since(*since),
            _ => self.wall_ends_at,
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

    fn lease() -> Lease {
        Lease {
            token: LeaseToken(1),
            run: Id::v7(1, 1),
            holder: "a".parse().unwrap(),
            generation: Generation(1),
            expires_at: Timestamp(30_000),
            wall_ends_at: Timestamp(10_000),
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
}
