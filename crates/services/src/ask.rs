//! What the control plane asks a service, and how it answers: one JSON document each.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};

/// Longest question, bytes.
const QUESTION_MAX: u64 = 64 << 10;
/// Longest name of a consumer's database, repository or site, in bytes. Source: PostgreSQL's `NAMEDATALEN`, less its end.
pub const NAME_MAX: usize = 63;

/// Request of the control plane to a stock service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum ServiceRequest {
    /// Returns the consumers and the service's certificate.
    State {},
    /// Creates a consumer or gives it a new credential; its data is kept.
    Open {
        /// Name of the consumer in the service.
        name: String,
        /// New credential.
        secret: String,
        /// Maximum number of connections or concurrent requests.
        connections: u32,
        /// Maximum number of requests per minute, if the service counts them.
        rate: u32,
        /// Maximum size of the consumer's data, if the service counts it.
        bytes: u64,
    },
    /// Revokes the consumer's credential; its data is backed up and kept.
    Close {
        /// Name of the consumer's database, repository or site.
        name: String,
        /// Time of the request, milliseconds since 1970.
        at_ms: i64,
    },
    /// Deletes the data of a closed consumer, after another backup.
    Drop {
        /// Name of the consumer's database, repository or site.
        name: String,
        /// Instant, milliseconds since 1970.
        at_ms: i64,
    },
}

/// State of a consumer of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerState {
    /// Name of the consumer in the service.
    pub name: String,
    /// Whether its credential is valid.
    pub open: bool,
    /// Time at which it was closed, milliseconds since 1970; none while it is open or not completely closed.
    pub closed_ms: Option<i64>,
    /// Maximum number of connections; -1 for no limit.
    pub connections: i64,
}

/// Reply of a stock service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum ServiceReply {
    /// Consumers and certificate of the service.
    State {
        /// Consumers, by name.
        holdings: Vec<ConsumerState>,
        /// PEM certificate that clients must trust; none if the service has no TLS.
        certificate: Option<String>,
    },
    /// The request was performed.
    Done {
        /// Path of the backup in the service's directory, if one was made.
        backup: Option<String>,
        /// Size of the backup.
        bytes: u64,
    },
    /// The request failed.
    Failed {
        /// Reason.
        why: String,
    },
}

impl ServiceRequest {
    /// Refuses names that could be anything but a name; they are quoted all the same.
    fn checked(self) -> Result<ServiceRequest> {
        let name = match &self {
            ServiceRequest::State {} => return Ok(self),
            ServiceRequest::Open { name, .. }
            | ServiceRequest::Close { name, .. }
            | ServiceRequest::Drop { name, .. } => name,
        };
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        let begins = name.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
        if !begins || name.len() > NAME_MAX || !name.bytes().all(plain) {
            return Err(Error::InvalidRequest(format!(
                "`{name}` is not a valid consumer name"
            )));
        }
        if let ServiceRequest::Open { secret, .. } = &self {
            let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
            if secret.len() < 16 || secret.len() > 256 || !secret.bytes().all(word) {
                return Err(Error::InvalidRequest(
                    "the credential is not in the house's format".to_owned(),
                ));
            }
        }
        Ok(self)
    }
}

/// Reads one request as JSON from standard input, has `reply` perform it, and prints the reply as JSON; a failure
/// is printed as a reply as well.
pub(crate) fn answer_stdin_request(
    reply: impl FnOnce(ServiceRequest) -> Result<ServiceReply>,
) -> Result<i32> {
    let mut text = String::new();
    let input = std::io::stdin()
        .lock()
        .take(QUESTION_MAX)
        .read_to_string(&mut text);
    input.map_err(Error::file("read", "standard input"))?;
    let question: std::result::Result<ServiceRequest, _> = serde_json::from_str(&text);
    let answered = question
        .map_err(|e| Error::InvalidRequest(e.to_string()))
        .and_then(ServiceRequest::checked)
        .and_then(reply);
    let answer = answered.unwrap_or_else(|error| ServiceReply::Failed {
        why: error.to_string(),
    });
    let text = serde_json::to_string(&answer).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.map_err(Error::file("write", "standard output"))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_is_refused_before_anything_is_done() {
        let close = |name: &str| ServiceRequest::Close {
            name: name.to_owned(),
            at_ms: 0,
        };
        for bad in ["", "1a", "a b", "a\"; drop", "A", "a'", &"a".repeat(64)] {
            assert!(close(bad).checked().is_err(), "{bad}");
        }
        assert!(close("ab_iris").checked().is_ok());
        let open = |secret: &str| ServiceRequest::Open {
            name: "a".to_owned(),
            secret: secret.to_owned(),
            connections: 1,
            rate: 1,
            bytes: 1,
        };
        assert!(open("short").checked().is_err());
        assert!(open("sixteen-letters'--").checked().is_err());
        assert!(open("abbey_db_0123456789abcdef").checked().is_ok());
    }
}
