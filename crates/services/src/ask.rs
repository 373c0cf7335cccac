//! What the control plane asks a service, and how it answers: one JSON document each.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};

/// Longest question, bytes.
const QUESTION_MAX: u64 = 64 << 10;
/// Longest name of what belongs to a consumer, bytes. Source: PostgreSQL's `NAMEDATALEN`, less its end.
pub const NAME_MAX: usize = 63;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum ServiceRequest {
    /// Who has something here.
    State {},
    /// Gives a consumer its place and a new credential; what was there before is kept.
    Open {
        /// What it is called here.
        name: String,
        /// Its credential from now on.
        secret: String,
        /// Most connections or requests at once.
        connections: u32,
        /// Most requests in a minute, where they are counted.
        rate: u32,
        /// Most bytes that it may keep, where they are counted.
        bytes: u64,
    },
    /// Takes a consumer's credential away; what it left is backed up and kept.
    Close {
        /// What it is called here.
        name: String,
        /// Instant, milliseconds since 1970.
        at_ms: i64,
    },
    /// Removes what a closed consumer left, after one more backup.
    Drop {
        /// What it is called here.
        name: String,
        /// Instant, milliseconds since 1970.
        at_ms: i64,
    },
}

/// One who has something here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerState {
    /// What it is called here.
    pub name: String,
    /// Whether its credential is good.
    pub open: bool,
    /// Since when it is closed, milliseconds since 1970; none while it is open, or not wholly closed.
    pub closed_ms: Option<i64>,
    /// Most connections at once; -1 for any number.
    pub connections: i64,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum ServiceReply {
    /// Who has something here, and what proves the service to its clients.
    State {
        /// By name.
        holdings: Vec<ConsumerState>,
        /// PEM certificate that clients trust.
        certificate: Option<String>,
    },
    /// It is done.
    Done {
        /// Where a copy is, in the service's own directory.
        backup: Option<String>,
        /// Its size.
        bytes: u64,
    },
    /// It could not be done.
    Failed {
        /// Why.
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
            return Err(Error::InvalidRequest(format!("`{name}` is no name")));
        }
        if let ServiceRequest::Open { secret, .. } = &self {
            let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
            if secret.len() < 16 || secret.len() > 256 || !secret.bytes().all(word) {
                return Err(Error::InvalidRequest(
                    "the credential is none of the house's".to_owned(),
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
