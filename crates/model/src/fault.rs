//! Kinds of failure, mapped to exit codes and to HTTP statuses in one place each.

use serde::{Deserialize, Serialize};

/// Category of a failure by what the caller can do about it; decides HTTP status and exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The request or the manifest is wrong; change it.
    Invalid,
    /// No valid credential.
    Unauthenticated,
    /// A valid credential that lacks the permission.
    Forbidden,
    /// The named thing does not exist.
    NotFound,
    /// Another party holds it, or its state does not permit the request.
    Conflict,
    /// A stated precondition (a version) no longer holds.
    Stale,
    /// Something is larger than its limit.
    TooLarge,
    /// A limit or budget is used up; wait or raise it.
    Limit,
    /// Something is missing on the host: a tool, a permission, space.
    Host,
    /// A model provider or another external service failed.
    Upstream,
    /// Temporarily unavailable; try again.
    Unavailable,
    /// The command, route or key is not implemented.
    NotBuilt,
    /// A fault of the control plane itself.
    Internal,
}
