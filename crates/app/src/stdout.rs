//! Standard output. What can't be written is remembered, and fails the command at its end: a list that was cut off by a
//! full disk must not look whole. A reader that has had enough (`| head`) is no failure.

use crate::exit::{self, Failure};
use crate::shown;
use std::io::{ErrorKind, Write};
use std::sync::OnceLock;

/// The first write that failed.
static BROKEN: OnceLock<std::io::Error> = OnceLock::new();

/// Remembers that something was written to standard output, or that it could not be.
pub(crate) fn check(written: std::io::Result<()>) {
    shown::note();
    if let Err(error) = written {
        let _first = BROKEN.set(error);
    }
}

/// Writes bytes to standard output as they are.
pub(crate) fn write(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    check(out.write_all(bytes).and_then(|()| out.flush()));
}

/// Whether nothing more can be written, so that a command which only prints may end.
pub(crate) fn is_broken() -> bool {
    BROKEN.get().is_some()
}

/// Exit code of a command that would end with `code`: writes what is buffered, and says what could not be written.
/// `of_program`: `code` is that of a program in a cell, which never tells whether its output arrived.
pub(crate) fn finish(code: u8, of_program: bool, json: bool) -> u8 {
    check(std::io::stdout().lock().flush());
    match BROKEN.get() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => {
            let text = format!("cannot write to standard output: {error}");
            Failure::plain(text)
                .hint("what was printed is not complete")
                .print(json);
            match code {
                _ if of_program => exit::INTERNAL,
                exit::OK => exit::FAILURE,
                code => code,
            }
        }
        _ => code,
    }
}
