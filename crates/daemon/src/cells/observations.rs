//! The newest observation of each cell, and cached probes and resource readings.

use abbey_cells::CellRecord;
use abbey_engine::supervision::{self, Desired, History};
use abbey_model::{CellName, ExitKind, Observed, ProcessIdentity};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;
use std::time::Instant;
use tokio::sync::watch;

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
    /// Why its last start was refused, until one is not.
    pub(crate) refused: Option<String>,
    /// Since when every pass found it failing or waiting.
    pub(crate) held_up_since: Option<Instant>,
}

/// Answers of the two probes of an agent: whether its worker sends heartbeats, and whether its own port answers.
pub(super) type AgentAnswers = (bool, bool);

/// Last answers of an agent's probes.
#[derive(Debug, Clone, Copy)]
pub(super) struct AgentReading {
    pub(super) at: Instant,
    /// Generation of the cell that answered.
    pub(super) generation: u64,
    pub(super) answers: AgentAnswers,
}

/// Probes of an agent that go on: the generation of the cell, and where the answers arrive.
pub(super) type AgentProbe = (u64, watch::Receiver<Option<AgentAnswers>>);

/// Cached answers of probes and readings of control groups, each with its instant, so that many
/// viewers cost no more than one.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    /// Last answer of the two probes of each agent.
    pub(super) agents: BTreeMap<CellName, AgentReading>,
    /// Agents that are being probed.
    pub(super) probing: BTreeMap<CellName, AgentProbe>,
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
    /// Cells of which something else is desired since the last complete pass began.
    changed: BTreeSet<CellName>,
    /// Those of them that the pass under way takes into account.
    in_pass: BTreeSet<CellName>,
    /// Why the last passes failed, and since when.
    pass_error: Option<(String, Instant)>,
}

impl Observations {
    /// Copy of the newest observation of every cell.
    pub(crate) fn snapshot(&self) -> BTreeMap<CellName, Seen> {
        self.cells.read().seen.clone()
    }

    /// As [`Observations::snapshot`], with the cells of which it says nothing any more: no complete pass has looked at them
    /// since something else was desired of them.
    pub(crate) fn snapshot_with_outdated(&self) -> (BTreeMap<CellName, Seen>, BTreeSet<CellName>) {
        let cells = self.cells.read();
        let outdated = cells.changed.union(&cells.in_pass).cloned().collect();
        (cells.seen.clone(), outdated)
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

    /// Replaces the observations with those of a complete pass, which ended `now`. What was asked for meanwhile is shown
    /// as asked for.
    pub(super) fn replace_all(&self, mut seen: BTreeMap<CellName, Seen>, now: Instant) {
        let mut cells = self.cells.write();
        for (cell, seen) in &mut seen {
            let before = cells.seen.get(cell);
            let since = before.and_then(|s| s.held_up_since);
            let held_up = seen.error.is_some() || seen.waits.is_some();
            seen.held_up_since = held_up.then(|| since.unwrap_or(now));
            // A start that failed without a record is then found as a shim that disappeared.
            let exit = seen.history.last_exit.as_ref();
            let lost = exit.filter(|e| e.exit == ExitKind::Lost);
            let still = before.filter(|s| {
                s.history == seen.history
                    || (lost.is_some() && s.history.last_exit.as_ref() != lost)
            });
            seen.refused = seen
                .refused
                .take()
                .or(still.and_then(|s| s.refused.clone()));
        }
        cells.seen = seen;
        cells.in_pass.clear();
        cells.pass_error = None;
        cells.forgive();
    }

    /// Records that a pass over all cells failed, for this reason.
    pub(super) fn record_failed_pass(&self, why: String, now: Instant) {
        let mut cells = self.cells.write();
        let since = cells.pass_error.as_ref().map_or(now, |(_, since)| *since);
        cells.pass_error = Some((why, since));
    }

    /// Why no pass has succeeded, and since when; `None` after one that has.
    pub(crate) fn failed_pass(&self) -> Option<(String, Instant)> {
        self.cells.read().pass_error.clone()
    }

    /// Records that something else is desired of a cell, so that what was observed of it says nothing any more.
    pub(super) fn expect_change(&self, cell: &CellName) {
        self.cells.write().changed.insert(cell.clone());
    }

    /// Records that an operator asked for a cell, or for every one: the next pass tries it at once if it waits for its
    /// backoff, and until then it is shown without its failures. A crash before that pass loses only the haste.
    pub(super) fn ask_for(&self, cell: Option<&CellName>) {
        let mut cells = self.cells.write();
        let asked: Vec<CellName> = match cell {
            Some(cell) => vec![cell.clone()],
            None => cells.seen.keys().cloned().collect(),
        };
        cells.changed.extend(asked.iter().cloned());
        cells.asked.extend(asked);
        cells.forgive();
    }

    /// Begins a pass: gives the cells that were asked for since the pass before.
    pub(super) fn begin_pass(&self) -> BTreeSet<CellName> {
        let mut cells = self.cells.write();
        let changed = std::mem::take(&mut cells.changed);
        cells.in_pass.extend(changed);
        std::mem::take(&mut cells.asked)
    }
}

impl Cells {
    /// Forgets the failures of cells that were asked for.
    fn forgive(&mut self) {
        for cell in &self.asked {
            if let Some(seen) = self.seen.get_mut(cell) {
                seen.history = supervision::after_request(&seen.history);
                seen.held_up_since = None;
            }
        }
    }
}
