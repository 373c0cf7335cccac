//! What the house asks of a guest, each in a process of its own.
//!
//! For a program, frames follow its description: a letter, a length of two bytes (big end first), and so
//! many bytes. To the guest: `i` input, `z` the end of it. From the guest: `o` output, `e` errors, `x`
//! the exit status as text. A connection that ends takes the program along.

use super::program::{close_on_exec_pipe, launch_as_guest_user, read_to_end_bounded};
use super::protocol::{GuestCommand, GuestConfig, GuestReply, GuestRequest};
use crate::files::{
    FileEntry, open_owner_dir, pack_to_stream, prepare_owner_files, read_owner_file,
};
use crate::sys::cgroup::ControlGroups;
use crate::sys::frame;
use crate::sys::frame::InvalidFrame;
use crate::{Error, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Longest list of files, bytes.
const FILES_MAX: u64 = 1 << 20;
/// Longest description of a program, bytes.
const COMMAND_MAX: usize = 1 << 20;
/// Most that is read of one output at a time.
const READ: usize = 8 << 10;
const AGENT: &str = "/agent";

/// Serves one request of hostd in the guest (run a program, write or read files, pack), and writes the reply to
/// `stream`.
pub(super) fn serve_guest_request(
    config: &GuestConfig,
    groups: &ControlGroups,
    ask: &GuestRequest,
    stream: &UnixStream,
) {
    let outcome = match ask {
        GuestRequest::Exec {} => exec(groups, stream),
        ask => {
            let answer = carry_out(config, ask, stream);
            answer
                .and_then(|answer| reply(stream, &answer))
                .and_then(|()| follow(ask, stream))
        }
    };
    if let Err(error) = outcome {
        let why = crate::error::error_chain(&error);
        let _nobody_listens = reply(stream, &GuestReply::Failed { why });
    }
}

fn reply(mut stream: &UnixStream, answer: &GuestReply) -> Result<()> {
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    line.push(b'\n');
    stream
        .write_all(&line)
        .map_err(Error::file("answer", "a request"))
}

fn carry_out(config: &GuestConfig, ask: &GuestRequest, stream: &UnixStream) -> Result<GuestReply> {
    match ask {
        GuestRequest::Prepare {} => {
            let bytes = read_to_end_bounded(stream, FILES_MAX)?;
            let files: Vec<FileEntry> =
                serde_json::from_slice(&bytes).map_err(|e| Error::Record {
                    path: "files for an agent".into(),
                    why: e.to_string(),
                })?;
            prepare_owner_files(
                &open_owner_dir(Path::new("/"))?,
                "agent",
                &config.cell,
                0,
                Some(super::UID),
                &files,
            )?;
        }
        GuestRequest::Read { file } => {
            let text = read_owner_file(&open_owner_dir(Path::new(AGENT))?, file)?;
            return Ok(GuestReply::Text { text });
        }
        GuestRequest::Pack {} | GuestRequest::Exec {} | GuestRequest::Attach { .. } => {}
    }
    Ok(GuestReply::Done {})
}

/// What comes behind an answer.
fn follow(ask: &GuestRequest, stream: &UnixStream) -> Result<()> {
    if !matches!(ask, GuestRequest::Pack {}) {
        return Ok(());
    }
    let to = stream.try_clone().map_err(Error::file("use", "a stream"))?;
    let classes = ["home", "workspace"].map(std::path::PathBuf::from);
    pack_to_stream(Path::new(AGENT), &classes, to.into())
}

/// A line, and what came behind it.
fn line(stream: &mut &UnixStream) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        if let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let rest = bytes.split_off(end + 1);
            return Ok((bytes, rest));
        }
        match stream
            .read(&mut buffer)
            .map_err(Error::file("read", "a request"))?
        {
            n @ 1.. if bytes.len() < COMMAND_MAX => bytes.extend_from_slice(&buffer[..n]),
            _ => {
                let short = std::io::ErrorKind::UnexpectedEof;
                return Err(Error::file("read", "a request")(short.into()));
            }
        }
    }
}

/// Runs a program to its end.
fn exec(groups: &ControlGroups, mut stream: &UnixStream) -> Result<()> {
    let (first, rest) = line(&mut stream)?;
    let command: GuestCommand = serde_json::from_slice(&first).map_err(|e| Error::Record {
        path: "a program to run".into(),
        why: e.to_string(),
    })?;
    let ((stdin, input), (output, stdout), (errors, stderr)) = (
        close_on_exec_pipe()?,
        close_on_exec_pipe()?,
        close_on_exec_pipe()?,
    );
    let fds = vec![stdin, stdout, stderr];
    let mut speaker = stream;
    let mut send = |kind: u8, content: &[u8]| {
        let frame = frame::encode_frame(kind, content);
        speaker.write_all(&frame).is_ok()
    };
    let child = match launch_as_guest_user(
        &command.argv,
        &command.env,
        &command.cwd,
        groups,
        fds,
        false,
    ) {
        Ok(child) => child,
        Err(error) => {
            let code = match &error {
                Error::File { source, .. } => match source.kind() {
                    std::io::ErrorKind::NotFound => "127",
                    std::io::ErrorKind::PermissionDenied => "126",
                    _ => "125",
                },
                _ => "125",
            };
            send(b'x', code.as_bytes());
            return Ok(());
        }
    };
    let status = Running {
        child,
        input: Some(input),
        outputs: [Some(output), Some(errors)],
        typed: Vec::new(),
        ended: false,
        buffer: rest,
    }
    .follow(stream, &mut send);
    send(b'x', status.to_string().as_bytes());
    Ok(())
}

