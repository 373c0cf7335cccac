//! Commands in cells of their own, gone when they end.

use crate::macros::{operations, requests};

requests! {
    /// A command to run in a fresh cell.
    CommandBody {
        /// Program and arguments.
        argv: Vec<String>,
        /// Standard input, base 64.
        #[serde(default)]
        stdin: Option<String>,
        /// Kind of cell; `sandbox` when not given.
        #[serde(default)]
        cell: Option<String>,
        /// What a microVM boots from; `base` when not given.
        #[serde(default)]
        image: Option<String>,
        /// Most memory.
        #[serde(default)]
        memory_bytes: Option<u64>,
        /// Most CPU time, in thousandths of one CPU.
        #[serde(default)]
        cpu_milli: Option<u32>,
        /// Most processes.
        #[serde(default)]
        processes: Option<u32>,
        /// Longest time.
        #[serde(default)]
        timeout_ms: Option<i64>,
        /// What it may reach outside: `none`, `full`, or destinations.
        #[serde(default)]
        egress: Vec<String>,
        /// Filter of system calls.
        #[serde(default)]
        profile: Option<String>,
        /// Layers that may be missing on this host.
        #[serde(default)]
        waive: Vec<String>,
        /// Files to bring along, a tar archive in base 64.
        #[serde(default)]
        files: Option<String>,
        /// Files and directories to take along at the end.
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
