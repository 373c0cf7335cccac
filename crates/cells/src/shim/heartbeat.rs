//! Heartbeat of a program that announces that it is ready: a line for each on the same descriptor.

use abbey_model::HEARTBEAT_DEADLINE;
use std::time::Instant;

/// When the program was last heard; never for one that sends no heartbeat.
#[derive(Debug, Default)]
pub(super) struct Heartbeat {
    last: Option<Instant>,
}

impl Heartbeat {
    /// Records a heartbeat.
    pub(super) fn beat(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// Gives a program that was paused until now the whole deadline again.
    pub(super) fn resume(&mut self, now: Instant) {
        self.last = self.last.map(|_| now);
    }

    /// Whether a program that sends heartbeats has sent none for longer than [`HEARTBEAT_DEADLINE`].
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.last
            .is_some_and(|last| now.saturating_duration_since(last) > HEARTBEAT_DEADLINE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_program_is_overdue_after_the_deadline_and_not_when_it_was_paused() {
        let begun = Instant::now();
        let late = begun + HEARTBEAT_DEADLINE + Duration::from_millis(1);
        let mut heartbeat = Heartbeat::default();
        heartbeat.resume(begun);
        assert!(
            !heartbeat.is_overdue(late),
            "one that sends none is never late"
        );
        heartbeat.beat(begun);
        assert!(!heartbeat.is_overdue(begun + HEARTBEAT_DEADLINE));
        assert!(heartbeat.is_overdue(late));
        heartbeat.resume(late);
        assert!(!heartbeat.is_overdue(late));
    }
}
