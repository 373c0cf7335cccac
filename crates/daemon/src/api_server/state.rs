//! State of the HTTP servers.

use crate::api_server::agent_quotas::AgentQuotas;
use crate::api_server::hooks::DeliveryPlaces;
use crate::api_server::operator_listener::OperatorListener;
use crate::api_server::shared_read::SharedRead;
use crate::cells::state::CellsState;
use crate::core::error::Result;
use crate::core::rate::TokenBucket;
use crate::core::state::CoreState;
use crate::insight::reports;
use crate::net::state::NetState;
use crate::work::state::WorkState;
use abbey_api::{DoctorDoc, ReportDoc, VerifyDoc};
use abbey_model::{Slug, TaskId, TaskRef};
use abbey_words::Language;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// State shared by both APIs and the hooks.
pub(crate) struct ApiState {
    pub(crate) core: Arc<CoreState>,
    pub(crate) net: Arc<NetState>,
    pub(crate) cells: Arc<CellsState>,
    pub(crate) work: Arc<WorkState>,
    pub(crate) operator_listener: OperatorListener,
    /// Version of the tasks at which each agent last got no offer.
    no_offer_at: Mutex<BTreeMap<Slug, u64>>,
    /// What each agent may still write.
    pub(super) quotas: AgentQuotas,
    /// Deliveries that each hook may still take.
    deliveries: Mutex<BTreeMap<String, TokenBucket>>,
    /// Requests for work, by agent.
    asking: Mutex<BTreeMap<Slug, Asking>>,
    /// Instant at which the servers began to take requests.
    began: Instant,
    /// Number of requests that wait for the end of a task which an agent gave, by agent and task.
    waiting: Mutex<BTreeMap<(Slug, TaskId), u32>>,
    /// Held while a template is saved.
    pub(super) saving_template: tokio::sync::Mutex<()>,
    /// Deliveries whose bodies are being read.
    pub(super) delivery_places: DeliveryPlaces,
    /// Verifications of the audit log.
    pub(super) verification: SharedRead<VerifyDoc>,
    /// Digests of the state.
    pub(super) state_hash: SharedRead<String>,
    /// Runs of every check of the house.
    pub(super) checks: SharedRead<DoctorDoc>,
    /// Held while a report is made: they read much, and some run every check.
    reports: Semaphore,
}

impl ApiState {
    /// State of the servers above the state of tasks.
    pub(crate) fn new(work: Arc<WorkState>) -> ApiState {
        ApiState {
            began: work.core.rt.now(),
            core: Arc::clone(&work.core),
            net: Arc::clone(&work.cells.net),
            cells: Arc::clone(&work.cells),
            work,
            operator_listener: OperatorListener::default(),
            no_offer_at: Mutex::default(),
            quotas: AgentQuotas::default(),
            deliveries: Mutex::default(),
            asking: Mutex::default(),
            waiting: Mutex::default(),
            saving_template: tokio::sync::Mutex::default(),
            delivery_places: DeliveryPlaces::default(),
            verification: SharedRead::default(),
            state_hash: SharedRead::default(),
            checks: SharedRead::default(),
            reports: Semaphore::new(1),
        }
    }

    /// Makes a report once those before it are made.
    pub(super) async fn make_report(&self, name: &str, language: Language) -> Result<ReportDoc> {
        // It is never closed.
        let _turn = self.reports.acquire().await.ok();
        reports::make_report(&self.work, name, language).await
    }

    /// Whether an agent got no offer at this version of the tasks, so that the store need not be
    /// read again.
    pub(super) fn has_no_offer_at(&self, agent: &Slug, version: u64) -> bool {
        self.no_offer_at.lock().get(agent) == Some(&version)
    }

    /// Records that an agent got no offer at this version of the tasks.
    pub(super) fn record_no_offer(&self, agent: &Slug, version: u64) {
        self.no_offer_at.lock().insert(agent.clone(), version);
    }

    /// Records that a worker of an agent asks for work, until the value is dropped.
    pub(super) fn record_asking_for_work(&self, agent: &Slug) -> AsksForWork<'_> {
        self.asking.lock().entry(agent.clone()).or_default().open += 1;
        AsksForWork {
            api: self,
            agent: agent.clone(),
        }
    }

    /// Agents whose workers ask for work now, or did within [`NEXT_REQUEST_MAX`]: a worker asks again after each answer.
    /// None within that time after the start, when workers have yet to ask again.
    pub(super) fn agents_asking_for_work(&self) -> Option<BTreeSet<Slug>> {
        let now = self.core.rt.now();
        if now.duration_since(self.began) < NEXT_REQUEST_MAX {
            return None;
        }
        let mut asking = self.asking.lock();
        asking.retain(|_, a| {
            let lately = a
                .ended
                .is_some_and(|at| now.duration_since(at) < NEXT_REQUEST_MAX);
            a.open > 0 || lately
        });
        Some(asking.keys().cloned().collect())
    }

    /// Lets a run of an agent wait for a task that the agent gave, until the value is dropped: also when the caller has gone.
    /// The wait begins with [`abbey_store::Storage::await_subtask`].
    pub(super) fn record_wait_for_task(&self, agent: &Slug, task: TaskId) -> WaitsForTask<'_> {
        let key = (agent.clone(), task);
        *self.waiting.lock().entry(key.clone()).or_default() += 1;
        WaitsForTask { api: self, key }
    }

    /// Counts a delivery of a hook, and returns whether it is taken: `most` at once, and as many a minute after that.
    pub(super) fn count_delivery(&self, hook: String, most: u32) -> bool {
        let (now, most) = (self.core.rt.now(), f64::from(most));
        let mut deliveries = self.deliveries.lock();
        let full = || TokenBucket::new(most, most / 60.0, now);
        let bucket = deliveries.entry(hook).or_insert_with(full);
        bucket.take(1.0, now).is_ok()
    }
}

/// Longest pause between two requests of a worker for work, also while the control plane restarts.
const NEXT_REQUEST_MAX: Duration = Duration::from_secs(8);

/// Requests of an agent's workers for work.
#[derive(Debug, Default)]
struct Asking {
    /// Number of those that are open.
    open: u32,
    /// Instant at which the last one ended.
    ended: Option<Instant>,
}

/// A worker that asks for work, until it is dropped.
pub(super) struct AsksForWork<'a> {
    api: &'a ApiState,
    agent: Slug,
}

impl Drop for AsksForWork<'_> {
    fn drop(&mut self) {
        let now = self.api.core.rt.now();
        if let Some(asking) = self.api.asking.lock().get_mut(&self.agent) {
            asking.open = asking.open.saturating_sub(1);
            asking.ended = Some(now);
        }
    }
}

/// A request that waits for the end of a task which the caller gave, until it is dropped.
pub(super) struct WaitsForTask<'a> {
    api: &'a ApiState,
    key: (Slug, TaskId),
}

impl Drop for WaitsForTask<'_> {
    fn drop(&mut self) {
        let mut waiting = self.api.waiting.lock();
        let Some(count) = waiting.get_mut(&self.key) else {
            return;
        };
        *count = count.saturating_sub(1);
        if *count == 0 {
            waiting.remove(&self.key);
            let (agent, task) = self.key.clone();
            // It is done whether or not anybody waits for the reply.
            drop(
                self.api
                    .core
                    .store
                    .end_subtask_wait(TaskRef::Id(task), agent),
            );
        }
    }
}
