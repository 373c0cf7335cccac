//! Waiting for the end of a process that is not a child of this one, by pidfd.

/// Resolves when the process has ended; at once if there is none.
pub(crate) async fn wait_for_process_end(pid: Option<i32>) {
    if let Some(handle) = pid.and_then(open_pidfd) {
        let _ended = handle.readable().await;
    }
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
