//! Drives of a microVM: made beside their place and renamed, held by one microVM at a time,
//! and never mounted or read by the house. What a guest wrote into a drive is looked at by programs
//! that run as the guest's own user.

use crate::sys::programs::SYSTEM_PATH;
use crate::{Error, Result, crash};
use abbey_model::{Bytes, CellName, Drives};
use abbey_support::file;
use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::process::Resource;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Smallest size that a file system is made with.
pub const SIZE_MIN: Bytes = Bytes(16 << 20);

/// Command of the host with a clean environment and no input, run as `as_user` if given. For [`run_drive_tool`].
pub(crate) fn host_command(program: &str, as_user: Option<u32>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", SYSTEM_PATH)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .current_dir("/");
    if let Some(uid) = as_user {
        command.uid(uid).gid(uid);
    }
    command
}

/// Runs a command on a drive and waits for it; exit statuses in `fine` mean success.
///
/// # Errors
/// [`Error::Drive`] with the status and the last line of its error output.
pub(crate) fn run_drive_tool(mut command: Command, fine: &[i32], drive: &Path) -> Result<()> {
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

/// Makes a file system of this size, whole or not at all, with the files of a directory if there is one. One
/// that is read again after a crash has a journal. Where files are copied, their user does it: they may be an agent's.
fn make(
    path: &Path,
    label: &str,
    size: Bytes,
    from: Option<&Path>,
    uid: Option<u32>,
) -> Result<()> {
    let temporary = path.with_extension("new");
    let _left_by_a_crash = fs::remove_file(&temporary);
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&temporary);
    drop(file.map_err(Error::file("make", &temporary))?);
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))
        .map_err(Error::file("protect", &temporary))?;
    if let Some(uid) = uid {
        chown(&temporary, Some(uid), Some(uid)).map_err(Error::file("hand over", &temporary))?;
    }
    let mut command = host_command("mkfs.ext4", uid.filter(|_| from.is_some()));
    if let Some(from) = from {
        command.arg("-d").arg(from);
    }
    command
        .args(["-q", "-F", "-m", "0", "-L", label, "-E"])
        .arg("lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0")
        .args(match from {
            Some(_) => ["-O", "has_journal"],
            None => ["-O", "^has_journal"],
        })
        .arg(&temporary)
        .arg(format!("{}k", size.0 >> 10));
    run_drive_tool(command, &[0], path)?;
    if from.is_some() {
        // The image has holes, for which the file system may have no space: that is found before the drive counts.
        let written = fs::File::open(&temporary).and_then(|file| file.sync_all());
        written.map_err(Error::file("write all files to", &temporary))?;
    }
    crash::point("drive.made");
    file::publish_finished(&temporary, path, file::Sync::None).map_err(Error::file("publish", path))
}

