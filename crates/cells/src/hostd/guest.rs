//! Asking the guest of a microVM, over its shim.

use super::HostdConfig;
use crate::control::{ShimRequest, ShimStatus, client};
use crate::files::{FileEntry, FileName};
use crate::guest::{GuestReply, GuestRequest};
use crate::program_stream::{self, ProgramInvocation};
use crate::record;
use crate::sys::{descriptors, process};
use crate::{CellRecord, CellSpec, Error, Result};
use abbey_model::CellName;
use abbey_support::frame;
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Time for a guest to answer something short.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Longest answer, bytes.
const ANSWER_MAX: u64 = 256 << 10;

fn live(cells: &Path, cell: &CellName) -> Result<Option<CellRecord>> {
    let record: Option<CellRecord> =
        record::read_json(&cells.join(cell.to_string()).join("shim.json"))?;
    Ok(record
        .filter(|r| r.child.as_ref().is_some_and(process::is_alive) && process::is_alive(&r.shim)))
}

/// Whether programs of a cell run.
pub(super) fn is_running(cells: &Path, cell: &CellName) -> Result<bool> {
    Ok(live(cells, cell)?.is_some())
}

/// Whether a cell is a running microVM, whose files only its guest can reach.
pub(super) fn is_running_microvm(cells: &Path, cell: &CellName) -> Result<bool> {
    Ok(live(cells, cell)?.is_some_and(|r| r.microvm))
}

/// Whether a cell is a running microVM or container, in which the guest starts further programs.
pub(super) fn has_running_guest(cells: &Path, cell: &CellName) -> Result<bool> {
    Ok(live(cells, cell)?.is_some_and(|r| r.microvm || r.container))
}

fn failed(cell: &CellName, why: impl Into<String>) -> Error {
    Error::Guest {
        cell: cell.clone(),
        why: why.into(),
    }
}

fn open(cells: &Path, cell: &CellName, ask: GuestRequest) -> Result<UnixStream> {
    let request = ShimRequest::Guest { ask };
    let (_, stream) = client::request_stream(&cells.join(cell.to_string()), &request)
        .map_err(|e| failed(cell, format!("cannot be reached: {e}")))?;
    let timed = stream
        .set_read_timeout(Some(ANSWER_WITHIN))
        .and_then(|()| stream.set_write_timeout(Some(ANSWER_WITHIN)));
    timed.map_err(Error::file("use", "a connection"))?;
    Ok(stream)
}

/// Gives a waiting microVM its program, whose standard streams are `streams`.
pub(super) fn begin_program(
    config: &HostdConfig,
    spec: CellSpec,
    streams: &[OwnedFd; 3],
) -> Result<()> {
    let cell = spec.cell.clone();
    let dir = config.cell_records_dir().join(cell.to_string());
    let lost = |e: std::io::Error| failed(&cell, format!("cannot be reached: {e}"));
    let stream = client::connect_to_shim(&dir).map_err(lost)?;
    let request = ShimRequest::Begin {
        spec: Box::new(spec),
    };
    let mut line = serde_json::to_vec(&request).unwrap_or_default();
    line.push(b'\n');
    let fds: Vec<_> = streams.iter().map(AsFd::as_fd).collect();
    descriptors::send_with_descriptors(&stream, &line, &fds).map_err(lost)?;
    let (answer, _) = descriptors::receive_line(&stream, ANSWER_MAX).map_err(lost)?;
    match serde_json::from_slice::<ShimStatus>(&answer) {
        Ok(status) if status.begun => Ok(()),
        _ => Err(failed(&cell, "does not wait for a program")),
    }
}

/// One question whose answer is a line.
fn short(cells: &Path, cell: &CellName, ask: GuestRequest, body: &[u8]) -> Result<GuestReply> {
    let mut stream = open(cells, cell, ask)?;
    let broken = |e: std::io::Error| failed(cell, format!("did not answer: {e}"));
    stream.write_all(body).map_err(broken)?;
    stream.shutdown(Shutdown::Write).map_err(broken)?;
    let mut bytes = Vec::new();
    (&stream)
        .take(ANSWER_MAX)
        .read_to_end(&mut bytes)
        .map_err(broken)?;
    match serde_json::from_slice(&bytes) {
        Ok(GuestReply::Failed { why }) => Err(failed(cell, format!("refused: {why}"))),
        Ok(answer) => Ok(answer),
        Err(_) => Err(failed(cell, "sent no valid reply")),
    }
}

