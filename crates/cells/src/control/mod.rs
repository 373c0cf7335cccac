//! Control socket of a shim: requests and answers, one line of JSON each, and the client.

pub(crate) mod client;

use crate::CellSpec;
use crate::guest::Ask;
use abbey_model::{Generation, Millis};
use serde::{Deserialize, Serialize};

/// What the control plane asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Request {
    /// How it stands.
    Status,
    /// End within `grace`.
    Stop {
        /// Time to end by itself.
        grace: Millis,
    },
    /// Look on and type: after the answer the connection carries the terminal.
    Attach {
        /// Rows of the viewer.
        rows: u16,
        /// Its columns.
        columns: u16,
    },
    /// Speak to the guest of a machine: after the answer the connection is a stream to it.
    Guest {
        /// What for.
        ask: Ask,
    },
    /// The memory of a machine that was put aside: two descriptors come with the answer.
    Template {},
    /// Run a program in a machine that waits: three descriptors come along, where it speaks.
    Begin {
        /// Of what.
        spec: Box<CellSpec>,
    },
    /// Hold everything where it is, or let it go on.
    Pause {
        /// Which.
        pause: bool,
    },
}

/// What the shim answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Which boot.
    pub generation: Generation,
    /// Digest of the specification.
    pub digest: String,
    /// Whether the child announced readiness.
    pub ready: bool,
    /// Whether it was asked to stop.
    pub stopping: bool,
    /// Whether everything in it is held.
    #[serde(default)]
    pub paused: bool,
    /// Whether there is a terminal to attach to.
    #[serde(default)]
    pub terminal: bool,
    /// What a template was made from, if this is one.
    #[serde(default)]
    pub template: Option<String>,
    /// Whether a machine that waited was told what for.
    #[serde(default)]
    pub begun: bool,
}
