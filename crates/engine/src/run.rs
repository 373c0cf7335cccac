//! The run machine: one attempt, one row, written once at its end.

use abbey_model::RunState;

/// Something that happens to a run while it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An agent claimed the task, and the run starts.
    Claimed,
    /// The worker reported that it works.
    Reported,
    /// The run ended in this final state.
    Ended(RunState),
}

/// Refusal of an event that is not allowed in the state of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a run in state {state} cannot process the event `{event:?}`")]
pub struct Refusal {
    state: RunState,
    event: Event,
}

/// State of a run after an event. Reporting twice is the same as once.
///
/// # Errors
/// [`Refusal`] for any event after the end, and for an end in a state that is not final.
pub fn step(state: RunState, event: Event) -> Result<RunState, Refusal> {
    let refusal = Err(Refusal { state, event });
    match (state, event) {
        (RunState::Queued, Event::Claimed) => Ok(RunState::Starting),
        (RunState::Starting | RunState::Running, Event::Reported) => Ok(RunState::Running),
        (RunState::Queued | RunState::Starting | RunState::Running, Event::Ended(end)) => {
            if end.is_terminal() { Ok(end) } else { refusal }
        }
        (RunState::Starting | RunState::Running, Event::Claimed)
        | (RunState::Queued, Event::Reported) => refusal,
        (
            RunState::Succeeded
            | RunState::Failed
            | RunState::TimedOut
            | RunState::Cancelled
            | RunState::Interrupted
            | RunState::Superseded,
            _,
        ) => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_run_takes_nothing_more() {
        for end in RunState::ALL.iter().copied().filter(|s| s.is_terminal()) {
            for event in [
                Event::Claimed,
                Event::Reported,
                Event::Ended(RunState::Failed),
            ] {
                assert!(step(end, event).is_err());
            }
        }
        assert_eq!(
            step(RunState::Starting, Event::Reported),
            Ok(RunState::Running)
        );
        assert!(step(RunState::Running, Event::Ended(RunState::Queued)).is_err());
    }
}
