//! Languages and locales out of the manifest's text (S1-22, S1-23).

use crate::decode::{Decoder, text};
use crate::node::Node;
use crate::shape::{Shape, key};
use abbey_words::SystemLocale;
use serde::Serialize;

/// What may stand below `locale`.
pub(crate) const LOCALE: Shape = Shape::Object(&[
    key(
        "display",
        Shape::Text,
        "Language of its reports and notices, as `sl-SI`; English where the house does not speak it.",
    ),
    key(
        "assistant",
        Shape::Text,
        "Language in which it answers people, as `sl-SI`.",
    ),
    key(
        "system",
        Shape::Text,
        "Locale of its programs, as `sl_SI.UTF-8`; `C.UTF-8` where the host lacks it.",
    ),
]);

/// The languages of an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Locale {
    /// Of its reports and notices; a tag of BCP 47.
    pub display: Option<String>,
    /// In which it answers.
    pub assistant: Option<String>,
    /// Of its programs.
    #[serde(skip)]
    pub system: Option<SystemLocale>,
}

impl Decoder<'_> {
    /// What a place says; mistakes are told there.
    pub(crate) fn locale(&mut self, node: Option<&Node>) -> Locale {
        let mut tag = |key: &str| {
            let written = text(node, key)?;
            match abbey_words::tag(written) {
                Ok(tag) => Some(tag),
                Err(error) => {
                    self.blame(node.and_then(|n| n.get(key)), error.to_string());
                    None
                }
            }
        };
        let (display, assistant) = (tag("display"), tag("assistant"));
        let system = text(node, "system").and_then(|written| match written.parse() {
            Ok(locale) => Some(locale),
            Err(error) => {
                let error: abbey_words::LocaleError = error;
                self.blame(node.and_then(|n| n.get("system")), error.to_string());
                None
            }
        });
        Locale {
            display,
            assistant,
            system,
        }
    }
}

impl Locale {
    /// What is not said here is said there.
    #[must_use]
    pub(crate) fn or(self, other: &Locale) -> Locale {
        Locale {
            display: self.display.or_else(|| other.display.clone()),
            assistant: self.assistant.or_else(|| other.assistant.clone()),
            system: self.system.or_else(|| other.system.clone()),
        }
    }
}
