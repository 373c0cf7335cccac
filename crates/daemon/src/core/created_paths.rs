//! What a command creates in a home, so that it can take that back.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What was in a home, and which directories on the way to it were missing, before a command created something.
#[derive(Debug)]
pub(crate) struct CreatedPaths {
    root: PathBuf,
    before: BTreeSet<OsString>,
    /// Directories that did not exist, innermost first.
    missing: Vec<PathBuf>,
}

impl CreatedPaths {
    /// The state of the home `root` now.
    ///
    /// # Errors
    /// If the home is there and cannot be listed.
    pub(crate) fn since_now(root: &Path) -> io::Result<CreatedPaths> {
        let is_missing = |dir: &&Path| fs::symlink_metadata(dir).is_err();
        let missing = root.ancestors().take_while(is_missing);
        Ok(CreatedPaths {
            root: root.to_owned(),
            before: names(root)?,
            missing: missing.map(Path::to_owned).collect(),
        })
    }

    /// Removes what came into the home since then, and the directories on the way to it that are empty again. What cannot be
    /// removed stays. The caller holds the lock of the house.
    pub(crate) fn remove(self) {
        for name in names(&self.root)
            .unwrap_or_default()
            .difference(&self.before)
        {
            let path = self.root.join(name);
            let is_dir = fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
            let _stays = match is_dir {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
        }
        for dir in self.missing {
            let _not_empty = fs::remove_dir(dir);
        }
    }
}

/// Names in a directory; none if it is missing.
fn names(dir: &Path) -> io::Result<BTreeSet<OsString>> {
    match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        entries => entries?.map(|e| e.map(|e| e.file_name())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_created_is_removed_and_what_was_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        let created = CreatedPaths::since_now(&root).unwrap();
        fs::create_dir_all(root.join("agents/x")).unwrap();
        fs::write(root.join("key"), "k").unwrap();
        created.remove();
        assert_eq!(names(dir.path()).unwrap(), BTreeSet::new());

        fs::create_dir_all(root.join("agents")).unwrap();
        fs::write(dir.path().join("a/other"), "o").unwrap();
        let created = CreatedPaths::since_now(&root).unwrap();
        fs::create_dir_all(root.join("services")).unwrap();
        created.remove();
        assert_eq!(names(&root).unwrap(), BTreeSet::from(["agents".into()]));
    }
}
