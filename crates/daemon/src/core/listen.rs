//! Listeners of the control plane: its Unix sockets, accessible to its own user and root only, and the limit on
//! connections of each listener, also of the TCP port.

use crate::core::accepted::{Accepted, LISTENERS, Listener, SpareFiles};
use crate::core::error::{Error, Result};
use crate::core::runtime::Runtime;
use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Most concurrent connections of each listener, where there are descriptors for them.
const CONNECTIONS_MAX: u64 = 4096;
/// Descriptors that connections leave to files, hostd and providers.
const OTHER_FILES: u64 = 256;

/// Longest time for the head of a request to arrive.
pub(crate) const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// Pause after a connection could not be accepted, for example because no descriptor is free.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Pauses after which a connection without a request is closed for the one that waits.
const PAUSES_BEFORE_CLOSING: u32 = 10;

/// Most concurrent connections of each listener of a process that may open `files`; none is without a limit.
fn connections_max(files: Option<u64>) -> usize {
    let share = files.map_or(CONNECTIONS_MAX, |f| {
        // A connection of the proxy takes two descriptors.
        f.saturating_sub(OTHER_FILES) / LISTENERS as u64
    });
    usize::try_from(share.clamp(16, CONNECTIONS_MAX)).unwrap_or(16)
}

/// Places for the connections of one listener. When all are taken, a new connection gets the place of the one that has
/// been waiting longest for a request of its caller: who connects and sends nothing keeps nobody out.
pub(crate) struct ConnectionPlaces {
    permits: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    spare: Arc<SpareFiles>,
    callers: Callers,
}

/// Who connects to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Callers {
    /// The owner of the house and root. They get in as long as any listener has a spare descriptor.
    Owner,
    /// Cells, or whoever reaches the address.
    Others,
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
    pub(crate) fn new(callers: Callers) -> Arc<ConnectionPlaces> {
        let places = connections_max(getrlimit(Resource::Nofile).current);
        Self::with_places(places, callers)
    }

    fn with_places(places: usize, callers: Callers) -> Arc<ConnectionPlaces> {
        let places = ConnectionPlaces {
            permits: Arc::new(Semaphore::new(places)),
            waiting: Mutex::default(),
            spare: SpareFiles::of_listener(),
            callers,
        };
        places.spare.refill();
        Arc::new(places)
    }

    /// The next connection, with its place. Where none can be accepted, a spare descriptor makes room for it, or after a
    /// second the connection that has been waiting longest for a request is closed.
    pub(crate) async fn next<L: Listener>(
        self: &Arc<Self>,
        rt: &Runtime,
        listener: &L,
    ) -> (Accepted<L::Socket>, Arc<ConnectionPlace>) {
        let mut pauses = 0;
        loop {
            if let Ok(socket) = listener.accept().await {
                let connection = Accepted::new(socket, Arc::clone(&self.spare));
                return (connection, self.acquire().await);
            }
            let waiting = listener.has_waiting();
            if waiting && self.make_room() {
                continue;
            }
            if waiting && pauses >= PAUSES_BEFORE_CLOSING {
                self.waiting.lock().close_oldest();
            }
            rt.sleep(ACCEPT_AGAIN).await;
            // A descriptor that was released for a connection may have gone to something else, and be free again.
            self.spare.refill();
            pauses = if waiting { pauses + 1 } else { 0 };
        }
    }

    /// Releases a spare descriptor for the connection that waits; false if there is none.
    fn make_room(&self) -> bool {
        self.spare.release() || (self.callers == Callers::Owner && SpareFiles::release_any())
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
        self.spare.refill();
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
        self.places.spare.refill();
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
    (path, callers): (PathBuf, Callers),
    serve: impl Fn(Accepted<UnixStream>, Arc<ConnectionPlace>) -> F + Send + 'static,
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
        let places = ConnectionPlaces::new(callers);
        loop {
            let (stream, place) = tokio::select! {
                next = places.next(&inner, &listener) => next,
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
    use crate::core::accepted::SPARE_FILES;
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd};
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn connections_leave_descriptors_to_others() {
        assert_eq!(connections_max(None), 4096);
        assert_eq!(connections_max(Some(65_536)), 4096);
        assert_eq!(connections_max(Some(1024)), 128);
        assert_eq!(connections_max(Some(64)), 16);
    }

    /// Accepts nothing until the spare descriptors are released and a connection was closed.
    struct Refusing {
        listener: UnixListener,
        spare: Arc<SpareFiles>,
        calls: AtomicUsize,
        closed: CancellationToken,
    }

    impl AsFd for Refusing {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.listener.as_fd()
        }
    }

    impl Listener for Refusing {
        type Socket = UnixStream;

        async fn accept(&self) -> io::Result<UnixStream> {
            let number = self.calls.fetch_add(1, Ordering::Relaxed);
            if let Some(expected) = SPARE_FILES.checked_sub(number) {
                assert_eq!(self.spare.count(), expected);
            }
            match self.closed.is_cancelled() {
                true => Listener::accept(&self.listener).await,
                false => Err(io::ErrorKind::Other.into()),
            }
        }
    }

    #[tokio::test]
    async fn without_descriptors_a_spare_one_serves_and_then_the_oldest_connection_goes() {
        let places = ConnectionPlaces::with_places(4, Callers::Others);
        let idle = places.acquire().await;
        let closes = tokio::spawn(async move { idle.closed().await });
        let dir = tempfile::tempdir().unwrap();
        let refusing = Refusing {
            listener: UnixListener::bind(dir.path().join("socket")).unwrap(),
            spare: Arc::clone(&places.spare),
            calls: AtomicUsize::new(0),
            closed: places.waiting.lock().idle[&1].clone(),
        };
        let _caller = UnixStream::connect(dir.path().join("socket"))
            .await
            .unwrap();
        let (connection, place) = places.next(&Runtime::system(), &refusing).await;
        closes.await.unwrap();
        assert_eq!(places.spare.count(), SPARE_FILES);
        // The descriptor of a connection that ends becomes a spare one, and no more than are missing.
        assert!(places.spare.release());
        drop(connection);
        assert_eq!(places.spare.count(), SPARE_FILES);
        let socket = UnixStream::pair().unwrap().0;
        drop(Accepted::new(socket, Arc::clone(&places.spare)));
        assert_eq!(places.spare.count(), SPARE_FILES);
        drop(place);
    }

    #[test]
    fn the_owner_takes_the_spare_descriptors_of_others_but_not_they_those_of_the_owner() {
        let owner = ConnectionPlaces::with_places(2, Callers::Owner);
        let others = ConnectionPlaces::with_places(2, Callers::Others);
        for _ in 0..SPARE_FILES {
            assert!(others.make_room());
        }
        assert!(!others.make_room());
        assert_eq!(owner.spare.count(), SPARE_FILES);
        others.spare.refill();
        let mut released = 0;
        while owner.make_room() {
            released += 1;
        }
        assert!(released >= 2 * SPARE_FILES);
        assert_eq!((owner.spare.count(), others.spare.count()), (0, 0));
    }

    #[tokio::test]
    async fn a_new_connection_gets_the_place_of_the_one_that_waited_longest() {
        let places = ConnectionPlaces::with_places(2, Callers::Others);
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
