//! Waiting for the end of a process that is not a child.

/// Resolves when a process has ended, or at once when there is none.
pub(crate) async fn process_end(pid: Option<i32>) {
    if let Some(handle) = pid.and_then(exit_watch) {
        let _ended = handle.readable().await;
    }
}

/// A process to wait for.
#[expect(
    deprecated,
    reason = "sound here: an OwnedFd always returns the descriptor that it owns"
)]
pub(crate) fn exit_watch(pid: i32) -> Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    tokio::io::unix::AsyncFd::with_interest(fd, tokio::io::Interest::READABLE).ok()
}
