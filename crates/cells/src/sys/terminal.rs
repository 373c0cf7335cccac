//! The terminal of a cell: the shim owns it, the program runs on its other end, and any number of
//! viewers look on and type. A viewer who goes away or is too slow takes nothing along; one who comes
//! sees first what was last on it.
//!
//! From a viewer come frames: a letter, a length of two bytes (big end first), and so many bytes. `d` is
//! typed as it is, `r` is four bytes with rows and columns. To a viewer go the bytes of the terminal.

use crate::{Error, Result};
use abbey_support::frame;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// What a new viewer sees of the past, bytes.
const RECENT_MAX: usize = 64 << 10;
/// What a viewer may be behind, bytes; more, and it is let go.
const BEHIND_MAX: usize = 256 << 10;
/// What may wait to be read by the program, bytes.
const TYPED_MAX: usize = 64 << 10;
/// Reads in one turn; there are others to hear.
const READS_MAX: usize = 32;
const VIEWERS_MAX: usize = 16;

/// Rows and columns before any viewer said theirs.
const SIZE: (u16, u16) = (24, 80);

/// Pseudo-terminal of a cell's program, with its viewers.
pub(crate) struct Terminal {
    master: OwnedFd,
    recent: VecDeque<u8>,
    typed: Vec<u8>,
    viewers: Vec<Viewer>,
    ended: bool,
}

struct Viewer {
    stream: UnixStream,
    /// On its way to the viewer.
    behind: Vec<u8>,
    /// The beginning of a frame.
    frame: Vec<u8>,
    gone: bool,
}

fn failed(what: &'static str) -> impl Fn(Errno) -> Error {
    move |e| Error::file(what, "the terminal")(e.into())
}

/// Error of the system when a pseudo-terminal is opened. It calls the number of terminals of a host space on a device.
fn not_opened(e: Errno) -> Error {
    let source = match e {
        Errno::NOSPC => std::io::Error::new(
            std::io::ErrorKind::StorageFull,
            "every pseudo-terminal of the host is in use; close some, or raise `sysctl kernel.pty.max`",
        ),
        e => e.into(),
    };
    Error::file("open", "the terminal")(source)
}

/// Opens a pseudo-terminal. Returns its master, which doesn't block, and the slave end for a program, owned by `uid`.
pub(crate) fn open_pseudo_terminal(uid: Option<u32>) -> Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).map_err(not_opened)?;
    grantpt(&master).map_err(failed("grant"))?;
    unlockpt(&master).map_err(failed("unlock"))?;
    let name = ptsname(&master, Vec::new()).map_err(failed("name"))?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(&name, flags, Mode::empty()).map_err(failed("open"))?;
    if let Some(uid) = uid {
        let user = rustix::fs::Uid::from_raw(uid);
        rustix::fs::fchown(&slave, Some(user), None).map_err(failed("hand over"))?;
    }
    rustix::io::ioctl_fionbio(&master, true).map_err(failed("use"))?;
    Ok((master, slave))
}

/// Sets the size of a terminal, of which its foreground programs get a SIGWINCH if it differs.
pub(crate) fn set_size(master: &OwnedFd, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let _stays_as_it_is = tcsetwinsize(master, size);
}

impl Terminal {
    /// Opens a pseudo-terminal of 24 rows and 80 columns. Returns it with the slave end for the program, owned by
    /// `uid`.
    pub(crate) fn open(uid: Option<u32>) -> Result<(Terminal, OwnedFd)> {
        let (master, slave) = open_pseudo_terminal(uid)?;
        let mut terminal = Terminal {
            master,
            recent: VecDeque::new(),
            typed: Vec::new(),
            viewers: Vec::new(),
            ended: false,
        };
        terminal.resize(SIZE);
        Ok((terminal, slave))
    }

    fn resize(&mut self, (rows, columns): (u16, u16)) {
        set_size(&self.master, rows, columns);
    }

