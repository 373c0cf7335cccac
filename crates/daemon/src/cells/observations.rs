//! The newest observation of each cell, and cached probes and resource readings.

use abbey_cells::CellRecord;
use abbey_engine::supervision::{self, Desired, History};
use abbey_model::{CellName, Observed, ProcessIdentity};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
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
    /// Agents whose two probes were positive, with the boot.
    pub(super) agents: BTreeMap<CellName, (Instant, u64)>,
    pub(super) probes: BTreeMap<(SocketAddrV4, u64), (Instant, bool)>,
    pub(super) usages: BTreeMap<i32, (Instant, abbey_cells::CgroupUsage)>,
}

/// What is known of all cells. It is not stored: the first reconciler pass after a start observes
/// every cell again.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    cells: RwLock<Cells>,
    pub(super) readings: Mutex<Readings>,
}

#[derive(Debug, Default)]
struct Cells {
    seen: BTreeMap<CellName, Seen>,
    /// Cells that an operator asked for since the last pass began.
    asked: BTreeSet<CellName>,
}

impl Observations {
    /// Copy of the newest observation of every cell.
    pub(crate) fn snapshot(&self) -> BTreeMap<CellName, Seen> {
        self.cells.read().seen.clone()
    }

    /// Newest observation of one cell.
    pub(super) fn seen(&self, cell: &CellName) -> Option<Seen> {
        self.cells.read().seen.get(cell).cloned()
    }

    /// Whether a cell waited for memory or another service at the last observation.
    pub(super) fn is_waiting(&self, cell: &CellName) -> bool {
        self.cells
            .read()
            .seen
            .get(cell)
            .is_some_and(|s| s.waits.is_some())
    }

    /// Processes of the shims of running cells.
    pub(super) fn running_shims(&self) -> Vec<ProcessIdentity> {
        let cells = self.cells.read();
        let running = cells
            .seen
            .values()
            .filter(|s| matches!(s.observed, Observed::Running { .. }));
        running
            .filter_map(|s| Some(s.record.as_ref()?.shim.clone()))
            .collect()
    }

    /// Replaces the observations with those of a complete pass. What was asked for meanwhile is shown as asked for.
    pub(super) fn replace_all(&self, seen: BTreeMap<CellName, Seen>) {
        let mut cells = self.cells.write();
        cells.seen = seen;
        cells.forgive();
    }

    /// Records that an operator asked for a cell, or for every one: the next pass tries it at once if it waits for its
    /// backoff, and until then it is shown without its failures. A crash before that pass loses only the haste.
    pub(super) fn ask_for(&self, cell: Option<&CellName>) {
        let mut cells = self.cells.write();
        match cell {
            Some(cell) => drop(cells.asked.insert(cell.clone())),
            None => {
                let all: Vec<CellName> = cells.seen.keys().cloned().collect();
                cells.asked.extend(all);
            }
        }
        cells.forgive();
    }

    /// Cells that were asked for since the last call.
    pub(super) fn take_asked(&self) -> BTreeSet<CellName> {
        std::mem::take(&mut self.cells.write().asked)
    }
}

impl Cells {
    /// Forgets the failures of cells that were asked for.
    fn forgive(&mut self) {
        for cell in &self.asked {
            if let Some(seen) = self.seen.get_mut(cell) {
                seen.history = supervision::after_request(&seen.history);
            }
        }
    }
}
