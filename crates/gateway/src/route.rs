//! Who calls, and where the call may go.

use crate::Refusal;
use abbey_model::{RunId, Slug};
use std::fmt;

/// The authenticated caller of a model.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Agent that the credential belongs to.
    pub agent: Slug,
    /// Run that the call is made for, when the caller named one.
    pub run: Option<RunId>,
    /// W3C `traceparent` to send to the provider.
    pub trace: Option<String>,
}

/// A model of a provider.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Provider, by its name in the manifest.
    pub provider: String,
    /// Model, by the name that the provider knows.
    pub model: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.model)
    }
}

/// The routing policy: which models a caller may use, and where their calls go.
pub trait Router: Send + Sync {
    /// Targets for the model that the caller named, best first. The stack forwards to the first one that it can reach;
    /// it goes on to the next one only while nothing has been sent.
    ///
    /// # Errors
    /// A [`Refusal`] when the caller may not use that model, or there is nowhere to send the call.
    fn candidates(&self, caller: &Caller, requested_model: &str) -> Result<Vec<Target>, Refusal>;
}
