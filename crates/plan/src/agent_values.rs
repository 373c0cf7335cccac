//! Types of an agent's values that are no keys themselves: model, charter, daily limits, relations.

use abbey_model::Slug;
use serde::Serialize;
use std::str::FromStr;

/// A model at a provider.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelRef {
    /// Name of the provider in the manifest.
    pub provider: Slug,
    /// Name that the provider knows.
    pub model: String,
}

impl FromStr for ModelRef {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (provider, model) = text.split_once('/').ok_or(())?;
        Ok(ModelRef {
            provider: provider.parse().map_err(drop)?,
            model: model.to_owned(),
        })
    }
}

impl std::fmt::Display for ModelRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.provider, self.model)
    }
}

/// Text of an agent's charter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Charter {
    /// A file, relative to the manifest.
    File(String),
    /// The stock text of a template.
    Stock(String),
}

/// Daily limits, each absent when there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct AgentBudget {
    /// Most model tokens in a day.
    pub tokens: Option<u64>,
    /// Most money in a day, in billionths of a dollar.
    pub nano_usd: Option<u64>,
    /// Most runs in a day.
    pub runs: Option<u64>,
    /// Most wall-clock seconds of runs in a day.
    pub seconds: Option<u64>,
}

/// Kinds of relations between agents.
pub const RELATIONS: [&str; 4] = ["lineage", "mentor", "works_with", "may_ask"];

/// Words that keys and commands take for something else than an agent: everybody, and the people of the house.
const KEYWORDS: [&str; 2] = ["all", "operator"];
/// Word that stands for no agent. An agent of this name can't be named where rights are given, so it gets none by mistake.
pub(crate) const NOBODY: &str = "none";

/// Words that commands, work queues and the audit log take for the house itself or for nobody in particular. A manifest may
/// have agents of these names; no command gives them.
const RESERVED: [&str; 5] = ["house", "nobody", "anyone", "everyone", "unassigned"];

/// Why no command gives an agent this name; none for a name that is free of another meaning.
pub fn reserved_agent_name(name: &Slug) -> Option<String> {
    let reserved = RESERVED.contains(&name.as_str());
    taken_by_keyword(name).or_else(|| reserved.then(|| other_meaning(name)))
}

fn other_meaning(name: &Slug) -> String {
    format!("`{name}` means something else where agents are named; give it another name")
}

/// Why an agent should not have a name; none unless keys and commands take it for something else.
pub(crate) fn taken_by_keyword(name: &Slug) -> Option<String> {
    let taken = KEYWORDS.contains(&name.as_str()) || name.as_str() == NOBODY;
    taken.then(|| other_meaning(name))
}
