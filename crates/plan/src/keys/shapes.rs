//! Shapes that several keys have in common.

use crate::key::Shape;

/// Names in any order.
pub(crate) const NAMES: Shape = Shape::Set(&Shape::Name);
/// Agents in any order.
pub(crate) const AGENTS: Shape = Shape::Set(&Shape::Agent);
/// Profiles of the system call filter.
pub(crate) const PROFILES: Shape = Shape::Word(&["jit", "strict"], &[]);
/// Isolation layers.
pub(crate) const WAIVE: Shape = Shape::Set(&Shape::Word(
    &[
        "limits",
        "user",
        "mounts",
        "pids",
        "ipc",
        "uts",
        "cgroup",
        "network",
        "root",
        "capabilities",
        "no_new_privs",
        "seccomp",
        "landlock",
    ],
    &[],
));
