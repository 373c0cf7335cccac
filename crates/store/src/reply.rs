//! The answer of an operation, which arrives when its transaction is on disk.

use crate::error::{Error, Result};

/// An answer that arrives when its transaction is on disk.
#[derive(Debug)]
pub struct Reply<T>(tokio::sync::oneshot::Receiver<Result<T>>);

impl<T> Reply<T> {
    /// A reply, and the sender with which the operation answers it.
    pub(crate) fn new() -> (tokio::sync::oneshot::Sender<Result<T>>, Self) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        (sender, Reply(receiver))
    }

    /// Blocks the thread until the transaction is on disk, and returns the result of the operation. For threads outside
    /// an async runtime.
    ///
    /// # Errors
    /// The error of the operation, or [`Error::Closed`] when the store was closed.
    pub fn wait(self) -> Result<T> {
        self.0.blocking_recv().unwrap_or(Err(Error::Closed))
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T>;
    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0)
            .poll(cx)
            .map(|r| r.unwrap_or(Err(Error::Closed)))
    }
}
