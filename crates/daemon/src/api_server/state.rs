//! State of the HTTP servers.

use crate::api_server::operator_listener::OperatorListener;
use crate::cells::state::CellsState;
use crate::core::state::CoreState;
use crate::net::state::NetState;
use crate::work::state::WorkState;
use abbey_model::Slug;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What both APIs and the hooks share.
pub(crate) struct ApiState {
    pub(crate) core: Arc<CoreState>,
    pub(crate) net: Arc<NetState>,
    pub(crate) cells: Arc<CellsState>,
    pub(crate) work: Arc<WorkState>,
    pub(crate) operator_listener: OperatorListener,
    /// Version of the work at which each agent last found nothing.
    nothing_found_at: Mutex<BTreeMap<Slug, u64>>,
    /// Deliveries of each hook in the current minute.
    deliveries: Mutex<BTreeMap<Slug, (i64, u32)>>,
}

impl ApiState {
    pub(crate) fn new(work: Arc<WorkState>) -> ApiState {
        ApiState {
            core: Arc::clone(&work.core),
            net: Arc::clone(&work.cells.net),
            cells: Arc::clone(&work.cells),
            work,
            operator_listener: OperatorListener::default(),
            nothing_found_at: Mutex::default(),
            deliveries: Mutex::default(),
        }
    }

    /// Whether an agent found nothing at this version of the work, so that the store need not be
    /// asked again.
    pub(super) fn found_nothing_at(&self, agent: &Slug, version: u64) -> bool {
        self.nothing_found_at.lock().get(agent) == Some(&version)
    }

    pub(super) fn note_nothing_found(&self, agent: &Slug, version: u64) {
        self.nothing_found_at.lock().insert(agent.clone(), version);
    }

    /// Counts a delivery of a hook in a minute, and returns how many there were in it.
    pub(super) fn count_delivery(&self, hook: &Slug, minute: i64) -> u32 {
        let mut counts = self.deliveries.lock();
        let (at, count) = counts.entry(hook.clone()).or_insert((minute, 0));
        if *at != minute {
            (*at, *count) = (minute, 0);
        }
        *count += 1;
        *count
    }
}
