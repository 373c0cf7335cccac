//! One more program in isolation that stand already.

use crate::isolation::{BpfInstruction, IsolationError, LandlockRules, Result};
use crate::spawn::{CgroupEntrances, Child, LaunchSpec};
use crate::{isolated_child, landlock};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Isolation of a running cell, for a further program in it.
#[derive(Debug)]
pub struct ExistingIsolation {
    /// Handle of a process of the cell.
    pub init: OwnedFd,
    /// Whether the caller is an ordinary user.
    pub rootless: bool,
    /// Landlock rules of the cell; none leaves the layer out.
    pub landlock: Option<LandlockRules>,
    /// Seccomp filters of the cell.
    pub filters: Vec<Vec<BpfInstruction>>,
}

/// Enters the namespaces of a running cell, and applies its restrictions to the calling process for good; `groups`
/// are the control groups of the cell. The caller must be a single-threaded process that exists for this purpose.
///
/// # Errors
/// [`IsolationError`] with the step that failed; the caller may be half inside and must exit.
pub fn enter_isolation(groups: &CgroupEntrances, target: &ExistingIsolation) -> Result<()> {
    crate::spawn::join_cgroups(groups)
        .map_err(|e| IsolationError::new("join a control group", "", e))?;
    let places = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    if target.rootless {
        set_ns(&target.init, places | libc::CLONE_NEWUSER)?;
    } else {
        isolated_child::drop_supplementary_groups()?;
        set_ns(&target.init, places)?;
        set_ns(&target.init, libc::CLONE_NEWUSER)?;
    }
    isolated_child::become_inner_user()?;
    isolated_child::drop_capabilities()?;
    rustix::thread::set_no_new_privs(true)
        .map_err(|e| IsolationError::new("set", "no_new_privs", e))?;
    if let Some(rules) = &target.landlock {
        landlock::restrict_by_landlock(&rules.write)
            .map_err(|e| IsolationError::new("apply", "Landlock", e))?;
    }
    for filter in &target.filters {
        crate::spawn::install_seccomp_filter(filter)
            .map_err(|e| IsolationError::new("install", "a filter of system calls", e))?;
    }
    Ok(())
}

/// Starts a program in the cell that the calling process entered with [`enter_isolation`]. `spec` must not change the
/// user.
///
/// # Errors
/// [`IsolationError`] with the step that failed; the program was not started.
pub fn spawn_in_isolation(spec: &LaunchSpec) -> Result<Child> {
    crate::spawn::spawn_sharing_memory(spec).map_err(|e| IsolationError::new(e.stage, "", e.source))
}

fn set_ns(init: &OwnedFd, kinds: libc::c_int) -> Result<()> {
    // SAFETY: changes namespaces of this process only, which has one thread.
    match unsafe { libc::setns(init.as_raw_fd(), kinds) } {
        0 => Ok(()),
        _ => Err(IsolationError::new(
            "enter",
            "the cell",
            io::Error::last_os_error(),
        )),
    }
}
