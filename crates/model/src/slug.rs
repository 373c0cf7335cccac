//! The one validated form of a name, and the escaped form that each target needs (S1-04).

use crate::words::text_form;
use std::fmt;
use std::str::FromStr;

/// Name that keys an agent, service or house everywhere.
///
/// **Shape:** a lower-case letter, then lower-case letters, digits and single hyphens, not ending
/// in a hyphen; at most 32 characters. Display names are free text and are never a slug (S1-05).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slug(String);

/// Reason why a text is not a slug.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlugError {
    /// Nothing was given.
    #[error("a name must not be empty")]
    Empty,
    /// Longer than [`Slug::LENGTH_MAX`].
    #[error("the name `{0}…` is longer than {max} characters", max = Slug::LENGTH_MAX)]
    TooLong(String),
    /// Does not begin with a lower-case letter.
    #[error("the name `{0}` must begin with a lower-case letter")]
    Start(String),
    /// Holds something other than lower-case letters, digits and single inner hyphens.
    #[error(
        "the name `{0}` may contain only lower-case letters, digits and single hyphens between them"
    )]
    Character(String),
}

impl Slug {
    /// Longest slug, in characters.
    pub const LENGTH_MAX: usize = 32;

    /// The slug as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The slug as the name of an rc.d script, whose shell variables forbid hyphens.
    pub fn rc_name(&self) -> String {
        format!("abbey_{}", self.0.replace('-', "_"))
    }

    /// Name of the network interface for this slug, at most 15 bytes: a kind letter and the slug, or a digest of it
    /// where it is too long, so that two slugs never share a name.
    pub fn interface_name(&self, kind: char) -> String {
        let plain = format!("ab{kind}{}", self.0.replace('-', ""));
        // Removing hyphens can make two slugs equal, so only hyphen-free ones stay plain.
        if plain.len() <= 15 && !self.0.contains('-') {
            return plain;
        }
        let keep: String = self.0.chars().filter(|c| *c != '-').take(4).collect();
        format!("ab{kind}{keep}{:08x}", fnv1a(self.0.as_bytes()))
    }

    /// The slug as a PostgreSQL identifier of at most 63 bytes that needs no quoting.
    pub fn postgres_name(&self) -> String {
        format!("ab_{}", self.0.replace('-', "_"))
    }

    /// The slug as the name of a tmux session, which forbids `.` and `:`.
    pub fn tmux_name(&self) -> String {
        format!("abbey-{}", self.0)
    }

    /// The slug as an IRC nickname of at most 16 characters.
    pub fn irc_nick(&self) -> String {
        if self.0.len() <= 16 {
            return self.0.clone();
        }
        format!(
            "{}-{:04x}",
            &self.0[..11],
            fnv1a(self.0.as_bytes()) & 0xffff
        )
    }

    /// The slug as a jail name that VNET tools accept: letters and digits only.
    pub fn jail_name(&self) -> String {
        let plain = self.0.replace('-', "");
        if plain == self.0 {
            plain
        } else {
            format!("{plain}{:04x}", fnv1a(self.0.as_bytes()) & 0xffff)
        }
    }
}

/// FNV-1a, 32 bits: short, stable across versions; only tells long names apart.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &b| {
        (hash ^ u32::from(b)).wrapping_mul(0x0100_0193)
    })
}

impl FromStr for Slug {
    type Err = SlugError;

    fn from_str(text: &str) -> Result<Self, SlugError> {
        let shown = || text.chars().take(Slug::LENGTH_MAX).collect::<String>();
        let bytes = text.as_bytes();
        if bytes.is_empty() {
            return Err(SlugError::Empty);
        }
        if bytes.len() > Slug::LENGTH_MAX {
            return Err(SlugError::TooLong(shown()));
        }
        if !bytes[0].is_ascii_lowercase() {
            return Err(SlugError::Start(shown()));
        }
        let legal = bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
        if !legal || text.ends_with('-') || text.contains("--") {
            return Err(SlugError::Character(shown()));
        }
        Ok(Slug(text.to_owned()))
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
impl fmt::Debug for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
impl AsRef<str> for Slug {
    fn as_ref(&self) -> &str {
        &self.0
    }
}
text_form!(Slug);

#[cfg(test)]
mod tests {
    use super::*;

    fn slug(text: &str) -> Slug {
        text.parse().unwrap()
    }

    #[test]
    fn hostile_names_are_refused() {
        for bad in [
            "",
            "A",
            "1a",
            "a_b",
            "a.b",
            "../x",
            "a b",
            "a'b",
            "a\n",
            "a--b",
            "a-",
            "é",
            "__proto__",
        ] {
            assert!(bad.parse::<Slug>().is_err(), "{bad:?} must be refused");
        }
        assert!("a".repeat(300).parse::<Slug>().is_err());
    }

    #[test]
    fn derived_names_fit_their_targets_and_stay_apart() {
        let long = slug("abcdefghijklmnopqrstuvwxyz-12345");
        let other = slug("abcdefghijklmnopqrstuvwxyz-12346");
        assert!(long.interface_name('v').len() <= 15);
        assert_ne!(long.interface_name('v'), other.interface_name('v'));
        assert_ne!(
            slug("ab-c").interface_name('v'),
            slug("abc").interface_name('v')
        );
        assert_ne!(slug("ab-c").jail_name(), slug("abc").jail_name());
        assert!(long.postgres_name().len() <= 63);
        assert!(long.irc_nick().len() <= 16);
        assert_eq!(slug("git-admin").rc_name(), "abbey_git_admin");
        assert_eq!(slug("git-admin").tmux_name(), "abbey-git-admin");
    }
}
