//! Tools of the native agent and the policy that grants them (S2-11).

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// One tool that a model may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tool {
    /// Runs a program by argument vector, in the cell.
    Shell,
    /// Reads a file of the workspace.
    ReadFile,
    /// Creates or replaces a file of the workspace.
    WriteFile,
    /// Replaces one exact text in a file of the workspace.
    EditFile,
    /// Reads and appends to long-term memory.
    Memory,
    /// Searches the skills this agent may use.
    SearchSkills,
    /// Gives a piece of the work to a colleague.
    Delegate,
    /// Asks a colleague something.
    Ask,
    /// Reads shared documents, and writes where it may.
    Document,
    /// Asks a person for a yes, or uses one.
    Approval,
    /// Ends the task with a result.
    Finish,
}

impl Tool {
    /// Every tool.
    pub const ALL: [Tool; 11] = [
        Tool::Shell,
        Tool::ReadFile,
        Tool::WriteFile,
        Tool::EditFile,
        Tool::Memory,
        Tool::SearchSkills,
        Tool::Delegate,
        Tool::Ask,
        Tool::Document,
        Tool::Approval,
        Tool::Finish,
    ];

    /// Name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Tool::Shell => "shell",
            Tool::ReadFile => "read_file",
            Tool::WriteFile => "write_file",
            Tool::EditFile => "edit_file",
            Tool::Memory => "memory",
            Tool::SearchSkills => "search_skills",
            Tool::Delegate => "delegate",
            Tool::Ask => "ask",
            Tool::Document => "document",
            Tool::Approval => "approval",
            Tool::Finish => "finish",
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Tool {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Tool::ALL
            .into_iter()
            .find(|t| t.name() == text)
            .ok_or_else(|| format!("`{text}` is not a tool"))
    }
}

/// What a run may do; enforced outside the model.
///
/// **Shape:** the default grants everything that stays in the workspace; `shell` is granted by
/// name, and `all` is an explicit word in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolPolicy {
    /// Granted tools.
    pub tools: BTreeSet<Tool>,
    /// Path prefixes, relative to the workspace, that file tools may touch; empty means all of it.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Most model turns in one run.
    pub turns_max: u32,
    /// Most bytes of output that one run may produce.
    pub output_bytes_max: u64,
    /// Longest wall time of one run, in milliseconds.
    pub wall_ms_max: i64,
}

impl Default for ToolPolicy {
    fn default() -> Self {
        ToolPolicy {
            tools: Tool::ALL
                .into_iter()
                .filter(|t| *t != Tool::Shell)
                .collect(),
            paths: Vec::new(),
            turns_max: 16,
            output_bytes_max: 1 << 20,
            wall_ms_max: 900_000,
        }
    }
}

impl ToolPolicy {
    /// The narrower of two policies: a task can only take away from what its agent has.
    pub fn narrowed(&self, by: &ToolPolicy) -> ToolPolicy {
        let paths = match (self.paths.is_empty(), by.paths.is_empty()) {
            (true, _) => by.paths.clone(),
            (_, true) => self.paths.clone(),
            (false, false) => by
                .paths
                .iter()
                .filter(|p| self.paths.iter().any(|own| p.starts_with(own.as_str())))
                .cloned()
                .collect(),
        };
        ToolPolicy {
            tools: self.tools.intersection(&by.tools).copied().collect(),
            paths,
            turns_max: self.turns_max.min(by.turns_max),
            output_bytes_max: self.output_bytes_max.min(by.output_bytes_max),
            wall_ms_max: self.wall_ms_max.min(by.wall_ms_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrowing_never_widens() {
        let agent = ToolPolicy {
            paths: vec!["notes/".into()],
            ..ToolPolicy::default()
        };
        let task = ToolPolicy {
            tools: Tool::ALL.into_iter().collect(),
            turns_max: 99,
            ..ToolPolicy::default()
        };
        let both = agent.narrowed(&task);
        assert!(!both.tools.contains(&Tool::Shell));
        assert_eq!(both.turns_max, 16);
        assert_eq!(both.paths, vec!["notes/".to_string()]);
    }
}
