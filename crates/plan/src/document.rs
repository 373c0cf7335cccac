//! Shared documents: how each comes to be, and which agents read and write it.

use abbey_model::Slug;
use std::collections::BTreeSet;

/// A shared document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// How its content is written.
    pub kind: DocumentKind,
    /// Agents that read it; every agent when not given. Its writers always do.
    pub readers: Option<BTreeSet<Slug>>,
}

/// How the content of a document is written. What agents may not write, the operator writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentKind {
    /// Whole versions, by this agent if one is named.
    Text(Option<Slug>),
    /// Appended entries, by these agents; by every agent when none is named.
    Log(Option<BTreeSet<Slug>>),
    /// A report of this name, made at every reading.
    Report(String),
}

impl Document {
    /// Whether an agent may write the text or append to the log.
    pub fn written_by(&self, agent: &Slug) -> bool {
        match &self.kind {
            DocumentKind::Text(writer) => writer.as_ref() == Some(agent),
            DocumentKind::Log(writers) => writers.as_ref().is_none_or(|w| w.contains(agent)),
            DocumentKind::Report(_) => false,
        }
    }

    /// Whether an agent may read the document; its writers may.
    pub fn read_by(&self, agent: &Slug) -> bool {
        let named = self.readers.as_ref().is_none_or(|r| r.contains(agent));
        named || self.written_by(agent)
    }
}
