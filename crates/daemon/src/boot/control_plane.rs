//! The composition: the state of every folder, made once at the start.

use crate::api_server::state::ApiState;
use crate::cells::agent_credentials;
use crate::cells::state::CellsState;
use crate::core::credentials::Keys;
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
use abbey_cells::hostd::Helper;
use abbey_cells::{Backend, ShimBackend};
use abbey_engine::task::LEASE_TTL;
use abbey_model::{Millis, Principal};
use abbey_store::{Clock, Sqlite, Storage, TokenRow};
use abbey_support::digest::sha256_hex;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

/// A control plane: each folder's state, which holds those below it.
pub(crate) struct ControlPlane {
    pub(crate) core: Arc<CoreState>,
    pub(crate) net: Arc<NetState>,
    pub(crate) cells: Arc<CellsState>,
    pub(crate) work: Arc<WorkState>,
    pub(crate) api: Arc<ApiState>,
}

/// What a control plane is given, so that tests can give something else.
pub(crate) struct Parts {
    pub(crate) hostd: Arc<dyn Helper>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rt: Runtime,
    /// Length of leases, where the usual one does not serve.
    pub(crate) lease_ttl: Option<Millis>,
    /// Address of the operator API, where the manifest's does not serve.
    pub(crate) listen: Option<SocketAddr>,
}

impl Parts {
    /// The real ones.
    pub(crate) fn system(home: &Home, hostd: Arc<dyn Helper>, clock: Arc<dyn Clock>) -> Parts {
        Parts {
            hostd,
            backend: Arc::new(ShimBackend::new(home.root(), home.group())),
            clock,
            rt: Runtime::system(),
            lease_ttl: None,
            listen: None,
        }
    }
}

/// Opens the state of a home, recovers, and composes a control plane that serves nobody yet.
pub(crate) async fn open(home: &Home, parts: Parts) -> Result<Arc<ControlPlane>> {
    let Parts {
        hostd,
        backend,
        clock,
        rt,
        lease_ttl,
        listen,
    } = parts;
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
    let lost = store.charge_lost_calls().await?;
    if lost > 0 {
        tracing::warn!(
            calls = lost,
            "calls that a crash cut off were charged in full"
        );
    }
    let current = store
        .current_generation()
        .await?
        .map(PlanInForce::from_row)
        .transpose()?;
    let cells = store.cells().await?;
    let core = Arc::new(CoreState {
        home: home.clone(),
        store: Arc::clone(&store),
        hostd,
        plan: PlanState::new(current),
        keys: Keys::default(),
        secrets: Secrets::new(home.clone(), redactor),
        shutdown: Shutdown::default(),
        rt,
        http: abbey_gateway::HttpClient::new(),
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
    let api = Arc::new(ApiState::new(Arc::clone(&work)));
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
    agent_credentials::refresh_keys(&cells).await?;
    Ok(Arc::new(ControlPlane {
        core,
        net,
        cells,
        work,
        api,
    }))
}
