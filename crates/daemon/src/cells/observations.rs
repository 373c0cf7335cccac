//! The newest observation of each cell, and cached probes and resource readings.

use abbey_cells::CellRecord;
use abbey_engine::supervision::{Desired, History};
use abbey_model::{CellName, Observed};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Instant;

/// Result of the last reconciler pass for one cell.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// State that the pass aimed at.
    pub(crate) desired: Desired,
    /// State in which the cell was found.
    pub(crate) observed: Observed,
    /// Starts, failures and exits of the cell.
    pub(crate) history: History,
    /// CellRecord of the running shim.
    pub(crate) record: Option<CellRecord>,
    /// Why the pass over this cell failed.
    pub(crate) error: Option<String>,
    /// Why the cell is not started yet, such as missing memory.
    pub(crate) waits: Option<String>,
}

/// Cached answers of probes and readings of control groups, each with its instant, so that many
/// viewers cost no more than one.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    pub(super) probes: BTreeMap<(SocketAddrV4, u64), (Instant, bool)>,
    pub(super) usages: BTreeMap<i32, (Instant, abbey_cells::CgroupUsage)>,
}

/// What is known of all cells. It is not stored: the first reconciler pass after a start observes
/// every cell again.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    cells: RwLock<BTreeMap<CellName, Seen>>,
    pub(super) readings: Mutex<Readings>,
}

impl Observations {
    /// Copy of the newest observation of every cell.
    pub(crate) fn snapshot(&self) -> BTreeMap<CellName, Seen> {
        self.cells.read().clone()
    }

    /// Whether a cell waited for memory or another service at the last observation.
    pub(super) fn is_waiting(&self, cell: &CellName) -> bool {
        self.cells
            .read()
            .get(cell)
            .is_some_and(|s| s.waits.is_some())
    }

    /// Process ids of the shims of running cells.
    pub(super) fn running_shim_pids(&self) -> Vec<i32> {
        let cells = self.cells.read();
        let running = cells
            .values()
            .filter(|s| matches!(s.observed, Observed::Running { .. }));
        running
            .filter_map(|s| Some(s.record.as_ref()?.shim.pid))
            .collect()
    }

    /// Replaces the observations with those of a complete pass.
    pub(super) fn replace_all(&self, cells: BTreeMap<CellName, Seen>) {
        *self.cells.write() = cells;
    }
}
