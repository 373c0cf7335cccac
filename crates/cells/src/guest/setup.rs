//! From a kernel that has just started to a microVM in which a program can run.

use super::protocol::{CONTAINER_CONFIG, GuestConfig, UID};
use crate::files::{FileEntry, list_removable_files, open_owner_dir, prepare_owner_files};
use crate::sys::cgroup::ControlGroups;
use crate::{Error, Result};
use abbey_model::{Bytes, CellName, Limits};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Memory that the guest's kernel and first process keep.
const RESERVE: u64 = 40 << 20;

fn step(what: &'static str, on: &str) -> impl FnOnce(rustix::io::Errno) -> Error {
    let on = PathBuf::from(on);
    move |e| Error::file(what, on)(e.into())
}

/// A word of the kernel's command line that begins like this, without that.
fn told(prefix: &str) -> Option<String> {
    let line = fs::read_to_string("/proc/cmdline").ok()?;
    let mut words = line.split_whitespace();
    words
        .find_map(|w| w.strip_prefix(prefix))
        .map(str::to_owned)
}

/// Vsock port of the shim, if the kernel's command line says that the guest opens the channel (Firecracker).
pub(super) fn vsock_port() -> Option<u32> {
    told("abbey.channel=")?.parse().ok()
}

/// Device path of the drive with this name: by its serial number, or by the order on the kernel's command line.
pub(super) fn find_drive(serial: &str) -> Option<PathBuf> {
    if let Some(order) = told("abbey.drives=") {
        let place = order.split(',').position(|n| n == serial)?;
        let letter = char::from(b'a' + u8::try_from(place).ok()?);
        let path = PathBuf::from(format!("/dev/vd{letter}"));
        return path.exists().then_some(path);
    }
    let drives = fs::read_dir("/sys/block").ok()?.flatten();
    drives
        .filter(|d| fs::read_to_string(d.path().join("serial")).is_ok_and(|s| s.trim() == serial))
        .map(|d| Path::new("/dev").join(d.file_name()))
        .next()
}

/// Whether this is a container, which has its instructions in a file and shares the host's kernel.
pub(super) fn is_container() -> bool {
    Path::new(CONTAINER_CONFIG).exists()
}

/// Ends the microVM by a reboot, or the container by exiting. Never returns.
pub(super) fn exit_guest(contained: bool) -> ! {
    match contained {
        true => abbey_launch::exit_immediately(0),
        false => reboot(),
    }
}

/// Verifies from inside a container the isolation that Podman was asked for.
///
/// # Errors
/// [`Error::Isolation`] with what does not hold.
pub(super) fn verify_container(cell: &CellName) -> Result<()> {
    let missing = abbey_launch::missing_container_isolation();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Error::Isolation {
            cell: cell.clone(),
            why: format!(
                "{} could not be read back from inside the container; check the version and the configuration of podman and its runtime (`podman info`, containers.conf)",
                missing.join(", ")
            ),
        }),
    }
}

/// Whether the kernel's command line tells this microVM to wait after its boot, as a template or started from one.
pub(super) fn waits_for_instructions() -> bool {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    line.split_whitespace().any(|w| w == "abbey.wait")
}

/// Reads the instructions of this boot from the drive or file that holds them.
pub(super) fn read_config() -> Result<GuestConfig> {
    // Which drive it is stays so: to ask each for its serial number is a request to each.
    static DRIVE: OnceLock<PathBuf> = OnceLock::new();
    let place = match (is_container(), DRIVE.get()) {
        (true, _) => Some(PathBuf::from(CONTAINER_CONFIG)),
        (false, Some(known)) => Some(known.clone()),
        (false, None) => find_drive("config").map(|found| DRIVE.get_or_init(|| found).clone()),
    };
    let path = place.ok_or_else(|| {
        Error::file("find", "the drive of instructions")(std::io::ErrorKind::NotFound.into())
    })?;
    let mut bytes = Vec::new();
    let file = fs::File::open(&path).map_err(Error::file("open", &path))?;
    // The kernel looked for partitions when it found the drive, and what it saw then may have changed.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
        .map_err(step("reread", "the drive of instructions"))?;
    // Without this the kernel reads ahead into what is there for the size of the drive.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random)
        .map_err(step("read", "the drive of instructions"))?;
    // It is one line; what follows is there for the size of the drive.
    BufReader::new(file)
        .read_until(b'\n', &mut bytes)
        .map_err(Error::file("read", &path))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::Record {
        path,
        why: e.to_string(),
    })
}

