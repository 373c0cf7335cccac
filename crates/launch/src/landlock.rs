//! Landlock by its three system calls. Source: kernel documentation, userspace-api/landlock, and
//! `linux/landlock.h`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const EXECUTE: u64 = 1 << 0;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;
/// Rights that exist from each version on, the first at index 1.
const RIGHTS: [u64; 6] = [
    0,
    (1 << 13) - 1,
    (1 << 14) - 1,
    (1 << 15) - 1,
    (1 << 15) - 1,
    (1 << 16) - 1,
];
/// Abstract sockets and signals, from version 6 on.
const SCOPES: u64 = 0b11;
const RULE_PATH_BENEATH: libc::c_int = 1;

#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: libc::c_int,
}

/// Version of Landlock that the kernel supports; 0 if none.
pub fn landlock_version() -> u32 {
    // SAFETY: asks for the version; a null attribute of size 0 is the documented way.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttr>(),
            0usize,
            1u32,
        )
    };
    u32::try_from(version).unwrap_or(0)
}

/// Restricts this process by Landlock for good: it may read and execute everywhere, and write only below the paths
/// in `write`.
pub(crate) fn restrict_by_landlock(write: &[std::ffi::CString]) -> io::Result<()> {
    let version = landlock_version();
    if version == 0 {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    let all = RIGHTS[(version as usize).min(RIGHTS.len() - 1)];
    let attributes = RulesetAttr {
        handled_access_fs: all,
        handled_access_net: 0,
        scoped: if version >= 6 { SCOPES } else { 0 },
    };
    // Older kernels know a shorter structure.
    let size = match version {
        1..=3 => 8usize,
        4..=5 => 16,
        _ => 24,
    };
    // SAFETY: the structure outlives the call and `size` is within it; the result is checked.
    let ruleset = unsafe {
        let fd = libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attributes,
            size,
            0u32,
        );
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1))
    };
    allow(&ruleset, c"/", (EXECUTE | READ_FILE | READ_DIR) & all)?;
    for path in write {
        allow(&ruleset, path, all)?;
    }
    // The nodes are written and asked; none can be made, so the rule is for all of them.
    let nodes = READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | IOCTL_DEV;
    allow(&ruleset, c"/dev", nodes & all)?;
    // SAFETY: a plain call on a descriptor that we own.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn allow(ruleset: &OwnedFd, path: &CStr, rights: u64) -> io::Result<()> {
    use rustix::fs::{Mode, OFlags};
    let at = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let is_dir = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&at)?.st_mode)
        == rustix::fs::FileType::Directory;
    // Rights over entries make no sense on a file and are refused there.
    let of_files = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;
    let rule = PathBeneathAttr {
        allowed_access: if is_dir { rights } else { rights & of_files },
        parent_fd: at.as_raw_fd(),
    };
    // SAFETY: the structure and both descriptors outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const rule,
            0u32,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
