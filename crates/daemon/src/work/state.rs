//! State of work.

use crate::cells::state::CellsState;
use crate::core::state::CoreState;
use crate::work::counters::Counters;
use crate::work::skills::SkillLibrary;
use crate::work::trace::Traces;
use abbey_gateway::OutcomeCounts;
use abbey_model::{Millis, Slug};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What tasks, schedules, workflows and the model gateway share.
pub(crate) struct WorkState {
    pub(crate) core: Arc<CoreState>,
    pub(crate) cells: Arc<CellsState>,
    pub(crate) skills: SkillLibrary,
    pub(crate) traces: Traces,
    pub(crate) counters: Counters,
    /// How calls to providers ended.
    pub(crate) provider_outcomes: Arc<OutcomeCounts>,
    /// Length of a lease.
    pub(crate) lease_ttl: Millis,
    acknowledged: RwLock<BTreeMap<Slug, u64>>,
}

impl WorkState {
    pub(crate) fn new(cells: Arc<CellsState>, traces: Traces, lease_ttl: Millis) -> WorkState {
        let core = Arc::clone(&cells.core);
        WorkState {
            skills: SkillLibrary::load(core.home.skills_dir()),
            core,
            cells,
            traces,
            counters: Counters::default(),
            provider_outcomes: Arc::default(),
            lease_ttl,
            acknowledged: RwLock::default(),
        }
    }

    /// An agent works under this generation of its configuration. Each of its requests for work says
    /// so, hence a restarted control plane knows it again within one of them.
    pub(crate) fn acknowledge_config(&self, agent: &Slug, generation: u64) {
        self.acknowledged.write().insert(agent.clone(), generation);
    }

    pub(crate) fn acknowledged_config(&self, agent: &Slug) -> Option<u64> {
        self.acknowledged.read().get(agent).copied()
    }
}
