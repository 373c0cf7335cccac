//! Files that the house knows in an agent's directories, by name.

use abbey_model::Slug;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Where shared documents are, below an agent's directory.
pub(super) const SHARED: &str = "workspace/shared";
/// Where credentials at services are, below an agent's directory.
pub(super) const SERVICES: &str = "home/services";
/// Where an agent's notes are, below its directory.
pub(super) const NOTES: &str = "workspace/memory";
/// How the control plane's copy of one is called, before the service's name.
pub(crate) const CREDENTIAL: &str = "service-";

/// A file that the house knows in an owner's directories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileName {
    /// `workspace/SOUL.md`, read-only for the agent.
    Charter,
    /// `workspace/SOUL.md`, writable by the agent.
    OwnCharter,
    /// `workspace/AGENTS.md`.
    Rules,
    /// `workspace/MEMORY.md`.
    Memory,
    /// `workspace/HEARTBEAT.md`.
    Heartbeat,
    /// `workspace/shared/NAME.md`, read-only for the agent; empty content removes it.
    Shared(Slug),
    /// Credential of the agent at a service: `home/services/NAME`, with a copy for the control plane; empty content
    /// removes both.
    Credential(Slug),
    /// Certificate of a service: `home/services/NAME.pem`; empty content removes it.
    Trust(Slug),
    /// Imported `workspace/USER.md`.
    User,
    /// Imported `workspace/IDENTITY.md`.
    Identity,
    /// Imported `workspace/AGENTS.md`.
    BroughtRules,
    /// Imported `workspace/MEMORY.md`.
    BroughtMemory,
    /// Imported `workspace/HEARTBEAT.md`.
    BroughtHeartbeat,
    /// A file of `workspace/memory/`.
    Note(NoteName),
    /// Credential for the agent API, with a copy for the control plane.
    Token,
    /// Virtual key of the agent, for the control plane.
    Key,
}

/// Name of a note: plain letters, and the end of Markdown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NoteName(String);

impl TryFrom<String> for NoteName {
    type Error = &'static str;
    fn try_from(name: String) -> Result<NoteName, &'static str> {
        match abbey_model::is_note_name(&name) {
            true => Ok(NoteName(name)),
            false => {
                Err("a note is called by letters, digits, `.`, `_` and `-`, and ends in `.md`")
            }
        }
    }
}

impl From<NoteName> for String {
    fn from(name: NoteName) -> String {
        name.0
    }
}

/// A file to write.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Name of the file.
    pub name: FileName,
    /// Text of the file.
    pub content: String,
}

/// Whose file it becomes, and how it may be used.
pub(super) enum Owner {
    /// Root's, read by everybody who can reach it.
    House,
    /// Root's, read by the control plane.
    ControlPlane,
    /// The agent's.
    Agent,
}

impl FileName {
    /// Whether this file was imported with an agent and belongs to the agent from then on.
    pub(crate) const fn is_imported(&self) -> bool {
        matches!(
            self,
            FileName::User
                | FileName::Identity
                | FileName::BroughtRules
                | FileName::BroughtMemory
                | FileName::BroughtHeartbeat
                | FileName::Note(_)
        )
    }

    /// Whether writing empty content removes the file.
    pub(crate) const fn is_removed_when_empty(&self) -> bool {
        matches!(
            self,
            FileName::Shared(_) | FileName::Credential(_) | FileName::Trust(_)
        )
    }

    /// What an agent starts with.
    pub(crate) const FOR_AGENTS: [FileName; 6] = [
        FileName::Charter,
        FileName::OwnCharter,
        FileName::Rules,
        FileName::Memory,
        FileName::Heartbeat,
        FileName::Token,
    ];

    /// Where and how the file is stored: directory below the owner's, file name, owner, mode, and whether an
    /// existing file is kept.
    pub(super) fn location(&self) -> (&'static str, Cow<'static, str>, Owner, u32, bool) {
        let (place, name, owner, mode, keep) = match self {
            FileName::Shared(name) => {
                let name = Cow::Owned(format!("{name}.md"));
                return (SHARED, name, Owner::House, 0o444, false);
            }
            FileName::Credential(name) => {
                let name = Cow::Owned(format!("{CREDENTIAL}{name}"));
                return ("", name, Owner::ControlPlane, 0o640, false);
            }
            FileName::Trust(name) => {
                let name = Cow::Owned(format!("{name}.pem"));
                return (SERVICES, name, Owner::Agent, 0o400, false);
            }
            FileName::Note(note) => {
                let name = Cow::Owned(note.0.clone());
                return (NOTES, name, Owner::Agent, 0o600, false);
            }
            FileName::User => ("workspace", "USER.md", Owner::Agent, 0o600, false),
            FileName::Identity => ("workspace", "IDENTITY.md", Owner::Agent, 0o600, false),
            FileName::BroughtRules => ("workspace", "AGENTS.md", Owner::Agent, 0o600, false),
            FileName::BroughtMemory => ("workspace", "MEMORY.md", Owner::Agent, 0o600, false),
            FileName::BroughtHeartbeat => ("workspace", "HEARTBEAT.md", Owner::Agent, 0o600, false),
            FileName::Charter => ("workspace", "SOUL.md", Owner::House, 0o444, false),
            FileName::OwnCharter => ("workspace", "SOUL.md", Owner::Agent, 0o600, true),
            FileName::Rules => ("workspace", "AGENTS.md", Owner::Agent, 0o600, true),
            FileName::Memory => ("workspace", "MEMORY.md", Owner::Agent, 0o600, true),
            FileName::Heartbeat => ("workspace", "HEARTBEAT.md", Owner::Agent, 0o600, true),
            FileName::Token => ("", "token", Owner::ControlPlane, 0o640, false),
            FileName::Key => ("", "key", Owner::ControlPlane, 0o640, false),
        };
        (place, Cow::Borrowed(name), owner, mode, keep)
    }
}
