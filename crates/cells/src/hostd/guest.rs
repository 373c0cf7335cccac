//! Asking the guest of a microVM, over its shim.

use super::HostdConfig;
use crate::control::{ShimRequest, ShimStatus, client};
use crate::files::{FileEntry, FileName};
use crate::guest::{GuestCommand, GuestReply, GuestRequest};
use crate::record;
use crate::sys::{descriptors, frame, process};
use crate::{CellRecord, CellSpec, Error, Result};
use abbey_model::CellName;
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

/// Runs a further program in a running microVM or container through its guest and waits for it. Returns a shell's
/// status, as [`super::exec::run_in_cell`].
pub(super) fn run_in_guest(
    cells: &Path,
    cell: &CellName,
    program: &GuestCommand,
    streams: [OwnedFd; 3],
    caller: &UnixStream,
) -> Result<i32> {
    let mut stream = open(cells, cell, GuestRequest::Exec {})?;
    let broken =
        |e: std::io::Error| failed(cell, format!("closed the connection of the program: {e}"));
    stream.set_read_timeout(None).map_err(broken)?;
    let mut line = serde_json::to_vec(program).unwrap_or_default();
    line.push(b'\n');
    stream.write_all(&line).map_err(broken)?;
    let [input, output, errors] = streams;
    let (outputs, mut input) = ([output, errors], Some(input));
    let mut buffer = Vec::new();
    let mut code = None;
    loop {
        let mut fds = vec![
            PollFd::new(caller, PollFlags::RDHUP),
            PollFd::new(&stream, PollFlags::IN),
        ];
        fds.extend(input.as_ref().map(|i| PollFd::new(i, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::file("wait for", "the program")(e.into())),
        }
        let ready: Vec<bool> = fds.iter().map(|f| !f.revents().is_empty()).collect();
        drop(fds);
        if ready[0] {
            // Closing the connection ends the program.
            return Ok(137);
        }
        if ready.get(2) == Some(&true)
            && let Some(from) = &input
        {
            let mut bytes = [0u8; 8192];
            let frame = match rustix::io::read(from, &mut bytes) {
                Ok(n @ 1..) => frame::encode_frame(b'i', &bytes[..n]),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
                Ok(0) | Err(_) => {
                    input = None;
                    frame::encode_frame(b'z', &[])
                }
            };
            // A program that does not read is one that ends, or one whose caller waits with it.
            let _ended_already = stream.write_all(&frame);
        }
        if ready[1] {
            let mut bytes = [0u8; 8192];
            let n = stream.read(&mut bytes).map_err(broken)?;
            buffer.extend_from_slice(&bytes[..n]);
            let taken = frame::decode_frames(&mut buffer, |kind, body| match kind {
                b'o' | b'e' => {
                    let to = &outputs[usize::from(kind == b'e')];
                    let _nobody_listens = write_all(to, body);
                    true
                }
                b'x' => {
                    code = std::str::from_utf8(body).ok().and_then(|t| t.parse().ok());
                    code.is_some()
                }
                _ => false,
            });
            match (code, taken, n) {
                (Some(code), Ok(()), _) => return Ok(code),
                (None, Ok(()), 1..) => {}
                (_, Err(_), _) => return Err(failed(cell, "sent an invalid frame")),
                (None, Ok(()), 0) => {
                    return Err(failed(
                        cell,
                        "closed the connection before the program ended",
                    ));
                }
            }
        }
    }
}

fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