fn system(kind: &str, at: &str, flags: MountFlags, data: &str) -> Result<()> {
    fs::create_dir_all(at).map_err(Error::file("make", at))?;
    let data = CString::new(data).unwrap_or_default();
    mount(kind, at, kind, flags, Some(data.as_c_str())).map_err(step("mount", at))
}

/// Mounts the kernel's file systems and memory file systems of a microVM, and creates the device links.
pub(super) fn mount_system_file_systems() -> Result<()> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV;
    system(
        "devpts",
        "/dev/pts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        "mode=620,ptmxmode=666",
    )?;
    system(
        "tmpfs",
        "/dev/shm",
        plain | MountFlags::NOEXEC,
        "mode=1777,size=25%",
    )?;
    system("tmpfs", "/run", plain, "mode=755,size=16m")?;
    system("cgroup2", "/sys/fs/cgroup", plain | MountFlags::NOEXEC, "")?;
    for (path, to) in [
        ("/dev/ptmx", "pts/ptmx"),
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        let _there_already = fs::remove_file(path);
        std::os::unix::fs::symlink(to, path).map_err(Error::file("make", path))?;
    }
    // What every program may use.
    for node in [
        "null", "zero", "full", "random", "urandom", "tty", "fuse", "net/tun",
    ] {
        let path = Path::new("/dev").join(node);
        let _not_there = fs::set_permissions(path, fs::Permissions::from_mode(0o666));
    }
    for dir in ["/tmp", "/var/tmp"] {
        fs::create_dir_all(dir).map_err(Error::file("make", dir))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o1777))
            .map_err(Error::file("protect", dir))?;
    }
    Ok(())
}

/// Sets the wall clock of the microVM to `now_ms`, milliseconds since 1970. Errors are ignored.
pub(super) fn set_clock(now_ms: i64) {
    let time = rustix::time::Timespec {
        tv_sec: now_ms.div_euclid(1000),
        tv_nsec: now_ms.rem_euclid(1000) * 1_000_000,
    };
    let _as_it_was = rustix::time::clock_settime(rustix::time::ClockId::Realtime, time);
}

/// Difference from which the clock is set, milliseconds. A message takes part of that on a loaded host.
pub(crate) const CLOCK_OFF_MAX: u64 = 500;

/// Compares the wall clock of the microVM with `now_ms`, and sets it if it is off by [`CLOCK_OFF_MAX`]. Returns how far it
/// was ahead, milliseconds.
pub(super) fn correct_clock(now_ms: i64) -> i64 {
    let off_ms = crate::record::now().0.saturating_sub(now_ms);
    if off_ms.unsigned_abs() >= CLOCK_OFF_MAX {
        set_clock(now_ms);
    }
    off_ms
}

/// Gives a microVM the host name, clock, random seed and machine id of its cell, in place of the image's.
pub(super) fn set_identity(config: &GuestConfig) -> Result<()> {
    let name = config.cell.slug().to_string();
    rustix::system::sethostname(name.as_bytes()).map_err(step("set", "the host name"))?;
    set_clock(config.clock_ms);
    abbey_launch::seed_randomness(&config.entropy)
        .map_err(Error::file("seed", "random numbers"))?;
    let mut id = [0u8; 16];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())
        .map_err(step("read", "random bytes"))?;
    let id = abbey_support::digest::hex(id);
    for (path, text) in [
        ("/etc/hostname", format!("{name}\n")),
        (
            "/etc/hosts",
            format!("127.0.0.1 localhost {name}\n::1 localhost\n"),
        ),
        ("/etc/machine-id", format!("{id}\n")),
    ] {
        fs::write(path, text).map_err(Error::file("write", path))?;
    }
    abbey_launch::loopback_up().map_err(Error::file("set up", "the loopback interface"))
}

