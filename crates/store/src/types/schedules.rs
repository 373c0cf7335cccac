//! Schedules and what they start.

use super::{Intakes, NewRun, NewTask};
use abbey_model::{Principal, Timestamp};

/// A stored schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRow {
    /// Digest of its declaration.
    pub digest: String,
    /// Instant at which it was registered with this digest.
    pub since: Timestamp,
    /// Every instant up to this one is settled.
    pub settled: Timestamp,
    /// Number of instants that started something.
    pub fired: u64,
    /// Number of instants that were skipped because the previous start was not over.
    pub skipped: u64,
    /// Number of instants that passed while the house was down.
    pub missed: u64,
    /// Number of the newest task that it started.
    pub last_task: Option<u64>,
    /// Number of the newest run of a workflow that it started.
    pub last_run: Option<u64>,
}

/// A settled instant of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRecord {
    /// Instant of the schedule.
    pub instant: Timestamp,
    /// Instant at which it was settled.
    pub at: Timestamp,
    /// Outcome, for people.
    pub outcome: String,
    /// Number of the task that it started.
    pub task: Option<u64>,
}

/// Instants of a schedule to be settled.
pub struct FireSchedule {
    /// `agent/name`.
    pub name: String,
    /// Principal in whose name it fires.
    pub by: Principal,
    /// Every instant up to this one is settled afterwards.
    pub through: Timestamp,
    /// Number of missed instants that do not fire.
    pub missed: u64,
    /// The instant that fires, and what it starts.
    pub work: Option<(Timestamp, ScheduledStart)>,
    /// What happens when the previous start is not over.
    pub overlap: abbey_engine::timetable::Overlap,
}

/// Work that an instant of a schedule starts.
pub enum ScheduledStart {
    /// A task.
    Task(Box<NewTask>),
    /// A run of a workflow; the facts are for what cancelling the previous run begins.
    Workflow(Box<NewRun>, Intakes),
}
