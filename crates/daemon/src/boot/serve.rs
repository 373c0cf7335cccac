//! Start-up and shutdown, in order.

use crate::api_server::{agent_api, operator_api};
use crate::boot::duties;
use crate::boot::house::{Current, House, Skills};
use crate::cells::provision;
use crate::cells::reconciler::pass;
use crate::core::error::{Error, Result};
use crate::core::home::{Home, publish};
use crate::net::{dns, egress};
use crate::work::model_gateway;
use abbey_cells::hostd::{Client, Helper, Inline, Operation};
use abbey_cells::{Backend, ShimBackend};
use abbey_model::{Millis, Principal};
use abbey_store::{Clock, Sqlite, Storage, TokenRow};
use abbey_support::digest::sha256_hex;
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Mutex, Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once on each listener.
const CONNECTIONS_MAX: usize = 4096;
/// Longest time for a request's head to arrive.
pub(crate) const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// Longest time for the last answers at shutdown.
const DRAIN: Duration = Duration::from_secs(3);

/// How to serve.
pub struct Options {
    /// `ABBEY_HOME`.
    pub home: PathBuf,
    /// The clock that decides leases.
    pub clock: Arc<dyn Clock>,
    /// Length of leases, where tests need shorter ones.
    pub lease_ttl: Option<Millis>,
    /// Where the outside door listens before a manifest says otherwise.
    pub listen: Option<SocketAddr>,
    /// Called once both doors answer.
    pub on_ready: Box<dyn FnOnce(&Announcement) + Send>,
}

/// Who and where a running control plane is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Its process.
    pub pid: u32,
    /// Its outside door.
    pub address: String,
    /// Whether that door speaks TLS.
    pub tls: bool,
}

/// Runs a control plane until `abbey down` or a signal.
///
/// # Errors
/// When it cannot start; nothing is left then but files.
pub async fn serve(options: Options) -> Result<()> {
    let home = Home::new(options.home);
    let lock = home.lock()?;
    let (house, backend) = open(
        &home,
        Arc::new(Client::new(home.root())),
        options.clock,
        (options.lease_ttl, options.listen),
    )
    .await?;
    let tracker = house.tracker.clone();

    // Where cells are is known before anybody is answered; what runs is adopted here.
    pass(&house, &mut std::collections::BTreeMap::new()).await?;
    let gateway = model_gateway::gateway(&house);
    let outside = operator_api::router(Arc::clone(&house));
    serve_unix(
        &house,
        &tracker,
        home.inside(),
        agent_api::router(Arc::clone(&house), gateway),
    )?;
    serve_unix(&house, &tracker, home.operator(), outside)?;
    egress::open(&house, &tracker)?;
    dns::open(&house, &tracker)?;
    let announcement = open_outside(&house).await?;
    duties::start(&house, &tracker);
    drop(tracker.spawn(crate::cells::vm_pool::expire(Arc::clone(&house))));
    if let Err(error) = provision::settle(&house).await {
        tracing::error!(
            error = error.chain(),
            "the agents' files could not be brought up to date"
        );
    }
    tracing::info!(
        pid = announcement.pid,
        address = announcement.address,
        "the house is up"
    );
    (options.on_ready)(&announcement);

    until_told(&house).await?;
    house.stop.cancel();
    tracker.close();
    if tokio::time::timeout(DRAIN, tracker.wait()).await.is_err() {
        tracing::warn!("some requests were cut off");
    }
    for file in [
        home.announcement(),
        home.inside(),
        home.operator(),
        home.egress_socket(),
        home.names_socket(),
    ] {
        let _gone_already = std::fs::remove_file(file);
    }
    if house.going_down.load(Ordering::SeqCst) {
        house.store.checkpoint().await?;
        // Last: without a house there is nothing to help with.
        let hostd = Arc::clone(&house.hostd);
        if let Err(error) =
            crate::core::hostd::ask(move || hostd.call(Operation::End {}, &[])).await
        {
            tracing::warn!(error = error.chain(), "hostd was gone already");
        }
        let _gone_already = std::fs::remove_file(home.run().join("serve.lock"));
        tracing::info!("the house is down");
    } else {
        tracing::info!("the control plane ends; its cells go on");
    }
    drop((house, backend, lock));
    Ok(())
}

