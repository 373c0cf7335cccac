//! A program that runs in a cell for a caller, over one connection: its standard streams or its terminal, signals, and
//! how it ended.
//!
//! Both sides send [frames](abbey_support::frame) whose kinds are the constants of this module. A caller may send at most
//! [`WINDOW`] bytes of input that the program has not taken yet; [`GRANT`] frames report what was taken. So no side ever
//! has to wait with a frame that the other one doesn't read, and the end of a caller is noticed whatever the program
//! does. A connection that ends takes the program along, unless the caller sent [`DETACH`].

use crate::sys::terminal::{open_pseudo_terminal, set_size};
use crate::{Error, Result};
use abbey_support::frame::{self, InvalidFrame};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpid};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// From the caller: bytes for the standard input.
pub const INPUT: u8 = b'i';
/// From the caller: the end of the standard input.
pub const INPUT_END: u8 = b'z';
/// From the caller: rows and columns of its terminal, two bytes each, big end first.
pub const RESIZE: u8 = b'r';
/// From the caller: number of a signal for the program, one byte.
pub const SIGNAL: u8 = b's';
/// From the caller: it leaves, and the program goes on without it.
pub const DETACH: u8 = b'd';
/// To the caller: bytes of the standard output, or of the terminal.
pub const OUTPUT: u8 = b'o';
/// To the caller: bytes of the standard error.
pub const ERRORS: u8 = b'e';
/// To the caller, before the exit status: why there is no program that could be run, as a line of text for its standard
/// error.
pub const NOT_RUN: u8 = b'n';
/// To the caller: number of bytes of input that the program has taken, four bytes, big end first.
pub const GRANT: u8 = b'g';
/// To the caller, as the last frame: exit status as a shell gives it, in decimal digits.
pub const EXIT: u8 = b'x';
/// To the caller, as the last frame: why the program could not be run to its end, as text.
pub const FAILURE: u8 = b'f';

/// Most bytes of input on their way to the program.
pub const WINDOW: usize = 256 << 10;

/// Exit status of a program that was ended because its caller was gone.
const CALLER_GONE: i32 = 137;
/// Most that is read of one output at a time, bytes.
const READ: usize = frame::CONTENT_MAX;
/// Most output that is delivered after the end of the program, bytes: what a pipe can hold. Programs that it left behind
/// could write without end.
const LEFT_MAX: usize = 1 << 20;
/// End of transmission, which a terminal turns into the end of the input.
const END_OF_TRANSMISSION: u8 = 4;

/// Size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// Further program to run in a cell.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProgramInvocation {
    /// Program and arguments.
    pub(crate) argv: Vec<String>,
    /// Complete environment, as name and value.
    pub(crate) env: Vec<(String, String)>,
    /// Working directory as the cell sees it.
    pub(crate) cwd: PathBuf,
    /// Size of the program's terminal; none connects it to pipes.
    #[serde(default)]
    pub(crate) terminal: Option<TerminalSize>,
}

/// Our ends of a program's standard streams.
pub(crate) struct StreamEnds {
    input: Option<OwnedFd>,
    /// Standard output or terminal, and standard error.
    outputs: [Option<OwnedFd>; 2],
    terminal: bool,
}

