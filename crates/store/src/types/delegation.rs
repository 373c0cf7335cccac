//! Subtasks and the notices of their ends.

use abbey_engine::authority::Bounds;
use abbey_model::{Evidence, LeaseToken, Millis, Recipient, Slug, TaskRef, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a delegation asks for, beside the task itself.
#[derive(Debug, Clone, Default)]
pub struct DelegationRequest {
    /// Parent task with the token of its lease; none for the root of a tree.
    pub parent: Option<(TaskRef, LeaseToken)>,
    /// Whether an agent gives it on its own initiative, as no part of a task that it holds.
    pub own_initiative: bool,
    /// Fields that the result's data must have.
    pub expects: Vec<String>,
    /// Time until the task is due.
    pub within: Option<Millis>,
    /// Recipient of the result.
    pub deliver: Recipient,
    /// Most tokens that the delegation grants.
    pub tokens: Option<u64>,
    /// Limits of depth and width of the tree.
    pub bounds: Bounds,
    /// Step of a workflow that it does, as `WF-3/build`.
    pub step: Option<String>,
    /// Data for the agent beside the text.
    pub data: serde_json::Map<String, Value>,
    /// Evidence that is checked before the task counts as done.
    pub evidence: Vec<Evidence>,
    /// Hook by which it came.
    pub hook: Option<Slug>,
}

/// Place of a task in a tree of subtasks, as it is stored with the task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelegationLink {
    /// Number of the parent task.
    pub parent: Option<u64>,
    /// Number of the root task, to which the whole tree is charged.
    pub root: u64,
    /// Number of the task on which the author worked when it gave this one on its own initiative: it is charged to that task
    /// and all above it, and due no later, but does not end with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<u64>,
    /// Agents that delegated it, from the root down.
    pub chain: Vec<Slug>,
    /// Fields that the result's data must have.
    pub expects: Vec<String>,
    /// Recipient of the result.
    pub deliver: Recipient,
    /// First instant at which it is overdue.
    pub due: Option<Timestamp>,
    /// Step of a workflow that it does or is part of, as `WF-3/build`.
    #[serde(default)]
    pub step: Option<String>,
    /// Data for the agent beside the text.
    #[serde(default)]
    pub data: serde_json::Map<String, Value>,
    /// Evidence that is checked before the task counts as done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
    /// Hook by which it came; whoever has its credential may read the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<Slug>,
}

impl DelegationLink {
    /// Number of the task above this one, to which it is charged as well: its parent, or what caused it.
    pub(crate) fn above(&self) -> Option<u64> {
        self.parent.or(self.cause)
    }

    /// Link of a task that is the root of its own tree.
    pub(crate) fn root(number: u64) -> DelegationLink {
        DelegationLink {
            parent: None,
            root: number,
            cause: None,
            chain: Vec::new(),
            expects: Vec::new(),
            deliver: Recipient::Kept,
            due: None,
            step: None,
            data: serde_json::Map::new(),
            evidence: Vec::new(),
            hook: None,
        }
    }
}

/// The end of a task, to be delivered to its recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Number of the task.
    pub task: u64,
    /// Recipient of the result.
    pub recipient: Recipient,
    /// Instant at which the task was over.
    pub at: Timestamp,
}
