//! Listeners of the control plane: its Unix sockets, accessible to its own user and root only, and the limit on
//! connections of each listener, also of the TCP port.

use crate::core::error::{Error, Result};
use crate::core::runtime::Runtime;
use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Most concurrent connections of each listener, where there are descriptors for them.
const CONNECTIONS_MAX: u64 = 4096;
/// Listeners of a control plane: two of the operator API, one each of agent API, egress proxy and DNS. A connection of the
/// proxy takes two descriptors.
const LISTENERS: u64 = 6;
/// Descriptors that connections leave to files, hostd and providers.
const OTHER_FILES: u64 = 256;

/// Longest time for the head of a request to arrive.
pub(crate) const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// Pause after a connection could not be accepted, for example because no descriptor is free.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Descriptors that each listener keeps for connections that come when no other is left: who asks then gets an answer,
/// if only that there are none.
const SPARE_FILES: usize = 2;

/// Most concurrent connections of each listener of a process that may open `files`; none is without a limit.
fn connections_max(files: Option<u64>) -> usize {
    let share = files.map_or(CONNECTIONS_MAX, |f| {
        f.saturating_sub(OTHER_FILES) / LISTENERS
    });
    usize::try_from(share.clamp(16, CONNECTIONS_MAX)).unwrap_or(16)
}

/// Places for the connections of one listener. When all are taken, a new connection gets the place of the one that has
/// been waiting longest for a request of its caller: who connects and sends nothing keeps nobody out.
pub(crate) struct ConnectionPlaces {
    permits: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    spare: Mutex<Vec<File>>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// Connections without a request, oldest first.
    idle: BTreeMap<u64, CancellationToken>,
    /// Whether a new connection waits for the next that becomes idle.
    is_full: bool,
}

impl ConnectionPlaces {
    /// As many places as this process has descriptors for.
    pub(crate) fn new() -> Arc<ConnectionPlaces> {
        Self::with_places(connections_max(getrlimit(Resource::Nofile).current))
    }

    fn with_places(places: usize) -> Arc<ConnectionPlaces> {
        let places = ConnectionPlaces {
            permits: Arc::new(Semaphore::new(places)),
            waiting: Mutex::default(),
            spare: Mutex::default(),
        };
        places.keep_spare_files();
        Arc::new(places)
    }

    /// Opens what is missing of the spare descriptors, as far as there are any.
    fn keep_spare_files(&self) {
        let mut spare = self.spare.lock();
        while spare.len() < SPARE_FILES
            && let Ok(file) = File::open("/dev/null")
        {
            spare.push(file);
        }
    }

    /// The next connection, with its place. Where none can be accepted, a spare descriptor makes room for it, or the
    /// connection that has been waiting longest for a request is closed.
    pub(crate) async fn next<S, F>(
        self: &Arc<Self>,
        rt: &Runtime,
        accept: impl Fn() -> F,
    ) -> (S, Arc<ConnectionPlace>)
    where
        F: Future<Output = io::Result<S>>,
    {
        loop {
            if let Ok(stream) = accept().await {
                return (stream, self.acquire().await);
            }
            let spare = self.spare.lock().pop();
            if spare.is_none() {
                self.waiting.lock().close_oldest();
                rt.sleep(ACCEPT_AGAIN).await;
            }
        }
    }

    /// A place for a new connection.
    async fn acquire(self: &Arc<Self>) -> Arc<ConnectionPlace> {
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => {
                {
                    let mut waiting = self.waiting.lock();
                    waiting.is_full = !waiting.close_oldest();
                }
                // Never closed, so this does not fail.
                Arc::clone(&self.permits).acquire_owned().await.ok()
            }
        };
        self.keep_spare_files();
        let closed = CancellationToken::new();
        let mut waiting = self.waiting.lock();
        waiting.is_full = false;
        let number = waiting.add(closed.clone());
        Arc::new(ConnectionPlace {
            places: Arc::clone(self),
            number: Mutex::new(number),
            closed,
            _permit: permit,
        })
    }
}

