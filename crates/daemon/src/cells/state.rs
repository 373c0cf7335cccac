//! State of the cells of a house.

use crate::cells::command_table::CommandTable;
use crate::cells::desired::DesiredStates;
use crate::cells::memory::MemoryGrants;
use crate::cells::observations::Observations;
use crate::cells::vm_shapes::VmPool;
use crate::core::state::CoreState;
use crate::net::state::NetState;
use abbey_cells::Backend;
use abbey_model::{CellName, DesiredState, Slug};
use abbey_plan::AccessState;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// State shared by the reconciler, provisioning, commands and service consumers.
pub(crate) struct CellsState {
    pub(crate) core: Arc<CoreState>,
    pub(crate) net: Arc<NetState>,
    /// Starts, stops and observes cells.
    pub(crate) backend: Arc<dyn Backend>,
    /// Desired state of each cell.
    pub(crate) desired: DesiredStates,
    /// Newest observation of each cell.
    pub(crate) observations: Observations,
    /// Memory granted to starting cells.
    pub(super) memory: MemoryGrants,
    /// Running single commands.
    pub(super) commands: CommandTable,
    /// MicroVMs kept ready for commands.
    pub(super) pool: VmPool,
    reconcile_requested: Notify,
    /// Cells that are to run and are paused for the time of a backup.
    held: RwLock<BTreeSet<CellName>>,
    /// Generation of the plan whose provisioning has ended; only its cells may start.
    provisioned: AtomicU64,
    /// Why agents could not be prepared by the last provisioning, by agent, and why it ended early.
    unprepared: RwLock<(BTreeMap<String, String>, Option<String>)>,
    /// Whether a pass that began after the shutdown request has ended, so that no start is in
    /// flight.
    starts_over: AtomicBool,
    consumers: RwLock<ConsumerStatus>,
    /// Agents whose credentials for services are to be written and opened once more.
    renewals: Mutex<BTreeSet<Slug>>,
    renewal_requested: Notify,
    access: RwLock<Option<Arc<AccessStates>>>,
    /// When this control plane began, by its monotonic clock.
    began: Instant,
    /// Whether a manifest was applied since then, or found to be in force.
    manifest_applied: AtomicBool,
}

/// Time that a control plane which has begun waits for a manifest before it deletes what is due: a house is often
/// started with a new one, which may use that again.
const MANIFEST_WITHIN: Duration = Duration::from_secs(60);

/// State of what agents have and had in services, by service and name there.
pub(crate) type AccessStates = BTreeMap<(Slug, String), AccessState>;

/// What the last pass over the services found.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConsumerStatus {
    /// Why the databases and accounts of agents in a service are not as planned.
    pub(crate) trouble: BTreeMap<Slug, String>,
    /// Every (service, agent) whose access is set up.
    pub(crate) opened: BTreeSet<(Slug, Slug)>,
    /// Generation of the plan for which a service has opened and closed what it is to.
    pub(crate) settled: BTreeMap<Slug, u64>,
}

impl CellsState {
    /// `desired` is the desired state of each cell that the store has.
    pub(crate) fn new(
        net: Arc<NetState>,
        backend: Arc<dyn Backend>,
        desired: BTreeMap<CellName, DesiredState>,
    ) -> CellsState {
        CellsState {
            core: Arc::clone(&net.core),
            backend,
            desired: DesiredStates::new(desired),
            observations: Observations::default(),
            memory: MemoryGrants::default(),
            commands: CommandTable::default(),
            pool: VmPool::default(),
            reconcile_requested: Notify::new(),
            held: RwLock::default(),
            provisioned: AtomicU64::new(0),
            unprepared: RwLock::default(),
            starts_over: AtomicBool::new(false),
            consumers: RwLock::default(),
            renewals: Mutex::default(),
            renewal_requested: Notify::new(),
            access: RwLock::default(),
            began: net.core.rt.now(),
            manifest_applied: AtomicBool::new(false),
            net,
        }
    }

    /// Notes that a manifest was applied, or found to be in force.
    pub(crate) fn note_manifest(&self) {
        self.manifest_applied.store(true, Ordering::Relaxed);
    }

    /// Whether a new manifest may still come, so that nothing that is due is deleted.
    pub(super) fn waits_for_manifest(&self) -> bool {
        let recent = self.core.rt.now() < self.began + MANIFEST_WITHIN;
        recent && !self.manifest_applied.load(Ordering::Relaxed)
    }

