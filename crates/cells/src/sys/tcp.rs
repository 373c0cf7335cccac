//! TCP connections that do not block the one thread of a shim or guest.

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;

/// Starts a non-blocking TCP connection from the network of this thread.
pub(crate) fn start_tcp_connection(address: &SocketAddrV4) -> std::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(e) => Err(e.into()),
    }
}
