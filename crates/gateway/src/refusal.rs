//! Why the gateway refuses a call, before any protocol gives it a form.

use hyper::StatusCode;

/// A refused call. [`crate::Protocol::refusal`] renders it in the error form that the caller's SDK shows to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: StatusCode,
    /// Stable machine-readable code, e.g. `budget_exhausted`.
    pub code: &'static str,
    /// Reason of the refusal and what to do, for people.
    pub text: String,
    /// Seconds after which the same call may succeed, when that is known.
    pub retry_after_s: Option<u64>,
}

impl Refusal {
    /// A refusal of a model call with a status and code, and without a time after which a retry could succeed.
    pub fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        Refusal {
            status,
            code,
            text: text.into(),
            retry_after_s: None,
        }
    }

    /// 400 `invalid_request`: the request does not follow its protocol.
    pub fn invalid_request(text: impl Into<String>) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, "invalid_request", text)
    }

    /// 503 `provider_unavailable`: no provider can take the call at the moment.
    pub fn provider_unavailable(text: impl Into<String>) -> Self {
        Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "provider_unavailable",
            text,
        )
    }
}
