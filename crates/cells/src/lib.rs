//! Cells: what is around an agent or service, behind one trait.
//!
//! A cell is launched and owned by a shim, a small process that outlives the control plane. The
//! control plane starts shims, looks at them and asks them; it never forks a cell itself.
//! Deliberately absent: tasks, money and what an agent says.

mod account;
mod backend;
mod cgroup;
mod channel;
mod client;
pub mod crash;
mod enter;
mod frame;
mod guest;
mod host;
pub mod hostd;
mod identity;
pub mod jail;
mod lock;
pub mod machine;
pub mod network;
mod passing;
mod sandbox;
pub mod shim;
mod spec;

pub use backend::ShimBackend;
pub use cgroup::{Groups, Usage};
pub use guest::Ask;
pub use host::{locales, memory};
pub use identity::{boot_id, identify, is_alive};
pub use network::Tag;
pub use spec::{
    Bind, CellSpec, Container, Forward, Listen, Network, Program, Record, Sandbox, Target,
};

use abbey_model::{CellName, Generation, Millis, Observed};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Why an operation on a cell failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of the cell could not be used.
    #[error("could not {what} `{path}`")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The shim could not be started or died before it reported.
    #[error("the shim of {cell} did not start: {why}")]
    Shim {
        /// Whose.
        cell: CellName,
        /// What it said.
        why: String,
    },
    /// A record on disk is not readable; it is not taken for an absent one (hazard 1).
    #[error(
        "the record `{path}` is damaged: {why}; look at the processes of this cell, then remove the file"
    )]
    Record {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A wall could not be built, or is not there when looked for.
    #[error("the walls of {cell} do not stand: {why}")]
    Walls {
        /// Whose.
        cell: CellName,
        /// Which and why.
        why: String,
    },
    /// hostd did not do what was asked.
    #[error("hostd could not {op}: {why}")]
    Hostd {
        /// Which operation.
        op: &'static str,
        /// What it said, or that it did not answer.
        why: String,
    },
    /// The process that served a call ended before it answered.
    #[error("hostd ended in the middle of `{op}`; `abbey up` mends what it left")]
    HostdLost {
        /// Which operation.
        op: &'static str,
    },
    /// The program of the cell does not run on a terminal.
    #[error("{0} has no terminal; give it `terminal: true` in the manifest")]
    NoTerminal(CellName),
    /// Limits cannot be enforced here.
    #[error("limits cannot be enforced: {0}")]
    Limits(String),
    /// Processes are left that could not be ended.
    #[error("{count} processes of {cell} did not end: {pids:?}")]
    Leftover {
        /// Whose.
        cell: CellName,
        /// How many.
        count: usize,
        /// Which.
        pids: Vec<i32>,
    },
    /// An image could not be made or used.
    #[error("could not {what} an image: {why}")]
    Image {
        /// Which step.
        what: &'static str,
        /// What went wrong.
        why: String,
    },
    /// A drive could not be made, checked or grown.
    #[error("the drive `{drive}` cannot be used: {why}")]
    Drive {
        /// Which.
        drive: PathBuf,
        /// What went wrong.
        why: String,
    },
    /// The program that runs machines did not do what was asked.
    #[error("what answers at `{socket}` does not do it: {why}")]
    Monitor {
        /// Where.
        socket: PathBuf,
        /// What it said.
        why: String,
    },
    /// What was asked was understood and refused.
    #[error("refused: {why}")]
    Refused {
        /// In its own words.
        why: String,
    },
    /// The drives of an owner are in use by another machine.
    #[error("the drives of {0} are attached to another machine; stop that first")]
    Attached(CellName),
    /// A guest did not do what it was asked.
    #[error("the guest of {cell} {why}")]
    Guest {
        /// Whose.
        cell: CellName,
        /// What it did.
        why: String,
    },
    /// Another boot of the cell holds it.
    #[error("another boot of {0} is up; stop it before it is started again")]
    Busy(CellName),
    /// The cell is not up.
    #[error("the cell {0} is not running")]
    NotRunning(CellName),
}

impl Error {
    pub(crate) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { what, path, source }
    }
}

/// An error with everything below it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

/// Result of an operation on a cell.
pub type Result<T> = std::result::Result<T, Error>;

/// Runs as the first process of a virtual machine, and never comes back.
pub fn run_guest() -> ! {
    guest::run()
}

/// What the control plane can do with cells. Every operation may block and is idempotent; queries change nothing.
pub trait Backend: Send + Sync {
    /// Starts a boot. The cell must have been swept before.
    ///
    /// # Errors
    /// When the shim does not report that the child runs; nothing is left then but a record.
    fn start(&self, spec: &CellSpec, generation: Generation) -> Result<()>;

    /// Looks at a cell.
    ///
    /// # Errors
    /// [`Error::Record`] for a damaged record, which is never read as "nothing there".
    fn observe(&self, cell: &CellName) -> Result<Observed>;

    /// Asks a cell to end within `grace`, after which its shim kills it.
    ///
    /// # Errors
    /// When the shim cannot be reached.
    fn stop(&self, cell: &CellName, grace: Millis) -> Result<()>;

    /// Holds everything in a cell where it is, or lets it go on; twice is once.
    ///
    /// # Errors
    /// When the shim cannot be reached, or something goes on all the same.
    fn pause(&self, cell: &CellName, pause: bool) -> Result<()>;

    /// A connection to the terminal of a cell, for a viewer of this size; see [`shim`] for what
    /// goes over it.
    ///
    /// # Errors
    /// [`Error::NoTerminal`], or when the shim cannot be reached.
    fn attach(&self, cell: &CellName, rows: u16, columns: u16) -> Result<UnixStream>;

    /// Ends whatever is left of a cell, verifies that it is gone, and removes its records.
    ///
    /// # Errors
    /// [`Error::Leftover`] when processes survive; the records stay then.
    fn sweep(&self, cell: &CellName) -> Result<()>;

    /// Every cell of this house that left a trace, known or not.
    ///
    /// # Errors
    /// When the records cannot be listed.
    fn list(&self) -> Result<Vec<CellName>>;

    /// What a cell uses now.
    ///
    /// # Errors
    /// When it is not running.
    fn usage(&self, cell: &CellName) -> Result<Usage>;

    /// The record of a running cell: processes, limits in force, groups.
    ///
    /// # Errors
    /// As [`Backend::observe`].
    fn record(&self, cell: &CellName) -> Result<Option<Record>>;
}
