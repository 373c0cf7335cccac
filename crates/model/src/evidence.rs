//! What must hold before work counts as done.

use crate::Slug;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One thing that the house looks at, in the cell of whoever says that the work is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// A file of the workspace that is there and not empty.
    File(String),
    /// A program that ends with 0, by argument vector, in the workspace.
    Command(Vec<String>),
    /// Another agent reads the result and says yes.
    Review(Slug),
}

impl Evidence {
    /// What is wrong with it, if anything.
    ///
    /// # Errors
    /// In words.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Evidence::File(path) => {
                let inside = !path.starts_with(['/', '-'])
                    && !path.contains('\0')
                    && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
                inside.then_some(()).ok_or(format!(
                    "evidence is a file of the workspace by its relative path, not `{path}`"
                ))
            }
            Evidence::Command(argv) => match argv.first() {
                Some(program) if !program.is_empty() && !argv.iter().any(|a| a.contains('\0')) => {
                    Ok(())
                }
                _ => Err("evidence by a command names a program".to_owned()),
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
    fn a_file_stays_in_the_workspace_and_a_command_has_a_program() {
        for path in ["", "/etc/passwd", "../x", "a//b", "a/./b", "-e", "a\0"] {
            assert!(Evidence::File(path.to_owned()).check().is_err(), "{path:?}");
        }
        assert!(Evidence::File("out/report.md".to_owned()).check().is_ok());
        assert!(Evidence::Command(Vec::new()).check().is_err());
        assert!(Evidence::Command(vec!["true".to_owned()]).check().is_ok());
    }
}
