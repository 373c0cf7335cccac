//! Forwards: ports that lead to the house or to one of its services. The first of every agent is
//! its door.
//!
//! Bytes are copied, nothing is understood. Each connection has two bounded buffers; a slow side
//! stops the other one instead of filling memory.

use crate::external;
use crate::spec::{ForwardTarget, PortForward};
use crate::sys::accept_pause::AcceptPause;
use crate::sys::tcp::start_tcp_connection;
use crate::{Error, Result};
use abbey_model::CellName;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::Shutdown;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

/// Connections of one forward at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
const BUFFER: usize = 16 << 10;

/// Listener of a port forward, with its connections.
pub(super) struct PortForwarder {
    listener: TcpListener,
    target: ForwardTarget,
    /// Said first on every connection: whose it is, where the other side cannot see it.
    preface: Vec<u8>,
    connections: Vec<Connection>,
    pause: AcceptPause,
}

impl PortForwarder {
    /// Starts a port forward with a new listener on the host.
    pub(super) fn listen(forward: &PortForward, cell: &CellName) -> Result<PortForwarder> {
        let at = forward.at.socket_address();
        let listener = TcpListener::bind(at).map_err(Error::file("listen on", format!("{at}")))?;
        Self::with_listener(listener.into(), forward, cell)
    }

    /// Starts a port forward on a listener that was created in the cell's own network.
    pub(super) fn with_listener(
        listener: OwnedFd,
        forward: &PortForward,
        cell: &CellName,
    ) -> Result<PortForwarder> {
        let listener = TcpListener::from(listener);
        listener.set_nonblocking(true).map_err(Error::file(
            "listen on",
            format!("{}", forward.at.socket_address()),
        ))?;
        let preface = match forward.to {
            ForwardTarget::Egress(_) | ForwardTarget::Names(_) => format!("{cell}\n").into_bytes(),
            ForwardTarget::House(_)
            | ForwardTarget::Service(_)
            | ForwardTarget::External { .. } => Vec::new(),
        };
        Ok(PortForwarder {
            listener,
            target: forward.to.clone(),
            preface,
            connections: Vec::new(),
            pause: AcceptPause::default(),
        })
    }

    /// Adds the listener and the connections to a `poll` set.
    pub(super) fn add_poll_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        if self.connections.len() < CONNECTIONS_MAX && self.next_deadline().is_none() {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        for connection in &self.connections {
            connection.watch(fds);
        }
    }

    /// When connections are accepted again, if they can't be for now.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.pause.end()
    }

    /// Accepts connections and copies bytes both ways as far as possible without waiting.
    pub(super) fn transfer(&mut self) {
        while self.connections.len() < CONNECTIONS_MAX && self.next_deadline().is_none() {
            let Some((inside, _)) = self.pause.accepted(self.listener.accept()) else {
                break;
            };
            // Without the other side the caller sees a closed connection and tries again.
            if let Ok(outside) = connect_to_target(&self.target)
                && inside.set_nonblocking(true).is_ok()
            {
                let _slower_without = inside.set_nodelay(true);
                let up = Pipe {
                    buffer: self.preface.clone(),
                    ..Pipe::default()
                };
                self.connections.push(Connection {
                    up,
                    ..Connection::between(inside.into(), outside)
                });
            }
        }
        self.connections.retain_mut(Connection::turn);
    }
}

/// Starts a non-blocking connection to the target of a port forward.
pub(super) fn connect_to_target(target: &ForwardTarget) -> std::io::Result<OwnedFd> {
    let unix = |path: &Path| {
        let stream = UnixStream::connect(path)?;
        stream.set_nonblocking(true)?;
        Ok(stream.into())
    };
    match target {
        ForwardTarget::House(path) | ForwardTarget::Egress(path) | ForwardTarget::Names(path) => {
            unix(path)
        }
        ForwardTarget::Service(address) => start_tcp_connection(address),
        ForwardTarget::External { service, record } => {
            start_tcp_connection(&external::read_external_address(record, service)?)
        }
    }
}

/// Bytes copied both ways between two connected sockets.
pub(super) struct Connection {
    inside: OwnedFd,
    outside: OwnedFd,
    up: Pipe,
    down: Pipe,
}

/// One direction.
#[derive(Default)]
struct Pipe {
    buffer: Vec<u8>,
    eof: bool,
    closed: bool,
}

