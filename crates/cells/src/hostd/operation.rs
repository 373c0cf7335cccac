//! Operations of hostd, requests and replies, as they go over its socket.

use crate::allocation::Allocation;
use crate::files::{FileEntry, FileName};
use crate::{CellSpec, Error};
use abbey_model::{CellName, Generation, Millis, Slug};
use abbey_plan::HostFacts;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Longest request, bytes.
pub const REQUEST_MAX: u64 = 4 << 20;

/// Everything that can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum HostdOperation {
    /// Who serves here, and with which privilege.
    Hello {},
    /// Who holds anything.
    Owners {},
    /// Gives things to an owner; what it holds already stays.
    #[serde(rename = "claim")]
    Allocate {
        /// Owner of the allocation.
        owner: CellName,
        /// Requested allocation.
        #[serde(rename = "claim")]
        allocation: Allocation,
    },
    /// Takes everything back from an owner that has no files and no cell any more.
    Release {
        /// Whose.
        owner: CellName,
    },
    /// Makes the directories of an owner and writes the house's files in them.
    Prepare {
        /// Whose.
        owner: CellName,
        /// Which.
        files: Vec<FileEntry>,
    },
    /// What the host uses already, and what can be enforced on it.
    Observe {},
    /// Reads one of the files that an agent writes for the house.
    Read {
        /// Whose.
        owner: CellName,
        /// Which.
        file: FileName,
    },
    /// Moves the files of an owner aside.
    Archive {
        /// Whose.
        owner: CellName,
        /// Part of the new name.
        stamp: String,
    },
    /// What lies aside of agents' files, by [`HostdOperation::Archive`].
    Archives {},
    /// Brings files back that were moved aside, without credentials; where there are none now.
    Restore {
        /// Whose.
        owner: CellName,
        /// Which.
        stamp: String,
    },
    /// Makes a snapshot of the data set that holds the house, where that is on ZFS.
    Snapshot {
        /// Part of its name.
        label: String,
    },
    /// Brings files into the empty directory of a single command: an archive comes along.
    Stage {
        /// Whose.
        owner: CellName,
    },
    /// Takes files of a single command into the archive that comes along.
    Collect {
        /// Whose.
        owner: CellName,
        /// Which, below its directory.
        paths: Vec<PathBuf>,
    },
    /// Deletes the files of a single command that has ended, and takes back what it held.
    Discard {
        /// Whose.
        owner: CellName,
    },
    /// Packs agents' files into the descriptor that comes along, without credentials.
    Pack {
        /// Whose; every agent's, and the claims, when not given.
        #[serde(default)]
        owner: Option<Slug>,
    },
    /// Starts a boot of a cell; the process that serves the call becomes its shim. With three
    /// descriptors the program speaks there and not to the log.
    Start {
        /// Which boot.
        generation: Generation,
        /// Of what.
        spec: Box<CellSpec>,
    },
    /// Lets a microVM that was kept waiting run its program; three descriptors come along, where it speaks.
    Begin {
        /// Of what.
        spec: Box<CellSpec>,
    },
    /// Ends whatever is left of a cell.
    Sweep {
        /// Which.
        cell: CellName,
    },
    /// Runs one more program in a cell, with the three descriptors that come along.
    Enter {
        /// Which.
        cell: CellName,
        /// Program and arguments.
        argv: Vec<String>,
        /// The whole environment.
        env: Vec<(String, String)>,
        /// Working directory as the cell sees it.
        cwd: PathBuf,
    },
    /// Brings the firewall to what the owners hold. It is put back as it was unless the caller says
    /// within this time, on the same connection, that it still reaches what it needs.
    Firewall {
        /// Time for that word.
        confirm_within: Millis,
    },
    /// Ends hostd; cells go on, and where there is none, the firewall goes as well.
    End {},
}

impl HostdOperation {
    /// Whether performing the operation twice has the same effect as once, so that a client may repeat it after a
    /// broken connection.
    pub(super) const fn is_idempotent(&self) -> bool {
        !matches!(
            self,
            HostdOperation::Start { .. }
                | HostdOperation::Begin { .. }
                | HostdOperation::Enter { .. }
                | HostdOperation::Stage { .. }
                | HostdOperation::Collect { .. }
                | HostdOperation::Pack { .. }
                | HostdOperation::Restore { .. }
                | HostdOperation::Snapshot { .. }
                | HostdOperation::End {}
        )
    }

