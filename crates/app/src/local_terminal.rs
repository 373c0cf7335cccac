//! The terminal of this process: raw mode, size, and its input in a thread of its own.

use crate::shown;
use abbey_support::frame;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::Read;
use tokio::sync::mpsc;

/// Ctrl-], which detaches from a program on a terminal.
pub(crate) const DETACH_KEY: u8 = 0x1d;

/// Raw mode of the terminal on standard input; dropped, it restores the previous mode.
pub(crate) struct RawMode(Termios);

impl RawMode {
    /// Enters raw mode; none if standard input is no terminal.
    pub(crate) fn enter() -> Option<RawMode> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        shown::note();
        Some(RawMode(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _stays_raw = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Rows and columns of the terminal on standard output; 24 and 80 if that is none.
pub(crate) fn terminal_size() -> (u16, u16) {
    tcgetwinsize(std::io::stdout()).map_or((24, 80), |s| (s.ws_row.max(1), s.ws_col.max(1)))
}

/// Rows and columns as they are sent in a frame.
pub(crate) fn size_bytes((rows, columns): (u16, u16)) -> [u8; 4] {
    let ([a, b], [c, d]) = (rows.to_be_bytes(), columns.to_be_bytes());
    [a, b, c, d]
}

/// Whether this process is in the foreground of the terminal on standard input. In the background, reading from it or
/// changing its mode would stop the process.
pub(crate) fn is_in_foreground() -> bool {
    let group = rustix::termios::tcgetpgrp(std::io::stdin());
    group.is_ok_and(|group| group == rustix::process::getpgrp())
}

/// Reads standard input in a thread of its own, since a blocking read cannot be cancelled. Each message fits a frame.
pub(crate) fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0u8; frame::CONTENT_MAX];
        let mut stdin = std::io::stdin().lock();
        while let Ok(n @ 1..) = stdin.read(&mut buffer) {
            if sender.blocking_send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}
