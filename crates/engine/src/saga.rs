//! Sagas: a list of steps, each with a do and an undo, whose log alone says what comes next.
//!
//! ```text
//! Doing(0) ─ok─▶ Doing(1) ─ok─▶ … ─▶ Done
//!    │ failed       │ failed
//!    ▼              ▼
//! Undoing(i) ─ok─▶ Undoing(i-1) ─▶ … ─▶ Undone
//!    └─ gave up ─▶ Stuck(i): a person must act
//! ```
//!
//! The intent of a step is logged before its first side effect, its result after. A crash in
//! between repeats the step, so do and undo are idempotent. Live running and recovery use the
//! same function.

use serde::{Deserialize, Serialize};

/// Failed undos after which a saga is stuck.
pub const UNDO_TRIES_MAX: u32 = 5;

/// State of a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "step", rename_all = "snake_case")]
pub enum State {
    /// The step of this number is to be done.
    Doing(u32),
    /// The step of this number is to be undone.
    Undoing(u32),
    /// Every step is done.
    Done,
    /// Every step that was begun is undone.
    Undone,
    /// The undo of this step failed for good.
    Stuck(u32),
}

impl State {
    /// Whether the saga has no step left to do or to undo, or is stuck.
    pub const fn is_over(self) -> bool {
        matches!(self, State::Done | State::Undone | State::Stuck(_))
    }
}

/// Entry of a saga's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", content = "step", rename_all = "snake_case")]
pub enum Event {
    /// The current step is done.
    StepDone(u32),
    /// The current step failed and may have left something.
    StepFailed(u32),
    /// The current step is undone.
    StepUndone(u32),
    /// The undo of the current step failed for good.
    UndoGaveUp(u32),
}

/// Refusal of a log entry that is not allowed in the state of the saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a saga in state {state:?} cannot process the event {event:?}")]
pub struct Refusal {
    state: State,
    event: Event,
}

/// State of a saga of `steps` steps after one entry of its log.
///
/// # Errors
/// [`Refusal`] when the entry is for another step than the current one, or the saga is over.
pub fn step(state: State, event: Event, steps: u32) -> Result<State, Refusal> {
    match (state, event) {
        (State::Doing(at), Event::StepDone(n)) if at == n => Ok(if n + 1 >= steps {
            State::Done
        } else {
            State::Doing(n + 1)
        }),
        // The failed step itself may have left something, so it is undone too.
        (State::Doing(at), Event::StepFailed(n)) if at == n => Ok(State::Undoing(n)),
        (State::Undoing(at), Event::StepUndone(n)) if at == n => Ok(if n == 0 {
            State::Undone
        } else {
            State::Undoing(n - 1)
        }),
        (State::Undoing(at), Event::UndoGaveUp(n)) if at == n => Ok(State::Stuck(n)),
        (
            State::Doing(_) | State::Undoing(_) | State::Done | State::Undone | State::Stuck(_),
            _,
        ) => Err(Refusal { state, event }),
    }
}

/// State of a saga of `steps` steps after its whole log.
///
/// # Errors
/// The first [`Refusal`]: the log has an entry that is not allowed at its place.
pub fn replay(log: &[Event], steps: u32) -> Result<State, Refusal> {
    log.iter()
        .try_fold(State::Doing(0), |state, event| step(state, *event, steps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_at_any_step_undoes_that_step_and_all_before_it() {
        for failing in 0..5 {
            let mut log: Vec<Event> = (0..failing).map(Event::StepDone).collect();
            log.push(Event::StepFailed(failing));
            let mut state = replay(&log, 5).unwrap();
            let mut undone = 0;
            while let State::Undoing(n) = state {
                state = step(state, Event::StepUndone(n), 5).unwrap();
                undone += 1;
            }
            assert_eq!((state, undone), (State::Undone, failing + 1));
        }
    }

    #[test]
    fn entries_out_of_order_are_refused() {
        assert!(step(State::Doing(1), Event::StepDone(0), 3).is_err());
        assert!(step(State::Done, Event::StepDone(2), 3).is_err());
        assert_eq!(
            step(State::Undoing(2), Event::UndoGaveUp(2), 3),
            Ok(State::Stuck(2))
        );
    }
}
