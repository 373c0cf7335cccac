//! Files outside the home that only root can open, for a control plane that runs as another user: secrets, which are
//! read, and checkpoint sinks, which are appended to.
//!
//! hostd opens no path because the control plane asks for it: root names the files, by applying a manifest that refers to
//! them, and hostd opens those alone. Nobody but root may have a say in what is found under their paths.

use super::HostdConfig;
use super::allowed::{allow, allowed};
use crate::Result;
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

/// Longest secret, bytes.
const SECRET_MAX: u64 = 64 << 10;

/// What hostd does with the files that root named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedFiles {
    /// Reads secrets.
    Secrets,
    /// Appends signed heads of the audit log.
    Sinks,
}

fn list_path(home: &Path, which: NamedFiles) -> PathBuf {
    home.join(match which {
        NamedFiles::Secrets => "hostd/secret-files.json",
        NamedFiles::Sinks => "hostd/sink-files.json",
    })
}

/// Lets hostd of the house in `home` use these files; with `only`, no others any more. To be called by root.
///
/// # Errors
/// If the list cannot be written.
pub fn allow_named_files(
    home: &Path,
    which: NamedFiles,
    files: BTreeSet<PathBuf>,
    only: bool,
) -> Result<()> {
    allow(&list_path(home, which), files, only)
}

/// Checks that hostd would read a secret file once it is allowed to.
///
/// # Errors
/// A sentence that says why not, and what to do.
pub fn check_secret_file(path: &Path) -> std::result::Result<(), String> {
    open_secret_file(path).map(drop)
}

/// Checks that hostd, as root, would append to a checkpoint sink once it is allowed to.
///
/// # Errors
/// A sentence that says why not.
pub fn check_sink_file(path: &Path) -> std::result::Result<(), String> {
    let (dir, name) = open_parent_of_root(path)?;
    match rustix::fs::statat(&dir, &name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(format!("`{}`: {}", path.display(), std::io::Error::from(e))),
        Ok(stat) => require_own_file(&stat, path),
    }
}

/// Opens a checkpoint sink to be read and appended to, and creates it if it is missing. As root, only one that root
/// named.
///
/// # Errors
/// A sentence that says why not.
pub(super) fn open_sink_file(
    config: &HostdConfig,
    path: &Path,
) -> std::result::Result<File, String> {
    let flags = OFlags::RDWR
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NONBLOCK
        | OFlags::NOFOLLOW
        | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o640);
    let failed = |e| format!("`{}`: {}", path.display(), std::io::Error::from(e));
    if !config.privileged {
        let file = rustix::fs::openat(CWD, path, flags, mode).map_err(failed)?;
        return Ok(File::from(file));
    }
    let listed = allowed::<PathBuf>(&list_path(&config.home, NamedFiles::Sinks));
    let listed = listed.map_err(|e| crate::error::error_chain(&e))?;
    if !listed.contains(path) {
        return Err(
            "root has not applied a manifest that names it; run `abbey up` as root".to_owned(),
        );
    }
    let (dir, name) = open_parent_of_root(path)?;
    let file = rustix::fs::openat(&dir, &name, flags, mode).map_err(failed)?;
    require_own_file(&stat_of(&file, path)?, path)?;
    Ok(File::from(file))
}

/// Text of a secret file that root named.
///
/// # Errors
/// A sentence that says why it is not read.
pub(super) fn read_secret_file(
    config: &HostdConfig,
    path: &Path,
) -> std::result::Result<String, String> {
    let listed = allowed::<PathBuf>(&list_path(&config.home, NamedFiles::Secrets))
        .map_err(|e| crate::error::error_chain(&e))?;
    if !config.privileged || !listed.contains(path) {
        return Err("root has not applied a manifest that refers to it".to_owned());
    }
    let mut text = String::new();
    let file = File::from(open_secret_file(path)?);
    file.take(SECRET_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|e| e.to_string())?;
    match text.len() as u64 > SECRET_MAX {
        true => Err("it is longer than 64 KiB".to_owned()),
        false => Ok(text),
    }
}

/// Opens a file that belongs to root, below directories in which nobody else can change an entry of root's.
fn open_secret_file(path: &Path) -> std::result::Result<OwnedFd, String> {
    let (dir, name) = open_parent_of_root(path)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = open_entry(&dir, &name, flags, path)?;
    require_own_file(&stat_of(&file, path)?, path)?;
    Ok(file)
}

