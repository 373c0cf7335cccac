//! What the control plane can do with cells, and the implementation for cells that a shim owns.

use crate::control::{ShimRequest, ShimStatus, client};
use crate::hostd::{HostdApi, HostdClient, HostdOperation};
use crate::record;
use crate::sys::cgroup::{CgroupUsage, ControlGroups};
use crate::sys::process;
use crate::{CellRecord, CellSpec, Error, Result};
use abbey_model::{CellName, ExitRecord, Generation, Millis, Observed};
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time for a live shim to answer before it counts as hung.
const HUNG_AFTER: Duration = Duration::from_secs(2);

/// Answer of a cell's shim to a probe.
#[derive(Debug)]
pub struct CellProbe {
    /// Whether the program works, as [`Observed::Running`] has it.
    pub worker: bool,
    /// Connection through the agent's own port in its cell, on which the agent API has to answer. None where that port
    /// cannot be reached apart from the shim's own answer: in a sandbox of a house without privilege.
    pub door: Option<UnixStream>,
}

/// Operations on cells. Every one may block and is idempotent; queries change nothing.
pub trait Backend: Send + Sync {
    /// Starts the shim and program of a cell as boot number `generation`. The previous boot must have been swept.
    ///
    /// # Errors
    /// When the shim does not report that the child runs; nothing is left then but a record.
    fn start(&self, spec: &CellSpec, generation: Generation) -> Result<()>;

    /// State of a cell: nothing, running, exited, or orphaned (its shim vanished without an exit record).
    ///
    /// # Errors
    /// [`Error::Record`] for a damaged record, which is never read as "nothing there".
    fn observe(&self, cell: &CellName) -> Result<Observed>;

    /// Asks a cell to end within `grace`; its shim kills what is left after that. Does not wait for the end.
    ///
    /// # Errors
    /// When the shim cannot be reached.
    fn stop(&self, cell: &CellName, grace: Millis) -> Result<()>;

    /// Pauses (`true`) or resumes (`false`) every process of a cell. Idempotent.
    ///
    /// # Errors
    /// If the shim cannot be reached, or the processes are not all paused or resumed afterwards.
    fn pause(&self, cell: &CellName, pause: bool) -> Result<()>;

    /// Asks a running cell for the state of its program, and for a connection through the agent's own port.
    ///
    /// # Errors
    /// When the shim cannot be reached.
    fn probe(&self, cell: &CellName) -> Result<CellProbe>;

    /// How far the clock of a cell was ahead of the host's when they were compared last. None for a cell that has the
    /// host's clock, or whose shim cannot be reached.
    fn clock_off(&self, _cell: &CellName) -> Option<Millis> {
        None
    }

    /// Opens a connection to the terminal of a cell for a viewer of `rows` and `columns`; [`shim`] documents the
    /// protocol.
    ///
    /// # Errors
    /// [`Error::NoTerminal`], or when the shim cannot be reached.
    fn attach(&self, cell: &CellName, rows: u16, columns: u16) -> Result<UnixStream>;

    /// Kills what is left of a cell, verifies that no process remains, and removes its records.
    ///
    /// # Errors
    /// [`Error::Leftover`] when processes survive; the records stay then.
    fn sweep(&self, cell: &CellName) -> Result<()>;

    /// Names of all cells of the house that have a record or a control group with processes, whether they are declared or
    /// not.
    ///
    /// # Errors
    /// When the records cannot be listed.
    fn list(&self) -> Result<Vec<CellName>>;

    /// Current memory, CPU time and number of processes of a running cell.
    ///
    /// # Errors
    /// When it is not running.
    fn usage(&self, cell: &CellName) -> Result<CgroupUsage>;

    /// Record of a running cell: its processes, control groups and the limits in force. None if there is none.
    ///
    /// # Errors
    /// As [`Backend::observe`].
    fn record(&self, cell: &CellName) -> Result<Option<CellRecord>>;
}

/// Backend for cells that a shim owns: hostd starts and sweeps them, the shims' records and sockets give their
/// state.
#[derive(Debug)]
pub struct ShimBackend {
    hostd: HostdClient,
    run_dir: PathBuf,
    group: String,
}

impl ShimBackend {
    /// Backend for the house in directory `home`, whose hostd must be running. `group` is the name of the house's
    /// control groups.
    pub fn new(home: &Path, group: String) -> Self {
        ShimBackend {
            hostd: HostdClient::new(home),
            run_dir: home.join("run/cells"),
            group,
        }
    }

    fn dir(&self, cell: &CellName) -> PathBuf {
        self.run_dir.join(cell.to_string())
    }

    fn read<T: serde::de::DeserializeOwned>(
        &self,
        cell: &CellName,
        file: &str,
    ) -> Result<Option<T>> {
        record::read_json(&self.dir(cell).join(file))
    }

    fn status(&self, cell: &CellName) -> Option<ShimStatus> {
        client::request_status(&self.dir(cell), &ShimRequest::Status).ok()
    }
}

impl Backend for ShimBackend {
    fn start(&self, spec: &CellSpec, generation: Generation) -> Result<()> {
        let spec = Box::new(spec.clone());
        let started = self
            .hostd
            .call(HostdOperation::Start { generation, spec }, &[]);
        started.map(drop)
    }

