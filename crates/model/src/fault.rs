//! Kinds of failure, mapped once to exit codes and once to HTTP statuses.

use serde::{Deserialize, Serialize};

/// What a caller can do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The request or the manifest is wrong; change it.
    Invalid,
    /// No valid credential.
    Unauthenticated,
    /// A valid credential without the right.
    Forbidden,
    /// The named thing does not exist.
    NotFound,
    /// Somebody else holds it, or it changed meanwhile.
    Conflict,
    /// A stated precondition (a version) no longer holds.
    Stale,
    /// Something is larger than its limit.
    TooLarge,
    /// A limit or budget is used up; wait or raise it.
    Limit,
    /// The host lacks something (a tool, a right, space).
    Host,
    /// A provider failed.
    Upstream,
    /// Not available for the moment; try again.
    Unavailable,
    /// The verb, route or key has no mechanism yet.
    NotBuilt,
    /// A fault of the house itself.
    Internal,
}
