//! What a host that went down leaves of cells.
//!
//! Records of cells are for one boot of the host, so nobody waits until they are on the disk: what writes and
//! reads them goes down with it. What is known of a cell without a record of its end is that it is gone, and that this
//! was no failure of its own. A record that is damaged while the host stays up remains an error (hazard 1).

use crate::record;
use crate::record::write_json;
use crate::{CellRecord, Error, Result, boot_id};
use abbey_model::{ExitKind, ExitRecord, Generation};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Names, among hostd's own files, the boot of the host under which cells were last started.
const BOOT: &str = "boot.json";

/// Gives each cell that the host took down with it an exit record of kind `HostRestarted`, and removes records that were
/// cut short. Does this once for each boot of the host, before any cell is started.
pub(crate) fn record_ends_of_previous_boot(own: &Path, cells: &Path) -> Result<()> {
    let known: Option<String> = record::read_json(&own.join(BOOT)).unwrap_or_default();
    if known.as_deref() == Some(boot_id()) {
        return Ok(());
    }
    for dir in cells_in(cells)? {
        settle_one(&dir)?;
    }
    write_json(&own.join(BOOT), &boot_id())
}

fn cells_in(cells: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(cells) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::file("list", cells)(e)),
    };
    let paths = entries.map(|e| e.map(|e| e.path()));
    let paths: io::Result<Vec<PathBuf>> = paths.collect();
    let mut paths = paths.map_err(Error::file("list", cells))?;
    paths.retain(|p| p.is_dir());
    Ok(paths)
}

/// What is known goes in before what is damaged goes out, so a crash in between settles it again.
fn settle_one(dir: &Path) -> Result<()> {
    let (record, exit) = (dir.join("shim.json"), dir.join("exit.json"));
    let started = record::read_json::<CellRecord>(&record);
    let ended = record::read_json::<ExitRecord>(&exit);
    let known = match (&started, &ended) {
        (_, Err(_)) => false,
        // There was no cell, or it is one of this boot.
        (Ok(None), Ok(_)) => true,
        (Ok(Some(started)), Ok(_)) if started.shim.boot_id == boot_id() => true,
        (Ok(Some(started)), Ok(ended)) => {
            let ended = ended.as_ref().map(|e| e.generation);
            ended == Some(started.generation)
        }
        (Err(_), Ok(ended)) => ended.is_some(),
    };
    if !known {
        let generation = started.as_ref().ok().and_then(Option::as_ref);
        let gone = ExitRecord {
            generation: generation.map_or(Generation(0), |s| s.generation),
            exit: ExitKind::HostRestarted,
            ended_at: record::now(),
            spent: None,
        };
        write_json(&exit, &gone)?;
    }
    match started {
        Err(_) => fs::remove_file(&record).map_err(Error::file("remove", record)),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(cells: &Path, name: &str, record: &str) {
        let dir = cells.join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("shim.json"), record).unwrap();
    }

    #[test]
    fn a_cell_that_went_down_with_the_host_says_so_and_only_then() {
        let home = tempfile::tempdir().unwrap();
        let (own, cells) = (home.path(), &home.path().join("cells"));
        cell(cells, "agent-a", "");
        record_ends_of_previous_boot(own, cells).unwrap();
        let exit: Option<ExitRecord> = record::read_json(&cells.join("agent-a/exit.json")).unwrap();
        assert_eq!(exit.unwrap().exit, ExitKind::HostRestarted);
        assert!(!cells.join("agent-a/shim.json").exists());
        // Also when only its end was cut short; and an end that is known stays.
        fs::remove_file(own.join(BOOT)).unwrap();
        fs::write(cells.join("agent-a/exit.json"), "{").unwrap();
        cell(cells, "agent-c", "");
        let ended = ExitRecord {
            generation: Generation(7),
            exit: ExitKind::Stopped,
            ended_at: record::now(),
            spent: None,
        };
        write_json(&cells.join("agent-c/exit.json"), &ended).unwrap();
        record_ends_of_previous_boot(own, cells).unwrap();
        let exit = |cell: &str| -> ExitRecord {
            record::read_json(&cells.join(cell).join("exit.json"))
                .unwrap()
                .unwrap()
        };
        assert_eq!(exit("agent-a").exit, ExitKind::HostRestarted);
        assert_eq!(exit("agent-c"), ended);
        assert!(!cells.join("agent-c/shim.json").exists());
        // A whole record of another boot, and one of this boot, whose cell may run.
        let started = |boot: &str| {
            format!(
                "{{ \"generation\": 4, \"digest\": \"d\", \"shim\": {{ \"pid\": 1, \"start_ticks\": 1, \"boot_id\": \"{boot}\" }}, \"child\": null, \"started_at\": 1, \"groups\": [], \"in_force\": null }}"
            )
        };
        fs::remove_file(own.join(BOOT)).unwrap();
        cell(cells, "agent-d", &started("another"));
        cell(cells, "agent-e", &started(boot_id()));
        record_ends_of_previous_boot(own, cells).unwrap();
        let gone = exit("agent-d");
        assert_eq!(
            (gone.exit, gone.generation),
            (ExitKind::HostRestarted, Generation(4))
        );
        assert!(cells.join("agent-d/shim.json").exists());
        assert!(!cells.join("agent-e/exit.json").exists());
        // In the same boot of the host nothing is explained away.
        cell(cells, "agent-b", "{\"gen");
        record_ends_of_previous_boot(own, cells).unwrap();
        assert!(cells.join("agent-b/shim.json").exists());
        assert!(!cells.join("agent-b/exit.json").exists());
    }
}
