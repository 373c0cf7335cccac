//! Names of files in an agent's workspace that mean something to the house.

/// Files that make an agent who it is; beside them its notes lie in `memory/`. The first is its charter.
pub const IDENTITY_FILES: [&str; 6] = [
    "SOUL.md",
    "USER.md",
    "IDENTITY.md",
    "AGENTS.md",
    "MEMORY.md",
    "HEARTBEAT.md",
];

/// Text of `AGENTS.md` in the workspace of a new agent. The file is the agent's, so its model is shown it as notes, and not
/// while it is this text.
pub const DEFAULT_NOTES: &str = "# Notes of this agent\n\nHow this agent works. It may change this file, whose content is shown to its model as its own notes.\n";

/// Longest name, in bytes.
const NAME_MAX: usize = 80;

/// Whether a text is a valid name of a note: ASCII letters, digits, `.`, `_` and `-`, beginning with a letter or digit and
/// ending in `.md`.
pub fn is_note_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    name.len() <= NAME_MAX
        && name.ends_with(".md")
        && name.bytes().all(plain)
        && name
            .as_bytes()
            .first()
            .is_some_and(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_names_are_plain_and_end_in_md() {
        assert!(is_note_name("2026-11-26.md"));
        for bad in [
            "",
            ".md",
            ".hidden.md",
            "a/b.md",
            "../x.md",
            "x.txt",
            "a b.md",
        ] {
            assert!(!is_note_name(bad), "{bad}");
        }
        assert!(!is_note_name(&format!("{}.md", "x".repeat(NAME_MAX))));
    }
}