/// Creates the standard streams of a program that runs as `uid`: a terminal of this size, or pipes. Returns our ends, and
/// the descriptors 0 to 2 of the program.
pub(crate) fn open_streams(
    terminal: Option<TerminalSize>,
    uid: Option<u32>,
) -> Result<(StreamEnds, Vec<OwnedFd>)> {
    if let Some(size) = terminal {
        let (master, slave) = open_pseudo_terminal(uid)?;
        set_size(&master, size.rows.max(1), size.columns.max(1));
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(Error::file("use", "the terminal"));
        let fds = vec![copy(&slave)?, copy(&slave)?, slave];
        let ends = StreamEnds {
            input: Some(copy(&master)?),
            outputs: [Some(master), None],
            terminal: true,
        };
        return Ok((ends, fds));
    }
    let failed = |e: Errno| Error::file("make", "a pipe")(e.into());
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed);
    let ((stdin, input), (output, stdout), (errors, stderr)) = (pipe()?, pipe()?, pipe()?);
    let fds = vec![stdin, stdout, stderr];
    for fd in &fds {
        // A program may open its streams again by name, such as `/dev/stderr`.
        let user = uid.map(rustix::fs::Uid::from_raw);
        rustix::fs::fchown(fd, user, None).map_err(failed)?;
    }
    for ours in [&input, &output, &errors] {
        rustix::io::ioctl_fionbio(ours, true).map_err(failed)?;
    }
    let ends = StreamEnds {
        input: Some(input),
        outputs: [Some(output), Some(errors)],
        terminal: false,
    };
    Ok((ends, fds))
}

/// Tells a caller that a program could not be run, and why, and with the status that a shell gives: 127 not
/// found, 126 not executable, 125 otherwise. Returns the status.
pub(crate) fn report_not_run(caller: &UnixStream, name: &str, why: std::io::ErrorKind) -> i32 {
    let (status, why) = match why {
        std::io::ErrorKind::NotFound => (127, "was not found in the cell"),
        std::io::ErrorKind::PermissionDenied => {
            (126, "is not a program that can be run in the cell")
        }
        _ => (125, "could not be started in the cell"),
    };
    let text = format!("abbey: `{name}` {why}\n");
    send(caller, NOT_RUN, &text.as_bytes()[..text.len().min(READ)]);
    send(caller, EXIT, status.to_string().as_bytes());
    status
}

/// Sends one frame, waiting for the caller to take it; false if the caller is gone.
fn send(mut caller: &UnixStream, kind: u8, content: &[u8]) -> bool {
    caller
        .write_all(&frame::encode_frame(kind, content))
        .is_ok()
}

/// Carries the streams of a program between it and its caller until it has ended; `early` is what of the caller's frames
/// was read already. Returns its exit status as a shell gives it, which the caller has been sent.
pub(crate) fn follow_program(
    child: &abbey_launch::Child,
    ends: StreamEnds,
    caller: &UnixStream,
    early: Vec<u8>,
) -> i32 {
    let mut session = ProgramSession {
        child,
        ends,
        caller,
        frames: early,
        typed: Vec::new(),
        input_ended: false,
        detached: false,
        caller_gone: false,
    };
    session.caller_gone = session.take_frames().is_err();
    let status = session.follow();
    send(caller, EXIT, status.to_string().as_bytes());
    status
}

struct ProgramSession<'a> {
    child: &'a abbey_launch::Child,
    ends: StreamEnds,
    caller: &'a UnixStream,
    /// The beginning of a frame.
    frames: Vec<u8>,
    /// Input that the program has not taken yet.
    typed: Vec<u8>,
    input_ended: bool,
    detached: bool,
    caller_gone: bool,
}