    /// Wakes the reconciler for a pass that tries a cell, or every one, at once even if it waits for its backoff, because
    /// an operator asked for it and may have removed the cause.
    pub(crate) fn request_fresh_start(&self, cell: Option<&CellName>) {
        self.observations.ask_for(cell);
        self.request_reconcile();
    }

    /// Puts a desired state in force that the store has.
    pub(crate) fn set_desired(&self, cell: &CellName, state: DesiredState) {
        self.desired.set(cell.clone(), state);
        self.observations.expect_change(cell);
        self.request_reconcile();
    }

    /// Wakes the reconciler for a pass, for changes that the store does not announce.
    pub(crate) fn request_reconcile(&self) {
        self.reconcile_requested.notify_one();
    }

    /// Records that provisioning of a generation has ended, which lets its cells start.
    pub(super) fn mark_provisioned(&self, generation: u64) {
        self.provisioned.store(generation, Ordering::SeqCst);
        self.request_reconcile();
    }

    /// Records why agents could not be prepared, by agent, and why provisioning ended early.
    pub(super) fn record_unprepared(&self, agents: BTreeMap<String, String>, all: Option<String>) {
        *self.unprepared.write() = (agents, all);
    }

    /// Why the files of an agent may be missing: it, or everything, could not be prepared.
    pub(super) fn why_unprepared(&self, agent: &Slug) -> Option<String> {
        let unprepared = self.unprepared.read();
        let own = unprepared.0.get(agent.as_str());
        own.or(unprepared.1.as_ref()).cloned()
    }

    /// Whether provisioning of this generation has ended.
    pub(super) fn is_provisioned(&self, generation: u64) -> bool {
        self.provisioned.load(Ordering::SeqCst) == generation
    }

    /// Records that a pass which began after the shutdown request has ended.
    pub(super) fn mark_starts_over(&self) {
        self.starts_over.store(true, Ordering::SeqCst);
    }

    /// Whether the reconciler will start no further cell and no start is in flight.
    pub(crate) fn starts_over(&self) -> bool {
        self.starts_over.load(Ordering::SeqCst)
    }

    /// Replaces the set of cells that the reconciler keeps paused for now though they are to run. Only memory has it, so
    /// a control plane that starts anew resumes them.
    pub(super) fn hold_paused(&self, cells: BTreeSet<CellName>) {
        *self.held.write() = cells;
    }

    /// Whether a cell is kept paused for now.
    pub(super) fn is_held_paused(&self, cell: &CellName) -> bool {
        self.held.read().contains(cell)
    }

    /// Resolves when a pass is requested.
    pub(super) async fn reconcile_requested(&self) {
        self.reconcile_requested.notified().await;
    }

    /// Whether a pass of the reconciler was requested; it counts as made then.
    pub(crate) fn take_request(&self) -> bool {
        use futures_util::FutureExt as _;
        self.reconcile_requested().now_or_never().is_some()
    }

    /// What the last pass over the services found about the access of agents to them.
    pub(crate) fn consumer_status(&self) -> ConsumerStatus {
        self.consumers.read().clone()
    }

    /// Has the next pass over the services write the credentials of an agent once more and open its access with them: its
    /// files may have been removed or replaced by older ones.
    pub(crate) fn request_service_credentials(&self, agent: &Slug) {
        let current = self.core.plan.current();
        let agent_of_plan = current.as_ref().and_then(|c| c.house.agents.get(agent));
        if agent_of_plan.is_none_or(|a| a.uses.is_empty()) {
            return;
        }
        self.renewals.lock().insert(agent.clone());
        self.renewal_requested.notify_one();
    }

    /// Takes the agents whose credentials for services are to be written once more.
    pub(super) fn take_service_credential_requests(&self) -> BTreeSet<Slug> {
        std::mem::take(&mut *self.renewals.lock())
    }

    /// Resolves when credentials for services are to be written once more.
    pub(super) async fn service_credentials_requested(&self) {
        self.renewal_requested.notified().await;
    }

    /// What agents have and had in services, once the passes over the services have begun.
    pub(crate) fn access_states(&self) -> Option<Arc<AccessStates>> {
        self.access.read().clone()
    }

    /// Replaces what agents have and had in services.
    pub(super) fn set_access_states(&self, states: AccessStates) {
        *self.access.write() = Some(Arc::new(states));
    }

    /// Replaces what the last pass over the services found.
    pub(super) fn set_consumer_status(&self, status: ConsumerStatus) {
        *self.consumers.write() = status;
    }
}
