//! Processes that cannot be mistaken for others with the same number (hazards 9 to 11).

use abbey_launch::read_kernel_file;
use abbey_model::ProcessIdentity;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Identifier of the host's current boot, from `/proc/sys/kernel/random/boot_id`.
pub fn boot_id() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_or_else(|_| "unknown".to_owned(), |t| t.trim().to_owned())
    })
}

/// Parent of a process; none for the first one of the host, and when it is gone.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    let stat = read_kernel_file(format!("/proc/{pid}/stat")).ok()?;
    // Field 4 of the line, the second after the name.
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
    parent.parse().ok().filter(|pid| *pid != 0)
}

/// Process ids of all processes that this process sees.
pub(crate) fn all() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Effective user of a process; none when it is gone.
pub(crate) fn user_of(pid: i32) -> Option<u32> {
    let status = read_kernel_file(format!("/proc/{pid}/status")).ok()?;
    let ids = status.lines().find_map(|l| l.strip_prefix("Uid:"))?;
    ids.split_whitespace().nth(1)?.parse().ok()
}

/// Start time of a process in clock ticks since boot; none when it is gone or a zombie.
fn start_ticks(pid: i32) -> Option<u64> {
    let stat = read_kernel_file(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets and may hold anything, so count from the last bracket.
    let after = stat.rsplit_once(')')?.1;
    let mut fields = after.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    // Field 22 of the line; the state was field 3.
    fields.nth(18)?.parse().ok()
}

/// Identity of a running process (pid, start time, boot id); none if there is no such process or it is a zombie.
pub fn identify(pid: i32) -> Option<ProcessIdentity> {
    Some(ProcessIdentity {
        pid,
        start_ticks: start_ticks(pid)?,
        boot_id: boot_id().to_owned(),
    })
}

/// Path of this process's program: of the file that was started, or of the one that has taken its place since.
///
/// # Errors
/// If it cannot be read from `/proc`.
pub fn own_program_path() -> io::Result<PathBuf> {
    let path = fs::read_link("/proc/self/exe")?;
    // What the kernel adds to the path of a file that was replaced or deleted, see proc_pid_exe(5).
    let stripped = path.to_str().and_then(|p| p.strip_suffix(" (deleted)"));
    Ok(match stripped {
        Some(replaced) if !path.exists() => PathBuf::from(replaced),
        _ => path,
    })
}

/// Whether a running process executes the program in a file: the same file, or one with the same content. None if this
/// process may not know, or there is none any more.
pub fn runs_program(pid: i32, program: &Path) -> Option<bool> {
    // The file that was started, also if another has taken its place since.
    let mut running = File::open(format!("/proc/{pid}/exe")).ok()?;
    let mut program = File::open(program).ok()?;
    let (a, b) = (running.metadata().ok()?, program.metadata().ok()?);
    if (a.dev(), a.ino()) == (b.dev(), b.ino()) {
        return Some(true);
    }
    if a.len() != b.len() {
        return Some(false);
    }
    let (mut one, mut other) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let read = running.read(&mut one).ok()?;
        program.read_exact(&mut other[..read]).ok()?;
        match read {
            0 => return Some(true),
            _ if one[..read] != other[..read] => return Some(false),
            _ => {}
        }
    }
}

/// Whether exactly this process still runs, not another one that reuses its pid.
pub fn is_alive(identity: &ProcessIdentity) -> bool {
    identity.boot_id == boot_id() && start_ticks(identity.pid) == Some(identity.start_ticks)
}

/// Sends `SIGKILL` to exactly this process if it still runs; never to another one that reuses its pid.
pub(crate) fn kill_process(identity: &ProcessIdentity) {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let Some(pid) = Pid::from_raw(identity.pid) else {
        return;
    };
    // The handle first, the check after: the number cannot change its meaning in between.
    if let Ok(handle) = pidfd_open(pid, PidfdFlags::empty())
        && is_alive(identity)
    {
        let _gone_already = pidfd_send_signal(&handle, Signal::KILL);
    }
}

/// Process ids of a process and all its descendants.
pub(crate) fn process_tree(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(parent) = all.get(next) {
        all.extend(children(*parent));
        next += 1;
    }
    all
}

/// Process ids of the children of a process.
fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let children = tasks.into_iter().flatten().flatten().filter_map(|t| {
        let text = fs::read_to_string(t.path().join("children")).ok()?;
        Some(
            text.split_whitespace()
                .filter_map(|p| p.parse().ok())
                .collect::<Vec<i32>>(),
        )
    });
    children.flatten().collect()
}

/// Stops (`on`) or continues all listed processes by signal, listing them again until all are in that state.
/// Returns false if they are not by `until`.
pub(crate) fn signal_until_stopped(all: impl Fn() -> Vec<i32>, on: bool, until: Instant) -> bool {
    use rustix::process::{Pid, Signal, kill_process};
    let signal = if on { Signal::STOP } else { Signal::CONT };
    loop {
        let moving: Vec<i32> = all()
            .into_iter()
            .filter(|p| is_stopped(*p) == Some(!on))
            .collect();
        if moving.is_empty() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        for pid in moving.into_iter().filter_map(Pid::from_raw) {
            let _gone_already = kill_process(pid, signal);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a signal stopped a process; none when it is gone.
pub fn is_stopped(pid: i32) -> Option<bool> {
    let stat = read_kernel_file(format!("/proc/{pid}/stat")).ok()?;
    match stat.rsplit_once(')')?.1.split_whitespace().next()? {
        "Z" | "X" => None,
        state => Some(state == "T"),
    }
}

/// The first process that a signal has stopped: of this one, its oldest child, and so on for this many generations below it.
/// None if none is.
pub fn first_stopped(first: i32, generations: usize) -> Option<i32> {
    let mut pid = first;
    for _ in 0..=generations {
        match is_stopped(pid) {
            Some(true) => return Some(pid),
            Some(false) => {}
            None => return None,
        }
        // The kernel lists them by age; those that a process inherits come last.
        pid = *children(pid).first()?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_number_is_another_process() {
        let me = identify(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(is_alive(&me));
        let reused = ProcessIdentity {
            start_ticks: me.start_ticks + 1,
            ..me.clone()
        };
        assert!(!is_alive(&reused));
        let rebooted = ProcessIdentity {
            boot_id: "other".into(),
            ..me
        };
        assert!(!is_alive(&rebooted));
    }
}
