//! Waiting for the end of a process that is not a child of this one, by pidfd.

use crate::core::runtime::Runtime;
use abbey_cells::is_alive;
use abbey_model::ProcessIdentity;
use std::time::Duration;

/// Resolves when the process has ended; at once if there is none.
pub(crate) async fn wait_for_process_end(pid: Option<i32>) {
    if let Some(handle) = pid.and_then(open_pidfd) {
        let _ended = handle.readable().await;
    }
}

/// Pause before the caller observes again what has ended already.
const GONE: Duration = Duration::from_millis(20);
/// Pause before another try where a process that lives cannot be watched, as when there are no descriptors left.
const BLIND: Duration = Duration::from_secs(1);

/// Resolves when any of these processes ends, or has ended since it was observed; never for none.
pub(crate) async fn wait_for_any_end(rt: &Runtime, processes: &[ProcessIdentity]) {
    // The handle first, the check after: only then is the handle that of this process, and its end cannot be missed.
    let watch = |process: &ProcessIdentity| open_pidfd(process.pid).filter(|_| is_alive(process));
    let handles: Vec<_> = processes.iter().filter_map(watch).collect();
    if handles.len() < processes.len() {
        let gone = processes.iter().any(|process| !is_alive(process));
        return rt.sleep(if gone { GONE } else { BLIND }).await;
    }
    if handles.is_empty() {
        return std::future::pending().await;
    }
    let waits = handles.iter().map(|h| Box::pin(h.readable()));
    let _any = futures_util::future::select_all(waits).await;
}

/// Opens a pidfd that becomes readable when the process ends; `None` if it does not exist.
#[expect(
    deprecated,
    reason = "sound here: an OwnedFd always returns the descriptor that it owns"
)]
pub(crate) fn open_pidfd(pid: i32) -> Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    tokio::io::unix::AsyncFd::with_interest(fd, tokio::io::Interest::READABLE).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However early a process ends, its end is found: also before it is watched, and when it is a zombie.
    #[tokio::test]
    async fn no_end_is_missed_however_early_it_is() {
        let rt = Runtime::system();
        let own = i32::try_from(std::process::id()).unwrap();
        let lives = abbey_cells::identify(own).unwrap();
        for n in 0..100 {
            let mut command = tokio::process::Command::new("true");
            let mut child = command.spawn().unwrap();
            let pid = i32::try_from(child.id().unwrap()).unwrap();
            let Some(ends) = abbey_cells::identify(pid) else {
                continue;
            };
            // Half of them are gone before anybody looks.
            if n % 2 == 0 {
                child.wait().await.unwrap();
            }
            wait_for_any_end(&rt, &[lives.clone(), ends.clone()]).await;
            child.wait().await.unwrap();
            assert!(!is_alive(&ends));
        }
    }
}
