//! Why an operation on a cell failed.

use abbey_model::CellName;
use std::path::PathBuf;

/// Why an operation on a cell failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of the cell could not be used.
    #[error("could not {what} `{path}`")]
    File {
        /// Verb for the message, such as `open`.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The shim could not be started or died before it reported.
    #[error("the shim (supervisor process) of {cell} did not start: {why}")]
    Shim {
        /// Cell that it concerns.
        cell: CellName,
        /// Reason that it reported.
        why: String,
    },
    /// A record on disk is not readable; it is not taken for an absent one (hazard 1).
    #[error(
        "the cell record `{path}` is damaged: {why}; check that no process of this cell is running, then remove the file"
    )]
    Record {
        /// Path of the record.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A layer of isolation could not be set up, or was not in force when it was read back.
    #[error("isolation setup of {cell} failed: {why}")]
    Isolation {
        /// Cell that it concerns.
        cell: CellName,
        /// Layer and reason.
        why: String,
    },
    /// A further program was not started, since the cell has as many processes as it may have.
    #[error(
        "{} has as many processes as its limit allows{}; {}",
        .cell.described(),
        .limit.map_or_else(String::new, |most| format!(" ({most})")),
        how_to_end_processes(.cell)
    )]
    ProcessLimit {
        /// Cell that it concerns.
        cell: CellName,
        /// Its limit, if that is known.
        limit: Option<u32>,
    },
    /// A hostd operation failed.
    #[error("hostd could not {op}: {why}")]
    Hostd {
        /// What it was to do, as [`crate::hostd::HostdOperation::phrase`] says it.
        op: &'static str,
        /// Reason that hostd reported.
        why: String,
    },
    /// hostd does not run, or the connection to it broke.
    #[error(
        "hostd, the privileged helper, {why}, so that it could not {op}; `abbey up` starts it again"
    )]
    HostdSilent {
        /// What it was to do.
        op: &'static str,
        /// Verb phrase, such as `does not run`.
        why: String,
    },
    /// hostd took a call and is still at work on it.
    #[error(
        "hostd, the privileged helper, did not {op} within {seconds} s; `abbey doctor` says whether it still answers"
    )]
    HostdUnfinished {
        /// What it was to do.
        op: &'static str,
        /// Time that the caller waited.
        seconds: u64,
    },
    /// hostd runs, and does not take calls.
    #[error(
        "hostd{} does not answer{}, so that it could not {op}; {}, and cells go on without it",
        .pid.map_or_else(String::new, |pid| format!(" (process {pid})")),
        if *.stopped { ": its process is stopped" } else { "" },
        how_to_replace_hostd(*.pid)
    )]
    HostdHangs {
        /// What it was to do.
        op: &'static str,
        /// Its process, if that is known.
        pid: Option<i32>,
        /// Whether a signal stopped the process.
        stopped: bool,
    },
    /// The hostd process that performed the operation exited before it replied.
    #[error(
        "hostd, the privileged helper, exited when it was to {op}; run `abbey up` to restart it and clean up"
    )]
    HostdLost {
        /// What it was to do.
        op: &'static str,
    },
    /// The program of the cell does not run on a terminal.
    #[error("{0} has no terminal; set `terminal: true` for it in the manifest")]
    NoTerminal(CellName),
    /// Limits cannot be enforced here.
    #[error(
        "resource limits cannot be enforced on this host: {0}; `waive: [limits]` in the manifest, or `--waive limits` of `abbey run`, accepts that"
    )]
    Limits(String),
    /// Processes did not exit after they were killed.
    #[error(
        "{count} processes of {cell} did not exit when they were killed; process ids: {pids:?}"
    )]
    Leftover {
        /// Cell that it concerns.
        cell: CellName,
        /// Number of processes.
        count: usize,
        /// Their process ids.
        pids: Vec<i32>,
    },
    /// An image could not be made or used.
    #[error("could not {what} an image: {why}")]
    Image {
        /// Step that failed.
        what: &'static str,
        /// What went wrong.
        why: String,
    },
    /// A drive could not be made, checked or grown.
    #[error("the drive `{drive}` cannot be used: {why}")]
    Drive {
        /// Path of the drive.
        drive: PathBuf,
        /// What went wrong.
        why: String,
    },
    /// A request to the microVM monitor or container runtime failed.
    #[error("the microVM monitor or container runtime at `{socket}` failed: {why}")]
    Monitor {
        /// Socket of the program.
        socket: PathBuf,
        /// Reason that it reported.
        why: String,
    },
    /// hostd rejected the request.
    #[error("hostd, the privileged helper, rejected the request: {why}")]
    Refused {
        /// Reason that was given.
        why: String,
    },
    /// The drives of an owner are in use by another microVM.
    #[error("the drives of {0} are attached to another microVM; stop that microVM first")]
    Attached(CellName),
    /// A request to the guest process failed.
    #[error("the guest process in the microVM or container {cell} {why}")]
    Guest {
        /// Cell that it concerns.
        cell: CellName,
        /// Verb phrase of the message, such as `cannot be reached`.
        why: String,
    },
    /// Another boot of the cell is running.
    #[error("{0} is already running from an earlier start; stop it before starting it again")]
    Busy(CellName),
    /// The cell is not up.
    #[error("the cell {0} is not running")]
    NotRunning(CellName),
}

impl Error {
    /// Reason for whoever asked hostd, who puts before it what hostd was to do.
    pub(crate) fn into_reason(self) -> String {
        match self {
            Error::Hostd { why, .. } => why,
            other => error_chain(&other),
        }
    }

    /// Converts an I/O error to [`Error::File`] for `path`; `what` is the verb of the message ("could not {what}
    /// `{path}`"). For `map_err`.
    pub(crate) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { what, path, source }
    }
}

fn how_to_end_processes(cell: &CellName) -> String {
    match cell {
        CellName::Agent(slug) => format!("`abbey restart {slug}` ends them"),
        CellName::Service(slug) => format!("`abbey service restart {slug}` ends them"),
        CellName::Run(_) => "Ctrl-C ends them".to_owned(),
    }
}

/// What replaces a hostd that does not take calls.
fn how_to_replace_hostd(pid: Option<i32>) -> String {
    match pid {
        Some(pid) => format!("`abbey up` replaces it, also after `kill -9 {pid}`"),
        None => "`abbey doctor` names its process, and `abbey up` replaces it".to_owned(),
    }
}

/// Message of an error followed by those of its sources, separated by `: `.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
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
