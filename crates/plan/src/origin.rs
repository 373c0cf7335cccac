//! Where an effective value of the configuration comes from.

use serde::Serialize;

/// Where an effective value of the configuration comes from (S2-21).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The agent's own entry, at this line.
    Manifest(usize),
    /// `defaults:` in the manifest, at this line.
    Defaults(usize),
    /// The agent's template.
    Template(String),
    /// Computed from the agent's share of the house's budget.
    Share,
    /// Default of this release.
    BuiltIn,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Manifest(line) => write!(f, "manifest, line {line}"),
            Origin::Defaults(line) => write!(f, "defaults, line {line}"),
            Origin::Template(name) => write!(f, "template {name}"),
            Origin::Share => f.write_str("share of the house's budget"),
            Origin::BuiltIn => f.write_str("built in"),
        }
    }
}
