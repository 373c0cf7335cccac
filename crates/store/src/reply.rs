//! The answer of an operation, which arrives when its transaction is on disk.

use crate::error::{Error, Result};

/// An answer that arrives when its transaction is on disk.
#[derive(Debug)]
pub struct Reply<T>(tokio::sync::oneshot::Receiver<Result<T>>);

impl<T> Reply<T> {
    pub(crate) fn new() -> (tokio::sync::oneshot::Sender<Result<T>>, Self) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        (sender, Reply(receiver))
    }

    /// Blocks until the answer is there; for threads outside an async runtime.
    ///
    /// # Errors
    /// What the operation says, or [`Error::Closed`].
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