/// Where the drives of a cell belong.
fn places(cell: &CellName) -> Vec<(&'static str, &'static str)> {
    match cell {
        CellName::Agent(_) => vec![("state", "/agent/home"), ("workspace", "/agent/workspace")],
        CellName::Service(_) => vec![("workspace", "/service")],
        CellName::Run(_) => Vec::new(),
    }
}

/// Mounts the drives of the cell in the microVM and writes the house's files on them.
pub(super) fn mount_drives_and_write_files(config: &GuestConfig) -> Result<()> {
    for (serial, at) in places(&config.cell) {
        fs::create_dir_all(at).map_err(Error::file("make", at))?;
        let device = find_drive(serial).ok_or_else(|| {
            Error::file("find the drive", serial)(std::io::ErrorKind::NotFound.into())
        })?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
        mount(&device, at, "ext4", flags, None).map_err(step("mount", at))?;
        adopt(Path::new(at)).map_err(Error::file("take over", at))?;
    }
    match &config.cell {
        CellName::Agent(_) => {
            let place = Path::new("/agent");
            let mut files = config.files.clone();
            // What was taken away while this microVM did not run.
            for name in list_removable_files(place).unwrap_or_default() {
                if !files.iter().any(|f| f.name == name) {
                    let content = String::new();
                    files.push(FileEntry { name, content });
                }
            }
            prepare_owner_files(
                &open_owner_dir(Path::new("/"))?,
                "agent",
                &config.cell,
                0,
                Some(UID),
                false,
                &files,
            )
        }
        CellName::Service(_) => own("/service"),
        CellName::Run(_) => own(WORK),
    }
}

/// Files that were put on a drive when it was made belong to the user that the cell has outside; here that
/// is ours. Those below are of one owner with what holds them, so one look tells.
fn adopt(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        let meta = entry.metadata()?;
        let theirs = meta.uid() != 0 && meta.uid() != UID;
        if theirs {
            lchown(entry.path(), Some(UID), Some(UID))?;
        }
        if meta.is_dir() && theirs {
            adopt(&entry.path())?;
        }
    }
    Ok(())
}

/// Where a single command works.
pub(super) const WORK: &str = "/work";

fn own(dir: &str) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::file("make", dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
        .map_err(Error::file("protect", dir))?;
    chown(dir, Some(UID), Some(UID)).map_err(Error::file("hand over", dir))
}

/// Creates control groups in the guest that leave memory for its first process. Empty in a container, which is
/// limited from outside.
pub(super) fn create_limits(config: &GuestConfig) -> Result<ControlGroups> {
    if config.contained {
        return Ok(ControlGroups::from_paths(Vec::new()));
    }
    let limits = Limits {
        memory: Bytes(config.memory.0.saturating_sub(RESERVE).max(24 << 20)),
        cpu_milli: 64_000,
        processes: config.processes,
        io: None,
    };
    // The kernel never ends the first process for want of memory, and whatever else runs here may be ended.
    ControlGroups::create("abbey", "cell", &limits)
}

/// Unmounts the drives of the cell. Returns whether every one could be unmounted.
pub(super) fn unmount_drives(config: &GuestConfig) -> bool {
    if config.contained {
        return true;
    }
    rustix::fs::sync();
    let mut clean = true;
    for (_, at) in places(&config.cell).into_iter().rev() {
        clean &= unmount(at, UnmountFlags::empty()).is_ok();
    }
    rustix::fs::sync();
    clean
}

/// Reboots the microVM, which ends it because its virtual machine monitor exits on a reboot. Never returns.
pub(super) fn reboot() -> ! {
    rustix::fs::sync();
    let _cannot_fail_here = rustix::system::reboot(rustix::system::RebootCommand::Restart);
    loop {
        std::thread::sleep(std::time::Duration::from_secs(60));
    }
}
