//! Lines over a Unix socket, with descriptors that come along.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Sends bytes over a Unix socket, with up to three file descriptors.
pub(crate) fn send_with_descriptors(
    mut stream: &UnixStream,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let io = [IoSlice::new(bytes)];
    let sent = rustix::net::sendmsg(stream, &io, &mut ancillary, SendFlags::NOSIGNAL)?;
    stream.write_all(&bytes[sent..])
}

/// Reads one byte from a Unix stream socket, and returns the file descriptor that came with it.
pub(crate) fn receive_byte(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8; 1];
    let mut io = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(stream, &mut io, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut messages = ancillary.drain();
    Ok(messages.find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut passed) => passed.next(),
        _ => None,
    }))
}

/// How many times over the limit a line is still read to its end.
const PATIENCE: u64 = 4;
/// How many descriptors are kept of all that come along.
const DESCRIPTORS: usize = 3;

/// Reads one line from a Unix socket, with up to three file descriptors that come with it.
///
/// What exceeds `most` bytes is read and dropped, up to four times that: closing a socket with unread bytes would
/// reset the connection and lose the answer (`unix(7)`, `ECONNRESET`).
pub(crate) fn receive_line(stream: &UnixStream, most: u64) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut bytes, mut fds) = (Vec::new(), Vec::new());
    let mut buffer = vec![0u8; 64 << 10];
    let mut came = 0;
    while came <= most * PATIENCE {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut io = [IoSliceMut::new(&mut buffer)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = match rustix::net::recvmsg(stream, &mut io, &mut ancillary, flags) {
            Ok(got) => got.bytes,
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                fds.extend(passed);
            }
        }
        fds.truncate(DESCRIPTORS);
        if bytes.len() as u64 <= most {
            bytes.extend_from_slice(&buffer[..got]);
        }
        came += got as u64;
        if got == 0 || buffer[..got].ends_with(b"\n") {
            break;
        }
    }
    Ok((bytes, fds))
}
