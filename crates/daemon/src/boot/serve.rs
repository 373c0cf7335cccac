//! Start-up and shutdown of the control plane, in order.

use crate::api_server::operator_listener::{
    Announcement, announce_without_address, serve_on_unix_socket,
};
use crate::api_server::{agent_api, operator_api};
use crate::boot::control_plane::{ControlPlane, ControlPlaneParts, open_control_plane};
use crate::boot::duties;
use crate::cells::provision;
use crate::cells::reconciler::reconcile_all_cells;
use crate::core::accepted::SpareFiles;
use crate::core::error::{Error, Result};
use crate::core::home::Home;
use crate::core::listen::Callers;
use crate::core::restored_house::require_consent_to_uses;
use crate::core::{alive, runtime};
use crate::net::{dns, egress};
use crate::work::model_gateway;
use abbey_api::Problem;
use abbey_cells::hostd::{
    HostdApi, HostdClient, HostdOperation, HostdReply, InProcessHostd, end_hostd,
};
use abbey_model::{FaultKind, Millis};
use abbey_store::{Clock, Error as StoreError};
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for running requests at shutdown.
const DRAIN: Duration = Duration::from_secs(3);

/// Options of [`serve`].
pub struct Options {
    /// Home directory (`ABBEY_HOME`).
    pub home: PathBuf,
    /// Lock of the home, see [`crate::prepare_control_plane`].
    pub lock: File,
    /// Clock that decides leases.
    pub clock: Arc<dyn Clock>,
    /// Duration of leases; `None` for the standard one.
    pub lease_ttl: Option<Millis>,
    /// Address of the operator API; `None` for the manifest's.
    pub listen: Option<SocketAddr>,
    /// Called once both APIs answer.
    pub on_ready: Box<dyn FnOnce(&Announcement) + Send>,
}

/// Open files without which a control plane cannot run even a small house.
const FILES_LEAST: u64 = 256;

/// Raises the limit of open files as far as an ordinary user may: many systems give a lower one to begin with.
///
/// # Errors
/// If that is too low for a house.
fn open_files_as_allowed() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let whole = Rlimit {
        current: maximum,
        maximum,
    };
    let _stays_as_it_is = setrlimit(Resource::Nofile, whole);
    match maximum.filter(|files| *files < FILES_LEAST) {
        None => Ok(()),
        Some(files) => {
            let text = format!(
                "the control plane cannot start: it may open only {files} files, and each agent needs some of them; set the limit to 4096 with `ulimit -n 4096` (as root: `ulimit -Hn 4096; ulimit -Sn 4096`), or with `LimitNOFILE=` in its unit"
            );
            Err(Problem::new(FaultKind::Host, text).into())
        }
    }
}

