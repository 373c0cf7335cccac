//! Reads the session of an agent in its cell, for `abbey logs --transcript` and `abbey task show --transcript`.

use crate::native::{newest_files, read_end};
use serde_json::Value;
use std::io::{self, Write};
use std::path::PathBuf;

/// Bytes at the end of the session that are read.
const READ_MAX: u64 = 24 << 20;

/// Writes the newest events of the session in `HOME` to `out`, one JSON object a line, oldest first: those of the runs with
/// these ids, or of every run if there is none. Lines that are not JSON objects are left out.
///
/// # Errors
/// If `HOME` is not set, the session can't be read, or `out` not be written.
pub fn write_session_events(mut out: impl Write, runs: &[String]) -> io::Result<()> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let home =
        home.ok_or_else(|| io::Error::other("the environment variable `HOME` is not set"))?;
    for path in newest_files(&home, READ_MAX).into_iter().rev() {
        let text = match read_end(&path, READ_MAX) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            read => read?,
        };
        for line in text.lines() {
            let Ok(event @ Value::Object(_)) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            let run = event["run"].as_str().unwrap_or_default();
            if runs.is_empty() || runs.iter().any(|wanted| wanted == run) {
                writeln!(out, "{event}")?;
            }
        }
    }
    out.flush()
}
