//! Talking to a shim: one line of JSON each way over its control socket.

use crate::shim::{Request, Status};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest time to wait for a shim, which answers from memory.
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) fn ask(run_dir: &Path, request: &Request) -> io::Result<Status> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    connect(&socket, &SocketAddrUnix::new(run_dir.join("control.sock"))?)?;
    let mut stream = UnixStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(io::Read::take(stream, 1 << 16)).read_line(&mut answer)?;
    serde_json::from_str(&answer).map_err(io::Error::from)
}
