//! What the first process of a container finds of the isolation that the runtime was asked for.

use crate::isolated_child::{ProcessStatus, has_read_only_root};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Isolation that was requested of a container runtime and does not hold for the calling process, by name. Empty if all of
/// it holds.
///
/// The filter is tried and not only looked for: a runtime that put its own in place of ours shows the same number in
/// `/proc`. A process in which something does not hold must end, because the attempt may have changed it.
pub fn missing_container_isolation() -> Vec<&'static str> {
    let status = ProcessStatus::read();
    let mut missing = Vec::new();
    let mut require = |name, holds: bool| {
        if !holds {
            missing.push(name);
        }
    };
    require("root", has_read_only_root());
    require("capabilities", status.has_no_capabilities());
    require("no_new_privs", status.has_no_new_privileges());
    require("seccomp", status.is_filtered());
    for (name, number, arguments, expected) in PROBES {
        require(name, errno_of(*number, *arguments) == Some(*expected));
    }
    #[cfg(target_arch = "x86_64")]
    require("seccomp (system calls of i386)", !i386_call_returns());
    missing
}

type Probe = (&'static str, i64, [i64; 3], i32);

/// Calls that an ordinary user may make unless our filter is installed, with the error that it gives. None has an effect
/// that outlives the process.
const PROBES: &[Probe] = &[
    (
        "seccomp (AF_VSOCK)",
        libc::SYS_socket,
        [libc::AF_VSOCK as i64, libc::SOCK_STREAM as i64, 0],
        libc::EPERM,
    ),
    (
        "seccomp (NETLINK_NETFILTER)",
        libc::SYS_socket,
        [
            libc::AF_NETLINK as i64,
            libc::SOCK_RAW as i64,
            libc::NETLINK_NETFILTER as i64,
        ],
        libc::EPERM,
    ),
    (
        // Number -1 is no keyring operation: an open kernel says EOPNOTSUPP.
        "seccomp (keyctl)",
        libc::SYS_keyctl,
        [-1, 0, 0],
        libc::EPERM,
    ),
    (
        "seccomp (clone3)",
        libc::SYS_clone3,
        [0, 0, 0],
        libc::ENOSYS,
    ),
    (
        "seccomp (unshare)",
        libc::SYS_unshare,
        [libc::CLONE_NEWUSER as i64, 0, 0],
        libc::EPERM,
    ),
];

/// Error of a system call; none if it succeeded.
fn errno_of(number: i64, arguments: [i64; 3]) -> Option<i32> {
    let [first, second, third] = arguments;
    // SAFETY: no argument of a probe is a pointer that the kernel would follow: `clone3` is given a size of zero, which it
    // refuses before it reads. A descriptor that a call makes is owned at once.
    let result = unsafe { libc::syscall(number, first, second, third) };
    if result < 0 {
        return io::Error::last_os_error().raw_os_error();
    }
    if number == libc::SYS_socket
        && let Ok(fd) = i32::try_from(result)
    {
        // SAFETY: the kernel has just made it for us.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    None
}

/// Whether a system call by the door of 32-bit programs returns, tried in a process of its own: a filter ends that.
#[cfg(target_arch = "x86_64")]
fn i386_call_returns() -> bool {
    use rustix::process::{Pid, WaitOptions, waitpid};
    const GETPID: u32 = 20;
    match crate::fork() {
        Ok(None) => {
            // SAFETY: asks for the number of the process. The kernel leaves memory alone and may clear the registers that
            // are named.
            unsafe {
                core::arch::asm!("int 0x80", inlateout("eax") GETPID => _, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
            }
            crate::exit_immediately(0)
        }
        Ok(Some(pid)) => {
            let ended = waitpid(Pid::from_raw(pid), WaitOptions::empty());
            !matches!(ended, Ok(Some((_, status))) if status.signaled())
        }
        Err(_) => true,
    }
}
