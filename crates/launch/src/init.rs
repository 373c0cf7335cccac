//! What the first process of a cell does while the program runs: reap, forward, report.

use std::os::fd::{AsRawFd, OwnedFd};

/// Closes every descriptor that the copy of the shim brought along.
///
/// # Safety
/// No owner of a closed descriptor may be used or dropped afterwards; we leave by `_exit`.
unsafe fn close_all_but(keep: i32) {
    let keep = keep.cast_unsigned();
    // SAFETY: plain calls; see above.
    unsafe {
        if keep > 0 {
            libc::syscall(libc::SYS_close_range, 0u32, keep - 1, 0u32);
        }
        libc::syscall(libc::SYS_close_range, keep + 1, u32::MAX, 0u32);
    }
}

/// Runs as the first process of a cell: reaps orphans, forwards signals to the program, and reports the program's
/// wait status on `channel` when it ends. Returns the status to exit with.
pub(crate) fn reap_until_exit(program: i32, channel: &OwnedFd) -> i32 {
    // SAFETY: of the whole body: signal sets and structures are local and initialised by the calls
    // before they are read; the process has one thread.
    unsafe {
        close_all_but(channel.as_raw_fd());
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        loop {
            let mut status = 0;
            loop {
                let pid = libc::waitpid(-1, &raw mut status, libc::WNOHANG);
                if pid <= 0 {
                    break;
                }
                if pid == program {
                    let mut message = [b'X', 0, 0, 0, 0];
                    message[1..].copy_from_slice(&status.to_ne_bytes());
                    let flags = rustix::net::SendFlags::NOSIGNAL;
                    let _parent_gone = rustix::net::send(channel, &message, flags);
                    return 0;
                }
            }
            let signal = libc::sigwaitinfo(&raw const all, std::ptr::null_mut());
            if signal > 0 && signal != libc::SIGCHLD {
                // The program leads its own group; what it started goes along.
                libc::kill(-program, signal);
            }
        }
    }
}
