//! Which agents an agent may delegate to, and who receives a result.

use crate::{ChannelAddress, Slug};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// Set of agents to which an agent may delegate; empty by default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Authority {
    /// Every agent but those in `except`.
    pub all: bool,
    /// Agents by name.
    pub names: BTreeSet<Slug>,
    /// Agents that are excluded, whatever else is listed.
    pub except: BTreeSet<Slug>,
}

impl Authority {
    /// Whether the authority covers an agent.
    pub fn includes(&self, to: &Slug) -> bool {
        (self.all || self.names.contains(to)) && !self.except.contains(to)
    }

    /// Whether the authority covers no agent at all.
    pub fn is_none(&self) -> bool {
        !self.all && self.names.is_empty()
    }

    /// Adds one word: `all`, `none`, the name of an agent, or `-NAME` to exclude an agent.
    ///
    /// # Errors
    /// Why the word is not valid.
    pub fn add(&mut self, word: &str) -> Result<(), String> {
        let slug = |text: &str| {
            text.parse::<Slug>()
                .map_err(|e| format!("`{text}` is not the name of an agent: {e}"))
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

/// Limits of what one agent may delegate to another.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Grant {
    /// Token budget of one subtask; that of the parent when absent.
    pub tokens: Option<u64>,
    /// Skills that the subtask may use; any when empty.
    pub skills: BTreeSet<String>,
}

/// Grants, by the agent that receives the subtask.
pub type Grants = BTreeMap<Slug, Grant>;

/// Recipient of a result, by type: never a bare name or number (S3-36).
///
/// **Shape:** `kept`, `agent:NAME`, `channel:NAME`, `channel:NAME/PLACE`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "to", content = "name", rename_all = "snake_case")]
pub enum Recipient {
    /// Nobody: the result is kept with its task.
    #[default]
    Kept,
    /// An agent, as a message.
    Agent(Slug),
    /// People, by a channel.
    Channel(ChannelAddress),
    /// Issue or pull request that a hook delivered; set only by the control plane.
    Hook(HookOrigin),
}

/// Issue or pull request of a forge, as a hook delivered it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookOrigin {
    /// Hook, by its name in the manifest.
    pub hook: Slug,
    /// `owner/repository`.
    pub repository: String,
    /// Number of the issue or pull request.
    pub number: u64,
    /// Head commit of a pull request.
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
                .map_err(|e| format!("`{name}` is not the name of an agent: {e}")),
            Some(("channel", address)) => address.parse().map(Recipient::Channel),
            _ => Err(format!(
                "`{text}` is not a recipient; one of: agent:NAME, channel:NAME, kept (the result stays with its task)"
            )),
        }
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recipient::Kept => f.write_str("kept"),
            Recipient::Agent(name) => write!(f, "agent:{name}"),
            Recipient::Channel(address) => write!(f, "channel:{address}"),
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
        for text in ["kept", "agent:atlas", "channel:ops", "channel:ops/7"] {
            assert_eq!(text.parse::<Recipient>().unwrap().to_string(), text);
        }
        for text in [
            "atlas",
            "1234567890",
            "agent:",
            "#ops",
            "agent:No Such",
            "channel:",
        ] {
            assert!(text.parse::<Recipient>().is_err(), "{text}");
        }
    }

    #[test]
    fn authorities_keep_their_text_form() {
        for text in ["none", "all", "all -manager", "a b"] {
            assert_eq!(text.parse::<Authority>().unwrap().to_string(), text);
        }
    }
}
