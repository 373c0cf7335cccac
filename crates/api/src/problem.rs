//! Errors on the wire.
//!
//! Source: RFC 9457, `application/problem+json`.

use abbey_model::FaultKind;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Prefix of every `type`; the rest is the stable name of the kind.
pub const PROBLEM_TYPE: &str = "urn:abbey:problem:";

/// A refusal or failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Stable: `urn:abbey:problem:KIND`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Title of this kind of problem.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What failed, on what, why.
    pub detail: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Agent that holds the lease or the lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Current version, where the request named an older one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<u64>,
    /// Every single mistake, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mistakes: Vec<String>,
}

/// HTTP status of a kind of failure.
pub const fn status_of(kind: FaultKind) -> u16 {
    match kind {
        FaultKind::Invalid => 422,
        FaultKind::Unauthenticated => 401,
        FaultKind::Forbidden => 403,
        FaultKind::NotFound => 404,
        FaultKind::Conflict | FaultKind::Stale => 409,
        FaultKind::TooLarge => 413,
        FaultKind::Limit => 429,
        FaultKind::Host => 507,
        FaultKind::Upstream => 502,
        FaultKind::Unavailable => 503,
        FaultKind::NotBuilt => 501,
        FaultKind::Internal => 500,
    }
}

const fn name_of(kind: FaultKind) -> (&'static str, &'static str) {
    match kind {
        FaultKind::Invalid => ("invalid", "The request is not valid"),
        FaultKind::Unauthenticated => ("unauthenticated", "No valid credential"),
        FaultKind::Forbidden => ("forbidden", "Not allowed"),
        FaultKind::NotFound => ("not-found", "Not found"),
        FaultKind::Conflict => ("conflict", "In conflict with the current state"),
        FaultKind::Stale => ("stale", "Changed since it was read"),
        FaultKind::TooLarge => ("too-large", "Too large"),
        FaultKind::Limit => ("limit", "A limit is reached"),
        FaultKind::Host => ("host", "The host is missing something"),
        FaultKind::Upstream => ("upstream", "A provider failed"),
        FaultKind::Unavailable => ("unavailable", "Temporarily unavailable"),
        FaultKind::NotBuilt => ("not-built", "Not built yet"),
        FaultKind::Internal => ("internal", "Internal error"),
    }
}

/// Every kind, to read one back.
const KINDS: [FaultKind; 13] = [
    FaultKind::Invalid,
    FaultKind::Unauthenticated,
    FaultKind::Forbidden,
    FaultKind::NotFound,
    FaultKind::Conflict,
    FaultKind::Stale,
    FaultKind::TooLarge,
    FaultKind::Limit,
    FaultKind::Host,
    FaultKind::Upstream,
    FaultKind::Unavailable,
    FaultKind::NotBuilt,
    FaultKind::Internal,
];

impl Problem {
    /// A problem of a kind.
    pub fn new(kind: FaultKind, detail: impl Into<String>) -> Self {
        let (name, title) = name_of(kind);
        Problem {
            kind: format!("{PROBLEM_TYPE}{name}"),
            title: title.to_owned(),
            status: status_of(kind),
            detail: detail.into(),
            remedy: None,
            holder: None,
            current: None,
            mistakes: Vec::new(),
        }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn remedy(mut self, text: impl Into<String>) -> Self {
        self.remedy = Some(text.into());
        self
    }

    /// The kind; internal when the type is not one of ours.
    pub fn fault(&self) -> FaultKind {
        let name = self.kind.strip_prefix(PROBLEM_TYPE).unwrap_or_default();
        KINDS
            .into_iter()
            .find(|k| name_of(*k).0 == name)
            .unwrap_or(FaultKind::Internal)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}
impl std::error::Error for Problem {}