impl Waiting {
    /// Closes the connection that has been waiting longest for a request, if one is.
    fn close_oldest(&mut self) -> bool {
        let oldest = self.idle.pop_first();
        oldest.inspect(|(_, closed)| closed.cancel()).is_some()
    }

    fn add(&mut self, closed: CancellationToken) -> u64 {
        self.next += 1;
        self.idle.insert(self.next, closed);
        self.next
    }
}

/// Place of one connection, until it is dropped.
pub(crate) struct ConnectionPlace {
    places: Arc<ConnectionPlaces>,
    number: Mutex<u64>,
    closed: CancellationToken,
    _permit: Option<OwnedSemaphorePermit>,
}

impl ConnectionPlace {
    /// Keeps the place, until the returned value is dropped: a request is being served.
    pub(crate) fn begin_request(self: &Arc<Self>) -> RequestInProgress {
        self.places.waiting.lock().idle.remove(&self.number.lock());
        RequestInProgress(Arc::clone(self))
    }

    /// Resolves when another connection needs the place; the connection must end.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.places.waiting.lock().idle.remove(&self.number.lock());
        self.places.keep_spare_files();
    }
}

/// A request that is served on a connection.
pub(crate) struct RequestInProgress(Arc<ConnectionPlace>);

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        let place = &self.0;
        let mut waiting = place.places.waiting.lock();
        match std::mem::take(&mut waiting.is_full) {
            true => place.closed.cancel(),
            false => *place.number.lock() = waiting.add(place.closed.clone()),
        }
    }
}

/// Listens on a Unix socket with mode 0600, and runs `serve` in a task of its own for each
/// connection, with its place, until the control plane stops.
pub(crate) fn listen_unix<F>(
    rt: &Runtime,
    path: PathBuf,
    serve: impl Fn(UnixStream, Arc<ConnectionPlace>) -> F + Send + 'static,
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
        let places = ConnectionPlaces::new();
        loop {
            let ((stream, _), place) = tokio::select! {
                next = places.next(&inner, || listener.accept()) => next,
                () = inner.stopped() => return,
            };
            drop(inner.spawn(serve(stream, place)));
        }
    }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_to_others() {
        assert_eq!(connections_max(None), 4096);
        assert_eq!(connections_max(Some(65_536)), 4096);
        assert_eq!(connections_max(Some(1024)), 128);
        assert_eq!(connections_max(Some(64)), 16);
    }

    #[tokio::test]
    async fn without_descriptors_a_spare_one_serves_and_then_the_oldest_connection_goes() {
        let places = ConnectionPlaces::with_places(4);
        let idle = places.acquire().await;
        let closes = tokio::spawn(async move { idle.closed().await });
        let failures = std::cell::Cell::new(0);
        // As many failures as there are spare descriptors, and one more.
        let accept = || async {
            let number = failures.replace(failures.get() + 1);
            if number > SPARE_FILES {
                return Ok(());
            }
            assert_eq!(places.spare.lock().len(), SPARE_FILES - number);
            Err(io::ErrorKind::Other.into())
        };
        let ((), place) = places.next(&Runtime::system(), accept).await;
        closes.await.unwrap();
        assert_eq!(places.spare.lock().len(), SPARE_FILES);
        drop(place);
    }

    #[tokio::test]
    async fn a_new_connection_gets_the_place_of_the_one_that_waited_longest() {
        let places = ConnectionPlaces::with_places(2);
        let (busy, idle) = (places.acquire().await, places.acquire().await);
        let request = busy.begin_request();
        let ends = tokio::spawn(async move { idle.closed().await });
        let third = places.acquire().await;
        ends.await.unwrap();
        // All are busy now: the first whose request ends makes room.
        let other = third.begin_request();
        let fourth = places.acquire();
        tokio::pin!(fourth);
        tokio::select! {
            biased;
            _early = &mut fourth => panic!("there was no place"),
            () = std::future::ready(()) => {}
        }
        drop(request);
        busy.closed().await;
        drop(busy);
        let fourth = fourth.await;
        // One that serves a request is never closed, and one that left does not come up again.
        drop((other, third));
        let _fifth = places.acquire().await;
        assert!(!fourth.closed.is_cancelled());
    }
}