impl Pipe {
    /// Copies; false when the connection is broken.
    fn turn(&mut self, from: &OwnedFd, to: &OwnedFd) -> bool {
        loop {
            let mut moved = false;
            if !self.eof && self.buffer.len() < BUFFER {
                let mut chunk = [0u8; BUFFER];
                let room = BUFFER - self.buffer.len();
                match rustix::io::read(from, &mut chunk[..room]) {
                    Ok(0) => self.eof = true,
                    Ok(n) => {
                        self.buffer.extend_from_slice(&chunk[..n]);
                        moved = true;
                    }
                    Err(Errno::AGAIN) => {}
                    Err(Errno::INTR) => moved = true,
                    Err(_) => return false,
                }
            }
            if !self.buffer.is_empty() {
                match rustix::net::send(to, &self.buffer, rustix::net::SendFlags::NOSIGNAL) {
                    Ok(n) => {
                        self.buffer.drain(..n);
                        moved = true;
                    }
                    Err(Errno::AGAIN) => {}
                    Err(Errno::INTR) => moved = true,
                    Err(_) => return false,
                }
            }
            if !moved {
                break;
            }
        }
        if self.eof && self.buffer.is_empty() && !self.closed {
            self.closed = true;
            let _gone_already = rustix::net::shutdown(to, Shutdown::Write);
        }
        true
    }
}

impl Connection {
    /// A connection of two non-blocking sockets.
    pub(super) fn between(inside: OwnedFd, outside: OwnedFd) -> Connection {
        Connection {
            inside,
            outside,
            up: Pipe::default(),
            down: Pipe::default(),
        }
    }

    /// Adds the sockets on which something is to be done to a `poll` set.
    pub(super) fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        let wants = |read: &Pipe, write: &Pipe| {
            let mut flags = PollFlags::empty();
            if !read.eof && read.buffer.len() < BUFFER {
                flags |= PollFlags::IN;
            }
            if !write.buffer.is_empty() {
                flags |= PollFlags::OUT;
            }
            flags
        };
        // Entries without interest would still report a hang-up over and over.
        let inside = wants(&self.up, &self.down);
        if !inside.is_empty() {
            fds.push(PollFd::new(&self.inside, inside));
        }
        let outside = wants(&self.down, &self.up);
        if !outside.is_empty() {
            fds.push(PollFd::new(&self.outside, outside));
        }
    }

    /// Copies as far as possible without waiting; false once the connection is over.
    pub(super) fn turn(&mut self) -> bool {
        let up = self.up.turn(&self.inside, &self.outside);
        let down = self.down.turn(&self.outside, &self.inside);
        // Once the other side has said everything, the caller needs no more of it.
        up && down && !(self.down.closed && (self.up.closed || self.up.eof || self.down.eof))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use std::io::Read;
    use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};

    // Each test is a process of its own.
    fn limit_files(files: Option<u64>) {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit {
            current: files.or(maximum),
            maximum,
        };
        setrlimit(Resource::Nofile, limit).unwrap();
    }

    #[test]
    fn a_forward_without_descriptors_does_not_poll_its_listener_until_later() {
        let target = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let std::net::SocketAddr::V4(to) = target.local_addr().unwrap() else {
            panic!("an IPv4 address");
        };
        let listener = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut forward = PortForwarder {
            listener,
            target: ForwardTarget::Service(to),
            preface: b"hello".to_vec(),
            connections: Vec::new(),
            pause: AcceptPause::default(),
        };
        let _waiting = TcpStream::connect(at).unwrap();
        limit_files(Some(3));
        forward.transfer();
        let again = forward.next_deadline().expect("a pause");
        let mut fds = Vec::new();
        forward.add_poll_fds(&mut fds);
        assert!(fds.is_empty(), "its listener would wake poll at once");
        drop(fds);
        limit_files(None);
        while Instant::now() < again {
            std::thread::yield_now();
        }
        let mut fds = Vec::new();
        forward.add_poll_fds(&mut fds);
        assert_eq!(fds.len(), 1);
        drop(fds);
        forward.transfer();
        assert_eq!(forward.connections.len(), 1);
        let (mut arrived, _) = target.accept().unwrap();
        forward.transfer();
        let mut text = [0; 5];
        arrived.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");
    }
}
