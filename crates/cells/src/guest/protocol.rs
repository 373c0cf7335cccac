//! What shim and guest say to each other, and what hostd asks a guest.

use crate::files::{FileEntry, FileName};
use abbey_model::{Bytes, CellName};
use serde::{Deserialize, Serialize};
use std::net::SocketAddrV4;
use std::path::PathBuf;

/// Where the instructions are in a container.
pub(crate) const CONTAINER_CONFIG: &str = "/run/abbey-config";
/// User of the program in the guest.
pub(crate) const UID: u32 = 1000;

/// Instructions of a guest, which it reads once from a drive or file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct GuestConfig {
    /// Name of the cell.
    pub(crate) cell: CellName,
    /// Number of this boot.
    pub(crate) boot: u64,
    /// Whether this is a container, which shares the host's kernel and was set up by Podman.
    #[serde(default)]
    pub(crate) contained: bool,
    /// Whether the program is Abbey's own binary; `argv` begins with a program name all the same.
    pub(crate) own: bool,
    /// Arguments; the first is the program.
    pub(crate) argv: Vec<String>,
    /// Complete environment, as name and value.
    pub(crate) env: Vec<(String, String)>,
    /// Working directory.
    pub(crate) cwd: PathBuf,
    /// Whether the program runs on a terminal.
    pub(crate) terminal: bool,
    /// Whether the program announces readiness on descriptor 3.
    pub(crate) announces: bool,
    /// Maximum number of processes.
    pub(crate) processes: u32,
    /// Memory of the whole microVM.
    pub(crate) memory: Bytes,
    /// Addresses of the port forwards in the guest, in the order of the specification.
    pub(crate) listen: Vec<SocketAddrV4>,
    /// Files that the house writes for an agent.
    pub(crate) files: Vec<FileEntry>,
    /// Whether the shim sends files before the program starts.
    pub(crate) brings: bool,
    /// Paths of files that are sent to the shim when the program has ended.
    pub(crate) take: Vec<PathBuf>,
    /// Random seed for the guest's kernel.
    pub(crate) entropy: Vec<u8>,
    /// Current time, milliseconds since 1970.
    pub(crate) clock_ms: i64,
}

impl GuestConfig {
    /// Instructions for a program that runs others and prints, with which a microVM warms up before it gets its own.
    pub(crate) fn sample() -> Option<GuestConfig> {
        let mut entropy = vec![0; 64];
        rustix::rand::getrandom(&mut entropy, rustix::rand::GetRandomFlags::empty()).ok()?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Some(GuestConfig {
            cell: "run-warm".parse().ok()?,
            boot: 0,
            own: false,
            contained: false,
            argv: ["sh", "-c", "exec \"$@\"", "sh", "sh", "-c", "echo | cat"]
                .map(str::to_owned)
                .to_vec(),
            env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
            cwd: PathBuf::from("/"),
            terminal: false,
            announces: false,
            processes: 64,
            memory: Bytes(256 << 20),
            listen: Vec::new(),
            files: Vec::new(),
            brings: false,
            take: Vec::new(),
            entropy,
            clock_ms: i64::try_from(now.ok()?.as_millis()).ok()?,
        })
    }
}

/// Notices of the shim to the guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ShimNotice {
    /// Stop within this time: the program, then everything else, then unmount the drives.
    Stop {
        /// Time for the program, milliseconds.
        within_ms: u64,
    },
    /// Compare the clock with this, set it if it is off, and report how far it was off.
    Clock {
        /// Current time, milliseconds since 1970.
        now_ms: i64,
    },
    /// Close the program's terminal.
    HangUp {},
    /// Run a program once to warm up; for a guest that waits.
    Warm {},
    /// Read the instructions and run the program; for a guest that waits.
    Begin {},
}

/// Notices of the guest to the shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum GuestNotice {
    /// It has booted and waits for instructions.
    Waiting {},
    /// Its clock was compared with the shim's, and set if it was off.
    Clock {
        /// How far it was ahead, milliseconds; negative if it was behind.
        off_ms: i64,
    },
    /// It has warmed up.
    Warm {},
    /// The program runs.
    Running {
        /// Version of the guest's kernel.
        kernel: String,
    },
    /// The program announced readiness; each one after the first is a heartbeat of the program.
    Ready {},
    /// The program could not be started.
    Failed {
        /// Step and system error.
        why: String,
    },
    /// The program has ended, no process is left, and the drives were unmounted; the guest ends now.
    Ended {
        /// Wait status of the program.
        status: i32,
        /// Whether the guest ran out of memory.
        out_of_memory: bool,
        /// Whether every drive could be unmounted.
        clean: bool,
    },
}

/// Purpose of a stream that the guest opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "open", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum GuestStream {
    /// A connection to a port in the guest.
    Forward {
        /// Index of the port forward among those in the guest.
        index: usize,
    },
    /// Output of the program.
    Output {
        /// Whether it is the error output.
        errors: bool,
    },
    /// Input for the program.
    Input {},
    /// Files for a command, as a tar archive to the guest.
    Bring {},
    /// Files of a command, as a tar archive from the guest.
    Take {},
}

/// Purpose of a stream that hostd or a client opens to the guest. The reply is one line of JSON ([`GuestReply`])
/// unless stated otherwise.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum GuestRequest {
    /// Run a further program: its description follows as a line of JSON, then frames; see [`crate::program_stream`].
    Exec {},
    /// Attach a viewer to the program's terminal.
    Attach {
        /// Rows of the viewer.
        rows: u16,
        /// Columns of the viewer.
        columns: u16,
    },
    /// Connect to a port forward of the guest as its programs do: the connection's bytes follow, without a reply.
    Connect {
        /// Index of the port forward among those in the guest.
        index: usize,
    },
    /// Write files: entries follow as JSON, to the end of the stream.
    Prepare {},
    /// Read a known file of the agent.
    Read {
        /// Name of the file.
        file: FileName,
    },
    /// Pack the agent's home and workspace: a tar archive follows the reply.
    Pack {},
}

/// Reply of the guest to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum GuestReply {
    /// The request was performed.
    Done {},
    /// Content of a file.
    Text {
        /// The content.
        text: String,
    },
    /// The request failed.
    Failed {
        /// Reason.
        why: String,
    },
}
