//! Work that nobody fits, as it is given on.

use crate::TaskEdit;
use abbey_model::{Millis, TaskRef, Timestamp};

/// What is given to whom.
#[derive(Debug, Clone)]
pub struct Escalate {
    /// Which task.
    pub task: TaskRef,
    /// Time for a decision; none for any.
    pub within: Option<Millis>,
    /// The task for an agent who decides; none for the operator.
    pub edit: Option<TaskEdit>,
    /// Why nobody fits.
    pub why: String,
}

/// One that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escalation {
    /// Number of its task.
    pub task: u64,
    /// Who decides.
    pub receiver: String,
    /// Until when; none when there is no end, or it was.
    pub until: Option<Timestamp>,
}
