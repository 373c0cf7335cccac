//! Composition of the control plane: creates the state of every folder once, at start-up.

use crate::api_server::state::ApiState;
use crate::cells::agent_credentials;
use crate::cells::state::CellsState;
use crate::core::credentials::CredentialTable;
use crate::core::error::Result;
use crate::core::home::Home;
use crate::core::plan::{PlanInForce, PlanState};
use crate::core::runtime::Runtime;
use crate::core::secrets::Secrets;
use crate::core::shutdown::Shutdown;
use crate::core::state::CoreState;
use crate::net::state::NetState;
use crate::work::state::WorkState;
use crate::work::trace::Traces;
use abbey_cells::hostd::HostdApi;
use abbey_cells::{Backend, ShimBackend};
use abbey_engine::task::LEASE_TTL;
use abbey_model::{AccessScopes, CredentialGrant, Millis, Principal};
use abbey_store::{Clock, DiskSpace, Entropy, NewToken, Sqlite, Storage};
use abbey_support::digest::sha256_hex;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

/// A control plane: the state of each folder, which refers to the states below it.
pub(crate) struct ControlPlane {
    pub(crate) core: Arc<CoreState>,
    pub(crate) net: Arc<NetState>,
    pub(crate) cells: Arc<CellsState>,
    pub(crate) work: Arc<WorkState>,
    pub(crate) api: Arc<ApiState>,
}

/// Replaceable parts of a control plane, so that tests can pass fakes.
pub(crate) struct ControlPlaneParts {
    /// Where database and keys are: the home, or a copy of them that may be changed.
    pub(crate) state: Home,
    pub(crate) hostd: Arc<dyn HostdApi>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Randomness of the store.
    pub(crate) entropy: Arc<dyn Entropy>,
    /// The disk that the store is on.
    pub(crate) disk: Arc<dyn DiskSpace>,
    pub(crate) rt: Runtime,
    /// Duration of leases; `None` for the standard one.
    pub(crate) lease_ttl: Option<Millis>,
    /// Address of the operator API; `None` for the manifest's.
    pub(crate) listen: Option<SocketAddr>,
}

impl ControlPlaneParts {
    /// Parts for production: cells run by shims on this host, with the system's timers.
    pub(crate) fn for_host(
        home: &Home,
        hostd: Arc<dyn HostdApi>,
        clock: Arc<dyn Clock>,
    ) -> ControlPlaneParts {
        ControlPlaneParts {
            state: home.clone(),
            hostd,
            backend: Arc::new(ShimBackend::new(home.root(), home.cgroup_name())),
            clock,
            entropy: Arc::new(abbey_store::SystemEntropy),
            disk: Arc::new(abbey_store::HostDisk),
            rt: Runtime::system(),
            lease_ttl: None,
            listen: None,
        }
    }
}

/// Opens the database of a home, charges model calls that a crash interrupted, and composes the
/// control plane. No listener or duty is started yet.
pub(crate) async fn open_control_plane(
    home: &Home,
    parts: ControlPlaneParts,
) -> Result<Arc<ControlPlane>> {
    let ControlPlaneParts {
        state,
        hostd,
        backend,
        clock,
        entropy,
        disk,
        rt,
        lease_ttl,
        listen,
    } = parts;
    home.check_database_not_lost()?;
    let redactor = Arc::<RwLock<_>>::default();
    crate::core::signing_key::finish_interrupted_rotation(&state).await?;
    let signing_key = state.load_or_create_signing_key()?;
    let options = abbey_store::SqliteOptions {
        path: state.database_file(),
        clock,
        redactor: Arc::clone(&redactor),
        signing_key,
        entropy,
        on_fatal: Box::new(|why| {
            // It is unknown what reached the disk, so the process exits at once and recovers at its next start.
            tracing::error!(
                why,
                "the database could not be flushed; the control plane exits and recovers at its next start"
            );
            std::process::exit(70);
        }),
    };
    let store: Arc<dyn Storage> = Arc::new(Sqlite::open_on_disk(options, disk)?);
    let interrupted = store.charge_lost_calls().await?;
    if interrupted > 0 {
        tracing::warn!(
            calls = interrupted,
            "model calls that a crash interrupted were charged in full"
        );
    }
    let current = store
        .current_generation()
        .await?
        .map(PlanInForce::from_row)
        .transpose()?;
    for mistake in current.iter().flat_map(|plan| &plan.left_out) {
        tracing::warn!(
            mistake,
            "this version refuses a part of the manifest in force, and leaves it out"
        );
    }
    let cells = store.cells().await?;
    let core = Arc::new(CoreState {
        home: home.clone(),
        store: Arc::clone(&store),
        audit_key: abbey_store::public_key(&signing_key).into(),
        hostd: Arc::clone(&hostd),
        plan: PlanState::new(current),
        credentials: CredentialTable::default(),
        secrets: Secrets::new(home.clone(), hostd, redactor),
        shutdown: Shutdown::default(),
        rt,
        http: abbey_support::http_client::HttpClient::new(),
        checkpoints_kept: tokio::sync::watch::Sender::new(()),
    });
    let net = Arc::new(NetState::new(Arc::clone(&core), listen));
    let desired = cells.into_iter().map(|(cell, row)| (cell, row.desired));
    let cells = Arc::new(CellsState::new(
        Arc::clone(&net),
        backend,
        desired.collect(),
    ));
    let traces = Traces::new(&signing_key);
    let lease_ttl = lease_ttl.unwrap_or(LEASE_TTL);
    let work = Arc::new(WorkState::new(Arc::clone(&cells), traces, lease_ttl));
    work.providers.load().await?;
    let api = Arc::new(ApiState::new(Arc::clone(&work)));
    let operator = state.load_or_create_operator_token()?;
    let hash = sha256_hex(operator.expose().as_bytes());
    if !store.tokens().await?.iter().any(|t| t.hash == hash) {
        // A new token file revokes the previous token.
        store
            .revoke_tokens(Principal::Operator, vec![hash.clone()], Millis(0))
            .await?;
        store
            .add_token(NewToken {
                hash,
                principal: Principal::Operator,
                grant: CredentialGrant::Operator(AccessScopes::all()),
                name: None,
                expires_at: None,
                issued_by: Principal::House,
            })
            .await?;
    }
    agent_credentials::reload_credentials(&cells).await?;
    Ok(Arc::new(ControlPlane {
        core,
        net,
        cells,
        work,
        api,
    }))
}
