//! Getting hostd up, and the control plane down to an ordinary user.

use super::client::{RECEIVES_WITHIN, connect_within};
use super::{HostdApi, HostdClient, HostdConfig, HostdOperation};
use crate::sys::lock::holder_of_lock_file;
use crate::sys::process::{kill_process, runs_program};
use crate::{Error, Result, crash};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Why a hostd leaves at once; whoever started it knows from this that it may wait for the other one.
pub(super) const ANOTHER_HOSTD: &str = "another hostd of this house runs or is starting";

/// What a hostd that does not come up could not do.
pub(super) const START: &str = "start";

/// Time for an older hostd to end.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Time for a hostd that somebody else starts to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Whether a hostd that runs as root and has this version serves the house in `home`.
pub fn is_privileged_hostd_running(home: &Path) -> bool {
    let hello = HostdClient::new(home).hello();
    hello.is_ok_and(|h| h.privileged && h.version == env!("CARGO_PKG_VERSION"))
}

/// Process id of the hostd of the house in `home`, whether or not it accepts calls or answers them.
pub fn listening_process(home: &Path) -> Option<i32> {
    // The lock says it also while the queue of the socket is full, so that no connection can.
    holder_of_lock_file(&HostdConfig::lock_path(home))
        .or_else(|| socket_owner(&HostdConfig::socket_path(home)))
}

/// Process id of the program that listens on a Unix socket. None if the process that made the socket has ended: its number
/// may be another's by now.
pub fn socket_owner(socket: &Path) -> Option<i32> {
    let stream = connect_within(socket, RECEIVES_WITHIN).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    let pid = peer.pid.as_raw_nonzero().get();
    // Whoever has the socket may be another process than the one whose number the kernel keeps.
    (crate::sys::process::user_of(pid) == Some(peer.uid.as_raw())).then_some(pid)
}

/// Ends hostd, and waits until its process has exited: at most 5 seconds, after which it is left to end by itself.
///
/// # Errors
/// As [`HostdApi::call`].
pub fn end_hostd(hostd: &dyn HostdApi) -> Result<()> {
    let hello = hostd.hello()?;
    let process = crate::identify(hello.pid);
    hostd.call(HostdOperation::End {}, &[])?;
    let until = Instant::now() + END_WITHIN;
    while process.as_ref().is_some_and(crate::is_alive) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// What [`ensure_hostd_running`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostdStartup {
    /// A hostd of this version answers.
    Running,
    /// It was started.
    Started,
    /// It was started, after the process with this number, which did not take calls, was killed.
    Replaced(i32),
}

/// Starts hostd from the executable `binary` unless one with this program, version and privilege answers; ends one that
/// differs, and kills one that does not take calls. Cells survive both.
///
/// # Errors
/// [`Error::Hostd`] when it does not come up.
pub fn ensure_hostd_running(config: &HostdConfig, binary: &Path) -> Result<HostdStartup> {
    let client = HostdClient::new(&config.home);
    let mut killed = None;
    match client.hello() {
        Ok(hello) => {
            let same = hello.version == env!("CARGO_PKG_VERSION")
                && runs_program(hello.pid, binary).unwrap_or(true);
            if same && hello.privileged == config.privileged {
                return Ok(HostdStartup::Running);
            }
            end_hostd(&client)?;
        }
        Err(hangs @ Error::HostdHangs { pid: Some(pid), .. }) => match kill_hostd(config, pid) {
            true => killed = Some(pid),
            false => return Err(hangs),
        },
        // It holds the lock, so that no other one can start.
        Err(busy @ Error::HostdUnfinished { .. }) => return Err(busy),
        // The kernel closed the socket of one that ended.
        Err(_) => {}
    }
    let failed = |why: String| Error::Hostd {
        op: START,
        why: format!("`{}`: {why}", binary.display()),
    };
    let log = log(config).map_err(Error::file("open", "the log of hostd"))?;
    let mut child = Command::new(binary)
        .args(["role", "hostd", "--serve-uid"])
        .arg(config.serve_uid.to_string())
        .arg("--home")
        .arg(&config.home)
        .env_clear()
        .envs(crash::test_environment())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let mut line = String::new();
    if let Some(pipe) = child.stdout.take() {
        let _ended_early = BufReader::new(pipe).read_line(&mut line);
    }
    // What we started leaves by a second fork; the helper itself goes on.
    let _status = child.wait();
    // One that somebody else starts at the same time has the lock before it answers.
    let until = Instant::now() + ANSWERS_WITHIN;
    while line.contains(ANOTHER_HOSTD) && client.hello().is_err() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    if client.hello().is_ok() {
        // It, or one that somebody else started at the same time.
        return Ok(match (killed, line.trim() == "ok") {
            (Some(pid), _) => HostdStartup::Replaced(pid),
            (None, true) => HostdStartup::Started,
            (None, false) => HostdStartup::Running,
        });
    }
    match line.trim() {
        "ok" => Err(failed("it started but does not answer".to_owned())),
        "" => Err(failed(match is_full(&config.home) {
            true => format!(
                "it ended before it answered, and no space is left on the file system of `{}`; free some",
                config.home.display()
            ),
            false => "it ended before it answered".to_owned(),
        })),
        // It says itself that it could not start.
        why => {
            let repeated = Error::Hostd {
                op: START,
                why: String::new(),
            };
            let why = why.strip_prefix(&repeated.to_string()).unwrap_or(why);
            Err(failed(why.to_owned()))
        }
    }
}