impl ProgramSession<'_> {
    fn follow(&mut self) -> i32 {
        loop {
            if self.caller_gone && !self.detached {
                self.end_program();
                return CALLER_GONE;
            }
            self.wait_for_events();
            if !self.caller_gone {
                self.hear_caller();
            }
            self.feed();
            self.pass_output_on(1);
            let pid = Pid::from_raw(self.child.pid);
            if let Ok(Some((_, ended))) = waitpid(pid, WaitOptions::NOHANG) {
                self.pass_output_on(LEFT_MAX / READ);
                let signal = ended.terminating_signal().map(|s| 128 + s);
                return ended.exit_status().or(signal).unwrap_or(125);
            }
        }
    }

    fn wait_for_events(&self) {
        let mut fds = vec![PollFd::new(&self.child.pidfd, PollFlags::IN)];
        if !self.caller_gone {
            fds.push(PollFd::new(self.caller, PollFlags::IN));
        }
        for output in self.ends.outputs.iter().flatten() {
            fds.push(PollFd::new(output, PollFlags::IN));
        }
        if let Some(input) = &self.ends.input
            && !self.typed.is_empty()
        {
            fds.push(PollFd::new(input, PollFlags::OUT));
        }
        let _interrupted = poll(&mut fds, None);
    }

    /// Ends the program and what it started: its terminal is closed, and every process of its group is killed.
    fn end_program(&mut self) {
        self.ends.input = None;
        self.ends.outputs = [None, None];
        self.signal(Signal::KILL);
    }

    /// The group exists as long as its leader was not waited for, so its number can mean no other.
    fn signal(&self, signal: Signal) {
        if let Some(group) = Pid::from_raw(self.child.pid) {
            let _gone_already = kill_process_group(group, signal);
        }
    }

    fn hear_caller(&mut self) {
        let mut fds = [PollFd::new(self.caller, PollFlags::IN)];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        if !matches!(poll(&mut fds, Some(&now)), Ok(1..)) {
            return;
        }
        let mut bytes = [0u8; READ];
        self.caller_gone = match self.caller.read(&mut bytes) {
            Ok(n @ 1..) => {
                self.frames.extend_from_slice(&bytes[..n]);
                self.take_frames().is_err()
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => false,
            Ok(0) | Err(_) => true,
        };
    }

    fn take_frames(&mut self) -> std::result::Result<(), InvalidFrame> {
        let mut frames = std::mem::take(&mut self.frames);
        let taken = frame::decode_frames(&mut frames, |kind, body| {
            match (kind, body) {
                (INPUT, body) => self.typed.extend_from_slice(body),
                (INPUT_END, []) => self.input_ended = true,
                (RESIZE, [a, b, c, d]) => {
                    if let (true, Some(master)) = (self.ends.terminal, &self.ends.input) {
                        let rows = u16::from_be_bytes([*a, *b]);
                        set_size(master, rows, u16::from_be_bytes([*c, *d]));
                    }
                }
                (SIGNAL, [number]) => match Signal::from_named_raw(i32::from(*number)) {
                    Some(signal) => self.signal(signal),
                    None => return false,
                },
                (DETACH, []) => self.detached = true,
                _ => return false,
            }
            self.typed.len() <= WINDOW
        });
        self.frames = frames;
        taken
    }

    fn feed(&mut self) {
        let mut taken = 0;
        while let Some(input) = &self.ends.input {
            if taken == self.typed.len() {
                if self.input_ended {
                    self.input_ended = false;
                    match self.ends.terminal {
                        true => {
                            let _full = rustix::io::write(input, &[END_OF_TRANSMISSION]);
                        }
                        false => self.ends.input = None,
                    }
                }
                break;
            }
            match rustix::io::write(input, &self.typed[taken..]) {
                Ok(n) => taken += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // It reads no more: what comes is taken from the caller all the same.
                Err(_) => self.ends.input = None,
            }
        }
        if self.ends.input.is_none() {
            taken = self.typed.len();
        }
        self.typed.drain(..taken);
        if taken > 0 {
            let taken = u32::try_from(taken).unwrap_or(u32::MAX);
            self.tell(GRANT, &taken.to_be_bytes());
        }
    }

    /// Passes on what the program wrote, at most so many reads of each output.
    fn pass_output_on(&mut self, reads: usize) {
        let mut bytes = [0u8; READ];
        for (index, kind) in [OUTPUT, ERRORS].into_iter().enumerate() {
            for _ in 0..reads {
                let Some(output) = &self.ends.outputs[index] else {
                    break;
                };
                match rustix::io::read(output, &mut bytes) {
                    Ok(n @ 1..) => self.tell(kind, &bytes[..n]),
                    Err(Errno::AGAIN) => break,
                    Err(Errno::INTR) => {}
                    // A terminal without a program at its other end reports an error.
                    Ok(0) | Err(_) => self.ends.outputs[index] = None,
                }
            }
        }
    }

    fn tell(&mut self, kind: u8, content: &[u8]) {
        if !self.caller_gone {
            self.caller_gone = !send(self.caller, kind, content);
        }
    }
}
