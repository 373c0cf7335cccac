//! Reads of the house that take long, for which many may ask at once.

use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Mutex;

/// A read that runs once at a time. Whoever waits while it runs shares the result of the next one, so any number of callers
/// cost two reads, and nobody gets a result from before its request.
pub(super) struct SharedRead<T> {
    /// Reads that were started.
    started: AtomicU64,
    /// The newest result and the number of the read that gave it. Held by the read that runs.
    newest: Mutex<Option<(u64, T)>>,
}

impl<T> Default for SharedRead<T> {
    fn default() -> Self {
        SharedRead {
            started: AtomicU64::new(0),
            newest: Mutex::const_new(None),
        }
    }
}

impl<T: Clone> SharedRead<T> {
    /// Result of a read that starts after this call does: of `read`, or of another caller. A failure isn't shared.
    ///
    /// # Errors
    /// The error of `read`.
    pub(super) async fn get<E>(&self, read: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let before = self.started.load(Ordering::SeqCst);
        let mut newest = self.newest.lock().await;
        if let Some((number, value)) = &*newest
            && *number > before
        {
            return Ok(value.clone());
        }
        let number = self.started.fetch_add(1, Ordering::SeqCst) + 1;
        let value = read.await?;
        *newest = Some((number, value.clone()));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::sync::Arc;
    use tokio::sync::Notify;

    #[tokio::test]
    async fn callers_that_wait_share_the_next_read_and_nobody_gets_an_older_one() {
        let shared = Arc::new(SharedRead::default());
        let (reads, go_on) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let ask = || {
            let (shared, reads, go_on) = (shared.clone(), reads.clone(), go_on.clone());
            async move {
                let read = async {
                    let number = reads.fetch_add(1, Ordering::SeqCst);
                    go_on.notified().await;
                    Ok::<_, ()>(number)
                };
                shared.get(read).await
            }
        };
        let first = tokio::spawn(ask());
        while reads.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let mut others = std::pin::pin!(futures_util::future::join_all([ask(), ask(), ask()]));
        assert_eq!(others.as_mut().now_or_never(), None);
        go_on.notify_one();
        assert_eq!(first.await.unwrap(), Ok(0));
        assert_eq!(others.as_mut().now_or_never(), None);
        go_on.notify_one();
        assert_eq!(others.await, [Ok(1), Ok(1), Ok(1)]);
        go_on.notify_one();
        assert_eq!(ask().await, Ok(2));
    }
}
