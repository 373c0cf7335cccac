//! What a command creates in a home, so that it can take that back.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
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
    pub(crate) fn since_now(root: &Path) -> CreatedPaths {
        let is_missing = |dir: &&Path| fs::symlink_metadata(dir).is_err();
        let missing = root.ancestors().take_while(is_missing);
        CreatedPaths {
            root: root.to_owned(),
            before: names(root),
            missing: missing.map(Path::to_owned).collect(),
        }
    }

    /// Removes what came into the home since then, and the directories on the way to it that are empty again. What cannot be
    /// removed stays.
    pub(crate) fn remove(self) {
        for name in names(&self.root).difference(&self.before) {
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

fn names(dir: &Path) -> BTreeSet<OsString> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_created_is_removed_and_what_was_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        let created = CreatedPaths::since_now(&root);
        fs::create_dir_all(root.join("agents/x")).unwrap();
        fs::write(root.join("key"), "k").unwrap();
        created.remove();
        assert_eq!(names(dir.path()), BTreeSet::new());

        fs::create_dir_all(root.join("agents")).unwrap();
        fs::write(dir.path().join("a/other"), "o").unwrap();
        let created = CreatedPaths::since_now(&root);
        fs::create_dir_all(root.join("services")).unwrap();
        created.remove();
        assert_eq!(names(&root), BTreeSet::from(["agents".into()]));
    }
}
