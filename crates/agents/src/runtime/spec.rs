//! What the control plane needs to know to run a runtime in a cell.

use abbey_model::{ExitKind, Millis, Runtime};
use std::path::{Path, PathBuf};

/// How a runtime is installed, started, found ready, and stopped.
#[derive(Debug)]
pub struct RuntimeSpec {
    /// The runtime.
    pub runtime: Runtime,
    /// Where its program comes from.
    pub install: Install,
    /// Arguments with which this binary runs the driver as the main process of the cell, including the program's name.
    pub driver: &'static [&'static str],
    /// The environment of the driver, built from scratch.
    pub environment: fn(&CellEnvironment<'_>) -> Vec<(String, String)>,
    /// Files that the control plane writes and the runtime reads.
    pub files: Files,
    /// When the cell counts as ready.
    pub readiness: Readiness,
    /// Longest time for an orderly stop, after which the cell's processes are killed.
    pub stop_grace: Millis,
    /// Meanings of exit codes, for people who ask why an agent is down.
    pub exit_codes: &'static [(i32, &'static str)],
}

impl RuntimeSpec {
    /// Describes how the cell ended, with the meaning of the exit code if the runtime defines one.
    pub fn describe_exit(&self, exit: &ExitKind) -> String {
        let meaning = match exit {
            ExitKind::Code { code } => self.exit_codes.iter().find(|(c, _)| c == code),
            _ => None,
        };
        match meaning {
            Some((_, meaning)) => format!("{exit}: {meaning}"),
            None => exit.to_string(),
        }
    }
}

/// Where a runtime's program comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Install {
    /// It is part of this binary, so there is nothing to install.
    BuiltIn,
}

/// Files of a runtime, relative to the agent's workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Files {
    /// The charter.
    pub charter: &'static str,
}

/// When a started cell counts as ready: the driver writes a line to the descriptor that `ABBEY_READY_FD` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// Longest time until then.
    pub within: Millis,
    /// Longest time until then in a microVM, which boots a kernel first.
    pub within_microvm: Millis,
}

/// What a runtime's environment is made from.
#[derive(Debug, Clone, Copy)]
pub struct CellEnvironment<'a> {
    /// Name of the agent.
    pub agent: &'a str,
    /// Places of the agent, as the cell sees them.
    pub layout: &'a Layout,
    /// Directory of the command `abbey-agent`, as the cell sees it.
    pub commands: &'a Path,
    /// Port of the agent API on the cell's loopback interface.
    pub port: u16,
    /// Credential for model calls.
    pub model_key: &'a str,
}

/// Places of one agent under the house's directory, or under the root of its cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Directory of everything that belongs to the agent.
    pub root: PathBuf,
    /// Home directory: state of the runtime, with one writer.
    pub home: PathBuf,
    /// Workspace: charter, memory and work.
    pub workspace: PathBuf,
    /// File of the credential for the agent API.
    pub token: PathBuf,
}

impl Layout {
    /// Paths of an agent's files below `root`.
    pub fn under(root: &Path) -> Self {
        Layout {
            root: root.to_owned(),
            home: root.join("home"),
            workspace: root.join("workspace"),
            token: root.join("home").join("token"),
        }
    }
}
