//! Whom an agent may give work to, as data.

use crate::Slug;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// Declared rights to delegate; nobody by default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Authority {
    /// Everybody but the excepted.
    pub all: bool,
    /// By name.
    pub names: BTreeSet<Slug>,
    /// Not these, whatever else is said.
    pub except: BTreeSet<Slug>,
}

impl Authority {
    /// Whether the right reaches an agent.
    pub fn reaches(&self, to: &Slug) -> bool {
        (self.all || self.names.contains(to)) && !self.except.contains(to)
    }

    /// Whether there is any right at all.
    pub fn is_none(&self) -> bool {
        !self.all && self.names.is_empty()
    }

    /// Adds one word: `all`, a name, or `-NAME` for all but that one.
    ///
    /// # Errors
    /// What is wrong with the word.
    pub fn add(&mut self, word: &str) -> Result<(), String> {
        let slug = |text: &str| {
            text.parse::<Slug>()
                .map_err(|e| format!("`{text}` is no agent: {e}"))
        };
        match word.strip_prefix('-') {
            Some(name) => drop(self.except.insert(slug(name)?)),
            None if word == "all" => self.all = true,
            None if word == "none" => {}
            None => drop(self.names.insert(slug(word)?)),
        }
        Ok(())
    }
}

impl FromStr for Authority {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut authority = Authority::default();
        for word in text.split_whitespace() {
            authority.add(word)?;
        }
        Ok(authority)
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.write_str("none");
        }
        let mut words: Vec<String> = self.all.then(|| "all".to_owned()).into_iter().collect();
        words.extend(self.names.iter().map(ToString::to_string));
        words.extend(self.except.iter().map(|n| format!("-{n}")));
        f.write_str(&words.join(" "))
    }
}

/// What one edge of delegation is narrowed to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Grant {
    /// Most tokens of one piece of work.
    pub tokens: Option<u64>,
    /// Skills that such work may use; any when empty.
    pub skills: BTreeSet<String>,
}

/// Grants by the one who gets the work.
pub type Grants = BTreeMap<Slug, Grant>;

/// Who gets the result of a piece of work, by type: never a bare name or number (S3-36).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "to", content = "name", rename_all = "snake_case")]
pub enum Recipient {
    /// Nobody: it is kept with the work.
    #[default]
    Kept,
    /// An agent, as a message.
    Agent(Slug),
    /// Where a hook's delivery came from; only the house names it.
    Hook(HookOrigin),
}

/// An issue or a pull request of a forge, as a hook told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookOrigin {
    /// The hook.
    pub hook: Slug,
    /// `owner/repository`.
    pub repository: String,
    /// Number of the issue or pull request.
    pub number: u64,
    /// The commit of a pull request.
    pub commit: Option<String>,
}

impl FromStr for Recipient {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "kept" => Ok(Recipient::Kept),
            Some(("agent", name)) => name
                .parse()
                .map(Recipient::Agent)
                .map_err(|e| format!("`{name}` is no agent: {e}")),
            _ => Err(format!(
                "`{text}` is no recipient: say `agent:NAME`, or `kept` to leave the result with its task"
            )),
        }
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recipient::Kept => f.write_str("kept"),
            Recipient::Agent(name) => write!(f, "agent:{name}"),
            Recipient::Hook(HookOrigin {
                hook,
                repository,
                number,
                ..
            }) => write!(f, "hook:{hook} {repository}#{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_have_a_type() {
        for text in ["kept", "agent:atlas"] {
            assert_eq!(text.parse::<Recipient>().unwrap().to_string(), text);
        }
        for text in ["atlas", "1234567890", "agent:", "#ops", "agent:No Such"] {
            assert!(text.parse::<Recipient>().is_err(), "{text}");
        }
    }

    #[test]
    fn rights_say_what_they_said() {
        for text in ["none", "all", "all -manager", "a b"] {
            assert_eq!(text.parse::<Authority>().unwrap().to_string(), text);
        }
    }
}
