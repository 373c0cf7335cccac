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

/// Kills what is left of a cell (shim, program, control groups, container), verifies that nothing remains, and
/// removes its records.
pub(super) fn sweep_cell(run_dir: &Path, group: &str, cell: &CellName) -> Result<()> {
    let dir = run_dir.join(cell.to_string());
    crash::point("hostd.sweep");
    let mut groups = Vec::new();
    if let Some(record) = record::read_json::<CellRecord>(&dir.join("shim.json"))? {
        process::kill_process(&record.shim);
        let until = Instant::now() + KILL_WITHIN;
        while process::is_alive(&record.shim) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(child) = &record.child {
            process::kill_process(child);
        }
        if record.container {
            container::remove_container(group, cell)?;
            groups = ControlGroups::find_existing(group, &cell.to_string())
                .paths()
                .to_vec();
        }
        groups.extend(record.groups);
    }
    if groups.is_empty() {
        groups = ControlGroups::find_existing(group, &cell.to_string())
            .paths()
            .to_vec();
    }
    let groups = ControlGroups::from_paths(groups);
    groups
        .kill_all(KILL_WITHIN)
        .map_err(|pids| Error::Leftover {
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