/// Creates an image of `size` bytes with an empty, journaled ext4 file system, owned by root. Replaces an existing
/// file.
pub(crate) fn create_empty_file_system(path: &Path, label: &str, size: Bytes) -> Result<()> {
    let _left_by_a_crash = fs::remove_file(path);
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(Error::file("make", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .map_err(Error::file("protect", path))?;
    drop(file);
    let mut command = host_command("mkfs.ext4", None);
    command
        .args(["-q", "-F", "-m", "0", "-L", label, "-E"])
        .arg("lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0")
        .arg(path)
        .arg(format!("{}k", size.0 >> 10));
    run_drive_tool(command, &[0], path)
}

/// Enlarges the ext4 drive at `path` to `size` bytes. The tools run as `uid`, because the content came from a
/// guest.
pub(crate) fn grow_drive(path: &Path, size: Bytes, uid: Option<u32>) -> Result<()> {
    // Before it grows: one that is shorter than its file system was cut off, which could not be seen afterwards.
    let mut check = host_command("e2fsck", uid);
    check.args(["-f", "-p"]).arg(path);
    // 1: something was repaired.
    run_drive_tool(check, &[0, 1], path)?;
    let file = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(Error::file("open", path))?;
    file.set_len(size.0).map_err(Error::file("grow", path))?;
    drop(file);
    let mut resize = host_command("resize2fs", uid);
    resize.arg(path);
    run_drive_tool(resize, &[0], path)
}

/// Space that a file system keeps beside what drives take of it, bytes.
const SPACE_LEFT: u64 = 32 << 20;

/// Takes the whole space of the image of a drive from its disk, as far as it has holes. What is written to a hole of a full disk is
/// lost after the program that wrote it was told that it succeeded, and takes the file's earlier content along. An image stays as it
/// is where its file system has too little left or takes no space in advance: what the drive can still take is then part of what
/// `plan` compares with the space that is left.
pub(crate) fn take_space(image: &Path) -> Result<()> {
    let open = |e: Errno| Error::file("take the space of", image)(e.into());
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(image, flags, Mode::empty()).map_err(open)?;
    let meta = rustix::fs::fstat(&file).map_err(open)?;
    let size = u64::try_from(meta.st_size).unwrap_or_default();
    let taken = u64::try_from(meta.st_blocks)
        .unwrap_or_default()
        .saturating_mul(512);
    let missing = size.saturating_sub(taken);
    let disk = rustix::fs::fstatvfs(&file).map_err(open)?;
    let left = disk.f_bavail.saturating_mul(disk.f_frsize);
    if missing == 0 || left < missing.saturating_add(SPACE_LEFT) {
        return Ok(());
    }
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size) {
        // Another took the space in between, a signal came, or the file system allocates none in advance: the next use of the
        // drive tries again.
        Ok(())
        | Err(Errno::NOSPC | Errno::DQUOT | Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS) => {
            Ok(())
        }
        Err(error) => Err(open(error)),
    }
}

/// Gives back what an image takes of its disk without having anything in it, as of an agent that was removed.
pub(crate) fn give_space_back(image: &Path) -> std::io::Result<()> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(image, flags, Mode::empty())?;
    // What was read of it is in the page cache, and would pass for something in it.
    rustix::fs::fsync(&file)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or_default();
    let mut at = 0;
    while at < size {
        let hole = rustix::fs::seek(&file, SeekFrom::Hole(at))?;
        let data = match rustix::fs::seek(&file, SeekFrom::Data(hole)) {
            Ok(data) => data,
            Err(Errno::NXIO) => size,
            Err(error) => return Err(error.into()),
        };
        if data > hole {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, flags, hole, data - hole)?;
        }
        at = data.max(hole + 1);
    }
    Ok(())
}

/// Checks the ext4 file system of a drive without changing it.
///
/// # Errors
/// [`Error::Drive`] with what the checker says.
pub fn check_drive(path: &Path, uid: Option<u32>) -> Result<()> {
    let mut check = host_command("e2fsck", uid);
    check.args(["-f", "-n"]).arg(path);
    run_drive_tool(check, &[0], path)
}

/// Whether a directory of drives has the image of one. It may exist without: what was to move there did not fit.
pub(crate) fn has_images(dir: &Path) -> bool {
    images(dir).any(|image| image.exists())
}

/// Space that the images of drives in a directory take on their disk.
pub(crate) fn space_taken(dir: &Path) -> Bytes {
    let sizes = images(dir).filter_map(|image| fs::symlink_metadata(image).ok());
    Bytes(sizes.map(|meta| meta.blocks().saturating_mul(512)).sum())
}

/// Paths of the images in a directory of drives that are kept.
pub(crate) fn images(dir: &Path) -> impl Iterator<Item = PathBuf> {
    ["state", "workspace"]
        .map(|name| dir.join(name).with_extension("ext4"))
        .into_iter()
}

/// Drives of an owner, locked while this exists.
#[derive(Debug)]
pub(crate) struct LockedDrives {
    pub(crate) state: PathBuf,
    pub(crate) workspace: PathBuf,
    _lock: fs::File,
}