/// Runs a control plane until `abbey down`, a signal, or a duty that keeps failing.
///
/// # Errors
/// If it cannot start; no process or socket remains then.
pub async fn serve(options: Options) -> Result<()> {
    open_files_as_allowed()?;
    // Before anything else is opened, so that they have low numbers.
    SpareFiles::reserve();
    let home = Home::new(options.home);
    let lock = options.lock;
    require_consent_to_uses(&home)?;
    crate::cells::backup::sweep_scratch(&home);
    let hostd = Arc::new(HostdClient::new(home.root()));
    let parts = ControlPlaneParts {
        lease_ttl: options.lease_ttl,
        listen: options.listen,
        ..ControlPlaneParts::for_host(&home, hostd, options.clock)
    };
    let plane = open_control_plane(&home, parts).await?;
    let (core, rt) = (&plane.core, &plane.core.rt);

    alive::log_house_start(core).await?;
    // The first pass adopts running cells before any request is answered.
    reconcile_all_cells(&plane.cells, &mut std::collections::BTreeMap::new()).await?;
    let gateway = model_gateway::build_model_gateway(&plane.work);
    let operator_routes = operator_api::operator_router(Arc::clone(&plane.api));
    plane
        .api
        .operator_listener
        .set_router(operator_routes.clone());
    serve_on_unix_socket(
        rt,
        (home.agent_api_socket(), Callers::Others),
        agent_api::agent_router(Arc::clone(&plane.api), gateway),
    )?;
    let of_owner = (home.operator_api_socket(), Callers::Owner);
    serve_on_unix_socket(rt, of_owner, operator_routes)?;
    egress::listen_for_egress(&plane.net)?;
    dns::listen_for_dns(&plane.net)?;
    let listening = plane.api.operator_listener.listen_as_planned(&plane.net);
    let announcement = match listening.await {
        Ok(announcement) => announcement,
        // Another program may have taken the address while the house was down. The operator's tools still reach it by its
        // Unix socket, with a manifest that names another address or with `abbey down`.
        Err(error) => {
            tracing::error!(
                error = error.chain(),
                "the operator API has no network address; it answers at its Unix socket only"
            );
            announce_without_address(&home)?
        }
    };
    duties::start_duties(&plane);
    drop(rt.spawn(crate::cells::vm_pool::run_pool_expiry(Arc::clone(
        &plane.cells,
    ))));
    let provisioned = {
        let _plan_lock = core.plan.lock_changes().await;
        provision::provision_plan(&plane.cells).await
    };
    if let Err(error) = provisioned {
        tracing::error!(
            error = error.chain(),
            "some files of agents or services could not be provisioned; fix the cause and apply the manifest again, or run `abbey doctor --fix`"
        );
    }
    // The descriptions of the routes, of which little is kept, lie between what is.
    abbey_cells::release_free_memory();
    abbey_cells::release_program_code();
    tracing::info!(
        pid = announcement.pid,
        address = announcement.address,
        "the control plane is ready"
    );
    (options.on_ready)(&announcement);

    wait_for_stop(&plane).await?;
    rt.request_stop();
    plane.api.operator_listener.drop_router();
    let tracker = rt.tracker();
    tracker.close();
    if rt.timeout(DRAIN, tracker.wait()).await.is_err() {
        tracing::warn!("some requests did not finish within 3 seconds and were cancelled");
    }
    for file in [
        home.announcement_file(),
        home.agent_api_socket(),
        home.operator_api_socket(),
        home.egress_socket(),
        home.dns_socket(),
    ] {
        let _gone_already = std::fs::remove_file(file);
    }
    if let Err(error) = crate::core::audit_checkpoints::publish_checkpoints(core).await {
        tracing::error!(
            error = error.chain(),
            "the head of the audit log could not be signed and kept outside the database"
        );
    }
    crate::core::checkpoint_sinks::deliver_last_checkpoints(core).await;
    if core.shutdown.is_requested() {
        // Last: hostd is needed until no cell is left.
        let hostd = Arc::clone(&core.hostd);
        if let Err(error) = crate::core::hostd::call_blocking(move || end_hostd(&*hostd)).await {
            tracing::warn!(error = error.chain(), "hostd could not be asked to end");
        }
        let _gone_already = std::fs::remove_file(home.lock_file());
        // The end is in the audit log; nothing was unobserved.
        let _gone_already = std::fs::remove_file(home.heartbeat_file());
        tracing::info!("the house is stopped");
    } else {
        tracing::info!("the control plane ends; its cells keep running");
    }
    drop((plane, lock));
    Ok(())
}

/// Checks a manifest without a control plane.
///
/// # Errors
/// A problem that lists every mistake.
pub fn check_manifest(text: &str) -> std::result::Result<(), Problem> {
    crate::planning::apply::parse_manifest(text).map(drop)
}

/// The helper of a house that does not run, whose home may be a copy of what there is of it so far.
#[derive(Debug)]
struct StoppedHostd {
    helper: InProcessHostd,
    /// Path of the home itself: its file system is the one that has to have space.
    place: PathBuf,
}

