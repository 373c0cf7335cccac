//! Secrets that cannot be printed by accident.

use std::fmt;

/// Text that has no `Display`, a redacted `Debug`, and is opened only by name.
///
/// `expose` is called where a header, a credential file or a child's descriptor is written, and
/// nowhere else; the workspace checks list those places.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text that must not appear in logs.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The secret in clear, for the function that passes it to its destination.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(redacted)");
    }
}
