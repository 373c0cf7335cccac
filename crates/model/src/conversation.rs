//! Channels, conversations and sessions: where people talk with agents.
//!
//! A *channel* is a configured connection to a chat service. A *conversation* is one thread of messages in a channel. A
//! *session* is what a runtime remembers of a conversation. Connectors and dashboards translate between these and their
//! own services; nothing else needs to know which service it is.

use crate::words::text_form;
use crate::{ConversationId, Runtime, SessionId, Slug};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Place in a channel to which messages are delivered.
///
/// **Shape:** `ops`, or `ops/PLACE`, where PLACE is what the channel's service calls a room, chat or thread.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelAddress {
    /// Channel, by its name in the manifest.
    pub channel: Slug,
    /// Room, chat or thread; the channel's default place when absent.
    pub place: Option<String>,
}

impl fmt::Display for ChannelAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            None => self.channel.fmt(f),
            Some(place) => write!(f, "{}/{place}", self.channel),
        }
    }
}

impl FromStr for ChannelAddress {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (channel, place) = match text.split_once('/') {
            Some((channel, place)) => (channel, Some(place)),
            None => (text, None),
        };
        let channel = channel
            .parse()
            .map_err(|e| format!("`{channel}` is not the name of a channel: {e}"))?;
        match place {
            Some(place) if place.is_empty() || place.chars().any(char::is_control) => {
                Err(format!("`{text}` names no place in channel `{channel}`"))
            }
            place => Ok(ChannelAddress {
                channel,
                place: place.map(str::to_owned),
            }),
        }
    }
}

text_form!(ChannelAddress);

/// A thread of messages between people and one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    /// Identifier.
    pub id: ConversationId,
    /// Agent that takes part.
    pub agent: Slug,
    /// Where its messages are delivered.
    pub address: ChannelAddress,
}

/// What a runtime remembers of a conversation. A conversation gets a new session when its agent changes its runtime or
/// forgets the old one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Identifier.
    pub id: SessionId,
    /// Conversation that it belongs to.
    pub conversation: ConversationId,
    /// Runtime that keeps it.
    pub runtime: Runtime,
    /// The runtime's own name for it, once the runtime has given one.
    pub runtime_key: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_addresses_keep_their_text_form() {
        for text in ["ops", "ops/-100123:7", "ops/#general/thread"] {
            assert_eq!(text.parse::<ChannelAddress>().unwrap().to_string(), text);
        }
        for text in ["", "#ops", "ops/", "ops/a\nb"] {
            assert!(text.parse::<ChannelAddress>().is_err(), "{text:?}");
        }
    }
}