fn open_entry(
    dir: &OwnedFd,
    name: &OsStr,
    flags: OFlags,
    at: &Path,
) -> std::result::Result<OwnedFd, String> {
    let opened = rustix::fs::openat(dir, name, flags, Mode::empty());
    opened.map_err(|e| match e {
        rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR => {
            format!("`{}` is a link; name the real path", at.display())
        }
        e => format!("`{}`: {}", at.display(), std::io::Error::from(e)),
    })
}

/// Opens the directory of a file, and returns it with the file's name; in no directory above can anybody but root change
/// an entry of root's.
fn open_parent_of_root(path: &Path) -> std::result::Result<(OwnedFd, OsString), String> {
    let parts: Option<Vec<_>> = path
        .components()
        .filter(|c| *c != Component::RootDir)
        .map(|c| match c {
            Component::Normal(part) => Some(part),
            _ => None,
        })
        .collect();
    let Some((name, parents)) = parts.as_deref().and_then(<[_]>::split_last) else {
        return Err("its path has `..` in it".to_owned());
    };
    let mut at = PathBuf::from("/");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, "/", flags, Mode::empty());
    let mut dir = root.map_err(|e| std::io::Error::from(e).to_string())?;
    require_root_directory(&dir, &at)?;
    for part in parents {
        at.push(part);
        dir = open_entry(&dir, part, flags, &at)?;
        require_root_directory(&dir, &at)?;
    }
    Ok((dir, (*name).to_owned()))
}

/// Requires a plain file that belongs to root and has one name: a second one could be the way of another to have a file
/// of root's opened.
fn require_own_file(stat: &Stat, at: &Path) -> std::result::Result<(), String> {
    let plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    match plain && stat.st_uid == 0 && stat.st_nlink == 1 {
        true => Ok(()),
        false => Err(format!(
            "`{}` is not a file that belongs to root and has one name",
            at.display()
        )),
    }
}

fn stat_of(fd: &OwnedFd, at: &Path) -> std::result::Result<Stat, String> {
    rustix::fs::fstat(fd).map_err(|e| format!("`{}`: {}", at.display(), std::io::Error::from(e)))
}

fn require_root_directory(dir: &OwnedFd, at: &Path) -> std::result::Result<(), String> {
    let stat = stat_of(dir, at)?;
    let (writable, sticky) = (stat.st_mode & 0o022 != 0, stat.st_mode & 0o1000 != 0);
    match stat.st_uid == 0 && (sticky || !writable) {
        true => Ok(()),
        false => Err(format!(
            "others than root can change the directory `{}`",
            at.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    #[test]
    fn only_a_file_of_root_in_directories_of_root_is_read_and_only_once_it_is_named() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        std::fs::create_dir_all(home.join("hostd")).unwrap();
        let config = HostdConfig {
            home: home.clone(),
            group: String::new(),
            serve_uid: 1,
            privileged: true,
        };
        let key = dir.path().join("key");
        std::fs::write(&key, "secret\n").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read_secret_file(&config, &key).is_err());
        allow_named_files(
            &home,
            NamedFiles::Secrets,
            BTreeSet::from([key.clone()]),
            true,
        )
        .unwrap();
        assert_eq!(read_secret_file(&config, &key).unwrap(), "secret\n");

        let other = dir.path().join("other");
        symlink(&key, &other).unwrap();
        assert!(check_secret_file(&other).unwrap_err().contains("is a link"));
        std::fs::remove_file(&other).unwrap();
        std::fs::hard_link(&key, &other).unwrap();
        assert!(check_secret_file(&key).is_err());
        std::fs::remove_file(&other).unwrap();

        chown(&key, Some(4242), None).unwrap();
        assert!(check_secret_file(&key).is_err());
        chown(&key, Some(0), None).unwrap();
        chown(dir.path(), Some(4242), None).unwrap();
        let why = check_secret_file(&key).unwrap_err();
        assert!(why.contains("can change the directory"), "{why}");
        chown(dir.path(), Some(0), None).unwrap();
        allow_named_files(&home, NamedFiles::Secrets, BTreeSet::new(), true).unwrap();
        assert!(read_secret_file(&config, &key).is_err());
    }
}
