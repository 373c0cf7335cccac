//! Accepted connections, and the descriptors that a listener keeps for when no other is left.

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Shutdown};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Descriptors that each listener keeps for connections that come when no other is left: who asks then gets an answer,
/// if only that there are none.
pub(super) const SPARE_FILES: usize = 4;

/// Descriptors that a listener keeps.
#[derive(Debug, Default)]
pub(crate) struct SpareFiles(Mutex<Vec<OwnedFd>>);

/// Listeners of a control plane: two of the operator API, one each of agent API, egress proxy and DNS, and one more while an
/// address changes.
pub(super) const LISTENERS: usize = 6;

/// Descriptors for listeners that are not there yet.
static RESERVED: SpareFiles = SpareFiles(Mutex::new(Vec::new()));

/// Those of all listeners of this process.
static ALL_SPARE_FILES: Mutex<Vec<Weak<SpareFiles>>> = Mutex::new(Vec::new());

impl SpareFiles {
    /// Those of a new listener.
    pub(super) fn of_listener() -> Arc<SpareFiles> {
        let files = Arc::new(SpareFiles::default());
        let mut all = ALL_SPARE_FILES.lock();
        all.retain(|listener| listener.strong_count() > 0);
        all.push(Arc::downgrade(&files));
        files
    }

    /// Opens those of all listeners that there will be. At the start of a process they get the lowest numbers, so they are of
    /// use under any limit that it can have later.
    pub(crate) fn reserve() {
        RESERVED.fill(LISTENERS * SPARE_FILES);
    }

    /// Closes one of any listener; false if none has one.
    pub(super) fn release_any() -> bool {
        let all = ALL_SPARE_FILES.lock();
        let mut listeners = all.iter().filter_map(Weak::upgrade);
        listeners.any(|files| files.release())
    }

    /// Takes what is missing from the reserve, or opens it as far as there are descriptors.
    pub(super) fn refill(&self) {
        let mut reserved = RESERVED.0.lock();
        let mut files = self.0.lock();
        let wanted = SPARE_FILES.saturating_sub(files.len()).min(reserved.len());
        files.extend(reserved.drain(..wanted));
        drop((reserved, files));
        self.fill(SPARE_FILES);
    }

    fn fill(&self, count: usize) {
        let mut files = self.0.lock();
        while files.len() < count
            && let Ok(file) = File::open("/dev/null")
        {
            files.push(file.into());
        }
    }

    /// Closes one, for a connection; false if there was none. It is the one of the lowest number: a limit that was lowered
    /// makes high numbers useless.
    pub(super) fn release(&self) -> bool {
        let mut files = self.0.lock();
        let lowest = files.iter().enumerate().min_by_key(|(_, f)| f.as_raw_fd());
        let Some((index, _)) = lowest else {
            return false;
        };
        drop(files.swap_remove(index));
        true
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.lock().len()
    }
}

/// A listening socket.
pub(crate) trait Listener: AsFd + Sized + Sync {
    /// What it accepts.
    type Socket: Socket;

    /// Accepts one connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Socket>> + Send;

    /// Whether a connection waits. Without a free descriptor `accept` fails also when none does.
    fn has_waiting(&self) -> bool {
        let mut polled = [PollFd::new(self, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}

impl Listener for UnixListener {
    type Socket = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(UnixListener::accept(self).await?.0)
    }
}

impl Listener for TcpListener {
    type Socket = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = TcpListener::accept(self).await?;
        let _slower_without = stream.set_nodelay(true);
        Ok(stream)
    }
}

/// A socket that can be taken out of the runtime.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Its descriptor, after both directions were shut down.
    ///
    /// # Errors
    /// If the runtime does not give it back.
    fn shut_down(self) -> io::Result<OwnedFd>;
}

impl Socket for UnixStream {
    fn shut_down(self) -> io::Result<OwnedFd> {
        let socket = self.into_std()?;
        let _peer_gone = socket.shutdown(Shutdown::Both);
        Ok(socket.into())
    }
}

impl Socket for TcpStream {
    fn shut_down(self) -> io::Result<OwnedFd> {
        let socket = self.into_std()?;
        let _peer_gone = socket.shutdown(Shutdown::Both);
        Ok(socket.into())
    }
}

/// A connection that a listener accepted. When it ends and the listener lacks a spare descriptor, its own becomes one:
/// it is not closed in between, so nothing else can take it.
pub(crate) struct Accepted<S: Socket> {
    /// None only while it is dropped.
    socket: Option<S>,
    spare: Arc<SpareFiles>,
}

impl Accepted<TcpStream> {
    /// Address of the caller, if it is still connected.
    pub(crate) fn peer_address(&self) -> Option<IpAddr> {
        let address = self.socket.as_ref()?.peer_addr().ok()?;
        Some(address.ip())
    }
}

impl<S: Socket> Accepted<S> {
    pub(super) fn new(socket: S, spare: Arc<SpareFiles>) -> Accepted<S> {
        Accepted {
            socket: Some(socket),
            spare,
        }
    }

    /// Polls the socket.
    fn poll<T>(
        &mut self,
        poll: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut self.socket {
            Some(socket) => poll(Pin::new(socket)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl<S: Socket> Drop for Accepted<S> {
    fn drop(&mut self) {
        let mut files = self.spare.0.lock();
        if files.len() < SPARE_FILES
            && let Some(Ok(file)) = self.socket.take().map(Socket::shut_down)
        {
            files.push(file);
        }
    }
}

impl<S: Socket> AsyncRead for Accepted<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().poll(|socket| socket.poll_read(cx, buf))
    }
}

impl<S: Socket> AsyncWrite for Accepted<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll(|socket| socket.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        socket.poll(|socket| socket.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.as_ref().is_some_and(S::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll(|socket| socket.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll(|socket| socket.poll_shutdown(cx))
    }
}
