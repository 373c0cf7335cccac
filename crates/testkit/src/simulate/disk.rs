//! When the disk of the simulated house is full, and what happens then.

use super::world::World;
use serde_json::Value;

const MINUTE: i64 = 60_000;
/// Time after which the house has done what it could not do on a full disk, milliseconds.
const RECOVERY: i64 = MINUTE;

impl World {
    /// The disk becomes full, now or while the next model call is under way.
    pub(super) fn fill_disk(&mut self) {
        let time = self.random.between(MINUTE, 25 * MINUTE);
        let with_call = self.random.happens(50);
        self.fill_disk_for(time, with_call);
    }

    /// As [`World::fill_disk`], for this time.
    pub(super) fn fill_disk_for(&mut self, time: i64, with_call: bool) {
        if with_call {
            self.log("the next model call fills the disk");
            self.provider.fill_disk_with_next_call();
            self.disk_state.fills_for = time;
            return;
        }
        self.log(&format!("the disk is full for {} s", time / 1000));
        self.disk.set_full(true);
        self.disk_state.times += 1;
        self.disk_state.until = Some(self.elapsed + time);
    }

    /// Notices that a model call has filled the disk.
    pub(super) fn notice_filled_disk(&mut self) {
        if self.disk_state.fills_for > 0 && self.disk.is_full() {
            let time = std::mem::take(&mut self.disk_state.fills_for);
            self.log(&format!("the disk is full for {} s", time / 1000));
            self.disk_state.times += 1;
            self.disk_state.until = Some(self.elapsed + time);
        }
    }

    /// When the disk needs attention next.
    pub(super) fn next_of_disk(&self) -> i64 {
        let until = self.disk_state.until;
        // The longest pause of a duty that repeats what it could not do.
        let instants = until.map(|at| [at, at + RECOVERY / 2]);
        let mut later = instants.into_iter().flatten();
        later.find(|at| *at > self.elapsed).unwrap_or(i64::MAX)
    }

    /// Frees space once its time has come, and repeats what was refused.
    pub(super) fn free_disk_if_due(&mut self) {
        if self.disk.is_full() && self.disk_state.until.is_some_and(|at| at <= self.elapsed) {
            self.log("the disk has space again");
            self.disk.set_full(false);
        }
        if self.life.is_none() || self.disk.is_full() {
            return;
        }
        for (key, body) in std::mem::take(&mut self.disk_state.refused) {
            self.add_known_task(&key, &body);
        }
    }

    /// Frees space now, and for good.
    pub(super) fn free_disk(&mut self) {
        self.disk_state.fills_for = 0;
        self.provider.fill_no_disk();
        if self.disk.is_full() {
            self.disk_state.until = Some(self.elapsed);
        }
        self.free_disk_if_due();
    }

    /// Keeps a task that the full disk refused: its author repeats the request later.
    pub(super) fn repeat_later(&mut self, key: &str, body: &Value) {
        self.disk_state.refused.push((key.to_owned(), body.clone()));
    }

    /// How often the disk was full.
    pub(super) fn full_disks(&self) -> u32 {
        self.disk_state.times
    }

    /// Whether a request may have been refused because the disk is full.
    pub(super) fn refused_by_disk(&self, status: u16) -> bool {
        self.disk.is_full() && (status >= 500 || self.life.is_none())
    }

    /// Whether the house may be behind, as the disk is full or was it a moment ago.
    pub(super) fn recovers_from_full_disk(&self) -> bool {
        let until = self.disk_state.until;
        self.disk.is_full() || until.is_some_and(|at| self.elapsed - at <= RECOVERY)
    }
}
