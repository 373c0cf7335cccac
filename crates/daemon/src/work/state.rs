//! State of the tasks of a house.

use crate::cells::state::CellsState;
use crate::core::state::CoreState;
use crate::work::counters::Counters;
use crate::work::provider_health::ProviderConditions;
use crate::work::routing::Directory;
use crate::work::skills::SkillLibrary;
use crate::work::trace::Traces;
use abbey_model::{Millis, ReservationId, Slug};
use abbey_store::CallUsage;
use parking_lot::{Mutex, RwLock};
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
    /// Model calls that have ended and could not be settled as the disk was full.
    unsettled: Mutex<Vec<(ReservationId, CallUsage)>>,
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
            unsettled: Mutex::default(),
        }
    }

    /// Settles a model call that has ended. While the disk is full its reservation stays, and the call is settled later;
    /// see [`WorkState::settle_waiting_calls`].
    pub(crate) async fn settle_ended_call(&self, id: ReservationId, used: CallUsage) {
        match self.core.store.settle_call(id, used.clone()).await {
            Ok(()) => {}
            Err(error @ abbey_store::Error::DiskFull(_)) => {
                tracing::error!(%error, reservation = %id, "a model call cannot be settled yet; its reservation stays until there is space");
                self.unsettled.lock().push((id, used));
            }
            // The reservation stays in the ledger and is charged in full at the next start: nothing is lost.
            Err(error) => {
                tracing::error!(%error, reservation = %id, "a model call could not be settled; its reservation is charged in full at the next start");
            }
        }
    }

    /// Settles the model calls for which there was no space on the disk. Those that are left when the control plane ends
    /// are charged in full at the next start. Returns whether any is left.
    pub(crate) async fn settle_waiting_calls(&self) -> bool {
        let mut waiting = std::mem::take(&mut *self.unsettled.lock()).into_iter();
        while let Some((id, used)) = waiting.next() {
            match self.core.store.settle_call(id, used.clone()).await {
                // Said when it ended; the disk is as full for the others.
                Err(abbey_store::Error::DiskFull(_)) => {
                    let mut unsettled = self.unsettled.lock();
                    unsettled.push((id, used));
                    unsettled.extend(waiting);
                    return true;
                }
                Err(error) => {
                    tracing::error!(%error, reservation = %id, "a model call could not be settled; its reservation is charged in full at the next start");
                }
                Ok(()) => {}
            }
        }
        !self.unsettled.lock().is_empty()
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
