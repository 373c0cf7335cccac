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

/// Program that a cell runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellProgram {
    /// The running Abbey binary, even if its file was replaced.
    Own,
    /// A program at an absolute path.
    Path(PathBuf),
}

/// Address and side on which a port forward listens.
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

/// Destination of a port forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardTarget {
    /// Unix socket of the agent API.
    House(PathBuf),
    /// Unix socket of the egress proxy; the name of the cell is sent first on every connection.
    Egress(PathBuf),
    /// Unix socket of the name server; the name of the cell is sent first on every connection.
    Names(PathBuf),
    /// Address of a service of the house.
    Service(SocketAddrV4),
    /// A service outside the house; its address is read from the record for each new connection.
    External {
        /// Name of the service.
        service: Slug,
        /// File with the addresses of external services; set by hostd.
        record: PathBuf,
    },
}

/// A port that leads from a cell to the agent API, the proxy, the name server, or a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortForward {
    /// Address on which it listens.
    pub at: ListenAddress,
    /// Destination of its connections.
    pub to: ForwardTarget,
}

/// Bind mount of a file or directory of the host into a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path in the cell.
    pub path: PathBuf,
    /// Whether the cell may write it.
    pub writable: bool,
}

/// Path of the house's skills in a sandbox or container of an agent, read-only.
pub const SKILLS_IN_CELL: &str = "/agent/skills";

/// Name of the command with which programs of a cell use the agent API.
pub const AGENT_COMMAND: &str = "abbey-agent";

/// Directory of that command in a sandbox, container or microVM, for `PATH`.
pub const COMMANDS_IN_CELL: &str = "/abbey/bin";

/// Isolation of a sandboxed program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Bind mounts besides the base system, in order.
    pub binds: Vec<Bind>,
    /// Seccomp profile.
    pub profile: Profile,
    /// Size of `/tmp`, bytes.
    pub tmp: Bytes,
}

impl Sandbox {
    /// Where the house's own binary is in every sandbox.
    pub const OWN: &str = "/abbey/abbey";
}

/// Specification of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Name of a Podman image under `localhost/`.
    pub image: String,
    /// Directory of Abbey's images and tools; set by hostd.
    pub images: PathBuf,
    /// Directory of the owner's files; set by hostd.
    pub files: PathBuf,
    /// Directory of the house's skills; set by hostd.
    #[serde(default)]
    pub skills: PathBuf,
}

/// Specification of one boot of a cell. Sent to hostd over its socket, never in arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellSpec {
    /// Name of the cell.
    pub cell: CellName,
    /// Kind of isolation.
    pub kind: CellKind,
    /// Digest of the settings whose change needs a restart.
    pub digest: String,
    /// Program to run.
    pub program: CellProgram,
    /// Arguments; the first is the program's name.
    pub argv: Vec<String>,
    /// Complete environment, as name and value.
    pub env: Vec<(String, String)>,
    /// Working directory in the cell.
    pub cwd: PathBuf,
    /// User of the cell; none runs it as the house's user.
    pub uid: Option<u32>,
    /// Limits on memory, CPU, processes and disk throughput.
    pub limits: Limits,
    /// Isolation layers that may be missing.
    pub waived: BTreeSet<Layer>,
    /// Isolation; none for a plain process.
    pub sandbox: Option<Sandbox>,
    /// MicroVM that runs the program, if any.
    #[serde(default, rename = "machine")]
    pub microvm: Option<MicroVm>,
    /// Container that runs the program, if any.
    #[serde(default)]
    pub container: Option<Container>,
    /// Network of its own; none gives a sandbox loopback alone, and a plain process the host's network.
    pub network: Option<CellNetwork>,
    /// Port forwards to the agent API, the proxy and services.
    pub forwards: Vec<PortForward>,
    /// Whether the program runs on a terminal to which viewers can attach.
    pub terminal: bool,
    /// Time in which the program must announce readiness on descriptor 3; none means that it is ready at once.
    pub ready_within: Option<Millis>,
    /// Directory of the cell's records and control socket.
    pub run_dir: PathBuf,
    /// Directory of the cell's logs.
    pub log_dir: PathBuf,
    /// Name of the house's control groups.
    pub group: String,
    /// Texts that are redacted in the logs.
    pub secrets: Vec<String>,
    /// Whether the program may gain privileges (rootless Podman needs this). Never read from a request.
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
