//! A connection to the outside whose bytes count.

use super::IDLE;
use super::ledger::Counter;
use super::policy::Denied;
use crate::core::runtime::{Runtime, Sleep};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Ends itself when the budget is used up or nothing moves.
pub(super) struct Counted {
    rt: Runtime,
    stream: TcpStream,
    counter: Arc<Counter>,
    /// When bytes moved last.
    moved_at: Instant,
    /// Not moved with every byte: when it is ready, `moved_at` tells whether the time is over.
    idle: Sleep,
}

impl Counted {
    pub(super) fn new(rt: Runtime, stream: TcpStream, counter: Arc<Counter>) -> Counted {
        let _slower_without = stream.set_nodelay(true);
        Counted {
            stream,
            counter,
            moved_at: rt.instant(),
            idle: rt.sleep(IDLE),
            rt,
        }
    }

    /// Why it ended, where that was the house's doing.
    pub(super) fn verdict(&self) -> Result<(), Denied> {
        match self.counter.is_over() {
            false => Ok(()),
            true => Err(Denied::new(
                "budget",
                "the bytes of today are used up; see `budget.egress_per_day`",
            )),
        }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.counter.is_over() {
            return Err(io::Error::from(io::ErrorKind::QuotaExceeded));
        }
        while self.idle.as_mut().poll(cx).is_ready() {
            let over = self.moved_at + IDLE;
            if self.rt.instant() >= over {
                return Err(io::Error::from(io::ErrorKind::TimedOut));
            }
            self.idle = self.rt.sleep_until(over);
        }
        Ok(())
    }

    fn moved(&mut self) {
        self.moved_at = self.rt.instant();
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        if read > 0 {
            self.counter.add(&self.counter.down, read);
            self.moved();
        }
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            self.counter.add(&self.counter.up, written);
            self.moved();
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
