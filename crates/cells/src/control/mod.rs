//! Control socket of a shim: requests and answers, one line of JSON each, and the client.

pub(crate) mod client;

use crate::CellSpec;
use crate::guest::GuestRequest;
use abbey_model::{Generation, Millis};
use serde::{Deserialize, Serialize};

/// Request to a shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum ShimRequest {
    /// State of the cell.
    Status,
    /// State of the cell; if the answer says so (`door`), the connection then leads through the agent's own port.
    Probe,
    /// End within `grace`.
    Stop {
        /// Time to end by itself.
        grace: Millis,
    },
    /// Attach to the terminal: after the answer the connection carries it.
    Attach {
        /// Rows of the viewer.
        rows: u16,
        /// Its columns.
        columns: u16,
    },
    /// Open a stream to the guest of a microVM: after the answer the connection is that stream.
    Guest {
        /// Purpose of the stream.
        ask: GuestRequest,
    },
    /// The memory and devices of a template: two descriptors come with the answer.
    Template {},
    /// Run a program in a microVM that waits; its standard input, output and error come along as descriptors.
    Begin {
        /// Specification of the program and its cell.
        spec: Box<CellSpec>,
    },
    /// Pause every process of the cell, or resume them.
    Pause {
        /// True to pause.
        pause: bool,
    },
}

/// Answer of a shim: the state of its cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShimStatus {
    /// Number of the boot.
    pub generation: Generation,
    /// Digest of the specification.
    pub digest: String,
    /// Whether the program announced readiness.
    pub ready: bool,
    /// Whether a stop was requested.
    pub stopping: bool,
    /// Whether every process of the cell is paused.
    #[serde(default)]
    pub paused: bool,
    /// Whether there is a terminal to attach to.
    #[serde(default)]
    pub terminal: bool,
    /// What a template was made from, if this is one.
    #[serde(default)]
    pub template: Option<String>,
    /// Whether a microVM that waited was given its program.
    #[serde(default)]
    pub begun: bool,
    /// Whether the program has sent no heartbeat in time.
    #[serde(default)]
    pub hung: bool,
    /// How far the clock of a microVM was ahead of the host's when they were compared last, milliseconds.
    #[serde(default)]
    pub clock_off_ms: Option<i64>,
    /// Whether the connection of a probe now leads through the agent's own port.
    #[serde(default)]
    pub door: bool,
}
