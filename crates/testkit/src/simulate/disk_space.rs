//! The disk of the simulated house.

use abbey_store::DiskSpace;
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};

/// A disk that can be filled.
#[derive(Debug, Default)]
pub(super) struct SimulatedDisk(AtomicBool);

impl SimulatedDisk {
    pub(super) fn set_full(&self, full: bool) {
        self.0.store(full, Ordering::SeqCst);
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl DiskSpace for SimulatedDisk {
    fn is_full(&self) -> bool {
        SimulatedDisk::is_full(self)
    }
}

/// How the disk is, and what is done once there is space again.
#[derive(Debug, Default)]
pub(super) struct DiskState {
    /// When there is space again, or was last; none if it was never full.
    pub(super) until: Option<i64>,
    /// For how long the disk is full once the next model call has filled it; 0 if it does not.
    pub(super) fills_for: i64,
    /// How often it was full.
    pub(super) times: u32,
    /// Tasks of the operator that were refused: idempotency key and body.
    pub(super) refused: Vec<(String, Value)>,
}
