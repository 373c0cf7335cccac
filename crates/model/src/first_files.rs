//! Where the first files of a new agent come from.

use crate::Slug;
use std::fmt;
use std::str::FromStr;

/// Source of the first files of a new agent, written `template:NAME`, `archive:STAMP` or `agent:NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstFiles {
    /// Home and workspace in the saved template of this name.
    Template(Slug),
    /// Files that an agent of the same name had when it was removed at this instant, as the archive's name has it.
    Archive(String),
    /// Files that make the agent of this name who it is, without credentials.
    Agent(Slug),
}

impl fmt::Display for FirstFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FirstFiles::Template(name) => write!(f, "template:{name}"),
            FirstFiles::Archive(stamp) => write!(f, "archive:{stamp}"),
            FirstFiles::Agent(original) => write!(f, "agent:{original}"),
        }
    }
}

impl FromStr for FirstFiles {
    type Err = String;

    fn from_str(text: &str) -> Result<FirstFiles, String> {
        let wrong =
            || format!("`{text}` is none of `template:NAME`, `archive:STAMP` and `agent:NAME`");
        match text.split_once(':').ok_or_else(wrong)? {
            ("template", name) => name
                .parse()
                .map(FirstFiles::Template)
                .map_err(|e| format!("`{text}`: {e}")),
            ("agent", name) => name
                .parse()
                .map(FirstFiles::Agent)
                .map_err(|e| format!("`{text}`: {e}")),
            ("archive", stamp) => Ok(FirstFiles::Archive(stamp.to_owned())),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::FirstFiles;

    #[test]
    fn the_notation_is_read_as_it_is_written() {
        for text in [
            "template:tooled",
            "agent:iris",
            "archive:2026-11-26T00-00-00-000Z",
        ] {
            assert_eq!(text.parse::<FirstFiles>().unwrap().to_string(), text);
        }
        for text in ["tooled", "template:../x", "template:", "disk:x", ""] {
            assert!(text.parse::<FirstFiles>().is_err(), "{text}");
        }
    }
}
