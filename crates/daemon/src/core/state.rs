//! What every feature stands on, handed to the state of each.

use crate::core::credentials::Keys;
use crate::core::home::Home;
use crate::core::plan::PlanState;
use crate::core::runtime::Runtime;
use crate::core::secrets::Secrets;
use crate::core::shutdown::Shutdown;
use abbey_cells::hostd::Helper;
use abbey_store::Storage;
use std::sync::Arc;

/// Handles and state that belong to no single feature.
pub(crate) struct CoreState {
    pub(crate) home: Home,
    pub(crate) store: Arc<dyn Storage>,
    /// The privileged helper.
    pub(crate) hostd: Arc<dyn Helper>,
    pub(crate) plan: PlanState,
    /// Valid credentials, by hash.
    pub(crate) keys: Keys,
    pub(crate) secrets: Secrets,
    pub(crate) shutdown: Shutdown,
    pub(crate) rt: Runtime,
    /// Client for every HTTP call that the control plane itself makes.
    pub(crate) http: abbey_gateway::HttpClient,
}
