//! One more program in isolation that stand already.

use crate::isolation::{BpfInstruction, IsolationError, LandlockRules, Result};
use crate::{isolated_child, landlock};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Which isolation.
#[derive(Debug)]
pub struct ExistingIsolation {
    /// Handle of the cell's first process.
    pub init: OwnedFd,
    /// Whether the caller is an ordinary user.
    pub rootless: bool,
    /// As of the cell itself.
    pub landlock: Option<LandlockRules>,
    /// As of the cell itself.
    pub filters: Vec<Vec<BpfInstruction>>,
}

/// Enters the namespaces, restricts itself as the cell is restricted, and runs the program.
/// The caller is changed for good and must be a process for this purpose, with one thread.
///
/// # Errors
/// [`IsolationError`] with the step; the program does not run then.
pub fn run_in_isolation(
    spec: &crate::spawn::LaunchSpec,
    target: &ExistingIsolation,
) -> Result<crate::spawn::Child> {
    crate::spawn::enter_groups(&spec.groups)
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
        isolated_child::drop_groups()?;
        set_ns(&target.init, places)?;
        set_ns(&target.init, libc::CLONE_NEWUSER)?;
    }
    isolated_child::become_user()?;
    isolated_child::drop_capabilities()?;
    rustix::thread::set_no_new_privs(true)
        .map_err(|e| IsolationError::new("set", "no_new_privs", e))?;
    if let Some(rules) = &target.landlock {
        landlock::restrict(&rules.write)
            .map_err(|e| IsolationError::new("apply", "Landlock", e))?;
    }
    for filter in &target.filters {
        crate::spawn::filter(filter)
            .map_err(|e| IsolationError::new("install", "a filter of system calls", e))?;
    }
    crate::spawn::spawn_here(spec).map_err(|e| IsolationError::new(e.stage, "", e.source))
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
