//! Signed checkpoints of the audit log, as they are kept outside the database.

use crate::Timestamp;
use serde::{Deserialize, Serialize};

/// Signed statement that the audit log had an entry with this number and hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Number of the entry.
    pub seq: u64,
    /// Hash of the entry, hexadecimal.
    pub hash: String,
    /// Public Ed25519 key that signed, hexadecimal.
    pub key: String,
    /// Signature, hexadecimal.
    pub signature: String,
    /// Instant of the signature, by the store's clock.
    pub at: Timestamp,
}

/// Line of a checkpoint file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CheckpointLine {
    /// A signed head of the audit log.
    Checkpoint(Checkpoint),
    /// The operator restored a backup: from here on the log continues behind entry `seq`, signed with another key.
    /// Heads beyond that entry, which lines before this one state, are given up.
    Restored {
        /// Newest entry of the backup.
        seq: u64,
        /// Hash of that entry, hexadecimal.
        hash: String,
        /// Public key that signs from here on, hexadecimal.
        key: String,
        /// Instant of the restore, by the host's clock.
        at: Timestamp,
    },
}

impl CheckpointLine {
    /// Instant that the line states.
    pub fn at(&self) -> Timestamp {
        match self {
            CheckpointLine::Checkpoint(Checkpoint { at, .. })
            | CheckpointLine::Restored { at, .. } => *at,
        }
    }

    /// Number of the entry that the line states.
    pub fn seq(&self) -> u64 {
        match self {
            CheckpointLine::Checkpoint(checkpoint) => checkpoint.seq,
            CheckpointLine::Restored { seq, .. } => *seq,
        }
    }
}
