//! JSON files of the house's own, written whole or not at all, and the record that a shim keeps about a boot.

use crate::{CellNetwork, Error, Result, Sandbox};
use abbey_model::{Generation, Layer, Limits, ProcessIdentity, Timestamp};
use abbey_support::file;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Record of one boot of a cell, in `shim.json`. A later release reads it to adopt the running cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellRecord {
    /// Number of the boot.
    pub generation: Generation,
    /// Digest of the specification's settings whose change needs a restart.
    pub digest: String,
    /// Process of the shim.
    pub shim: ProcessIdentity,
    /// First process of the cell; none until it runs.
    pub child: Option<ProcessIdentity>,
    /// Start time of the shim.
    pub started_at: Timestamp,
    /// Directories of the control groups.
    pub groups: Vec<PathBuf>,
    /// Limits that were read back from the kernel; none if they are waived or unsupported.
    pub in_force: Option<Limits>,
    /// Number of processes that its specification allows; none in a record of an earlier release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// Isolation layers that were verified from inside the cell.
    #[serde(default)]
    pub layers: BTreeSet<Layer>,
    /// Isolation, which further programs in the cell get as well; none for a plain process.
    #[serde(default, rename = "walls")]
    pub sandbox: Option<Sandbox>,
    /// Whether the cell is a microVM, in which the guest starts further programs.
    #[serde(default, rename = "machine")]
    pub microvm: bool,
    /// Whether the cell is a container, which is removed by name.
    #[serde(default)]
    pub container: bool,
    /// `cold`, or `template` for a microVM that started from one.
    #[serde(default)]
    pub boot: Option<String>,
    /// Network of the cell.
    #[serde(default)]
    pub network: Option<CellNetwork>,
}

/// Reads a JSON file; none if it does not exist, [`Error::Record`] if it is damaged.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| Error::Record {
                path: path.to_owned(),
                why: e.to_string(),
            }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::file("read", path)(e)),
    }
}

/// Current wall-clock time.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Writes a value as a JSON file atomically and synchronizes it to disk.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    write(path, value, file::Sync::Content)
}

/// Writes a value as a JSON file atomically, without waiting for the disk: for records that are worthless after a
/// crash of the host (`hostd::reboot` replaces damaged ones).
pub(crate) fn write_json_without_sync<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    write(path, value, file::Sync::None)
}

fn write<T: Serialize>(path: &Path, value: &T, sync: file::Sync) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|e| Error::Record {
        path: path.into(),
        why: e.to_string(),
    })?;
    file::publish(path, bytes, 0o640, sync).map_err(Error::file("publish", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the release before the first tagged one wrote it.
    const PREVIOUS: &str = r#"{"generation":3,"digest":"d","shim":{"pid":7,"start_ticks":9,"boot_id":"b"},
        "child":null,"started_at":12,"groups":["/sys/fs/cgroup/x"],"in_force":null,"layers":[],
        "walls":{"binds":[{"source":"/h","path":"/w","writable":true}],"profile":"jit","tmp":16},
        "machine":false,"container":false,"boot":null,"network":null}"#;

    #[test]
    fn a_record_of_the_previous_release_is_read_and_written_with_the_same_keys() {
        let record: CellRecord = serde_json::from_str(PREVIOUS).unwrap();
        assert_eq!(record.generation, Generation(3));
        assert_eq!(record.sandbox.as_ref().unwrap().binds.len(), 1);
        let written = serde_json::to_value(&record).unwrap();
        let previous: serde_json::Value = serde_json::from_str(PREVIOUS).unwrap();
        assert_eq!(written, previous);
    }

    #[test]
    fn a_missing_record_is_none_and_a_damaged_one_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shim.json");
        assert_eq!(read_json::<CellRecord>(&path).unwrap(), None);
        fs::write(&path, "{").unwrap();
        assert!(matches!(
            read_json::<CellRecord>(&path),
            Err(Error::Record { .. })
        ));
    }
}
