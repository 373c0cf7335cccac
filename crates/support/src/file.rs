//! Atomic file publication: a reader sees the old content or the new content, never a part of it, also after a crash.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

/// What of a publication must survive a power failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Nothing; for files that lose their meaning when the host goes down.
    None,
    /// Content: after a power failure the path holds the old content or the new content.
    Content,
    /// Content and directory entry: once the call has returned, the path holds the new content.
    Entry,
}

/// Replaces the file at `path` by one with these bytes and exactly this mode, whatever the umask. The temporary file
/// lies beside it as `.NAME.RANDOM.new`; on failure it is removed and the old file stays.
///
/// # Errors
/// The first step that failed; also when `path` has no file name.
pub fn publish(path: &Path, bytes: impl AsRef<[u8]>, mode: u32, sync: Sync) -> io::Result<()> {
    let mut temporary = temporary_beside(path)?;
    temporary.write_all(bytes.as_ref())?;
    temporary
        .as_file()
        .set_permissions(Permissions::from_mode(mode))?;
    if sync == Sync::None {
        if exchange(temporary.path(), path).is_ok() {
            // The old file has the temporary name now, and is removed by it.
            drop(temporary);
            return Ok(());
        }
    } else {
        temporary.as_file().sync_all()?;
    }
    temporary.persist(path).map_err(|e| e.error)?;
    match sync {
        Sync::Entry => sync_directory_of(path),
        Sync::None | Sync::Content => Ok(()),
    }
}

/// Swaps a new file and the file that it replaces, in one step for readers. A rename over the old one would write the new
/// one to the disk at once on ext4 (`auto_da_alloc`), which is for those who do not synchronize but should.
///
/// # Errors
/// If there is no file at `old`, or the file system cannot do it.
#[cfg(target_os = "linux")]
fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    if !fs::symlink_metadata(old)?.is_file() {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE).map_err(Into::into)
}

#[cfg(not(target_os = "linux"))]
fn exchange(_new: &Path, _old: &Path) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Replaces the file at `path` by one with these bytes, and with the mode and, where that is allowed, the owner of the old
/// one. The content survives a power failure. On failure the old file stays.
///
/// # Errors
/// The first step that failed, but not that of giving it to the owner of the old one.
pub fn replace(path: &Path, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    let old = fs::metadata(path)?;
    let mut temporary = temporary_beside(path)?;
    temporary.write_all(bytes.as_ref())?;
    let file = temporary.as_file();
    let _only_root_gives_files_away = fchown(file, Some(old.uid()), Some(old.gid()));
    file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
    file.sync_all()?;
    temporary.persist(path).map_err(|e| e.error)?;
    Ok(())
}

/// End of the name of a temporary file.
const TEMPORARY: &str = ".new";
/// Length of the random part of it.
const RANDOM_LEN: usize = 6;

fn temporary_beside(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name"))?;
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    // `tempfile` opens with O_EXCL, so a link that somebody planted is never followed.
    tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(TEMPORARY)
        .rand_bytes(RANDOM_LEN)
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(directory_of(path))
}

/// Name of the file for which a file of this name is the temporary one; none for other files.
fn published_name(temporary: &str) -> Option<&str> {
    let inner = temporary.strip_prefix('.')?.strip_suffix(TEMPORARY)?;
    let (name, random) = inner.rsplit_once('.')?;
    let is_random = random.len() == RANDOM_LEN && random.bytes().all(|b| b.is_ascii_alphanumeric());
    is_random.then_some(name)
}

/// Removes temporary files that a killed process left in the directory of `path`, of files whose names `is_published`
/// accepts. Nobody may be replacing such a file meanwhile. Only files of this user are removed; errors are ignored.
pub fn remove_temporaries(path: &Path, is_published: impl Fn(&str) -> bool) {
    let own = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(directory_of(path))
        .into_iter()
        .flatten()
        .flatten()
    {
        let found = entry.file_name();
        let found = found.to_string_lossy();
        let is_temporary = published_name(&found).is_some_and(&is_published);
        let is_own = |m: fs::Metadata| m.is_file() && m.uid() == own;
        if is_temporary && entry.metadata().is_ok_and(is_own) {
            let _removed_by_the_next = fs::remove_file(entry.path());
        }
    }
}

