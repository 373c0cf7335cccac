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

/// What the guest is told on a drive that it reads once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct GuestConfig {
    /// Whose cell.
    pub(crate) cell: CellName,
    /// Number of this boot.
    pub(crate) boot: u64,
    /// Whether this is a container: what is around it is made, and shared with the host.
    #[serde(default)]
    pub(crate) contained: bool,
    /// Whether the program is the house's own; its arguments begin with its name all the same.
    pub(crate) own: bool,
    /// Arguments, the first being the program.
    pub(crate) argv: Vec<String>,
    /// The whole environment.
    pub(crate) env: Vec<(String, String)>,
    /// Working directory.
    pub(crate) cwd: PathBuf,
    /// Whether the program runs on a terminal.
    pub(crate) terminal: bool,
    /// Whether it announces that it is up, on descriptor 3.
    pub(crate) announces: bool,
    /// Most processes.
    pub(crate) processes: u32,
    /// Memory of the whole machine.
    pub(crate) memory: Bytes,
    /// Ports that lead to the house, in the order of its forwards inside.
    pub(crate) listen: Vec<SocketAddrV4>,
    /// What the house wrote for an agent.
    pub(crate) files: Vec<FileEntry>,
    /// Whether it starts with files of the house's.
    pub(crate) brings: bool,
    /// Files that are taken when it has ended.
    pub(crate) take: Vec<PathBuf>,
    /// For the kernel's generator of random numbers, which nothing else may have seeded.
    pub(crate) entropy: Vec<u8>,
    /// Milliseconds since 1970.
    pub(crate) clock_ms: i64,
}

impl GuestConfig {
    /// Instructions that run `true`, with which a microVM warms up before it gets its own.
    pub(crate) fn sample() -> Option<GuestConfig> {
        let mut entropy = vec![0; 64];
        rustix::rand::getrandom(&mut entropy, rustix::rand::GetRandomFlags::empty()).ok()?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Some(GuestConfig {
            cell: "run-warm".parse().ok()?,
            boot: 0,
            own: false,
            contained: false,
            argv: vec!["true".to_owned()],
            env: Vec::new(),
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

/// What the shim says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ShimNotice {
    /// End within this time: the program first, then everything else, drives clean.
    Stop {
        /// Milliseconds for the program.
        within_ms: u64,
    },
    /// The time; a microVM that was held has missed some.
    Clock {
        /// Milliseconds since 1970.
        now_ms: i64,
    },
    /// The program's terminal is to be hung up.
    HangUp {},
    /// Whoever waits runs a program once, so that everything that takes is in memory.
    Warm {},
    /// Whoever waits reads what it is for.
    Begin {},
}

/// What the guest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum GuestNotice {
    /// It has booted, and waits to be told what for.
    Waiting {},
    /// It has run a program.
    Warm {},
    /// The program runs.
    Running {
        /// Version of the kernel.
        kernel: String,
    },
    /// It announced that it is up.
    Ready {},
    /// It could not be started.
    Failed {
        /// Step and system error.
        why: String,
    },
    /// It has ended, nothing of it is left, and the drives are clean; the microVM goes down now.
    Ended {
        /// As `wait` tells it.
        status: i32,
        /// Whether it ran out of memory.
        out_of_memory: bool,
        /// Whether every drive could be unmounted.
        clean: bool,
    },
}

/// What the guest opens a stream for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "open", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum GuestStream {
    /// Somebody inside called one of the ports.
    Forward {
        /// Which, of those inside.
        index: usize,
    },
    /// What the program says.
    Output {
        /// Whether on its error output.
        errors: bool,
    },
    /// What it is told.
    Input {},
    /// Files that it starts with: an archive comes.
    Bring {},
    /// Files that it leaves: an archive goes.
    Take {},
}

/// What the house opens a stream for. Every answer is one line of JSON ([`GuestReply`]) unless it says otherwise.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum GuestRequest {
    /// One more program: its description follows as a line of JSON, then frames; see `request`.
    Exec {},
    /// The terminal of the program, as the shim's own.
    Attach {
        /// Rows of the viewer.
        rows: u16,
        /// Its columns.
        columns: u16,
    },
    /// Files for an agent: entries as JSON follow, to the end of the stream.
    Prepare {},
    /// A file that an agent writes for the house.
    Read {
        /// Which.
        file: FileName,
    },
    /// Files of an agent that last, as an archive after the answer.
    Pack {},
}

/// What a request led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum GuestReply {
    /// Done.
    Done {},
    /// A file.
    Text {
        /// Its content.
        text: String,
    },
    /// Not done.
    Failed {
        /// Why.
        why: String,
    },
}

/// A program to run in the guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GuestCommand {
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) cwd: PathBuf,
}
