//! State of the tasks of a house.

use crate::cells::state::CellsState;
use crate::core::state::CoreState;
use crate::work::counters::Counters;
use crate::work::provider_health::ProviderConditions;
use crate::work::routing::Directory;
use crate::work::skills::SkillLibrary;
use crate::work::trace::Traces;
use abbey_model::{Millis, Slug};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;

/// State shared by tasks, schedules, workflows and the model gateway.
pub(crate) struct WorkState {
    pub(crate) core: Arc<CoreState>,
    pub(crate) cells: Arc<CellsState>,
    /// Skills of the house.
    pub(crate) skills: SkillLibrary,
    /// What texts are compared with, as last made.
    pub(crate) directory: RwLock<Option<Arc<Directory>>>,
    /// Trace ids of tasks and workflows.
    pub(crate) traces: Traces,
    /// Counters for metrics.
    pub(crate) counters: Counters,
    /// Health of model providers.
    pub(crate) providers: Arc<ProviderConditions>,
    /// Duration of a lease.
    pub(crate) lease_ttl: Millis,
    /// Configuration generation that each agent works under.
    acknowledged: RwLock<BTreeMap<Slug, u64>>,
}

impl WorkState {
    /// `lease_ttl` is the duration of each lease.
    pub(crate) fn new(cells: Arc<CellsState>, traces: Traces, lease_ttl: Millis) -> WorkState {
        let core = Arc::clone(&cells.core);
        WorkState {
            skills: SkillLibrary::load(core.home.skills_dir()),
            providers: Arc::new(ProviderConditions::new(Arc::clone(&core.store))),
            core,
            cells,
            directory: RwLock::default(),
            traces,
            counters: Counters::default(),
            lease_ttl,
            acknowledged: RwLock::default(),
        }
    }

    /// Records that an agent works under this generation of its configuration, which each of its
    /// requests for work reports.
    pub(crate) fn acknowledge_config(&self, agent: &Slug, generation: u64) {
        self.acknowledged.write().insert(agent.clone(), generation);
    }

    /// Configuration generation that an agent reported last; `None` since the start of the control
    /// plane.
    pub(crate) fn acknowledged_config(&self, agent: &Slug) -> Option<u64> {
        self.acknowledged.read().get(agent).copied()
    }
}