/// Writes files into a running microVM through its guest; they are in place when this returns.
pub(super) fn write_guest_files(
    config: &HostdConfig,
    cell: &CellName,
    files: &[FileEntry],
) -> Result<()> {
    // The control plane's own copies stay outside.
    let inside = |f: &&FileEntry| {
        FileName::FOR_AGENTS.contains(&f.name)
            || f.name.is_removed_when_empty()
            || f.name.is_imported()
    };
    let files: Vec<&FileEntry> = files.iter().filter(inside).collect();
    let body = serde_json::to_vec(&files).unwrap_or_default();
    short(
        &config.cell_records_dir(),
        cell,
        GuestRequest::Prepare {},
        &body,
    )
    .map(drop)
}

/// Text of a known file of an agent, read through the guest of its running microVM.
pub(super) fn read_guest_file(
    config: &HostdConfig,
    cell: &CellName,
    file: FileName,
) -> Result<String> {
    match short(
        &config.cell_records_dir(),
        cell,
        GuestRequest::Read { file },
        &[],
    )? {
        GuestReply::Text { text } => Ok(text),
        _ => Err(failed(cell, "sent a reply of another kind")),
    }
}

/// Tar archive of an agent's home and workspace, streamed from the guest of its running microVM.
pub(super) fn pack_guest_files(config: &HostdConfig, cell: &CellName) -> Result<UnixStream> {
    let stream = open(&config.cell_records_dir(), cell, GuestRequest::Pack {})?;
    let mut line = Vec::new();
    let mut byte = [0u8; 1];
    // Byte by byte: what follows the answer is the archive.
    while line.len() < 4096 && line.last() != Some(&b'\n') {
        (&stream)
            .read_exact(&mut byte)
            .map_err(|e| failed(cell, format!("did not answer: {e}")))?;
        line.push(byte[0]);
    }
    match serde_json::from_slice(&line) {
        Ok(GuestReply::Done {}) => Ok(stream),
        Ok(GuestReply::Failed { why }) => Err(failed(cell, format!("refused: {why}"))),
        _ => Err(failed(cell, "sent no valid reply")),
    }
}

/// Runs a further program in a running microVM or container through its guest, which carries its streams, and waits for
/// it. Returns a shell's status, as [`super::exec::run_in_cell`].
pub(super) fn run_in_guest(
    cells: &Path,
    cell: &CellName,
    program: &ProgramInvocation,
    mut caller: &UnixStream,
) -> Result<i32> {
    let mut stream = open(cells, cell, GuestRequest::Exec {})?;
    let broken =
        |e: std::io::Error| failed(cell, format!("closed the connection of the program: {e}"));
    stream.set_read_timeout(None).map_err(broken)?;
    let mut line = serde_json::to_vec(program).unwrap_or_default();
    line.push(b'\n');
    stream.write_all(&line).map_err(broken)?;
    let (mut frames, mut bytes) = (Vec::new(), vec![0u8; frame::CONTENT_MAX]);
    loop {
        let mut fds = [
            PollFd::new(caller, PollFlags::IN),
            PollFd::new(&stream, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::file("wait for", "the program")(e.into())),
        }
        let [heard, said] = fds.map(|f| !f.revents().is_empty());
        if heard {
            match caller.read(&mut bytes) {
                // A program that ended takes nothing more; what it wrote last is still to be read.
                Ok(n @ 1..) => drop(stream.write_all(&bytes[..n])),
                // Closing the connection ends the program.
                Ok(0) | Err(_) => return Ok(137),
            }
        }
        if said {
            let n = stream.read(&mut bytes).map_err(broken)?;
            if n == 0 {
                let why = "closed the connection before the program ended";
                return Err(failed(cell, why));
            }
            frames.extend_from_slice(&bytes[..n]);
            let (mut code, mut passed) = (None, true);
            let valid = frame::decode_frames(&mut frames, |kind, body| {
                let known = [
                    program_stream::OUTPUT,
                    program_stream::ERRORS,
                    program_stream::NOT_RUN,
                    program_stream::GRANT,
                ];
                if kind == program_stream::EXIT {
                    code = std::str::from_utf8(body).ok().and_then(|t| t.parse().ok());
                }
                let frame = frame::encode_frame(kind, body);
                passed &= caller.write_all(&frame).is_ok();
                code.is_some() || known.contains(&kind)
            });
            match (code, valid) {
                (Some(code), Ok(())) => return Ok(code),
                (None, Ok(())) if passed => {}
                (None, Ok(())) => return Ok(137),
                (_, Err(_)) => return Err(failed(cell, "sent an invalid frame")),
            }
        }
    }
}
