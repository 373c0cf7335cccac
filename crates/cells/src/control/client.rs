//! Talking to a shim: one line of JSON each way over its control socket.

use super::{ShimRequest, ShimStatus};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest time to wait for a shim, which answers from memory.
const PATIENCE: Duration = Duration::from_secs(3);

/// Longest answer, bytes.
const ANSWER_MAX: usize = 1 << 16;

/// Sends one request to the shim whose records are in `run_dir`, and returns the state of its cell.
pub(crate) fn request_status(run_dir: &Path, request: &ShimRequest) -> io::Result<ShimStatus> {
    request_stream(run_dir, request).map(|(status, _)| status)
}

/// Connects to the control socket of the shim whose records are in `run_dir`; reads and writes time out after 3 s.
pub(crate) fn connect_to_shim(run_dir: &Path) -> io::Result<UnixStream> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    connect(&socket, &SocketAddrUnix::new(run_dir.join("control.sock"))?)?;
    let stream = UnixStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends one request to a shim and returns the state of its cell with the connection, which then carries the
/// requested stream.
pub(crate) fn request_stream(
    run_dir: &Path,
    request: &ShimRequest,
) -> io::Result<(ShimStatus, UnixStream)> {
    let mut stream = connect_to_shim(run_dir)?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    // Byte by byte: what follows the answer is not ours.
    let mut answer = Vec::new();
    let mut byte = [0u8; 1];
    while answer.len() < ANSWER_MAX {
        stream.read_exact(&mut byte)?;
        match byte[0] {
            b'\n' => break,
            byte => answer.push(byte),
        }
    }
    Ok((serde_json::from_slice(&answer)?, stream))
}
