//! Evidence as people write it: `file:PATH`, or `command:["PROGRAM", "ARGUMENT"]`.

use crate::EvidenceView;
use std::fmt;
use std::str::FromStr;

impl fmt::Display for EvidenceView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, &self.command) {
            (Some(path), _) => write!(f, "file:{path}"),
            (None, Some(argv)) => write!(f, "command:{}", serde_json::json!(argv)),
            (None, None) => f.write_str("nothing"),
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
                command: None,
            }),
            Some(("command", argv)) => Ok(EvidenceView {
                file: None,
                command: Some(command(argv)?),
            }),
            _ => Err(format!(
                "`{text}` is no evidence: say file:PATH or command:[\"PROGRAM\",…]"
            )),
        }
    }
}