/// Makes the directory `dir` and what is missing between it and `base`, which has to be there. Nothing is made beside or above it.
///
/// # Errors
/// Those of the file system; [`io::ErrorKind::NotFound`] if there is no `base`, or `dir` is not below it.
pub fn make_dirs_below(base: &Path, dir: &Path) -> io::Result<()> {
    let below = dir.strip_prefix(base);
    let below = below.map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
    let mut path = base.to_owned();
    path.metadata()?;
    for part in below.components() {
        path.push(part);
        match fs::create_dir(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Moves a file that is complete, for example one that another program wrote, to the path where readers look for it.
/// Both must be on one file system.
///
/// # Errors
/// The first step that failed; `from` stays where it is unless it was moved.
pub fn publish_finished(from: &Path, to: &Path, sync: Sync) -> io::Result<()> {
    if sync != Sync::None {
        File::open(from)?.sync_all()?;
    }
    fs::rename(from, to)?;
    match sync {
        Sync::Entry => sync_directory_of(to),
        Sync::None | Sync::Content => Ok(()),
    }
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

/// Directory in which a path lies; the current one for a bare name.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn directories_are_made_below_one_that_is_there_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        let deep = base.join("a/b");
        assert!(make_dirs_below(&base, &deep).is_err() && !base.exists());
        fs::create_dir(&base).unwrap();
        for _ in 0..2 {
            make_dirs_below(&base, &deep).unwrap();
        }
        assert!(deep.is_dir());
        assert!(make_dirs_below(&base, dir.path()).is_err());
    }

    #[test]
    fn only_temporary_files_of_the_named_files_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        let kept = temporary_beside(&path).unwrap().keep().unwrap().1;
        let others = [
            ".a.yaml.old.new",
            ".a.yaml.new",
            "a.yaml.x1y2z3.new",
            ".b.yaml.x1y2z3.new",
        ];
        for other in others {
            fs::write(dir.path().join(other), "").unwrap();
        }
        remove_temporaries(&path, |name| name == "a.yaml");
        assert!(!kept.exists());
        let mut left = names(dir.path());
        left.sort();
        let mut others = others.map(str::to_owned).to_vec();
        others.sort();
        assert_eq!(left, others);
    }

    #[test]
    fn publishing_replaces_the_content_and_sets_the_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        for (sync, mode) in [
            (Sync::None, 0o644),
            (Sync::Content, 0o600),
            (Sync::Entry, 0o666),
        ] {
            publish(&path, format!("{sync:?}"), mode, sync).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{sync:?}"));
            let kept = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(kept & 0o7777, mode);
        }
        assert_eq!(names(dir.path()), ["state.json"]);
    }

    #[test]
    fn a_replaced_file_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abbey.yaml");
        publish(&path, "old", 0o640, Sync::None).unwrap();
        replace(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(names(dir.path()), ["abbey.yaml"]);
    }

    #[test]
    fn a_failed_publication_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir_all(path.join("full")).unwrap();
        publish(&path, "x", 0o600, Sync::None).unwrap_err();
        assert_eq!(names(dir.path()), ["taken"]);
        let none = publish(Path::new("/"), "x", 0o600, Sync::None).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn publishing_over_a_link_replaces_the_link_and_not_its_target() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "untouched").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        publish(&link, "new", 0o600, Sync::None).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "untouched");
        assert_eq!(fs::read_to_string(&link).unwrap(), "new");
    }

    #[test]
    fn a_finished_file_is_moved_over_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("made"), dir.path().join("published"));
        fs::write(&to, "old").unwrap();
        fs::write(&from, "new").unwrap();
        publish_finished(&from, &to, Sync::Entry).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "new");
        assert_eq!(names(dir.path()), ["published"]);
    }
}
