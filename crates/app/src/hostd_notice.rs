//! What commands say about a hostd that does not run or does not take calls.

use crate::connect::is_control_plane_up;
use crate::output::print_message;
use crate::shown;
use abbey_cells::hostd::{HostdState, hostd_state};
use abbey_cells::is_stopped;
use abbey_daemon::Home;
use std::path::PathBuf;
use std::time::Duration;

/// Time after which a command that still runs looks whether hostd keeps it waiting.
const WAITED: Duration = Duration::from_millis(1500);

/// Longest look at hostd.
const LOOK_WITHIN: Duration = Duration::from_secs(1);

/// Prints a line on standard error if hostd does not run, or a signal stopped its process. Agents go on without it, so this
/// is no failure of a command that only lists them. A house that is down has none, which the command's own failure says.
pub(crate) async fn report_missing_hostd(home: &Home) {
    match hostd_state(home.root(), LOOK_WITHIN) {
        HostdState::Absent if !is_control_plane_up(home).await => {}
        HostdState::Absent => print_message(
            "hostd, the privileged helper, does not run, so that nothing can be started or cleaned up; `abbey up` starts it",
        ),
        HostdState::Silent(Some(pid)) if is_stopped(pid) == Some(true) => {
            print_message(&format!(
                "hostd (process {pid}) does not answer: its process is stopped; `abbey up` replaces it"
            ));
        }
        HostdState::Silent(_) | HostdState::TakesCalls | HostdState::Unknown => {}
    }
}

/// Prints a line on standard error once a command has run for a while, has shown nothing, and hostd does not take calls.
/// Never ends, so that it can be raced with the command.
pub(crate) async fn report_waiting_for_hostd(root: PathBuf) {
    tokio::time::sleep(WAITED).await;
    if shown::is_anything() {
        return std::future::pending().await;
    }
    // A thread of its own, for which the end of the command does not wait.
    let (found, look) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || found.send(hostd_state(&root, LOOK_WITHIN)));
    if let Ok(HostdState::Silent(pid)) = look.await
        && !shown::is_anything()
    {
        let process = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
        print_message(&format!("hostd{process} does not answer; waiting for it"));
    }
    std::future::pending().await
}