/// Whether a file system has no free block, or no free inode.
fn is_full(path: &Path) -> bool {
    rustix::fs::statvfs(path)
        .is_ok_and(|fs| fs.f_bavail == 0 || (fs.f_files > 0 && fs.f_favail == 0))
}

/// Unit of systemd that manages a process of Abbey; none for one that a command started, whatever unit that runs in.
pub fn unit_of(pid: i32) -> Option<String> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let units = groups.lines().filter_map(|l| l.rsplit('/').next());
    let mut ours = units.filter(|u| u.starts_with("abbey") && u.ends_with(".service"));
    ours.next().map(str::to_owned)
}

/// Kills the process of a hostd that does not take calls, and waits until it has exited: at most 5 seconds. Returns whether
/// it has. One that systemd manages is left to it, which starts another one.
fn kill_hostd(config: &HostdConfig, pid: i32) -> bool {
    let Some(process) = crate::identify(pid) else {
        return true;
    };
    // Whoever has the lock is the hostd of this house; what is behind the socket may be another program.
    let holder = holder_of_lock_file(&HostdConfig::lock_path(&config.home));
    if holder != Some(pid) || unit_of(pid).is_some() {
        return false;
    }
    kill_process(&process);
    let until = Instant::now() + END_WITHIN;
    while crate::is_alive(&process) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    !crate::is_alive(&process)
}

fn log(config: &HostdConfig) -> std::io::Result<fs::File> {
    let path: PathBuf = config.hostd_dir().join("hostd.log");
    fs::OpenOptions::new().append(true).create(true).open(path)
}

/// Detaches this process from its parent and session: forks, and the parent exits with status 0.
///
/// # Errors
/// The system's error.
pub fn detach_from_parent() -> Result<()> {
    abbey_launch::detach_from_parent().map_err(Error::file("detach", "hostd"))?;
    let _already_leader = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    Ok(())
}

/// Changes this process, which must have one thread, to the control plane's ordinary user for good, and verifies
/// that no privilege is left. Does nothing if hostd is unprivileged.
///
/// # Errors
/// [`Error::Hostd`] when any privilege would be left; the caller must end then.
pub fn drop_privileges(config: &HostdConfig) -> Result<()> {
    if !config.privileged {
        return Ok(());
    }
    abbey_launch::become_ordinary_user(config.serve_uid)
        .map_err(Error::file("become", "the user of the control plane"))?;
    let status = read_own_status().map_err(Error::file(
        "read the privileges left to the control plane in",
        STATUS,
    ))?;
    match privileges(&status) {
        None => Ok(()),
        Some(left) => Err(Error::Hostd {
            op: "give up its privileges",
            why: format!("the control plane would keep {left}"),
        }),
    }
}

/// What the kernel says of this process.
const STATUS: &str = "/proc/self/status";

/// Reads what the kernel says of this process. While the host has no free descriptor it is tried again for two seconds.
fn read_own_status() -> std::io::Result<String> {
    let until = Instant::now() + Duration::from_secs(2);
    loop {
        let read = fs::read_to_string(STATUS);
        let code = read.as_ref().err().and_then(std::io::Error::raw_os_error);
        let busy = code
            .map(rustix::io::Errno::from_raw_os_error)
            .is_some_and(|e| {
                matches!(
                    e,
                    rustix::io::Errno::NFILE | rustix::io::Errno::MFILE | rustix::io::Errno::NOMEM
                )
            });
        if !busy || Instant::now() >= until {
            return read;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a process with this status could still do that an ordinary user cannot.
fn privileges(status: &str) -> Option<String> {
    let field = |name: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(name))
            .map(str::trim)
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        match field(set) {
            Some(bits) if bits.bytes().all(|b| b == b'0') => {}
            other => return Some(format!("{set} {}", other.unwrap_or("unknown"))),
        }
    }
    let ids = field("Uid:")
        .unwrap_or("0")
        .split_whitespace()
        .chain(field("Gid:").unwrap_or("0").split_whitespace());
    let mut ids = ids.filter(|id| *id == "0");
    if ids.next().is_some() {
        return Some("the user or group root".to_owned());
    }
    (field("NoNewPrivs:") != Some("1")).then(|| "the right to gain privileges".to_owned())
}
