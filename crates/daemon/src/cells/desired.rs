//! What the operator wants of each cell. The rows are in the store; this is a copy of them for the
//! reconciler, which reads it on every pass.

use abbey_model::{CellName, DesiredState};
use parking_lot::RwLock;
use std::collections::BTreeMap;

/// Desired state of each cell that an operator decided about; others are to be up.
#[derive(Debug)]
pub(crate) struct DesiredStates(RwLock<BTreeMap<CellName, DesiredState>>);

impl DesiredStates {
    pub(crate) fn new(rows: BTreeMap<CellName, DesiredState>) -> DesiredStates {
        DesiredStates(RwLock::new(rows))
    }

    /// Takes over what the store has on record.
    pub(super) fn replace(&self, rows: BTreeMap<CellName, DesiredState>) {
        *self.0.write() = rows;
    }

    /// Follows a row that was written.
    pub(crate) fn set(&self, cell: CellName, desired: DesiredState) {
        self.0.write().insert(cell, desired);
    }

    pub(crate) fn of(&self, cell: &CellName) -> DesiredState {
        self.0.read().get(cell).copied().unwrap_or_default()
    }

    /// Cells that are to be down or paused.
    pub(crate) fn not_up(&self) -> Vec<CellName> {
        let all = self.0.read();
        let not_up = all.iter().filter(|(_, d)| **d != DesiredState::Up);
        not_up.map(|(cell, _)| cell.clone()).collect()
    }
}
