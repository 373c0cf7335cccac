//! The newest observation of each cell, and readings that many viewers share.

use abbey_cells::Record;
use abbey_engine::supervision::{Desired, History};
use abbey_model::{CellName, Observed};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Instant;

/// What the last pass saw of one cell.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) desired: Desired,
    pub(crate) observed: Observed,
    pub(crate) history: History,
    pub(crate) record: Option<Record>,
    pub(crate) error: Option<String>,
    /// What it waits for before it is started.
    pub(crate) waits: Option<String>,
}

/// Answers of probes and readings of control groups, each with its instant: many viewers cost the
/// agents no more than one.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    pub(super) probes: BTreeMap<(SocketAddrV4, u64), (Instant, bool)>,
    pub(super) usages: BTreeMap<i32, (Instant, abbey_cells::Usage)>,
}

/// What is known of cells now. Nothing of it outlives the control plane: the first pass of the
/// reconciler, before anybody is answered, observes every cell again.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    cells: RwLock<BTreeMap<CellName, Seen>>,
    pub(super) readings: Mutex<Readings>,
}

impl Observations {
    pub(crate) fn all(&self) -> BTreeMap<CellName, Seen> {
        self.cells.read().clone()
    }

    /// Whether a cell waited for memory or another service at the last observation.
    pub(super) fn waits(&self, cell: &CellName) -> bool {
        self.cells
            .read()
            .get(cell)
            .is_some_and(|s| s.waits.is_some())
    }

    /// Processes of the shims of running cells.
    pub(super) fn running_shims(&self) -> Vec<i32> {
        let cells = self.cells.read();
        let running = cells
            .values()
            .filter(|s| matches!(s.observed, Observed::Running { .. }));
        running
            .filter_map(|s| Some(s.record.as_ref()?.shim.pid))
            .collect()
    }

    pub(super) fn publish(&self, cells: BTreeMap<CellName, Seen>) {
        *self.cells.write() = cells;
    }
}
