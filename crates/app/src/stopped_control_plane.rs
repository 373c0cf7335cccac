//! A control plane whose process a signal stopped (`SIGSTOP`): commands name it instead of waiting for it, and `up` and `down`
//! replace it.

use crate::exit::{self, Failure};
use crate::output::print_message;
use abbey_cells::hostd::{socket_owner, unit_of};
use abbey_cells::{is_stopped, lock_file_holder};
use abbey_daemon::{Announcement, Error, Home};
use rustix::process::{Pid, Signal, kill_process};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time after which a command that waits for the control plane looks whether it is stopped.
const WAITED: Duration = Duration::from_secs(2);

/// Time after which it looks again.
const LOOKS_AGAIN: Duration = Duration::from_secs(30);

/// Time for which a control plane is stopped before a command gives it up.
const STOPPED_FOR: Duration = Duration::from_millis(500);

/// Longest wait for the end of a process that was killed.
const EXITS_WITHIN: Duration = Duration::from_secs(60);

/// Whether this process has become a client of the control plane.
static ASKED: AtomicBool = AtomicBool::new(false);

/// Notes that this command asks the control plane for something.
pub(crate) fn note_client() {
    ASKED.store(true, Ordering::Relaxed);
}

/// Process of a control plane that listens and that a signal stopped; none for others.
fn find(home: &Home) -> Option<i32> {
    // The lock says it also while the queue of the socket is full, so that no connection can.
    let pid = published_holder(home).or_else(|| socket_owner(&home.operator_api_socket()))?;
    (is_stopped(pid) == Some(true)).then_some(pid)
}

/// Process that has the lock of the home and has published that it is the control plane: commands take the lock, too, such as
/// `restore` and `down`.
fn published_holder(home: &Home) -> Option<i32> {
    let holder = lock_file_holder(&home.lock_file())?;
    let published = home.read_file(&home.announcement_file()).ok()?;
    let published: Announcement = serde_json::from_slice(&published).ok()?;
    (i64::from(published.pid) == i64::from(holder)).then_some(holder)
}

/// As [`find`], on a thread that the end of the command does not wait for.
async fn look(home: &Home) -> Option<i32> {
    let (found, answer) = tokio::sync::oneshot::channel();
    let home = home.clone();
    std::thread::spawn(move || found.send(find(&home)));
    answer.await.ok().flatten()
}

/// The failure of a command that waits for a control plane that a signal stopped, a few seconds after it began. Never ends
/// otherwise, so that it can be raced with the command.
pub(crate) async fn fail_if_stopped(home: &Home) -> Failure {
    let mut pause = WAITED;
    loop {
        tokio::time::sleep(pause).await;
        if !ASKED.load(Ordering::Relaxed) {
            continue;
        }
        // A look may be a connection, so a command that goes on for long looks seldom.
        pause = LOOKS_AGAIN;
        let Some(pid) = look(home).await else {
            continue;
        };
        tokio::time::sleep(STOPPED_FOR).await;
        if look(home).await == Some(pid) {
            return describe(pid);
        }
    }
}

fn describe(pid: i32) -> Failure {
    let (text, hint) = explanation(pid);
    Failure::plain(text).hint(hint).with_code(exit::UNREACHABLE)
}

/// What is the matter with a control plane that a signal stopped, and what can be done.
fn explanation(pid: i32) -> (String, String) {
    let remedy = match unit_of(pid) {
        Some(unit) => format!("`systemctl restart {unit}` replaces it"),
        None => "`abbey up` replaces it".to_owned(),
    };
    (
        format!("the control plane (process {pid}) does not answer: a signal stopped its process"),
        format!("`kill -CONT {pid}` lets it go on, and {remedy}; agents go on meanwhile"),
    )
}

/// Why nothing took the call of a command although the house has a control plane, and what can be done; none if it has none.
pub(crate) fn explain_silence(home: &Home) -> Option<(String, String)> {
    if let Some(pid) = find(home) {
        return Some(explanation(pid));
    }
    let pid = published_holder(home)?;
    Some((
        format!("the control plane (process {pid}) does not take calls"),
        format!(
            "it may be starting, or be overloaded: try again; `{}` says what it does",
            home.serve_log_file().display()
        ),
    ))
}

/// Kills a control plane that a signal stopped, and waits until it has exited, so that another one can start. Its cells go on.
/// Does nothing if it is not stopped.
///
/// # Errors
/// If the home belongs to another user, systemd manages the process, or it does not exit.
pub(crate) fn kill_stopped_control_plane(home: &Home) -> Result<(), Failure> {
    let Some(pid) = find(home) else {
        return Ok(());
    };
    home.require_own()?;
    // Whoever has the lock is the control plane of this house; what is behind the socket may be another program.
    let has_lock =
        matches!(home.acquire_lock(), Err(Error::Locked { holder, .. }) if holder == Some(pid));
    if unit_of(pid).is_some() || !has_lock {
        return Err(describe(pid));
    }
    let (Some(process), Some(target)) = (abbey_cells::identify(pid), Pid::from_raw(pid)) else {
        return Ok(());
    };
    kill_process(target, Signal::KILL)
        .map_err(|e| describe(pid).about(&format!("cannot kill process {pid}: {e}")))?;
    let until = Instant::now() + EXITS_WITHIN;
    while abbey_cells::is_alive(&process) {
        if Instant::now() > until {
            return Err(describe(pid).about("it was killed and has not exited"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    print_message(&format!(
        "the control plane (process {pid}) did not answer: a signal had stopped it; it was killed and is started again, and agents went on"
    ));
    Ok(())
}