    /// Adds a viewer, resizes the terminal to its size, and sends it the recent output. Ignored if there are 16
    /// viewers already.
    pub(crate) fn add_viewer(&mut self, stream: UnixStream, size: (u16, u16)) {
        if self.viewers.len() >= VIEWERS_MAX || stream.set_nonblocking(true).is_err() {
            return;
        }
        self.resize(size);
        self.viewers.push(Viewer {
            stream,
            behind: self.recent.iter().copied().collect(),
            frame: Vec::new(),
            gone: false,
        });
    }

    /// Adds the terminal and its viewers to a `poll` set. Without `output` the program's output is not waited for.
    pub(crate) fn add_poll_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>, output: bool) {
        let flags = |read: bool, write: bool| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, read);
            flags.set(PollFlags::OUT, write);
            flags
        };
        if !self.ended && (output || !self.typed.is_empty()) {
            fds.push(PollFd::new(
                &self.master,
                flags(output, !self.typed.is_empty()),
            ));
        }
        let reads = self.typed.len() < TYPED_MAX;
        for viewer in &self.viewers {
            fds.push(PollFd::new(
                &viewer.stream,
                flags(reads, !viewer.behind.is_empty()),
            ));
        }
    }

    /// Copies bytes between program and viewers as far as possible without waiting; `said` receives the program's
    /// output, which stays unread without `output`.
    pub(crate) fn transfer(&mut self, output: bool, mut said: impl FnMut(&[u8])) {
        let mut buffer = [0u8; 8192];
        // Bounded: a program that never stops talking must not keep us from hearing anybody else.
        for _ in 0..READS_MAX {
            if self.ended || !output {
                break;
            }
            match rustix::io::read(&self.master, &mut buffer) {
                Ok(n @ 1..) => {
                    let bytes = &buffer[..n];
                    said(bytes);
                    self.recent.extend(bytes);
                    let over = self.recent.len().saturating_sub(RECENT_MAX);
                    self.recent.drain(..over);
                    for viewer in &mut self.viewers {
                        viewer.behind.extend_from_slice(bytes);
                    }
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // The program's end is closed: the kernel says so by an error.
                Ok(0) | Err(_) => self.ended = true,
            }
        }
        let mut sizes = Vec::new();
        for viewer in &mut self.viewers {
            viewer.turn(&mut self.typed, &mut sizes);
        }
        for size in sizes {
            self.resize(size);
        }
        self.viewers.retain(|v| !v.gone);
        while !self.typed.is_empty() {
            match rustix::io::write(&self.master, &self.typed) {
                Ok(n) => drop(self.typed.drain(..n)),
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
    }
}

impl Viewer {
    fn turn(&mut self, typed: &mut Vec<u8>, sizes: &mut Vec<(u16, u16)>) {
        let mut buffer = [0u8; 4096];
        // What the program does not read is not taken from the viewer either.
        while !self.gone && typed.len() < TYPED_MAX {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.gone = true,
                Ok(n) => {
                    self.frame.extend_from_slice(&buffer[..n]);
                    self.gone |= !self.frames(typed, sizes);
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => self.gone = true,
            }
        }
        while !self.gone && !self.behind.is_empty() {
            match self.stream.write(&self.behind) {
                Ok(n) => drop(self.behind.drain(..n)),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => self.gone = true,
            }
        }
        self.gone |= self.behind.len() > BEHIND_MAX;
    }

    /// Takes whole frames; false when they make no sense.
    fn frames(&mut self, typed: &mut Vec<u8>, sizes: &mut Vec<(u16, u16)>) -> bool {
        let taken = frame::decode_frames(&mut self.frame, |kind, body| {
            match (kind, body) {
                (b'd', body) => typed.extend_from_slice(body),
                (b'r', [a, b, c, d]) => {
                    sizes.push((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])));
                }
                _ => return false,
            }
            true
        });
        taken.is_ok()
    }
}