    fn observe(&self, cell: &CellName) -> Result<Observed> {
        if let Some(exit) = self.read::<ExitRecord>(cell, "exit.json")? {
            return Ok(Observed::Exited(exit));
        }
        let Some(record) = self.read::<CellRecord>(cell, "shim.json")? else {
            return Ok(Observed::Nothing);
        };
        let until = Instant::now() + HUNG_AFTER;
        while process::is_alive(&record.shim) {
            if let Some(status) = self.status(cell) {
                return Ok(Observed::Running {
                    generation: status.generation,
                    spec: status.digest,
                    ready: status.ready,
                    started_at: record.started_at,
                    stopping: status.stopping,
                    paused: status.paused,
                    worker: !status.hung,
                });
            }
            if let Some(exit) = self.read::<ExitRecord>(cell, "exit.json")? {
                return Ok(Observed::Exited(exit));
            }
            if Instant::now() >= until {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // It may have written its record between our two looks.
        Ok(match self.read::<ExitRecord>(cell, "exit.json")? {
            Some(exit) => Observed::Exited(exit),
            None => Observed::Orphaned {
                generation: record.generation,
            },
        })
    }

    fn stop(&self, cell: &CellName, grace: Millis) -> Result<()> {
        match client::request_status(&self.dir(cell), &ShimRequest::Stop { grace }) {
            Ok(_) => Ok(()),
            Err(_) if matches!(self.observe(cell)?, Observed::Running { .. }) => Err(Error::Shim {
                cell: cell.clone(),
                why: "it does not answer on its control socket".to_owned(),
            }),
            Err(_) => Ok(()),
        }
    }

    fn pause(&self, cell: &CellName, pause: bool) -> Result<()> {
        let broken = |why: String| Error::Shim {
            cell: cell.clone(),
            why,
        };
        match client::request_status(&self.dir(cell), &ShimRequest::Pause { pause }) {
            Ok(status) if status.paused == pause => Ok(()),
            Ok(_) => Err(broken(
                "not all of its processes could be paused or resumed".to_owned(),
            )),
            Err(e) => Err(broken(format!("it does not answer: {e}"))),
        }
    }

    fn probe(&self, cell: &CellName) -> Result<CellProbe> {
        let (status, stream) = client::request_stream(&self.dir(cell), &ShimRequest::Probe)
            .map_err(|_| Error::NotRunning(cell.clone()))?;
        Ok(CellProbe {
            worker: !status.hung,
            door: status.door.then_some(stream),
        })
    }

    fn clock_off(&self, cell: &CellName) -> Option<Millis> {
        self.status(cell)?.clock_off_ms.map(Millis)
    }

    fn attach(&self, cell: &CellName, rows: u16, columns: u16) -> Result<UnixStream> {
        let request = ShimRequest::Attach { rows, columns };
        match client::request_stream(&self.dir(cell), &request) {
            Ok((status, stream)) if status.terminal => {
                let forever = stream
                    .set_read_timeout(None)
                    .and_then(|()| stream.set_write_timeout(None));
                forever.map_err(Error::file("use", "a connection"))?;
                Ok(stream)
            }
            Ok(_) => Err(Error::NoTerminal(cell.clone())),
            Err(_) => Err(Error::NotRunning(cell.clone())),
        }
    }

    fn sweep(&self, cell: &CellName) -> Result<()> {
        if !self.dir(cell).exists() && !traces(&self.group, cell) {
            return Ok(());
        }
        let cell = cell.clone();
        self.hostd
            .call(HostdOperation::Sweep { cell }, &[])
            .map(drop)
    }

    fn list(&self) -> Result<Vec<CellName>> {
        let mut names: Vec<CellName> = names_in(&self.run_dir)?;
        // Groups without a record: a crash between the two. Without a process they are no cell, and hostd removes them.
        let groups = ControlGroups::list_cells(&self.group);
        let groups = groups
            .iter()
            .filter_map(|p| p.file_name()?.to_str()?.parse().ok());
        let mut groups: Vec<CellName> = groups.collect();
        groups.sort();
        groups.dedup();
        groups.retain(|cell| !names.contains(cell) && has_processes(&self.group, cell));
        names.extend(groups);
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn usage(&self, cell: &CellName) -> Result<CgroupUsage> {
        let record = self
            .record(cell)?
            .ok_or_else(|| Error::NotRunning(cell.clone()))?;
        Ok(ControlGroups::from_paths(record.groups).usage())
    }

    fn record(&self, cell: &CellName) -> Result<Option<CellRecord>> {
        self.read(cell, "shim.json")
    }
}

/// Whether control groups of a cell are left.
fn traces(group: &str, cell: &CellName) -> bool {
    let name = cell.to_string();
    ControlGroups::list_cells(group)
        .iter()
        .any(|p| p.ends_with(&name))
}

/// Whether a process is in the control groups of a cell.
fn has_processes(group: &str, cell: &CellName) -> bool {
    let groups = ControlGroups::find_existing(group, &cell.to_string());
    !groups.processes().is_empty()
}

fn names_in(dir: &Path) -> Result<Vec<CellName>> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(entries
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.parse().ok())
            .collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::file("list", dir)(e)),
    }
}
