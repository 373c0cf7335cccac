//! Start-up and shutdown, in order.

use crate::api_server::listener::{Announcement, open_outside, serve_unix};
use crate::api_server::{agent_api, operator_api};
use crate::boot::duties;
use crate::boot::house::{House, Skills};
use crate::cells::reconciler::pass;
use crate::cells::{agent_credentials, provision};
use crate::core::error::{Error, Result};
use crate::core::home::Home;
use crate::core::plan::PlanInForce;
use crate::net::{dns, egress};
use crate::work::model_gateway;
use abbey_cells::hostd::{Client, Helper, Inline, Operation};
use abbey_cells::{Backend, ShimBackend};
use abbey_model::{Millis, Principal};
use abbey_store::{Clock, Sqlite, Storage, TokenRow};
use abbey_support::digest::sha256_hex;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::{Mutex, Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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
    let signing_key = home.signing_key()?;
    let store: Arc<dyn Storage> = Arc::new(Sqlite::open(abbey_store::Options {
        path: home.database(),
        clock,
        redactor: Arc::clone(&redactor),
        signing_key,
        entropy: Arc::new(abbey_store::SystemEntropy),
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
    let current = store
        .current()
        .await?
        .map(PlanInForce::from_row)
        .transpose()?;
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
        cells_changed: Notify::new(),
        room: crate::cells::memory::Room::default(),
        consumers_trouble: RwLock::default(),
        deliveries: std::sync::Mutex::default(),
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
    agent_credentials::refresh_keys(&house).await?;
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
