//! Operations of hostd, requests and replies, as they go over its socket.

use crate::allocation::Allocation;
use crate::files::{FileEntry, FileName};
use crate::program_stream::TerminalSize;
use crate::{CellSpec, Error};
use abbey_model::{CellName, Checkpoint, Generation, Millis, Slug};
use abbey_plan::HostFacts;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Longest request, bytes.
pub const REQUEST_MAX: u64 = 4 << 20;

/// Operations of hostd; everything else is refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum HostdOperation {
    /// Returns version, process and privilege of hostd.
    Hello {},
    /// Returns the owners that have an allocation, and what it is.
    Owners {},
    /// Sets the allocation of an owner, which keeps its user.
    #[serde(rename = "claim")]
    Allocate {
        /// Owner of the allocation.
        owner: CellName,
        /// Requested allocation.
        #[serde(rename = "claim")]
        allocation: Allocation,
    },
    /// Removes the allocation of an owner that has neither files nor a cell.
    Release {
        /// Owner of the allocation.
        owner: CellName,
    },
    /// Creates the directories of an owner and writes files into them.
    Prepare {
        /// Owner of the files.
        owner: CellName,
        /// Files to write.
        files: Vec<FileEntry>,
    },
    /// Returns facts about the host.
    Observe {
        /// Images from which containers are to be made, without their registry: those that are missing are among the
        /// facts.
        #[serde(default)]
        container_images: BTreeSet<String>,
        /// Agents whose files may be in directories still though they are to be on drives: the sizes of those are among
        /// the facts.
        #[serde(default)]
        sizes_of: BTreeSet<Slug>,
    },
    /// Reads a known file of an owner.
    Read {
        /// Owner of the files.
        owner: CellName,
        /// File to read.
        file: FileName,
    },
    /// Reads a secret file that root named by applying a manifest.
    ReadSecret {
        /// Absolute path of the file.
        path: PathBuf,
    },
    /// Moves the files of an owner to `removed/`.
    Archive {
        /// Owner of the files.
        owner: CellName,
        /// Time stamp that ends the new name.
        stamp: String,
    },
    /// Gives an owner without a running cell another name: its files, logs and allocation. Does nothing if that was
    /// done before.
    Rename {
        /// Name before.
        owner: CellName,
        /// Name afterwards.
        to: CellName,
    },
    /// Lists the agents' files that [`HostdOperation::Archive`] moved.
    Archives {},
    /// Moves archived files of an agent back, without credentials, if it has no files now.
    Restore {
        /// Owner of the files.
        owner: CellName,
        /// Time stamp of the archive.
        stamp: String,
    },
    /// Gives an agent that is still to be created, and has no files, the home and workspace in the passed tar archive.
    Fill {
        /// Owner of the files.
        owner: CellName,
    },
    /// Creates a ZFS snapshot of the data set that holds the house.
    Snapshot {
        /// Label that ends the name of the snapshot.
        label: String,
    },
    /// Unpacks the passed tar archive into the empty directory of a command.
    Stage {
        /// Owner of the files.
        owner: CellName,
    },
    /// Packs files of a command into the passed file, as a tar archive.
    Collect {
        /// Owner of the files.
        owner: CellName,
        /// Paths below the directory of the command.
        paths: Vec<PathBuf>,
    },
    /// Deletes the files of a command that has ended, and its allocation.
    Discard {
        /// Owner of the files.
        owner: CellName,
    },
    /// Packs the files of agents, without credentials, into the passed file.
    Pack {
        /// Agent to pack; none packs every agent and the allocations.
        #[serde(default)]
        owner: Option<Slug>,
        /// Whether the files of services are packed as well, with every credential among them.
        #[serde(default)]
        services: bool,
    },
    /// Starts a cell; the process that serves the call becomes its shim. The program uses three passed descriptors
    /// as its standard streams, or the log.
    Start {
        /// Number of the boot.
        generation: Generation,
        /// Specification of the cell.
        spec: Box<CellSpec>,
    },
    /// Gives a waiting microVM its program, which uses the three passed descriptors as its standard streams.
    Begin {
        /// Specification of the cell.
        spec: Box<CellSpec>,
    },
    /// Kills what is left of a cell and removes its records.
    Sweep {
        /// Name of the cell.
        cell: CellName,
    },
    /// Runs a further program in a cell, and carries its streams over the passed connection; see
    /// [`crate::program_stream`].
    Enter {
        /// Name of the cell.
        cell: CellName,
        /// Program and arguments.
        argv: Vec<String>,
        /// Complete environment, as name and value.
        env: Vec<(String, String)>,
        /// Working directory as the cell sees it.
        cwd: PathBuf,
        /// Size of the program's terminal; none connects it to pipes.
        #[serde(default)]
        terminal: Option<TerminalSize>,
    },
    /// Appends signed heads of the audit log to the checkpoint file, which the control plane cannot change.
    KeepCheckpoints {
        /// Signed heads, oldest first.
        checkpoints: Vec<Checkpoint>,
    },
    /// Appends to a checkpoint sink the lines of the checkpoint file that it lacks. As root, only to a file that root named
    /// by applying a manifest.
    CopyCheckpoints {
        /// Absolute path of the sink.
        path: PathBuf,
    },
    /// Gives what belongs to the house itself in its home the owners and modes that it must have.
    ProtectHome {},
    /// Applies the firewall rules of the allocations. They are rolled back unless the caller confirms in time, on
    /// the same connection, that it still reaches the host.
    Firewall {
        /// Time for the confirmation.
        confirm_within: Millis,
    },
    /// Ends hostd. Cells keep running; without cells the interfaces and firewall table are removed.
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
                | HostdOperation::Fill { .. }
                | HostdOperation::Snapshot { .. }
                | HostdOperation::End {}
        )
    }

    /// What the operation does, as it follows "hostd could not" in a message.
    pub const fn phrase(&self) -> &'static str {
        match self {
            HostdOperation::Hello {} => "report its version",
            HostdOperation::Owners {} => "list owners",
            HostdOperation::Allocate { .. } => "allocate a user and addresses",
            HostdOperation::Release { .. } => "release an allocation",
            HostdOperation::Prepare { .. } => "write the files of a cell",
            HostdOperation::Observe { .. } => "inspect the host",
            HostdOperation::Read { .. } => "read a file of a cell",
            HostdOperation::ReadSecret { .. } => "read a secret",
            HostdOperation::Archive { .. } => "archive files",
            HostdOperation::Rename { .. } => "rename a cell",
            HostdOperation::Archives {} => "list archived files",
            HostdOperation::Restore { .. } => "restore archived files",
            HostdOperation::Fill { .. } => "unpack the files of an agent",
            HostdOperation::Snapshot { .. } => "make a snapshot",
            HostdOperation::Stage { .. } => "unpack the files of a command",
            HostdOperation::Collect { .. } => "pack the files of a command",
            HostdOperation::Discard { .. } => "delete the files of a command",
            HostdOperation::Pack { .. } => "pack files",
            HostdOperation::Start { .. } => "start a cell",
            HostdOperation::Begin { .. } => "start a program in a microVM",
            HostdOperation::Sweep { .. } => "clean up after a cell",
            HostdOperation::Enter { .. } => "run a program in a cell",
            HostdOperation::KeepCheckpoints { .. } => "store checkpoints of the audit log",
            HostdOperation::CopyCheckpoints { .. } => "copy checkpoints to a sink",
            HostdOperation::ProtectHome {} => "repair owners and modes of files",
            HostdOperation::Firewall { .. } => "apply the firewall",
            HostdOperation::End {} => "end",
        }
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
            HostdOperation::Observe { .. } => ("observe", String::new()),
            HostdOperation::Read { owner, .. } => ("read", owner.to_string()),
            HostdOperation::ReadSecret { path } => ("read", path.display().to_string()),
            HostdOperation::Archive { owner, .. } => ("archive", owner.to_string()),
            HostdOperation::Rename { owner, .. } => ("rename", owner.to_string()),
            HostdOperation::Archives {} => ("archives", String::new()),
            HostdOperation::Restore { owner, .. } => ("restore", owner.to_string()),
            HostdOperation::Fill { owner } => ("fill", owner.to_string()),
            HostdOperation::Snapshot { .. } => ("snapshot", String::new()),
            HostdOperation::Stage { owner } => ("stage", owner.to_string()),
            HostdOperation::Collect { owner, .. } => ("collect", owner.to_string()),
            HostdOperation::Discard { owner } => ("discard", owner.to_string()),
            HostdOperation::Pack { owner, .. } => (
                "pack",
                owner
                    .as_ref()
                    .map_or_else(String::new, |o| format!("agent-{o}")),
            ),
            HostdOperation::Start { spec, .. } => ("start", spec.cell.to_string()),
            HostdOperation::Begin { spec } => ("begin", spec.cell.to_string()),
            HostdOperation::Sweep { cell } => ("sweep", cell.to_string()),
            HostdOperation::Enter { cell, .. } => ("enter", cell.to_string()),
            HostdOperation::KeepCheckpoints { .. } => ("checkpoints", String::new()),
            HostdOperation::CopyCheckpoints { path } => ("checkpoints", path.display().to_string()),
            HostdOperation::ProtectHome {} => ("protect", String::new()),
            HostdOperation::Firewall { .. } => ("firewall", String::new()),
            HostdOperation::End {} => ("end", String::new()),
        }
    }
}

