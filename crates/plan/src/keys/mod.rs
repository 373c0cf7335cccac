//! Every key of the manifest, defined once: name, shape, documentation, default, decoder and effect.
//!
//! Adding a key is one declaration here and one use of its field; see `docs/recipes/add-a-manifest-key.md`.

mod agent;
mod house;
mod service;

pub use agent::Agent;
pub use agent::AgentBudgetKeys;
pub(crate) use agent::{DriveKeys, LimitKeys, ToolKeys};
pub use house::{Admission, Budget, Compatibility, Delegation};
pub(crate) use house::{ListenKeys, ManifestKeys, NetworkKeys, ProviderKeys};
pub use service::Service;

use crate::shape::Shape;

/// The whole manifest.
pub(crate) const MANIFEST: Shape = Shape::Section(ManifestKeys::KEYS);

pub(crate) const NAMES: Shape = Shape::Set(&Shape::Name);
const PROFILES: Shape = Shape::Word(&["strict", "jit", "nested"], &[]);
const WAIVE: Shape = Shape::Set(&Shape::Word(
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
