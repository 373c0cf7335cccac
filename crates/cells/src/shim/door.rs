//! The door: a port in the cell's own network that leads to the house's Unix socket.
//!
//! Bytes are copied, nothing is understood. Each connection has two bounded buffers; a slow side
//! stops the other one instead of filling memory.

use crate::{Error, Result, spec};
use rustix::event::{PollFd, PollFlags};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
const BUFFER: usize = 16 << 10;

pub(super) struct Door {
    listener: TcpListener,
    socket: PathBuf,
    connections: Vec<Connection>,
}

impl Door {
    pub(super) fn open(spec: &spec::Door) -> Result<Door> {
        let what = format!("port {}", spec.port);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, spec.port))
            .map_err(Error::file("listen on", &what))?;
        Self::at(listener.into(), spec)
    }

    /// Behind a listener that was made in the cell's own network.
    pub(super) fn at(listener: OwnedFd, spec: &spec::Door) -> Result<Door> {
        let listener = TcpListener::from(listener);
        listener
            .set_nonblocking(true)
            .map_err(Error::file("listen on", "the door"))?;
        Ok(Door {
            listener,
            socket: spec.socket.clone(),
            connections: Vec::new(),
        })
    }

    pub(super) fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        if self.connections.len() < CONNECTIONS_MAX {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        for connection in &self.connections {
            connection.watch(fds);
        }
    }

    /// Accepts and copies as far as it goes without waiting.
    pub(super) fn turn(&mut self) {
        while self.connections.len() < CONNECTIONS_MAX {
            let Ok((inside, _)) = self.listener.accept() else {
                break;
            };
            // Without a house the caller sees a closed connection and tries again.
            if let Ok(house) = UnixStream::connect(&self.socket)
                && inside.set_nonblocking(true).is_ok()
                && house.set_nonblocking(true).is_ok()
            {
                let _slower_without = inside.set_nodelay(true);
                self.connections.push(Connection {
                    inside,
                    house,
                    up: Pipe::default(),
                    down: Pipe::default(),
                });
            }
        }
        self.connections.retain_mut(Connection::turn);
    }
}

struct Connection {
    inside: TcpStream,
    house: UnixStream,
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
    fn turn(&mut self, mut from: impl Read, mut to: impl Write, close: impl FnOnce()) -> bool {
        loop {
            let mut moved = false;
            if !self.eof && self.buffer.len() < BUFFER {
                let mut chunk = [0u8; BUFFER];
                let room = BUFFER - self.buffer.len();
                match from.read(&mut chunk[..room]) {
                    Ok(0) => self.eof = true,
                    Ok(n) => {
                        self.buffer.extend_from_slice(&chunk[..n]);
                        moved = true;
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => moved = true,
                    Err(_) => return false,
                }
            }
            if !self.buffer.is_empty() {
                match to.write(&self.buffer) {
                    Ok(n) => {
                        self.buffer.drain(..n);
                        moved = true;
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => moved = true,
                    Err(_) => return false,
                }
            }
            if !moved {
                break;
            }
        }
        if self.eof && self.buffer.is_empty() && !self.closed {
            self.closed = true;
            close();
        }
        true
    }
}

impl Connection {
    fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
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
        let house = wants(&self.down, &self.up);
        if !house.is_empty() {
            fds.push(PollFd::new(&self.house, house));
        }
    }

    fn turn(&mut self) -> bool {
        let up = self.up.turn(&self.inside, &self.house, || {
            drop(self.house.shutdown(Shutdown::Write))
        });
        let down = self.down.turn(&self.house, &self.inside, || {
            drop(self.inside.shutdown(Shutdown::Write))
        });
        // Once the house has said everything, the caller needs no more of it.
        up && down && !(self.down.closed && (self.up.closed || self.up.eof || self.down.eof))
    }
}
