//! State shared by every feature: home, store, plan, credentials, and runtime.

use crate::core::credentials::CredentialTable;
use crate::core::home::Home;
use crate::core::plan::PlanState;
use crate::core::runtime::Runtime;
use crate::core::secrets::Secrets;
use crate::core::shutdown::Shutdown;
use abbey_cells::hostd::HostdApi;
use abbey_store::Storage;
use std::sync::Arc;

/// Handles and state that belong to no single feature.
pub(crate) struct CoreState {
    pub(crate) home: Home,
    pub(crate) store: Arc<dyn Storage>,
    /// Public key that signs heads of the audit log, hexadecimal. Held for writing while another is put in force, and for
    /// reading while the log is compared with it.
    pub(crate) audit_key: tokio::sync::RwLock<String>,
    /// Client of hostd, the privileged helper.
    pub(crate) hostd: Arc<dyn HostdApi>,
    pub(crate) plan: PlanState,
    /// Valid credentials of the operator and of agents, by hash.
    pub(crate) credentials: CredentialTable,
    pub(crate) secrets: Secrets,
    pub(crate) shutdown: Shutdown,
    pub(crate) rt: Runtime,
    /// Client for every HTTP call that the control plane itself makes.
    pub(crate) http: abbey_support::http_client::HttpClient,
    /// Changes when hostd appended signed heads of the audit log to its file.
    pub(crate) checkpoints_kept: tokio::sync::watch::Sender<()>,
}
