//! Ends what is left of a cell.

use crate::sys::cgroup::ControlGroups;
use crate::sys::process;
use crate::{CellRecord, Error, Result, container, crash, record};
use abbey_model::CellName;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time for killed processes to vanish.
const KILL_WITHIN: Duration = Duration::from_secs(10);

/// Ends whatever is left of a cell, verifies that it is gone, and removes its records. Done by
/// hostd, as it takes the rights over other users' processes.
pub(super) fn sweep(run_dir: &Path, group: &str, cell: &CellName) -> Result<()> {
    let dir = run_dir.join(cell.to_string());
    crash::point("hostd.sweep");
    let mut groups = Vec::new();
    if let Some(record) = record::read::<CellRecord>(&dir.join("shim.json"))? {
        process::kill(&record.shim);
        let until = Instant::now() + KILL_WITHIN;
        while process::is_alive(&record.shim) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(child) = &record.child {
            process::kill(child);
        }
        if record.container {
            container::remove(group, cell)?;
            groups = ControlGroups::everywhere(group, &cell.to_string())
                .paths()
                .to_vec();
        }
        groups.extend(record.groups);
    }
    if groups.is_empty() {
        groups = ControlGroups::everywhere(group, &cell.to_string())
            .paths()
            .to_vec();
    }
    let groups = ControlGroups::at(groups);
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