/// Request to hostd.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostdRequest {
    /// Requested operation.
    pub operation: HostdOperation,
    /// Whether the operation is only checked.
    #[serde(default)]
    pub dry_run: bool,
}

/// Version, process and privilege of a running hostd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the binary.
    pub version: String,
    /// Process id.
    pub pid: i32,
    /// Whether it runs as root.
    pub privileged: bool,
    /// First user id of this house.
    pub uid_first: u32,
}

/// Reply of hostd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostdReply {
    /// The operation succeeded, or would in a dry run.
    Done,
    /// Nothing had to be changed.
    InForce,
    /// Firewall rules are applied and will be rolled back unless the caller sends a byte in time. Another reply
    /// follows.
    Trial,
    /// Reply to [`HostdOperation::Hello`].
    Hello(Hello),
    /// Reply to [`HostdOperation::Owners`].
    Owners {
        /// Allocation of each owner.
        owners: BTreeMap<CellName, Allocation>,
    },
    /// Reply to [`HostdOperation::Read`] and [`HostdOperation::ReadSecret`].
    Text {
        /// Content; empty if the file does not exist.
        text: String,
    },
    /// Reply to [`HostdOperation::Archives`].
    Archives {
        /// Agents and time stamps, oldest first.
        archives: Vec<(Slug, String)>,
    },
    /// Reply to [`HostdOperation::Pack`].
    Packed {
        /// What could not be carried, one line for each path.
        left_out: Vec<String>,
        /// Agents and services of which files are missing, each with the reason.
        #[serde(default)]
        incomplete: Vec<String>,
    },
    /// Reply to [`HostdOperation::Snapshot`].
    Snapshot {
        /// Full name of the snapshot.
        name: String,
    },
    /// Reply to [`HostdOperation::Observe`].
    Host {
        /// Facts about the host.
        facts: Box<HostFacts>,
    },
    /// Reply to [`HostdOperation::Enter`].
    Exit {
        /// Exit status as a shell gives it: 128 plus the signal if a signal ended the program.
        code: i32,
    },
    /// The operation is not allowed.
    Refused {
        /// Violated rule.
        why: String,
    },
    /// The operation was tried and failed.
    Failed {
        /// Reason.
        why: String,
    },
}

impl HostdReply {
    /// Error for a reply that does not belong to the operation.
    pub(super) fn unexpected_reply_error(&self) -> Error {
        Error::Hostd {
            op: "answer as expected",
            why: format!("unexpected reply: {self:?}"),
        }
    }
}

/// Why an operation on the files of an owner is refused while its cell runs.
pub(super) fn still_running(owner: &CellName) -> String {
    format!("{owner} still has a running cell; stop it first")
}

/// The reply that refuses an operation.
pub(super) fn refused(why: impl Into<String>) -> crate::Result<HostdReply> {
    Ok(HostdReply::Refused { why: why.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_is_requested_by_the_keys_of_earlier_releases() {
        let request = HostdRequest {
            operation: HostdOperation::Allocate {
                owner: "agent-a".parse().unwrap(),
                allocation: Allocation::default(),
            },
            dry_run: false,
        };
        let json = serde_json::to_value(&request).unwrap();
        assert_eq!(json["operation"]["op"], "claim");
        assert!(json["operation"]["claim"]["uid"].is_null());
        let spec = serde_json::to_value(CellSpec::sample()).unwrap();
        assert!(spec.get("machine").is_some() && spec.get("microvm").is_none());
    }
}
