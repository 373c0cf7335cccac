//! The code between fork and exec.
//!
//! [`spawn`] forks the calling process, which must be small and have one thread (the shim), and
//! the child turns itself into the wanted program: session, control groups, limits, user,
//! descriptors, signals, then exec. [`spawn_isolated`] does the same in namespaces of the cell's own. Everything that
//! needs memory is prepared before the fork; the child only makes system calls.
//! Deliberately absent: async, logging, policy.
//!
//! This is the one crate where `unsafe` is normal; each block says why it is sound.
#![allow(unsafe_code)]

mod contained;
mod enter;
mod init;
mod isolated;
mod isolated_child;
mod isolation;
mod landlock;
mod spawn;
mod system;

pub use contained::missing_container_isolation;
pub use enter::{ExistingIsolation, enter_isolation, spawn_in_isolation};
pub use isolated::{IsolatedChild, LaunchSteps, NetworkNamespace, spawn_isolated};
pub use isolation::{
    BpfInstruction, INNER_UID, Isolation, IsolationError, IsolationInForce, LandlockRules, Mount,
    MountAttributes,
};
pub use landlock::landlock_version;
pub use spawn::{
    CORE, CgroupEntrances, Child, EXECUTE, Executable, FORK, LaunchSpec, NOFILE, SpawnError,
    exit_immediately, fork, spawn, spawn_without_copy,
};
pub use system::{
    become_ordinary_user, become_subreaper, child_exit_fd, children_cpu_us, connect_vsock,
    detach_from_parent, drop_all_capabilities, has_unreceived_bytes, limit_heaps, loopback_up,
    read_kernel_file, release_free_memory, release_program_code, seed_randomness, set_not_dumpable,
    set_process_title, take_inherited_fd, tsc_khz, unblock_signals, unshare_mounts,
    unshare_network,
};
