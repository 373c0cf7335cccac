//! Order of the queue: priority lanes that age, so that nothing waits for ever (S2-14).

use abbey_model::{Millis, Priority, Timestamp};

/// Waiting time that is worth one priority lane.
pub const LANE: Millis = Millis::from_secs(600);

/// Sort key of a task in the queue, smallest first: its creation time in milliseconds, plus ten minutes for each
/// priority lane below the most urgent. So old tasks overtake new urgent ones.
pub fn sort_key(priority: Priority, created_at: Timestamp) -> i64 {
    (created_at + Millis(LANE.0 * i64::from(priority.lane()))).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urgent_first_but_old_work_is_not_starved() {
        let now = Timestamp(10_000_000);
        assert!(sort_key(Priority::P0, now) < sort_key(Priority::P1, now));
        let old = now - Millis::from_secs(31 * 60);
        assert!(sort_key(Priority::P3, old) < sort_key(Priority::P0, now));
    }
}