/// Locks the drives of an owner for one microVM. Creates missing ones with the owner's existing files, and enlarges
/// those that are too small.
///
/// # Errors
/// [`Error::Attached`] if another microVM has them.
pub(crate) fn lock_drives(
    cell: &CellName,
    files: &Path,
    classes: &Drives,
    uid: Option<u32>,
) -> Result<LockedDrives> {
    let dir = &files.join("drives");
    fs::create_dir_all(dir).map_err(Error::file("make", dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711))
        .map_err(Error::file("protect", dir))?;
    let lock = dir.join("lock");
    let lock =
        crate::sys::lock::try_lock_file(&lock)?.ok_or_else(|| Error::Attached(cell.clone()))?;
    let held = LockedDrives {
        state: dir.join("state.ext4"),
        workspace: dir.join("workspace.ext4"),
        _lock: lock,
    };
    let mut made: Vec<&Path> = Vec::new();
    for (path, label, size, from) in [
        (&held.state, "abbey-state", classes.state, "home"),
        (
            &held.workspace,
            "abbey-work",
            classes.workspace,
            "workspace",
        ),
    ] {
        match fs::symlink_metadata(path) {
            Err(_) => {
                if let Err(error) = make(path, label, size, Some(&files.join(from)), uid) {
                    // The owner's files stay in their directories, and the other drive would have an old copy of its own.
                    for path in made
                        .into_iter()
                        .chain([path.with_extension("new").as_path()])
                    {
                        let _made_anew_next_time = fs::remove_file(path);
                    }
                    return Err(error);
                }
                made.push(path);
            }
            Ok(meta) if meta.is_file() && meta.size() < size.0 => grow_drive(path, size, uid)?,
            Ok(_) => {}
        }
    }
    for image in [&held.state, &held.workspace] {
        take_space(image)?;
    }
    Ok(held)
}

/// Copies the files of an owner's unused drives to directory `to`, with tools that run as the owner's user because
/// a guest wrote the drives.
pub(crate) fn extract_drive_files(
    cell: &CellName,
    files: &Path,
    to: &Path,
    uid: Option<u32>,
) -> Result<()> {
    let dir = files.join("drives");
    let lock = crate::sys::lock::try_lock_file(&dir.join("lock"))?;
    let _held = lock.ok_or_else(|| Error::Attached(cell.clone()))?;
    for (drive, name) in [("state", "home"), ("workspace", "workspace")] {
        let drive = dir.join(drive).with_extension("ext4");
        let place = to.join(name);
        fs::create_dir_all(&place).map_err(Error::file("make", &place))?;
        if let Some(uid) = uid {
            chown(&place, Some(uid), Some(uid)).map_err(Error::file("hand over", &place))?;
        }
        let mut dump = host_command("debugfs", uid);
        dump.arg("-R")
            .arg(format!("rdump / {}", place.display()))
            .arg(&drive);
        let failed = |e| Error::file("read", &drive)(e);
        // A file with holes can be larger than its drive; taken out of it, it would have none.
        let size = fs::metadata(&drive).map_err(failed)?.len();
        let dump = dump.spawn().map_err(failed)?;
        let limit = rustix::process::Rlimit {
            current: Some(size),
            maximum: Some(size),
        };
        let pid = rustix::process::Pid::from_child(&dump);
        let _ended_already = rustix::process::prlimit(Some(pid), Resource::Fsize, limit);
        let said = dump.wait_with_output().map_err(failed)?;
        if said.status.signal().is_some() {
            return Err(Error::Drive {
                drive,
                why: "a file on it is larger than the drive itself; remove it, or make it smaller"
                    .to_owned(),
            });
        }
        // Its status tells nothing. An ordinary user cannot give files away, and need not.
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        let complaint = said
            .lines()
            .find(|l| !l.starts_with("debugfs ") && !l.contains("changing ownership"));
        if let Some(why) = complaint {
            return Err(Error::Drive {
                drive,
                why: why.to_owned(),
            });
        }
    }
    Ok(())
}

/// Creates the scratch drive of one boot, without a journal.
pub(crate) fn create_scratch_drive(path: &Path, size: Bytes, uid: Option<u32>) -> Result<()> {
    make(path, "abbey-scratch", size, None, uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn an_image_takes_its_space_and_gives_back_what_has_nothing_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("state.ext4");
        let file = fs::File::create_new(&image).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_at(b"kept", 3 << 20).unwrap();
        drop(file);
        let before = fs::read(&image).unwrap();
        take_space(&image).unwrap();
        assert!(space_taken(dir.path()) >= Bytes(8 << 20));
        take_space(&image).unwrap();
        assert_eq!(fs::read(&image).unwrap(), before);
        give_space_back(&image).unwrap();
        assert!(space_taken(dir.path()) <= Bytes(1 << 20));
        assert_eq!(fs::read(&image).unwrap(), before);
    }
}
