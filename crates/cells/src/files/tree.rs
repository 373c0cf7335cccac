//! Trees of files of agents and services in a backup. Everything is opened beneath the tree without following links.
//! What cannot be carried is named, never silently left out.

use super::archive::{DISKS, UNLOADED};
use super::names::CREDENTIAL;
use abbey_support::beneath::DirHandle;
use rustix::fs::FileType;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Deepest directory; each level needs a descriptor.
const DEPTH_MAX: usize = 256;
/// Most paths that are named one by one.
const NAMED_MAX: usize = 200;

/// Paths that are not in a backup, with the reason.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    named: Vec<String>,
    more: u64,
}

impl LeftOut {
    /// Adds a path with the reason why it is not in the backup.
    pub(crate) fn add(&mut self, path: &Path, why: &str) {
        match self.named.len() < NAMED_MAX {
            true => self.named.push(format!("{}: {why}", path.display())),
            false => self.more += 1,
        }
    }

    /// One line for each path, and one with the number of those that are not named.
    pub(crate) fn into_lines(mut self) -> Vec<String> {
        if self.more > 0 {
            self.named.push(format!("{} more paths", self.more));
        }
        self.named
    }
}

/// Whether a path below an agent's directory is a credential, which no backup contains, or holds disk images, whose
/// files are packed instead.
pub(crate) fn is_left_out_of_agent(below: &Path) -> bool {
    let first = below
        .iter()
        .next()
        .and_then(OsStr::to_str)
        .unwrap_or_default();
    let exact = [
        "token",
        "key",
        "home/token",
        "home/session.lock",
        "home/lost+found",
        "workspace/lost+found",
    ];
    below.starts_with("home/services")
        || first.starts_with(CREDENTIAL)
        || ["drives", DISKS, UNLOADED].contains(&first)
        || exact.iter().any(|path| below == Path::new(path))
}

/// Whether a link at `at`, relative to the root of a tree, with this target stays in the tree. No component of the
/// path may be a link itself, so the answer follows from the names.
pub fn is_link_within(at: &Path, target: &Path) -> bool {
    let mut depth = at.components().count().saturating_sub(1);
    for part in target.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(_) => depth += 1,
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

/// Adds trees to a tar archive.
pub(crate) struct TreePacker<'a> {
    pub(crate) archive: &'a mut tar::Builder<File>,
    pub(crate) left_out: &'a mut LeftOut,
    /// Whether a path below the root of the tree is not part of it.
    pub(crate) skip: fn(&Path) -> bool,
}

impl TreePacker<'_> {
    /// Adds the content of an open directory, whose name in the archive is `root`.
    pub(crate) fn add(&mut self, dir: &DirHandle, root: &Path) -> io::Result<()> {
        self.add_below(dir, root, Path::new(""), 0)
    }

    fn add_below(
        &mut self,
        dir: &DirHandle,
        root: &Path,
        below: &Path,
        depth: usize,
    ) -> io::Result<()> {
        for entry in dir.names()? {
            let below = below.join(&entry);
            let path = root.join(&below);
            if (self.skip)(&below) {
                continue;
            }
            // The owner may remove or swap an entry while we read: what is gone is left out.
            let Ok(Some(stat)) = dir.stat_entry(&entry) else {
                continue;
            };
            let mut header = header(&stat);
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory if depth >= DEPTH_MAX => {
                    self.left_out
                        .add(&path, "directories are carried to a depth of 256");
                }
                FileType::Directory => {
                    let Ok(inner) = dir.open_dir(&entry) else {
                        continue;
                    };
                    header.set_entry_type(tar::EntryType::Directory);
                    self.archive.append_data(&mut header, &path, io::empty())?;
                    self.add_below(&inner, root, &below, depth + 1)?;
                }
                FileType::RegularFile => {
                    let Ok(fd) = dir.open_entry(&entry) else {
                        continue;
                    };
                    let file = File::from(fd);
                    let found = file.metadata()?;
                    if !found.is_file() {
                        continue;
                    }
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_size(found.len());
                    // A file that grows or shrinks meanwhile still has the size in its header.
                    let whole = file.chain(io::repeat(0)).take(found.len());
                    self.archive.append_data(&mut header, &path, whole)?;
                }
                FileType::Symlink => {
                    let Ok(target) = rustix::fs::readlinkat(dir, &entry, Vec::new()) else {
                        continue;
                    };
                    let target = PathBuf::from(OsStr::from_bytes(target.to_bytes()));
                    if is_link_within(&below, &target) {
                        header.set_entry_type(tar::EntryType::Symlink);
                        self.archive.append_link(&mut header, &path, &target)?;
                    } else {
                        self.left_out.add(&path, "a link that leads out");
                    }
                }
                _ => self.left_out.add(&path, "a socket, pipe or device"),
            }
        }
        Ok(())
    }
}

/// Header with the mode, owner and time of a file; without special bits.
fn header(stat: &rustix::fs::Stat) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(stat.st_mode & 0o777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_judged_by_where_its_names_lead() {
        let within = |at: &str, target: &str| is_link_within(Path::new(at), Path::new(target));
        assert!(within("workspace/a", "b") && within("workspace/a", "../home/b"));
        assert!(within("workspace/a", "./b/../c"));
        assert!(!within("workspace/a", "/etc/passwd"));
        assert!(!within("workspace/a", "../../b") && !within("a", ".."));
        assert!(!within("workspace/a", "b/../../../c"));
    }

    #[test]
    fn credentials_are_known_by_their_place_and_not_by_their_name() {
        let left = |path: &str| is_left_out_of_agent(Path::new(path));
        for path in [
            "token",
            "key",
            "home/token",
            "home/services/db",
            "service-db",
            "disks/state.ext4",
        ] {
            assert!(left(path), "{path}");
        }
        for path in [
            "workspace/token",
            "workspace/src/key",
            "home/notes/drives/x",
            "workspace/disks",
        ] {
            assert!(!left(path), "{path}");
        }
    }
}
