//! What the house asks of a guest, each in a process of its own.

use super::program::{launch_as_guest_user, read_to_end_bounded};
use super::protocol::{GuestConfig, GuestReply, GuestRequest, UID};
use crate::files::tree::{LeftOut, TreePacker};
use crate::files::{FileEntry, open_owner_dir, prepare_owner_files, read_owner_file};
use crate::program_stream::{ProgramInvocation, follow_program, open_streams, report_not_run};
use crate::sys::cgroup::ControlGroups;
use crate::{Error, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Longest list of files, bytes.
const FILES_MAX: u64 = 1 << 20;
/// Longest description of a program, bytes.
const COMMAND_MAX: usize = 1 << 20;
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
        GuestRequest::Exec {} => exec(config, groups, stream),
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
                Some(UID),
                false,
                &files,
            )?;
        }
        GuestRequest::Read { file } => {
            let text = read_owner_file(&open_owner_dir(Path::new(AGENT))?, file)?;
            return Ok(GuestReply::Text { text });
        }
        GuestRequest::Pack {}
        | GuestRequest::Exec {}
        | GuestRequest::Attach { .. }
        | GuestRequest::Connect { .. } => {}
    }
    Ok(GuestReply::Done {})
}

/// What comes behind an answer.
fn follow(ask: &GuestRequest, stream: &UnixStream) -> Result<()> {
    if !matches!(ask, GuestRequest::Pack {}) {
        return Ok(());
    }
    let to = stream.try_clone().map_err(Error::file("use", "a stream"))?;
    let agent = Path::new(AGENT);
    let mut archive = tar::Builder::new(File::from(OwnedFd::from(to)));
    for name in ["home", "workspace"] {
        let dir = open_owner_dir(&agent.join(name))?;
        // hostd says once what a running microVM does not send.
        let mut left_out = LeftOut::default();
        let mut packer = TreePacker::new(&mut archive, &mut left_out, |_| false);
        packer
            .add(&dir, Path::new(name))
            .map_err(Error::file("pack", agent.join(name)))?;
    }
    archive.finish().map_err(Error::file("pack", agent))
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
fn exec(config: &GuestConfig, groups: &ControlGroups, mut stream: &UnixStream) -> Result<()> {
    let (first, rest) = line(&mut stream)?;
    let program: ProgramInvocation = serde_json::from_slice(&first).map_err(|e| Error::Record {
        path: "a program to run".into(),
        why: e.to_string(),
    })?;
    let terminal = program.terminal;
    // In a container there is one user.
    let (ends, fds) = open_streams(terminal, (!config.contained).then_some(UID))?;
    let (argv, env, cwd) = (&program.argv, &program.env, &program.cwd);
    match launch_as_guest_user(argv, env, cwd, groups, fds, terminal.is_some()) {
        Ok(child) => drop(follow_program(&child, ends, stream, rest)),
        Err(error) => {
            let why = match &error {
                Error::File { source, .. } => source.kind(),
                _ => std::io::ErrorKind::Other,
            };
            let name = argv.first().map_or("", String::as_str);
            report_not_run(stream, name, why);
        }
    }
    Ok(())
}
