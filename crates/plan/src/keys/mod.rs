//! Every key of the manifest, defined once: name, shape, documentation, default, decoder and effect.
//!
//! Adding a key is one declaration here and one use of its field; see `docs/recipes/add-a-manifest-key.md`.

mod agent;
mod colleagues;
mod documents;
mod hooks;
mod house;
mod locale;
mod schedules;
mod service;
mod shapes;
mod sinks;
mod workflows;

pub use agent::{Agent, AgentBudgetKeys, Wake};
pub use house::{Admission, Budget, Compatibility, Delegation};
pub(crate) use house::{ListenKeys, MANIFEST, ManifestKeys, NetworkKeys, ProviderKeys};
pub use locale::Locale;
pub(crate) use service::NO_PROBE;
pub use service::{Probe, Service};