impl HostdApi for StoppedHostd {
    fn call(
        &self,
        operation: HostdOperation,
        fds: &[BorrowedFd<'_>],
    ) -> abbey_cells::Result<HostdReply> {
        let mut reply = self.helper.call(operation, fds)?;
        if let HostdReply::Host { facts } = &mut reply {
            facts.free_space = abbey_cells::hostd::free_space(&self.place);
        }
        Ok(reply)
    }
}

/// A house whose control plane does not run, opened from a copy of its state: its home stays as it is, and root opens
/// nothing there that another user can replace.
struct StoppedHouse {
    plane: Arc<ControlPlane>,
    /// User that its control plane will run as, if this process is root.
    runs_as: Option<u32>,
    /// Lock of the home; none if the home has no state yet.
    _lock: Option<File>,
    _copy: tempfile::TempDir,
}

impl StoppedHouse {
    /// Opens the house in a home that may not exist yet.
    ///
    /// # Errors
    /// [`Error::Locked`] when a control plane runs on this home.
    async fn open(real: Home) -> Result<StoppedHouse> {
        real.require_own()?;
        real.check_database_not_lost()?;
        let clock: Arc<dyn Clock> = Arc::new(abbey_store::SystemClock::new());
        let copy = tempfile::Builder::new()
            .prefix("abbey-copy-")
            .tempdir()
            .map_err(Error::file("make", "a scratch directory"))?;
        let state = Home::new(copy.path().to_owned());
        let place = real.root().to_owned();
        let exists = std::fs::symlink_metadata(real.database_file()).is_ok();
        let (home, lock) = match exists {
            true => {
                let lock = real.acquire_lock()?;
                real.copy_state_to(copy.path())?;
                (real, Some(lock))
            }
            false => {
                crate::core::home::create_dir_with_mode(&state.run_dir(), 0o700)?;
                for name in ["images", "skills", "credentials"] {
                    let here = state.root().join(name);
                    if let Ok(there) = real.root().join(name).canonicalize() {
                        std::os::unix::fs::symlink(there, &here)
                            .map_err(Error::file("link", &here))?;
                    }
                }
                (state.clone(), None)
            }
        };
        let config = home.hostd_config()?;
        let runs_as = config.privileged.then_some(config.serve_uid);
        let helper = Arc::new(StoppedHostd {
            helper: InProcessHostd(config),
            place,
        });
        let parts = ControlPlaneParts {
            state,
            ..ControlPlaneParts::for_host(&home, helper, clock)
        };
        let opened = open_control_plane(&home, parts).await;
        let plane = opened.map_err(|e| name_original(e, copy.path(), home.root()))?;
        Ok(StoppedHouse {
            plane,
            runs_as,
            _lock: lock,
            _copy: copy,
        })
    }
}

/// The error about a state file, with its path in the home in place of that of its copy.
fn name_original(error: Error, copy: &Path, home: &Path) -> Error {
    let original = |path: PathBuf| match path.strip_prefix(copy) {
        Ok(name) => home.join(name),
        Err(_) => path,
    };
    match error {
        Error::Store(StoreError::Corrupt { path, why }) => {
            let path = original(path);
            Error::Store(StoreError::Corrupt { path, why })
        }
        Error::Store(StoreError::Newer { path, found, known }) => {
            let path = original(path);
            Error::Store(StoreError::Newer { path, found, known })
        }
        other => other,
    }
}

/// Plans a manifest without a running control plane, against the database of the home if there is
/// one. Changes nothing.
///
/// # Errors
/// As the plan route of the operator API; [`Error::Locked`] when a control plane runs on this home.
pub async fn plan_offline(
    home: PathBuf,
    body: abbey_api::ManifestBody,
) -> Result<abbey_api::PlanDoc> {
    let home = Home::new(home);
    let held_up = abbey_cells::hostd::running_twin(&home.hostd_dir());
    let house = StoppedHouse::open(home).await?;
    let work = &house.plane.work;
    crate::planning::apply::plan_without_applying(work, body, house.runs_as, held_up).await
}

/// The manifest that was applied last, from the database of a home whose control plane does not run.
///
/// # Errors
/// If none was applied; [`Error::Locked`] when a control plane runs on this home.
pub async fn manifest_offline(home: PathBuf) -> Result<abbey_api::ManifestDoc> {
    let house = StoppedHouse::open(Home::new(home)).await?;
    let current = house.plane.core.plan.current();
    crate::core::plan::PlanInForce::manifest_doc(current.as_deref())
}

/// Checks a house whose control plane does not answer, from its home and a copy of its state. Starts nothing.
///
/// # Errors
/// If the home or its database cannot be opened.
pub async fn doctor_offline(home: PathBuf) -> Result<abbey_api::DoctorDoc> {
    let home = Home::new(home);
    match StoppedHouse::open(home.clone()).await {
        Err(Error::Locked { holder, .. }) => {
            Ok(crate::insight::doctor::check_silent_house(&home, holder))
        }
        house => crate::insight::doctor::run_offline_checks(&house?.plane.work).await,
    }
}

/// Waits for `abbey down`, a signal, or a duty that keeps failing.
async fn wait_for_stop(plane: &Arc<ControlPlane>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = |kind| signal(kind).map_err(Error::file("listen for", "signals"));
    let (mut terminate, mut interrupt) = (
        signals(SignalKind::terminate())?,
        signals(SignalKind::interrupt())?,
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = plane.core.rt.stopped() => {}
        () = all_cells_ended(plane) => {}
    }
    Ok(())
}

/// Resolves once `abbey down` was requested and no cell is left.
async fn all_cells_ended(plane: &Arc<ControlPlane>) {
    plane.core.shutdown.requested().await;
    crate::cells::vm_pool::close_pool(&plane.cells).await;
    loop {
        // Read before the list: a cell whose start is in flight is not listed yet.
        let starts_over = plane.cells.starts_over();
        let backend = Arc::clone(&plane.cells.backend);
        let left = runtime::run_blocking(move || backend.list()).await;
        if starts_over && matches!(left, Ok(Ok(cells)) if cells.is_empty()) {
            return;
        }
        plane.core.rt.sleep(Duration::from_millis(50)).await;
    }
}
