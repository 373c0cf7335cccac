//! Cells that a shim owns, whatever is around them.

use crate::cgroup::{Groups, Usage};
use crate::shim::{Request, Status};
use crate::{Backend, CellSpec, Error, Record, Result, client, identity};
use abbey_model::{CellName, ExitRecord, Generation, Millis, Observed};
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Time for killed processes to vanish.
const KILL_WITHIN: Duration = Duration::from_secs(10);
/// Time for a live shim to answer before it counts as hung.
const HUNG_AFTER: Duration = Duration::from_secs(2);

/// Starts shims and looks at what they left.
#[derive(Debug)]
pub struct ShimBackend {
    shim: PathBuf,
    run_dir: PathBuf,
    group: String,
}

impl ShimBackend {
    /// A backend that starts `shim` (this binary) and keeps its records under `run_dir`.
    pub fn new(shim: PathBuf, run_dir: PathBuf, group: String) -> Self {
        ShimBackend {
            shim,
            run_dir,
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
        let path = self.dir(cell).join(file);
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(value) => Ok(Some(value)),
                Err(e) => Err(Error::Record {
                    path,
                    why: e.to_string(),
                }),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::file("read", path)(e)),
        }
    }

    fn status(&self, cell: &CellName) -> Option<Status> {
        client::ask(&self.dir(cell), &Request::Status).ok()
    }
}

impl Backend for ShimBackend {
    fn start(&self, spec: &CellSpec, generation: Generation) -> Result<()> {
        let failed = |why: String| Error::Shim {
            cell: spec.cell.clone(),
            why,
        };
        fs::create_dir_all(&spec.run_dir).map_err(Error::file("make", &spec.run_dir))?;
        let mut shim = Command::new(&self.shim)
            .args(["role", "shim", &spec.cell.to_string()])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| failed(format!("`{}`: {e}", self.shim.display())))?;
        let boot = serde_json::to_vec(&(generation, spec)).map_err(|e| failed(e.to_string()))?;
        if let Some(mut pipe) = shim.stdin.take() {
            pipe.write_all(&boot).map_err(|e| failed(e.to_string()))?;
        }
        let mut line = String::new();
        if let Some(pipe) = shim.stdout.take() {
            BufReader::new(pipe)
                .read_line(&mut line)
                .map_err(|e| failed(e.to_string()))?;
        }
        // The shim leaves our session by a second fork; what we started ends at once.
        let _status = shim.wait();
        match line.trim() {
            "ok" => Ok(()),
            "" => Err(failed("it died before it reported".to_owned())),
            why => Err(failed(why.to_owned())),
        }
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

    fn sweep(&self, cell: &CellName) -> Result<()> {
        let dir = self.dir(cell);
        let mut groups = Vec::new();
        if let Some(record) = self.read::<Record>(cell, "shim.json")? {
            identity::kill(&record.shim);
            let until = Instant::now() + KILL_WITHIN;
            while identity::is_alive(&record.shim) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            if let Some(child) = &record.child {
                identity::kill(child);
            }
            groups = record.groups;
        }
        if groups.is_empty() {
            let name = cell.to_string();
            groups = Groups::leftovers(&self.group)
                .into_iter()
                .filter(|p| p.ends_with(&name))
                .collect();
        }
        let groups = Groups::at(groups);
        groups.kill(KILL_WITHIN).map_err(|pids| Error::Leftover {
            cell: cell.clone(),
            count: pids.len(),
            pids,
        })?;
        groups.remove()?;
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", dir)(e)),
            _ => Ok(()),
        }
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
