//! Evidence that a task declares and the control plane verifies before the task counts as done.

use crate::Slug;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Evidence, verified in the cell of the agent that completes the task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// A file of the workspace that exists and is not empty.
    File(String),
    /// A command, as argument vector, that exits with 0 in the workspace.
    Command(Vec<String>),
    /// Approval of the result by another agent.
    Review(Slug),
}

impl Evidence {
    /// Checks that the declaration of evidence is valid.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Evidence::File(path) => {
                let inside = !path.starts_with(['/', '-'])
                    && !path.contains('\0')
                    && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
                inside.then_some(()).ok_or(format!(
                    "`{path}` is not evidence: give the path of a file relative to the workspace"
                ))
            }
            Evidence::Command(argv) => match argv.first() {
                Some(program) if !program.is_empty() && !argv.iter().any(|a| a.contains('\0')) => {
                    Ok(())
                }
                _ => Err("evidence by a command must name a program".to_owned()),
            },
            Evidence::Review(_) => Ok(()),
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Evidence::File(path) => write!(f, "the file `{path}`"),
            Evidence::Command(argv) => write!(f, "the command {argv:?}"),
            Evidence::Review(reviewer) => write!(f, "the review by `{reviewer}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_outside_the_workspace_and_commands_without_a_program_are_refused() {
        for path in ["", "/etc/passwd", "../x", "a//b", "a/./b", "-e", "a\0"] {
            assert!(Evidence::File(path.to_owned()).check().is_err(), "{path:?}");
        }
        assert!(Evidence::File("out/report.md".to_owned()).check().is_ok());
        assert!(Evidence::Command(Vec::new()).check().is_err());
        assert!(Evidence::Command(vec!["true".to_owned()]).check().is_ok());
    }
}
