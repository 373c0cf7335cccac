//! Cell backend without a host: cells are entries of a table, and failures happen on demand.

use abbey_cells::{Backend, CellProbe, CellRecord, CellSpec, CgroupUsage, Error, Result};
use abbey_model::{
    Bytes, CellName, ExitKind, ExitRecord, Generation, Millis, Observed, ProcessIdentity, Timestamp,
};
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

#[derive(Debug, Clone)]
struct Cell {
    spec: CellSpec,
    generation: Generation,
    state: State,
    paused: bool,
    /// When it started, or ended.
    since: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Running,
    Exited(ExitKind),
    Orphaned,
}

/// Cells in memory.
#[derive(Debug, Default)]
pub struct FakeBackend {
    cells: Mutex<BTreeMap<CellName, Cell>>,
    refuse: Mutex<bool>,
    now: Mutex<Timestamp>,
}

impl FakeBackend {
    fn with<T>(&self, look: impl FnOnce(&mut BTreeMap<CellName, Cell>) -> T) -> T {
        look(&mut self.cells.lock().unwrap_or_else(PoisonError::into_inner))
    }
    /// Sets the time at which cells start and end from now on.
    pub fn set_time(&self, now: Timestamp) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
    fn time(&self) -> Timestamp {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Makes further starts fail, or succeed again.
    pub fn fail_starts(&self, refuse: bool) {
        *self.refuse.lock().unwrap_or_else(PoisonError::into_inner) = refuse;
    }
    /// Ends a running cell with this exit, as if its program had exited.
    pub fn crash(&self, cell: &CellName, exit: ExitKind) {
        let now = self.time();
        self.with(|cells| {
            if let Some(found) = cells.get_mut(cell) {
                found.state = State::Exited(exit);
                found.since = now;
            }
        });
    }
    /// Makes a cell orphaned, as if its shim had been killed.
    pub fn orphan(&self, cell: &CellName) {
        self.with(|cells| {
            if let Some(found) = cells.get_mut(cell) {
                found.state = State::Orphaned;
            }
        });
    }
}

impl Backend for FakeBackend {
    fn start(&self, spec: &CellSpec, generation: Generation) -> Result<()> {
        let refused = *self.refuse.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.time();
        self.with(|cells| {
            let state = if refused {
                State::Exited(ExitKind::SpawnFailed {
                    error: "told to".into(),
                })
            } else {
                State::Running
            };
            cells.insert(
                spec.cell.clone(),
                Cell {
                    spec: spec.clone(),
                    generation,
                    state,
                    paused: false,
                    since: now,
                },
            );
        });
        if refused {
            Err(Error::Shim {
                cell: spec.cell.clone(),
                why: "told to".into(),
            })
        } else {
            Ok(())
        }
    }

    fn observe(&self, cell: &CellName) -> Result<Observed> {
        Ok(self.with(|cells| match cells.get(cell) {
            None => Observed::Nothing,
            Some(c) => match &c.state {
                State::Running => Observed::Running {
                    generation: c.generation,
                    spec: c.spec.digest.clone(),
                    ready: true,
                    started_at: c.since,
                    stopping: false,
                    paused: c.paused,
                    worker: true,
                },
                State::Exited(exit) => Observed::Exited(ExitRecord {
                    generation: c.generation,
                    exit: exit.clone(),
                    ended_at: c.since,
                    spent: None,
                }),
                State::Orphaned => Observed::Orphaned {
                    generation: c.generation,
                },
            },
        }))
    }

    fn stop(&self, cell: &CellName, _grace: Millis) -> Result<()> {
        let now = self.time();
        self.with(|cells| {
            if let Some(found) = cells.get_mut(cell).filter(|c| c.state == State::Running) {
                found.state = State::Exited(ExitKind::Stopped);
                found.since = now;
            }
        });
        Ok(())
    }

    fn pause(&self, cell: &CellName, pause: bool) -> Result<()> {
        self.with(|cells| match cells.get_mut(cell) {
            Some(found) if found.state == State::Running => {
                found.paused = pause;
                Ok(())
            }
            _ => Err(Error::NotRunning(cell.clone())),
        })
    }

    fn probe(&self, cell: &CellName) -> Result<CellProbe> {
        match self.observe(cell)? {
            Observed::Running { worker, .. } => Ok(CellProbe { worker, door: None }),
            _ => Err(Error::NotRunning(cell.clone())),
        }
    }

    fn attach(&self, cell: &CellName, _rows: u16, _columns: u16) -> Result<UnixStream> {
        Err(Error::NoTerminal(cell.clone()))
    }

    fn sweep(&self, cell: &CellName) -> Result<()> {
        self.with(|cells| drop(cells.remove(cell)));
        Ok(())
    }

    fn list(&self) -> Result<Vec<CellName>> {
        Ok(self.with(|cells| cells.keys().cloned().collect()))
    }

    fn usage(&self, cell: &CellName) -> Result<CgroupUsage> {
        match self.observe(cell)? {
            Observed::Running { .. } => Ok(CgroupUsage {
                memory: Bytes(1 << 20),
                cpu_us: 1,
                processes: 1,
            }),
            _ => Err(Error::NotRunning(cell.clone())),
        }
    }

    fn record(&self, cell: &CellName) -> Result<Option<CellRecord>> {
        // A process that lives for as long as the table does.
        let own = i32::try_from(std::process::id()).unwrap_or(1);
        let identity = abbey_cells::identify(own).unwrap_or(ProcessIdentity {
            pid: own,
            start_ticks: 0,
            boot_id: "fake".into(),
        });
        Ok(self.with(|cells| {
            cells.get(cell).map(|c| CellRecord {
                microvm: false,
                container: false,
                boot: None,
                network: None,
                generation: c.generation,
                digest: c.spec.digest.clone(),
                shim: identity.clone(),
                child: Some(identity.clone()),
                started_at: c.since,
                groups: Vec::new(),
                processes: None,
                in_force: Some(c.spec.limits),
                layers: Default::default(),
                sandbox: None,
            })
        }))
    }
}