    /// Name of the operation and the owner or cell it is about, for the journal. Never contents, arguments or
    /// environments.
    pub fn summary(&self) -> (&'static str, String) {
        match self {
            HostdOperation::Hello {} => ("hello", String::new()),
            HostdOperation::Owners {} => ("owners", String::new()),
            HostdOperation::Allocate { owner, .. } => ("claim", owner.to_string()),
            HostdOperation::Release { owner } => ("release", owner.to_string()),
            HostdOperation::Prepare { owner, .. } => ("prepare", owner.to_string()),
            HostdOperation::Observe {} => ("observe", String::new()),
            HostdOperation::Read { owner, .. } => ("read", owner.to_string()),
            HostdOperation::Archive { owner, .. } => ("archive", owner.to_string()),
            HostdOperation::Archives {} => ("archives", String::new()),
            HostdOperation::Restore { owner, .. } => ("restore", owner.to_string()),
            HostdOperation::Snapshot { .. } => ("snapshot", String::new()),
            HostdOperation::Stage { owner } => ("stage", owner.to_string()),
            HostdOperation::Collect { owner, .. } => ("collect", owner.to_string()),
            HostdOperation::Discard { owner } => ("discard", owner.to_string()),
            HostdOperation::Pack { owner } => (
                "pack",
                owner
                    .as_ref()
                    .map_or_else(String::new, |o| format!("agent-{o}")),
            ),
            HostdOperation::Start { spec, .. } => ("start", spec.cell.to_string()),
            HostdOperation::Begin { spec } => ("begin", spec.cell.to_string()),
            HostdOperation::Sweep { cell } => ("sweep", cell.to_string()),
            HostdOperation::Enter { cell, .. } => ("enter", cell.to_string()),
            HostdOperation::Firewall { .. } => ("firewall", String::new()),
            HostdOperation::End {} => ("end", String::new()),
        }
    }
}

/// One call.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostdRequest {
    /// What is asked.
    pub operation: HostdOperation,
    /// Whether to check only.
    #[serde(default)]
    pub dry_run: bool,
}

/// What hostd says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the binary.
    pub version: String,
    /// Its process.
    pub pid: i32,
    /// Whether it runs as root.
    pub privileged: bool,
    /// First user number of this house.
    pub uid_first: u32,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostdReply {
    /// Done, or would be.
    Done,
    /// Nothing was to do: it is as it should be.
    InForce,
    /// Done for now: it is undone unless the caller sends a byte in time. Another answer follows.
    Trial,
    /// Answer to [`HostdOperation::Hello`].
    Hello(Hello),
    /// Answer to [`HostdOperation::Owners`].
    Owners {
        /// All of them.
        owners: Vec<CellName>,
    },
    /// Answer to [`HostdOperation::Read`].
    Text {
        /// Content; empty when there is none.
        text: String,
    },
    /// Answer to [`HostdOperation::Archives`].
    Archives {
        /// Whose and when, oldest first.
        archives: Vec<(Slug, String)>,
    },
    /// Answer to [`HostdOperation::Snapshot`].
    Snapshot {
        /// Its name.
        name: String,
    },
    /// Answer to [`HostdOperation::Observe`].
    Host {
        /// What was seen.
        facts: Box<HostFacts>,
    },
    /// Answer to [`HostdOperation::Enter`]: exit status as a shell gives it.
    Exit {
        /// 128 and the signal when one ended it.
        code: i32,
    },
    /// It was not a thing to ask for.
    Refused {
        /// Which rule.
        why: String,
    },
    /// It was tried.
    Failed {
        /// What went wrong.
        why: String,
    },
}

impl HostdReply {
    /// Error for a reply that does not belong to the operation.
    pub(super) fn into_unexpected_error(&self) -> Error {
        Error::Hostd {
            op: "call",
            why: format!("it answered something else: {self:?}"),
        }
    }
}
