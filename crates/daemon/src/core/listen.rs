//! Unix sockets of the control plane: for its own user only, with a limit on connections.

use crate::core::error::{Error, Result};
use crate::core::runtime::Runtime;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Connections at once on each listener.
pub(crate) const CONNECTIONS_MAX: usize = 4096;

/// Longest time for a request's head to arrive.
pub(crate) const HEAD_WITHIN: Duration = Duration::from_secs(30);

/// Listens on a socket that only the house's own user and root can reach, and attends to each
/// connection by itself.
pub(crate) fn listen_unix<F>(
    rt: &Runtime,
    path: PathBuf,
    attend: impl Fn(UnixStream) -> F + Send + 'static,
) -> Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    use std::os::unix::fs::PermissionsExt;
    // We hold the lock of the home, so a socket that lies here is a dead one.
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
            let Ok((stream, _)) = accepted else { continue };
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            let attended = attend(stream);
            drop(inner.spawn(async move {
                attended.await;
                drop(permit);
            }));
        }
    }));
    Ok(())
}
