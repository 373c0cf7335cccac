//! The native runtime's adapter: where its files are and what its environment holds.

use std::path::{Path, PathBuf};

/// Places of one agent under the house's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Everything of this agent.
    pub root: PathBuf,
    /// Runtime state, one writer.
    pub home: PathBuf,
    /// Charter, memory and work.
    pub workspace: PathBuf,
    /// The agent's credential for the inside door.
    pub token: PathBuf,
}

impl Layout {
    /// The layout below `root`.
    pub fn under(root: &Path) -> Self {
        Layout {
            root: root.to_owned(),
            home: root.join("home"),
            workspace: root.join("workspace"),
            token: root.join("home").join("token"),
        }
    }
}

/// The whole environment of a native agent, built from scratch.
pub fn native_environment(
    agent: &str,
    layout: &Layout,
    door: u16,
    key: &str,
) -> Vec<(String, String)> {
    let url = format!("http://127.0.0.1:{door}");
    let pairs = [
        ("HOME", layout.home.display().to_string()),
        ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("LC_ALL", "C.UTF-8".to_owned()),
        ("ABBEY_AGENT", agent.to_owned()),
        ("ABBEY_URL", url.clone()),
        ("ABBEY_TOKEN_FILE", layout.token.display().to_string()),
        ("OPENAI_BASE_URL", format!("{url}/v1")),
        ("OPENAI_API_KEY", key.to_owned()),
        ("ANTHROPIC_BASE_URL", url),
        ("ANTHROPIC_API_KEY", key.to_owned()),
    ];
    pairs.map(|(k, v)| (k.to_owned(), v)).to_vec()
}
