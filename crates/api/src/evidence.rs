//! Evidence as people write it: `file:PATH`, `command:["PROGRAM", "ARGUMENT"]`, or `review:AGENT`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// One thing that must hold before work counts as done; one of its fields is there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EvidenceView {
    /// A file of the workspace that is there and not empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// A program that ends with 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// An agent that reads the result and approves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<String>,
}

impl fmt::Display for EvidenceView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, &self.command, &self.review) {
            (Some(path), ..) => write!(f, "file:{path}"),
            (None, Some(argv), _) => write!(f, "command:{}", serde_json::json!(argv)),
            (None, None, Some(reviewer)) => write!(f, "review:{reviewer}"),
            (None, None, None) => f.write_str("nothing"),
        }
    }
}

impl FromStr for EvidenceView {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let command = |argv: &str| {
            serde_json::from_str(argv).map_err(|e| {
                format!("evidence by a command is a list like command:[\"test\",\"-d\",\"x\"]: {e}")
            })
        };
        match text.split_once(':') {
            Some(("file", path)) => Ok(EvidenceView {
                file: Some(path.to_owned()),
                ..EvidenceView::default()
            }),
            Some(("command", argv)) => Ok(EvidenceView {
                command: Some(command(argv)?),
                ..EvidenceView::default()
            }),
            Some(("review", reviewer)) => Ok(EvidenceView {
                review: Some(reviewer.to_owned()),
                ..EvidenceView::default()
            }),
            _ => Err(format!(
                "`{text}` is no evidence: say file:PATH, command:[\"PROGRAM\",…] or review:AGENT"
            )),
        }
    }
}