/// Tells every mistake of a manifest without a control plane.
///
/// # Errors
/// A problem with all of them.
pub fn check_manifest(text: &str) -> std::result::Result<(), abbey_api::Problem> {
    crate::planning::apply::parse(text).map(drop)
}

/// Plans a manifest without a running control plane, against the state of the home if it has one.
///
/// # Errors
/// As the plan's route; [`Error::Locked`] when a control plane runs after all.
pub async fn plan_offline(
    home: PathBuf,
    body: abbey_api::ManifestBody,
) -> Result<abbey_api::PlanDoc> {
    let real = Home::new(home);
    let clock: Arc<dyn Clock> = Arc::new(abbey_store::SystemClock::new());
    if real.database().exists() {
        let _lock = real.lock()?;
        let helper = Arc::new(Inline(real.hostd_config()?));
        let (house, _backend) = open(&real, helper, clock, (None, None)).await?;
        return crate::planning::apply::dry_run(&house, body).await;
    }
    // Nothing is there yet, and planning must leave nothing: an empty state in a scratch place.
    let scratch = tempfile::Builder::new()
        .prefix("abbey-plan-")
        .tempdir()
        .map_err(Error::file("make", "a scratch directory"))?;
    let home = Home::new(scratch.path().to_owned());
    crate::core::home::make_dir(&home.run(), 0o700)?;
    let helper = Arc::new(Inline(home.hostd_config()?));
    let (house, _backend) = open(&home, helper, clock, (None, None)).await?;
    crate::planning::apply::dry_run(&house, body).await
}

pub(crate) async fn open(
    home: &Home,
    hostd: Arc<dyn Helper>,
    clock: Arc<dyn Clock>,
    (lease_ttl, listen_override): (Option<Millis>, Option<SocketAddr>),
) -> Result<(Arc<House>, Arc<dyn Backend>)> {
    let redactor = Arc::<RwLock<_>>::default();
    let (head_sender, head) = watch::channel(0u64);
    let signing_key = home.signing_key()?;
    let store: Arc<dyn Storage> = Arc::new(Sqlite::open(abbey_store::Options {
        path: home.database(),
        clock,
        redactor: Arc::clone(&redactor),
        signing_key,
        on_commit: Arc::new(move |seq| {
            head_sender.send_replace(seq);
        }),
        on_fatal: Box::new(|why| {
            // What reached the disk is unknown: end at once, and recover at the next start.
            tracing::error!(
                why,
                "the state could not be flushed; the control plane ends"
            );
            std::process::exit(70);
        }),
    })?);
    let lost = store.charge_lost().await?;
    if lost > 0 {
        tracing::warn!(
            calls = lost,
            "calls that a crash cut off were charged in full"
        );
    }
    let backend: Arc<dyn Backend> = Arc::new(ShimBackend::new(home.root(), home.group()));
    let current = store.current().await?.map(Current::from_row).transpose()?;
    let cells = store.cells().await?;
    let house = Arc::new(House {
        hostd,
        home: home.clone(),
        store: Arc::clone(&store),
        backend: Arc::clone(&backend),
        current: RwLock::new(current.map(Arc::new)),
        skills: RwLock::new(Arc::new(Skills::load(&home.skills()))),
        keys: crate::core::credentials::Keys::default(),
        traces: crate::work::trace::Traces::new(&signing_key),
        redactor,
        work: crate::boot::house::Work::default(),
        cells_changed: Notify::new(),
        room: crate::cells::memory::Room::default(),
        deadlines_changed: Notify::new(),
        documents_changed: Notify::new(),
        draining: RwLock::default(),
        consumers_trouble: RwLock::default(),
        deliveries: std::sync::Mutex::default(),
        head,
        applying: Mutex::new(()),
        seen: RwLock::default(),
        wishes: RwLock::new(cells.iter().map(|(c, r)| (c.clone(), r.wish)).collect()),
        going_down: AtomicBool::new(false),
        down_asked: Notify::new(),
        stop: CancellationToken::new(),
        anchors: Mutex::default(),
        checked: Mutex::default(),
        lease_ttl: lease_ttl.unwrap_or(agent_api::DEFAULT_LEASE),
        readings: std::sync::Mutex::default(),
        wakes_skipped: AtomicU64::new(0),
        model_calls: AtomicU64::new(0),
        provider_outcomes: Arc::default(),
        http: abbey_gateway::HttpClient::new(),
        address: RwLock::default(),
        outside: Mutex::default(),
        egress: egress::Ledger::default(),
        configs: RwLock::default(),
        journal: AtomicU64::new(0),
        commands: crate::cells::commands::Commands::default(),
        pool: crate::cells::vm_pool::Pool::default(),
        plans: watch::Sender::new(0),
        tracker: TaskTracker::new(),
        listen_override,
    });
    let operator = home.operator_secret()?;
    let hash = sha256_hex(operator.expose().as_bytes());
    if !store.tokens().await?.iter().any(|t| t.hash == hash) {
        // A new credential file ends the old credential.
        store
            .revoke_tokens(Principal::Operator, Some(hash.clone()), Millis(0))
            .await?;
        store
            .add_token(TokenRow {
                hash,
                principal: Principal::Operator,
                scope: "operator".to_owned(),
                expires_at: None,
            })
            .await?;
    }
    provision::refresh_keys(&house).await?;
    Ok((house, backend))
}

