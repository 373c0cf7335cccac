//! Tools of the native runtime, and the policy that grants them (S2-11).

use crate::words::words;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

words! {
    /// Tool that a model may call.
    Tool {
        /// Runs a program by argument vector, in the cell.
        Shell = "shell",
        /// Reads a file of the workspace.
        ReadFile = "read_file",
        /// Creates or replaces a file of the workspace.
        WriteFile = "write_file",
        /// Replaces one exact text in a file of the workspace.
        EditFile = "edit_file",
        /// Reads and appends to long-term memory.
        Memory = "memory",
        /// Lists and searches the skills that this agent may use, and reads their instructions and files.
        SearchSkills = "search_skills",
        /// Runs programs among the files of its skills, in the cell; needs `search_skills`. `shell` grants it too.
        RunSkillScript = "run_skill_script",
        /// Delegates a subtask to another agent.
        Delegate = "delegate",
        /// Asks another agent a question.
        Ask = "ask",
        /// Reads shared documents, and writes those that the agent may write.
        Document = "document",
        /// Requests a person's approval, or uses one.
        Approval = "approval",
        /// Ends the task with a result.
        Finish = "finish",
    }
}

/// Limits of what a run may do; enforced outside the model.
///
/// **Shape:** the default grants everything that stays in the workspace; `shell` and `run_skill_script` are granted by
/// name, and `all` is an explicit word in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolPolicy {
    /// Granted tools.
    pub tools: BTreeSet<Tool>,
    /// Path prefixes, relative to the workspace, that file tools may touch; empty means all of it.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Largest number of model turns in one run.
    pub turns_max: u32,
    /// Largest output of one run, in bytes.
    pub output_bytes_max: u64,
    /// Longest wall time of one run, in milliseconds.
    pub wall_ms_max: i64,
}

impl Default for ToolPolicy {
    fn default() -> Self {
        ToolPolicy {
            tools: Tool::ALL
                .iter()
                .copied()
                .filter(|t| !matches!(t, Tool::Shell | Tool::RunSkillScript))
                .collect(),
            paths: Vec::new(),
            turns_max: 16,
            output_bytes_max: 1 << 20,
            wall_ms_max: 900_000,
        }
    }
}

impl ToolPolicy {
    /// The intersection of two policies: a task can only restrict what its agent may do.
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
            tools: Tool::ALL.iter().copied().collect(),
            turns_max: 99,
            ..ToolPolicy::default()
        };
        let both = agent.narrowed(&task);
        assert!(!both.tools.contains(&Tool::Shell));
        assert_eq!(both.turns_max, 16);
        assert_eq!(both.paths, vec!["notes/".to_string()]);
    }
}
