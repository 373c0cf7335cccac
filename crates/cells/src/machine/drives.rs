//! Drives of a virtual machine: made beside their place and renamed, held by one machine at a time,
//! and never mounted or read by the house. What a guest wrote into a drive is looked at by programs
//! that run as the guest's own user.

use crate::{Error, Result};
use abbey_model::{Bytes, CellName, Drives};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Smallest size that a file system is made with.
pub const SIZE_MIN: Bytes = Bytes(16 << 20);

fn tool(program: &str, as_user: Option<u32>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .current_dir("/");
    if let Some(uid) = as_user {
        command.uid(uid).gid(uid);
    }
    command
}

fn run(mut command: Command, fine: &[i32], drive: &Path) -> Result<()> {
    let broken = |why: String| Error::Drive {
        drive: drive.to_owned(),
        why,
    };
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|e| broken(format!("`{name}`: {e}; install e2fsprogs")))?;
    let code = output.status.code().unwrap_or(-1);
    if fine.contains(&code) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.lines().last().unwrap_or_default().trim();
    Err(broken(format!("`{name}` ended with status {code}: {text}")))
}

/// Makes an empty file system of this size, whole or not at all. One that is read again after a crash
/// has a journal.
fn make(path: &Path, label: &str, size: Bytes, journal: bool, uid: Option<u32>) -> Result<()> {
    let temporary = path.with_extension("new");
    let _left_by_a_crash = fs::remove_file(&temporary);
    let mut command = tool("mkfs.ext4", None);
    command
        .args(["-q", "-F", "-m", "0", "-L", label, "-E"])
        .arg("lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0")
        .args(match journal {
            true => ["-O", "has_journal"],
            false => ["-O", "^has_journal"],
        })
        .arg(&temporary)
        .arg(format!("{}k", size.0 >> 10));
    run(command, &[0], path)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))
        .map_err(Error::file("protect", &temporary))?;
    if let Some(uid) = uid {
        chown(&temporary, Some(uid), Some(uid)).map_err(Error::file("hand over", &temporary))?;
    }
    fs::rename(&temporary, path).map_err(Error::file("publish", path))
}

/// Makes a drive larger, as its owner's user: what is on it came from a guest.
fn grow(path: &Path, size: Bytes, uid: Option<u32>) -> Result<()> {
    let file = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(Error::file("open", path))?;
    file.set_len(size.0).map_err(Error::file("grow", path))?;
    drop(file);
    let mut check = tool("e2fsck", uid);
    check.args(["-f", "-p"]).arg(path);
    // 1: something was mended.
    run(check, &[0, 1], path)?;
    let mut resize = tool("resize2fs", uid);
    resize.arg(path);
    run(resize, &[0], path)
}

/// Whether a drive's file system is whole. It is not changed.
///
/// # Errors
/// [`Error::Drive`] with what the checker says.
pub fn check(path: &Path, uid: Option<u32>) -> Result<()> {
    let mut check = tool("e2fsck", uid);
    check.args(["-f", "-n"]).arg(path);
    run(check, &[0], path)
}

/// The drives of an owner, held for as long as this lives.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) state: PathBuf,
    pub(crate) workspace: PathBuf,
    _lock: fs::File,
}

/// Makes the lasting drives of an owner in `dir` where they are not there, makes larger those that should
/// be, and takes them.
pub(crate) fn take(
    cell: &CellName,
    dir: &Path,
    classes: &Drives,
    uid: Option<u32>,
) -> Result<Held> {
    fs::create_dir_all(dir).map_err(Error::file("make", dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711))
        .map_err(Error::file("protect", dir))?;
    let lock = dir.join("lock");
    let lock = crate::lock::try_take(&lock)?.ok_or_else(|| Error::Attached(cell.clone()))?;
    let held = Held {
        state: dir.join("state.ext4"),
        workspace: dir.join("workspace.ext4"),
        _lock: lock,
    };
    for (path, label, size) in [
        (&held.state, "abbey-state", classes.state),
        (&held.workspace, "abbey-work", classes.workspace),
    ] {
        match fs::symlink_metadata(path) {
            Err(_) => make(path, label, size, true, uid)?,
            Ok(meta) if meta.is_file() && meta.size() < size.0 => grow(path, size, uid)?,
            Ok(_) => {}
        }
    }
    Ok(held)
}

/// A drive for one boot.
pub(crate) fn scratch(path: &Path, size: Bytes, uid: Option<u32>) -> Result<()> {
    make(path, "abbey-scratch", size, false, uid)
}
