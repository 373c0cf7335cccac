//! References to secrets, as the manifest writes them.

use std::fmt;
use std::str::FromStr;

/// Reference to the place of a secret, whose value never stands in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecretRef {
    /// `env:NAME`, a variable of the control plane's environment.
    Env(String),
    /// `file:PATH`, a file whose text (less one line end) is the secret.
    File(String),
    /// `credential:NAME`, a file of that name in the house's `credentials/` directory.
    Credential(String),
}

/// A text that is not a reference to a secret. The text itself is not repeated: it may be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a secret is given by reference: `env:NAME`, `file:PATH` or `credential:NAME`, never inline"
)]
pub struct SecretRefError;

impl FromStr for SecretRef {
    type Err = SecretRefError;
    fn from_str(text: &str) -> Result<Self, SecretRefError> {
        let (kind, rest) = text.split_once(':').ok_or(SecretRefError)?;
        let name_ok = |s: &str| {
            !s.is_empty()
                && s.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        };
        match kind {
            "env" if name_ok(rest) => Ok(SecretRef::Env(rest.to_owned())),
            "file" if !rest.is_empty() && !rest.contains('\0') => {
                Ok(SecretRef::File(rest.to_owned()))
            }
            "credential" if name_ok(rest) => Ok(SecretRef::Credential(rest.to_owned())),
            _ => Err(SecretRefError),
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretRef::Env(name) => write!(f, "env:{name}"),
            SecretRef::File(path) => write!(f, "file:{path}"),
            SecretRef::Credential(name) => write!(f, "credential:{name}"),
        }
    }
}
