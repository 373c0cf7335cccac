//! Leases that this agent holds, as files of its home: with them its programs act within a task, by `abbey-agent`. They say
//! nothing that the agent's own credential does not allow, and nothing is lost with them but the convenience.

use crate::runtime::driver::Lease;
use abbey_support::file;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Directory of the leases in the agent's home.
const LEASES: &str = ".abbey/leases";
/// Most files that are read, and the longest one in bytes: the agent can write there.
const FILES_MAX: usize = 1000;
const FILE_MAX: u64 = 4096;

/// Variable that names the task to the programs of its run.
pub(crate) const TASK_VARIABLE: &str = "ABBEY_TASK";

/// A lease on a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLease {
    /// Identifier of the task, `task_…`.
    pub task: String,
    /// Its number, as `TASK-12`.
    pub number: String,
    /// Fencing token.
    pub token: u64,
}

impl HeldLease {
    /// The lease as the right to change the task.
    pub fn lease(&self) -> Lease {
        Lease {
            task: self.task.clone(),
            token: self.token,
        }
    }
}

/// A lease as a file, which is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct PublishedLease {
    home: PathBuf,
    lease: HeldLease,
}

impl Drop for PublishedLease {
    fn drop(&mut self) {
        // A newer lease on the same task may have taken its place.
        if list(&self.home).contains(&self.lease) {
            remove(&self.home, &self.lease);
        }
    }
}

fn file_of(home: &Path, number: &str) -> PathBuf {
    home.join(LEASES).join(format!("{number}.json"))
}

/// Writes a lease into the agent's home.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn save(home: &Path, lease: &HeldLease) -> io::Result<()> {
    let text = serde_json::to_string(lease)?;
    fs::create_dir_all(home.join(LEASES))?;
    file::publish(&file_of(home, &lease.number), text, 0o600, file::Sync::None)
}

/// Whether the agent's home has this lease.
pub(crate) fn holds(home: &Path, lease: &HeldLease) -> bool {
    read(&file_of(home, &lease.number)).as_ref() == Some(lease)
}

/// Writes a lease into the agent's home for as long as the result lives.
///
/// # Errors
/// As [`save`].
pub(crate) fn publish(home: &Path, lease: HeldLease) -> io::Result<PublishedLease> {
    save(home, &lease)?;
    Ok(PublishedLease {
        home: home.to_owned(),
        lease,
    })
}

/// Removes a lease from the agent's home.
pub(crate) fn remove(home: &Path, lease: &HeldLease) {
    let _removed_already = fs::remove_file(file_of(home, &lease.number));
}

/// Removes all leases: none outlives the cell in which it was taken.
pub(crate) fn clear(home: &Path) {
    let _there_are_none = fs::remove_dir_all(home.join(LEASES));
}

/// Leases in the agent's home, in the order of their files' names. Files that are none are passed over.
pub(crate) fn list(home: &Path) -> Vec<HeldLease> {
    let Ok(entries) = fs::read_dir(home.join(LEASES)) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .take(FILES_MAX)
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "json"))
        .collect();
    paths.sort();
    paths.iter().filter_map(|path| read(path)).collect()
}

fn read(path: &Path) -> Option<HeldLease> {
    let fits = fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.len() <= FILE_MAX);
    let text = fits.then(|| fs::read(path).ok())??;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_lease_is_listed_until_it_is_dropped() {
        let home = tempfile::tempdir().unwrap();
        let lease = HeldLease {
            task: "task_1".to_owned(),
            number: "TASK-1".to_owned(),
            token: 3,
        };
        assert!(list(home.path()).is_empty());
        let published = publish(home.path(), lease.clone()).unwrap();
        fs::write(home.path().join(LEASES).join("x.json"), "no lease").unwrap();
        assert_eq!(list(home.path()), std::slice::from_ref(&lease));
        assert!(holds(home.path(), &lease));
        drop(published);
        assert!(!holds(home.path(), &lease));
        assert!(list(home.path()).is_empty());
        // One that has taken its place stays.
        let published = publish(home.path(), lease.clone()).unwrap();
        let newer = HeldLease { token: 4, ..lease };
        save(home.path(), &newer).unwrap();
        drop(published);
        assert_eq!(list(home.path()), [newer]);
    }
}
