//! Start-up and shutdown, in order.

use crate::api_server::operator_listener::{Announcement, serve_unix};
use crate::api_server::{agent_api, operator_api};
use crate::boot::control_plane::{ControlPlane, Parts, open};
use crate::boot::duties;
use crate::cells::provision;
use crate::cells::reconciler::pass;
use crate::core::error::{Error, Result};
use crate::core::home::Home;
use crate::core::runtime;
use crate::net::{dns, egress};
use crate::work::model_gateway;
use abbey_cells::hostd::{Client, Inline, Operation};
use abbey_model::Millis;
use abbey_store::Clock;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
    /// Address of the operator API, in place of the manifest's.
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
    let hostd = Arc::new(Client::new(home.root()));
    let parts = Parts {
        lease_ttl: options.lease_ttl,
        listen: options.listen,
        ..Parts::system(&home, hostd, options.clock)
    };
    let house = open(&home, parts).await?;
    let (core, rt) = (&house.core, &house.core.rt);

    // Where cells are is known before anybody is answered; what runs is adopted here.
    pass(&house.cells, &mut std::collections::BTreeMap::new()).await?;
    let gateway = model_gateway::gateway(&house.work);
    let operator_routes = operator_api::router(Arc::clone(&house.api));
    house
        .api
        .operator_listener
        .set_router(operator_routes.clone());
    serve_unix(
        rt,
        home.inside(),
        agent_api::router(Arc::clone(&house.api), gateway),
    )?;
    serve_unix(rt, home.operator(), operator_routes)?;
    egress::open(&house.net)?;
    dns::open(&house.net)?;
    let announcement = house.api.operator_listener.follow_plan(&house.net).await?;
    duties::start(&house);
    drop(rt.spawn(crate::cells::vm_pool::expire(Arc::clone(&house.cells))));
    if let Err(error) = provision::settle(&house.cells).await {
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

    wait_for_end(&house).await?;
    rt.stop();
    house.api.operator_listener.close();
    let tracker = rt.tracker();
    tracker.close();
    if rt.timeout(DRAIN, tracker.wait()).await.is_err() {
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
    if core.shutdown.is_requested() {
        core.store.checkpoint().await?;
        // Last: without a house there is nothing to help with.
        let hostd = Arc::clone(&core.hostd);
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
    drop((house, lock));
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
        let config = real.hostd_config()?;
        let runs_as = config.privileged.then_some(config.serve_uid);
        let helper = Arc::new(Inline(config));
        let house = open(&real, Parts::system(&real, helper, clock)).await?;
        return crate::planning::apply::dry_run(&house.work, body, runs_as).await;
    }
    // Nothing is there yet, and planning must leave nothing: an empty state in a scratch place, with what the
    // operator has put into the home already.
    let scratch = tempfile::Builder::new()
        .prefix("abbey-plan-")
        .tempdir()
        .map_err(Error::file("make", "a scratch directory"))?;
    let home = Home::new(scratch.path().to_owned());
    crate::core::home::make_dir(&home.run(), 0o700)?;
    for name in ["images", "skills", "credentials"] {
        let here = home.root().join(name);
        if let Ok(there) = real.root().join(name).canonicalize() {
            std::os::unix::fs::symlink(there, &here).map_err(Error::file("link", &here))?;
        }
    }
    let config = home.hostd_config()?;
    let runs_as = config.privileged.then_some(config.serve_uid);
    let helper = Arc::new(Inline(config));
    let house = open(&home, Parts::system(&home, helper, clock)).await?;
    crate::planning::apply::dry_run(&house.work, body, runs_as).await
}

/// Waits for `abbey down`, for a signal, or for a duty that keeps failing.
async fn wait_for_end(house: &Arc<ControlPlane>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = |kind| signal(kind).map_err(Error::file("listen for", "signals"));
    let (mut terminate, mut interrupt) = (
        signals(SignalKind::terminate())?,
        signals(SignalKind::interrupt())?,
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = house.core.rt.stopped() => {}
        () = no_cell_left(house) => {}
    }
    Ok(())
}

/// Resolves once `abbey down` was requested and no cell is left.
async fn no_cell_left(house: &Arc<ControlPlane>) {
    house.core.shutdown.requested().await;
    crate::cells::vm_pool::close(&house.cells).await;
    loop {
        // Asked before the list: a cell whose start is in flight is not listed yet.
        let starts_over = house.cells.starts_over();
        let backend = Arc::clone(&house.cells.backend);
        let left = runtime::blocking(move || backend.list()).await;
        if starts_over && matches!(left, Ok(Ok(cells)) if cells.is_empty()) {
            return;
        }
        house.core.rt.sleep(Duration::from_millis(50)).await;
    }
}
