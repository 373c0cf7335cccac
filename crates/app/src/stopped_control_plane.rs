//! A control plane whose process a signal stopped (`SIGSTOP`): commands name it instead of waiting for it, and `up` and `down`
//! replace it.

use crate::exit::{self, Failure};
use crate::output::print_message;
use abbey_cells::hostd::{socket_owner, unit_of};
use abbey_cells::is_stopped;
use abbey_daemon::{Error, Home};
use rustix::process::{Pid, Signal, kill_process};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time after which a command that waits for the control plane looks whether it is stopped.
const WAITED: Duration = Duration::from_secs(2);

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
    let pid = socket_owner(&home.operator_api_socket())?;
    (is_stopped(pid) == Some(true)).then_some(pid)
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
    tokio::time::sleep(WAITED).await;
    if ASKED.load(Ordering::Relaxed)
        && let Some(pid) = look(home).await
    {
        tokio::time::sleep(STOPPED_FOR).await;
        if look(home).await == Some(pid) {
            return describe(pid);
        }
    }
    std::future::pending().await
}

fn describe(pid: i32) -> Failure {
    let remedy = match unit_of(pid) {
        Some(unit) => format!("`systemctl restart {unit}` replaces it"),
        None => "`abbey up` replaces it".to_owned(),
    };
    Failure::plain(format!(
        "the control plane (process {pid}) does not answer: a signal stopped its process"
    ))
    .hint(format!(
        "`kill -CONT {pid}` lets it go on, and {remedy}; agents go on meanwhile"
    ))
    .with_code(exit::UNREACHABLE)
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
