//! What agents and services have in common as cells: logs and terminals.

use crate::macros::{documents, queries, requests};
use crate::time::Time;
use abbey_model::words;

words! {
    /// Output stream of a process.
    LogStream {
        /// Standard output.
        Out = "out",
        /// Standard error.
        Err = "err",
        /// Console of a microVM.
        Console = "console",
        /// The program that runs a microVM or a container, and the shim.
        Machine = "machine",
    }
}

documents! {
    /// Lines of a log.
    LogDoc {
        /// Always 1.
        version: u32,
        /// Lines, oldest first.
        lines: Vec<LogLine>,
    }
    /// A line of a log.
    LogLine {
        /// When it was written.
        at: Time,
        /// Stream that it was written to.
        stream: LogStream,
        /// The line, with secrets redacted.
        text: String,
    }
}

requests! {
    /// A command to run in a cell that is up.
    ExecBody {
        /// Program and arguments.
        argv: Vec<String>,
        /// Standard input, Base64; not for an upgraded connection, which carries it.
        #[serde(default)]
        stdin: Option<String>,
        /// Terminal for the program, for an upgraded connection; without it the program is connected to pipes.
        #[serde(default)]
        terminal: Option<ExecTerminal>,
        /// Whether `argv` has only the arguments, of Abbey's own program in the cell.
        #[serde(default)]
        own: bool,
    }
    /// Terminal of a program in a cell.
    ExecTerminal {
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
        /// Kind of the terminal, the program's `TERM`.
        kind: String,
    }
}

queries! {
    /// How much of a log to return.
    LogQuery {
        /// Newest lines to return; 200 when not given.
        lines: Option<u32>,
    }
    /// Size of the terminal.
    TerminalQuery {
        /// Rows; 24 when not given.
        rows: Option<u16>,
        /// Columns; 80 when not given.
        columns: Option<u16>,
    }
}