struct Running {
    child: abbey_launch::Child,
    input: Option<OwnedFd>,
    outputs: [Option<OwnedFd>; 2],
    /// For the program.
    typed: Vec<u8>,
    /// Whether no more comes.
    ended: bool,
    /// The beginning of a frame.
    buffer: Vec<u8>,
}

impl Running {
    /// Carries everything until the program has ended and said all; its status as a shell gives it.
    fn follow(mut self, stream: &UnixStream, send: &mut dyn FnMut(u8, &[u8]) -> bool) -> i32 {
        let mut gone = self.take_frames().is_err();
        let mut status = None;
        if let Some(input) = &self.input {
            let _blocks_instead = rustix::io::ioctl_fionbio(input, true);
        }
        while status.is_none() || self.outputs.iter().any(Option::is_some) {
            if gone {
                let group = Pid::from_raw(self.child.pid);
                let _gone_already =
                    group.map(|g| rustix::process::kill_process_group(g, Signal::KILL));
                return 137;
            }
            let mut fds = vec![PollFd::new(stream, PollFlags::IN)];
            // A pidfd stays readable; once its news is known it is no longer asked.
            if status.is_none() {
                fds.push(PollFd::new(&self.child.pidfd, PollFlags::IN));
            }
            for output in self.outputs.iter().flatten() {
                fds.push(PollFd::new(output, PollFlags::IN));
            }
            if let Some(input) = &self.input
                && !self.typed.is_empty()
            {
                fds.push(PollFd::new(input, PollFlags::OUT));
            }
            let _interrupted = poll(&mut fds, None);
            let ready: Vec<bool> = fds.iter().map(|f| !f.revents().is_empty()).collect();
            drop(fds);
            if ready[0] {
                gone |= self.hear(stream).is_err();
            }
            gone |= !self.tell(send);
            self.feed();
            let pid = Pid::from_raw(self.child.pid);
            if status.is_none()
                && let Ok(Some((_, ended))) = rustix::process::waitpid(pid, WaitOptions::NOHANG)
            {
                let signal = ended.terminating_signal().map(|s| 128 + s);
                status = Some(ended.exit_status().or(signal).unwrap_or(125));
                // Programs that it left behind may hold its output for ever.
                for output in self.outputs.iter().flatten() {
                    let _blocks_instead = rustix::io::ioctl_fionbio(output, true);
                }
                self.drain(send);
                self.outputs = [None, None];
            }
        }
        status.unwrap_or(125)
    }

    fn take_frames(&mut self) -> std::result::Result<(), InvalidFrame> {
        let (typed, ended) = (&mut self.typed, &mut self.ended);
        frame::decode_frames(&mut self.buffer, |kind, body| {
            match kind {
                b'i' => typed.extend_from_slice(body),
                b'z' => *ended = true,
                _ => return false,
            }
            true
        })
    }

    fn hear(&mut self, mut stream: &UnixStream) -> std::result::Result<(), InvalidFrame> {
        let mut bytes = [0u8; 8192];
        match stream.read(&mut bytes) {
            Ok(n @ 1..) => {
                self.buffer.extend_from_slice(&bytes[..n]);
                self.take_frames()
            }
            Ok(0) | Err(_) => Err(InvalidFrame),
        }
    }

    /// Passes on what the program said, one read of each.
    fn tell(&mut self, send: &mut dyn FnMut(u8, &[u8]) -> bool) -> bool {
        for (index, kind) in [b'o', b'e'].into_iter().enumerate() {
            let Some(output) = &self.outputs[index] else {
                continue;
            };
            let mut fds = [PollFd::new(output, PollFlags::IN)];
            let now = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            if !matches!(poll(&mut fds, Some(&now)), Ok(1..)) {
                continue;
            }
            let mut bytes = [0u8; READ];
            match rustix::io::read(output, &mut bytes) {
                Ok(n @ 1..) => {
                    if !send(kind, &bytes[..n]) {
                        return false;
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Ok(0) | Err(_) => self.outputs[index] = None,
            }
        }
        true
    }

    fn drain(&mut self, send: &mut dyn FnMut(u8, &[u8]) -> bool) {
        for (output, kind) in self.outputs.iter().flatten().zip([b'o', b'e']) {
            let mut bytes = [0u8; READ];
            while let Ok(n @ 1..) = rustix::io::read(output, &mut bytes) {
                if !send(kind, &bytes[..n]) {
                    return;
                }
            }
        }
    }

    fn feed(&mut self) {
        while let Some(input) = &self.input {
            if self.typed.is_empty() {
                if self.ended {
                    self.input = None;
                }
                return;
            }
            match rustix::io::write(input, &self.typed) {
                Ok(n) => drop(self.typed.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.input = None,
            }
        }
        self.typed.clear();
    }
}
