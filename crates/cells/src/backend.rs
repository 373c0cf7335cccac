//! Cells that a shim owns, whatever is around them.

use crate::cgroup::{Groups, Usage};
use crate::hostd::{Client, Helper, Operation};
use crate::shim::{self, Request, Status};
use crate::{Backend, CellSpec, Error, Record, Result, client, crash, identity, machine};
use abbey_model::{CellName, ExitRecord, Generation, Millis, Observed};
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time for killed processes to vanish.
const KILL_WITHIN: Duration = Duration::from_secs(10);
/// Time for a live shim to answer before it counts as hung.
const HUNG_AFTER: Duration = Duration::from_secs(2);

/// Asks hostd to start and sweep, and looks at what shims left.
#[derive(Debug)]
pub struct ShimBackend {
    hostd: Client,
    run_dir: PathBuf,
    group: String,
}

impl ShimBackend {
    /// A backend of the house in `home`, whose hostd runs, with control groups named `group`.
    pub fn new(home: &Path, group: String) -> Self {
        ShimBackend {
            hostd: Client::new(home),
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
        shim::read(&self.dir(cell).join(file))
    }

    fn status(&self, cell: &CellName) -> Option<Status> {
        client::ask(&self.dir(cell), &Request::Status).ok()
    }
}

impl Backend for ShimBackend {
    fn start(&self, spec: &CellSpec, generation: Generation) -> Result<()> {
        let spec = Box::new(spec.clone());
        let started = self.hostd.call(Operation::Start { generation, spec }, &[]);
        started.map(drop)
    }

    fn observe(&self, cell: &CellName) -> Result<Observed> {
        if let Some(exit) = self.read::<ExitRecord>(cell, "exit.json")? {
            return Ok(Observed::Exited(exit));
        }
        let Some(record) = self.read::<Record>(cell, "shim.json")? else {
            return Ok(Observed::Nothing);
        };
        let until = Instant::now() + HUNG_AFTER;
        while identity::is_alive(&record.shim) {
            if let Some(status) = self.status(cell) {
                return Ok(Observed::Running {
                    generation: status.generation,
                    spec: status.digest,
                    ready: status.ready,
                    started_at: record.started_at,
                    stopping: status.stopping,
                    paused: status.paused,
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
        match client::ask(&self.dir(cell), &Request::Stop { grace }) {
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
        match client::ask(&self.dir(cell), &Request::Pause { pause }) {
            Ok(status) if status.paused == pause => Ok(()),
            Ok(_) => Err(broken("not everything in it could be held".to_owned())),
            Err(e) => Err(broken(format!("it does not answer: {e}"))),
        }
    }

    fn attach(&self, cell: &CellName, rows: u16, columns: u16) -> Result<UnixStream> {
        let request = Request::Attach { rows, columns };
        match client::open(&self.dir(cell), &request) {
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
        self.hostd.call(Operation::Sweep { cell }, &[]).map(drop)
    }

    fn list(&self) -> Result<Vec<CellName>> {
        let mut names: Vec<CellName> = names_in(&self.run_dir)?;
        // Groups without a record: a crash between the two.
        let groups = Groups::leftovers(&self.group);
        names.extend(
            groups
                .iter()
                .filter_map(|p| p.file_name()?.to_str()?.parse().ok()),
        );
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn usage(&self, cell: &CellName) -> Result<Usage> {
        let record = self
            .record(cell)?
            .ok_or_else(|| Error::NotRunning(cell.clone()))?;
        Ok(Groups::at(record.groups).usage())
    }

    fn record(&self, cell: &CellName) -> Result<Option<Record>> {
        self.read(cell, "shim.json")
    }
}

/// Whether control groups of a cell are left.
fn traces(group: &str, cell: &CellName) -> bool {
    let name = cell.to_string();
    Groups::leftovers(group).iter().any(|p| p.ends_with(&name))
}

/// Ends whatever is left of a cell, verifies that it is gone, and removes its records. Done by
/// hostd, as it takes the rights over other users' processes.
pub(crate) fn sweep(run_dir: &Path, group: &str, cell: &CellName) -> Result<()> {
    let dir = run_dir.join(cell.to_string());
    crash::point("hostd.sweep");
    let mut groups = Vec::new();
    if let Some(record) = shim::read::<Record>(&dir.join("shim.json"))? {
        identity::kill(&record.shim);
        let until = Instant::now() + KILL_WITHIN;
        while identity::is_alive(&record.shim) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(child) = &record.child {
            identity::kill(child);
        }
        if record.container {
            machine::container::remove(group, cell)?;
            groups = Groups::everywhere(group, &cell.to_string())
                .paths()
                .to_vec();
        }
        groups.extend(record.groups);
    }
    if groups.is_empty() {
        groups = Groups::everywhere(group, &cell.to_string())
            .paths()
            .to_vec();
    }
    let groups = Groups::at(groups);
    groups.kill(KILL_WITHIN).map_err(|pids| Error::Leftover {
        cell: cell.clone(),
        count: pids.len(),
        pids,
    })?;
    groups.remove()?;
    crash::point("hostd.killed");
    match fs::remove_dir_all(&dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", dir)(e)),
        _ => Ok(()),
    }
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
