//! Unix sockets of the control plane: accessible to its own user and root only, with a limit on
//! connections.

use crate::core::error::{Error, Result};
use crate::core::runtime::Runtime;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Most concurrent connections of each listener.
pub(crate) const CONNECTIONS_MAX: usize = 4096;

/// Longest time for the head of a request to arrive.
pub(crate) const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// Pause after a connection could not be accepted, for example because no descriptor is free.
pub(crate) const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Listens on a Unix socket with mode 0600, and runs `serve` in a task of its own for each
/// connection, for at most [`CONNECTIONS_MAX`] at once, until the control plane stops.
pub(crate) fn listen_unix<F>(
    rt: &Runtime,
    path: PathBuf,
    serve: impl Fn(UnixStream) -> F + Send + 'static,
) -> Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    use std::os::unix::fs::PermissionsExt;
    // This process holds the lock of the home, so a socket file that exists is stale.
    let _stale = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(Error::file("listen on", &path))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .map_err(Error::file("protect", &path))?;
    let inner = rt.clone();
    drop(rt.spawn(async move {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = inner.stopped() => return,
            };
            let Ok((stream, _)) = accepted else {
                inner.sleep(ACCEPT_AGAIN).await;
                continue;
            };
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            let serveed = serve(stream);
            drop(inner.spawn(async move {
                serveed.await;
                drop(permit);
            }));
        }
    }));
    Ok(())
}