/// Waits for `down`, for a signal, or for a duty that gave up.
async fn until_told(house: &Arc<House>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = |kind| signal(kind).map_err(Error::file("listen for", "signals"));
    let (mut terminate, mut interrupt) = (
        signals(SignalKind::terminate())?,
        signals(SignalKind::interrupt())?,
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = house.stop.cancelled() => {}
        () = emptied(house) => {}
    }
    Ok(())
}

/// Resolves when the house was told to go down and no cell is left.
async fn emptied(house: &Arc<House>) {
    house.down_asked.notified().await;
    crate::cells::vm_pool::close(house).await;
    loop {
        let backend = Arc::clone(&house.backend);
        let left = tokio::task::spawn_blocking(move || backend.list()).await;
        if matches!(left, Ok(Ok(cells)) if cells.is_empty()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn serve_unix(
    house: &Arc<House>,
    tracker: &TaskTracker,
    path: PathBuf,
    router: Router,
) -> Result<()> {
    let stop = house.stop.clone();
    listen_unix(house, tracker, path, move |stream| {
        converse(stream, router.clone(), stop.clone())
    })
}

/// Listens on a socket that only the house's own user and root can reach, and attends to each
/// connection by itself.
pub(crate) fn listen_unix<F>(
    house: &Arc<House>,
    tracker: &TaskTracker,
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
    let (house, inner) = (Arc::clone(house), tracker.clone());
    drop(tracker.spawn(async move {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = house.stop.cancelled() => return,
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

/// The outside door as it stands open.
#[derive(Debug)]
pub(crate) struct OpenDoor {
    wanted: String,
    close: CancellationToken,
    announcement: Announcement,
}

/// Opens the outside door where the plan wants it, or leaves it when it stands there already.
/// Before the first plan there is none: the operator's tools use the socket.
pub(crate) async fn open_outside(house: &Arc<House>) -> Result<Announcement> {
    let current = house.current();
    let mut door = house.outside.lock().await;
    let Some(current) = &current else {
        let announcement = Announcement {
            pid: std::process::id(),
            address: String::new(),
            tls: false,
        };
        announce(house, &announcement)?;
        return Ok(announcement);
    };
    let listen = &current.house.listen;
    let address = house.listen_override.unwrap_or(listen.address);
    let wanted = format!("{address} {:?}", listen.tls);
    if let Some(open) = door.as_ref().filter(|d| d.wanted == wanted) {
        return Ok(open.announcement.clone());
    }
    let refused = |why: String| Error::Listen {
        address: address.to_string(),
        why,
    };
    let tls = match &listen.tls {
        Some((certificate, key)) => {
            Some(acceptor(&current.base_dir, certificate, key).map_err(refused)?)
        }
        None if !address.ip().is_loopback() => {
            return Err(refused(
                "it is reachable from other hosts, so TLS is required".to_owned(),
            ));
        }
        None => None,
    };
    if let Some(old) = door.take() {
        old.close.cancel();
    }
    let listener = TcpListener::bind(address).await.map_err(|e| {
        let holder = house
            .hostd
            .observe()
            .ok()
            .and_then(|facts| facts.ports.get(&address.port()).cloned());
        refused(match holder {
            Some(holder) => format!(
                "the port is held by {holder}; stop it, or set `listen.address` in the manifest"
            ),
            None => e.to_string(),
        })
    })?;
    let bound = listener
        .local_addr()
        .map_err(|e| refused(e.to_string()))?
        .to_string();
    bound.clone_into(
        &mut house
            .address
            .write()
            .unwrap_or_else(PoisonError::into_inner),
    );
    let announcement = Announcement {
        pid: std::process::id(),
        address: bound,
        tls: tls.is_some(),
    };
    announce(house, &announcement)?;
    let close = house.stop.child_token();
    drop(
        house
            .tracker
            .spawn(accept(Arc::clone(house), listener, tls, close.clone())),
    );
    *door = Some(OpenDoor {
        wanted,
        close,
        announcement: announcement.clone(),
    });
    Ok(announcement)
}

fn announce(house: &House, announcement: &Announcement) -> Result<()> {
    let bytes = serde_json::to_vec(announcement).unwrap_or_default();
    publish(&house.home.announcement(), &bytes, 0o600)
}

async fn accept(
    house: Arc<House>,
    listener: TcpListener,
    tls: Option<tokio_rustls::TlsAcceptor>,
    close: CancellationToken,
) {
    let router = operator_api::router(Arc::clone(&house));
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = close.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let _slower_without = stream.set_nodelay(true);
        let (router, stop, tls) = (router.clone(), house.stop.clone(), tls.clone());
        drop(house.tracker.spawn(async move {
            match tls {
                None => converse(stream, router, stop).await,
                Some(tls) => {
                    if let Ok(Ok(stream)) =
                        tokio::time::timeout(HEAD_WITHIN, tls.accept(stream)).await
                    {
                        converse(stream, router, stop).await;
                    }
                }
            }
            drop(permit);
        }));
    }
}

/// One connection, until it ends or the house does.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    stop: CancellationToken,
) {
    let service = TowerToHyperService::new(router);
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let _caller_gone = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}

fn acceptor(
    base_dir: &str,
    certificate: &str,
    key: &str,
) -> std::result::Result<tokio_rustls::TlsAcceptor, String> {
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let at = |path: &str| std::path::Path::new(base_dir).join(path);
    let chain = CertificateDer::pem_file_iter(at(certificate))
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|e| format!("the certificate `{certificate}` cannot be read: {e}"))?;
    let key = PrivateKeyDer::from_pem_file(at(key))
        .map_err(|e| {
            format!(
                "the key `{key}` cannot be read by the control plane, which is user {}: {e}; put it into `credentials/` of the home, whose files it may read",
                rustix::process::geteuid().as_raw()
            )
        })?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| e.to_string())?;
    Ok(tokio_rustls::TlsAcceptor::from(Arc::new(config)))
}
