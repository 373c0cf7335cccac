//! An outgoing connection that counts its bytes.

use super::IDLE;
use super::ledger::ByteCounter;
use super::policy::Denied;
use crate::core::runtime::{Runtime, Sleep};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// TCP stream that fails when the cell's byte budget is used up or no bytes moved for [`IDLE`].
pub(super) struct CountedStream {
    rt: Runtime,
    stream: TcpStream,
    counter: Arc<ByteCounter>,
    /// Instant of the last transferred byte.
    moved_at: Instant,
    /// Timer of the idle check. It is not reset with every byte: when it fires, `moved_at` decides
    /// whether the time is over.
    idle: Sleep,
}

impl CountedStream {
    /// Wraps a connected stream; transferred bytes are added to `counter`.
    pub(super) fn new(rt: Runtime, stream: TcpStream, counter: Arc<ByteCounter>) -> CountedStream {
        let _slower_without = stream.set_nodelay(true);
        CountedStream {
            stream,
            counter,
            moved_at: rt.now(),
            idle: rt.sleep(IDLE),
            rt,
        }
    }

    /// Reports whether the stream ended because the byte budget is used up.
    ///
    /// # Errors
    /// The refusal `budget` if so.
    pub(super) fn check_budget(&self) -> Result<(), Denied> {
        match self.counter.is_exhausted() {
            false => Ok(()),
            true => Err(Denied::new(
                "budget",
                "the egress budget of today is used up; raise `budget.egress_per_day` or wait for its reset",
            )),
        }
    }

    fn check_limits(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.counter.is_exhausted() {
            return Err(io::Error::from(io::ErrorKind::QuotaExceeded));
        }
        while self.idle.as_mut().poll(cx).is_ready() {
            let over = self.moved_at + IDLE;
            if self.rt.now() >= over {
                return Err(io::Error::from(io::ErrorKind::TimedOut));
            }
            self.idle = self.rt.sleep_until(over);
        }
        Ok(())
    }

    fn mark_active(&mut self) {
        self.moved_at = self.rt.now();
    }
}

impl AsyncRead for CountedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_limits(cx)?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        if read > 0 {
            self.counter.count(&self.counter.down, read);
            self.mark_active();
        }
        polled
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_limits(cx)?;
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            self.counter.count(&self.counter.up, written);
            self.mark_active();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
