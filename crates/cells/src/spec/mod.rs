//! Specification of one boot of a cell: everything that its shim is told.

mod microvm;
mod network;

pub use microvm::{BootOrigin, MicroVm};
pub use network::{CellNetwork, HouseTag};

use abbey_model::{Bytes, CellKind, CellName, Layer, Limits, Millis, Profile, Slug};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::path::PathBuf;

/// The program of a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellProgram {
    /// The binary of the shim itself, whatever became of its file.
    Own,
    /// A program by absolute path.
    Path(PathBuf),
}

/// Where a forward listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenAddress {
    /// In the cell's own network.
    Cell(SocketAddrV4),
    /// On the host: the gateway's address, or loopback for a cell that shares the host's network.
    Host(SocketAddrV4),
}

impl ListenAddress {
    /// IPv4 address and port, whether in the cell or on the host.
    pub const fn socket_address(self) -> SocketAddrV4 {
        match self {
            ListenAddress::Cell(address) | ListenAddress::Host(address) => address,
        }
    }
}

/// Where a forward leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardTarget {
    /// The house's socket for agents.
    House(PathBuf),
    /// The house's egress proxy, which is told first whose connection it is.
    Egress(PathBuf),
    /// The house's way to names, which is told first whose connection it is.
    Names(PathBuf),
    /// A service of the house.
    Service(SocketAddrV4),
    /// A service outside the house, at the address that hostd's record has for it when a connection begins.
    External {
        /// Its name.
        service: Slug,
        /// The record; hostd sets it.
        record: PathBuf,
    },
}

/// A port of a cell that leads to the house, to the proxy, or to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortForward {
    /// Where it listens.
    pub at: ListenAddress,
    /// Where it leads.
    pub to: ForwardTarget,
}

/// A directory or file of the host that a cell sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// On the host, absolute.
    pub source: PathBuf,
    /// In the cell, absolute.
    pub path: PathBuf,
    /// Whether it can be written.
    pub writable: bool,
}

/// Walls around a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// What it sees of the host beside the base, in order.
    pub binds: Vec<Bind>,
    /// Filter of system calls.
    pub profile: Profile,
    /// Size of `/tmp`.
    pub tmp: Bytes,
}

impl Sandbox {
    /// Where the house's own binary is in every sandbox.
    pub const OWN: &str = "/abbey/abbey";
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Image that Podman knows under `localhost/`.
    pub image: String,
    /// Where the house's own things for it are; hostd puts it in.
    pub images: PathBuf,
    /// The owner's files; hostd puts it in.
    pub files: PathBuf,
}

/// Everything that one boot of a cell needs. Sent to the shim over a pipe, never in arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellSpec {
    /// Whose cell.
    pub cell: CellName,
    /// Kind of isolation.
    pub kind: CellKind,
    /// Digest of what a restart is needed for.
    pub digest: String,
    /// The program.
    pub program: CellProgram,
    /// Arguments, the first being the name.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: PathBuf,
    /// User of the cell; none shares the house's.
    pub uid: Option<u32>,
    /// Ceilings.
    pub limits: Limits,
    /// Layers without which the cell may run.
    pub waived: BTreeSet<Layer>,
    /// Walls; none for a plain process.
    pub sandbox: Option<Sandbox>,
    /// A microVM of its own; its program runs in it.
    #[serde(default, rename = "machine")]
    pub microvm: Option<MicroVm>,
    /// A container; its program runs in it.
    #[serde(default)]
    pub container: Option<Container>,
    /// A network of its own; none leaves it with loopback, or with the host's if it is a plain
    /// process.
    pub network: Option<CellNetwork>,
    /// Its ways to the house and to services.
    pub forwards: Vec<PortForward>,
    /// Whether the program runs on a terminal, to which one can attach.
    pub terminal: bool,
    /// Time for the child to announce readiness on descriptor 3; none means ready at once.
    pub ready_within: Option<Millis>,
    /// Directory of records and the control socket.
    pub run_dir: PathBuf,
    /// Directory of logs.
    pub log_dir: PathBuf,
    /// Name of the house's control group.
    pub group: String,
    /// Texts to keep out of the logs.
    pub secrets: Vec<String>,
    /// Whether its program may start others that have more rights than it; never told by a caller.
    #[serde(skip)]
    pub asks_root: bool,
}

#[cfg(test)]
impl CellSpec {
    /// A microVM of an agent, for tests.
    pub(crate) fn sample() -> CellSpec {
        CellSpec {
            cell: "agent-a".parse().unwrap(),
            kind: CellKind::Microvm,
            digest: String::new(),
            program: CellProgram::Own,
            argv: Vec::new(),
            env: Vec::new(),
            cwd: "/".into(),
            uid: None,
            limits: Limits {
                memory: Bytes(256 << 20),
                cpu_milli: 1500,
                processes: 64,
                io: None,
            },
            waived: BTreeSet::new(),
            sandbox: None,
            microvm: None,
            container: None,
            network: None,
            forwards: Vec::new(),
            terminal: false,
            ready_within: None,
            run_dir: "/nonexistent".into(),
            log_dir: "/nonexistent".into(),
            group: String::new(),
            secrets: Vec::new(),
            asks_root: false,
        }
    }
}

impl CellSpec {
    /// Directory at which the cell's root file system is mounted while it is built.
    pub(crate) fn staging_dir(&self) -> PathBuf {
        self.run_dir.join("root")
    }
}
