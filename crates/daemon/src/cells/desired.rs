//! Desired state of each cell as set by the operator: an in-memory copy of the store's rows, which
//! the reconciler reads on each pass.

use abbey_model::{CellName, DesiredState};
use parking_lot::RwLock;
use std::collections::BTreeMap;

/// Desired state by cell; cells without an entry are to be up.
#[derive(Debug)]
pub(crate) struct DesiredStates(RwLock<BTreeMap<CellName, DesiredState>>);

impl DesiredStates {
    /// Copy with these rows of the store.
    pub(crate) fn new(rows: BTreeMap<CellName, DesiredState>) -> DesiredStates {
        DesiredStates(RwLock::new(rows))
    }

    /// Replaces the copy with rows read from the store.
    pub(super) fn replace_all(&self, rows: BTreeMap<CellName, DesiredState>) {
        *self.0.write() = rows;
    }

    /// Updates one cell after its row was written.
    pub(crate) fn set(&self, cell: CellName, desired: DesiredState) {
        self.0.write().insert(cell, desired);
    }

    /// Desired state of a cell; `Up` without an entry.
    pub(crate) fn state_of(&self, cell: &CellName) -> DesiredState {
        self.0.read().get(cell).copied().unwrap_or_default()
    }

    /// Cells whose desired state is down or paused.
    pub(crate) fn cells_not_up(&self) -> Vec<CellName> {
        let all = self.0.read();
        let not_up = all.iter().filter(|(_, d)| **d != DesiredState::Up);
        not_up.map(|(cell, _)| cell.clone()).collect()
    }
}
