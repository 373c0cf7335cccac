//! Commands in cells of their own, gone when they end.

use crate::macros::{operations, requests};

requests! {
    /// A command to run in a cell of its own.
    CommandBody {
        /// Program and arguments.
        argv: Vec<String>,
        /// Standard input, Base64.
        #[serde(default)]
        stdin: Option<String>,
        /// Kind of cell; `sandbox` when not given.
        #[serde(default)]
        cell: Option<String>,
        /// Image that a microVM boots from; `base` when not given.
        #[serde(default)]
        image: Option<String>,
        /// Memory limit, bytes.
        #[serde(default)]
        memory_bytes: Option<u64>,
        /// CPU limit, thousandths of one CPU.
        #[serde(default)]
        cpu_milli: Option<u32>,
        /// Limit of processes; at least 8.
        #[serde(default)]
        processes: Option<u32>,
        /// Time limit, milliseconds.
        #[serde(default)]
        timeout_ms: Option<i64>,
        /// Destinations that it may reach: `none`, `full`, or a list.
        #[serde(default)]
        egress: Vec<String>,
        /// Profile of the system call filter.
        #[serde(default)]
        profile: Option<String>,
        /// Isolation layers that may be missing on this host.
        #[serde(default)]
        waive: Vec<String>,
        /// Files to bring into the cell: a tar archive, Base64.
        #[serde(default)]
        files: Option<String>,
        /// Files and directories to return at the end.
        #[serde(default)]
        take: Vec<String>,
    }
}

operations! {
    /// Commands: `client.commands()`.
    CommandsClient {
        /// Runs a command in a fresh cell: JSON Lines of output, then status, usage and files.
        POST "/api/v1/commands" run() [body CommandBody] -> stream;
    }
}
