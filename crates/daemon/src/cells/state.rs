//! State of cells.

use crate::cells::command_table::CommandTable;
use crate::cells::desired::DesiredStates;
use crate::cells::memory::MemoryGrants;
use crate::cells::observations::Observations;
use crate::cells::vm_shapes::Pool;
use crate::core::state::CoreState;
use crate::net::state::NetState;
use abbey_cells::Backend;
use abbey_model::{CellName, DesiredState, Slug};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;

/// What the reconciler, provisioning, commands and service consumers share.
pub(crate) struct CellsState {
    pub(crate) core: Arc<CoreState>,
    pub(crate) net: Arc<NetState>,
    /// Starts, stops and observes cells.
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) desired: DesiredStates,
    pub(crate) observations: Observations,
    pub(super) memory: MemoryGrants,
    pub(super) commands: CommandTable,
    pub(super) pool: Pool,
    pass_requested: Notify,
    /// Generation of the plan whose agents and services have their files; cells start under no other.
    provisioned: AtomicU64,
    /// Whether a whole pass of the reconciler began after the shutdown request: no start is in flight.
    starts_over: AtomicBool,
    consumer_problems: RwLock<BTreeMap<Slug, String>>,
}

impl CellsState {
    /// `desired` is what the store has on record.
    pub(crate) fn new(
        net: Arc<NetState>,
        backend: Arc<dyn Backend>,
        desired: BTreeMap<CellName, DesiredState>,
    ) -> CellsState {
        CellsState {
            core: Arc::clone(&net.core),
            net,
            backend,
            desired: DesiredStates::new(desired),
            observations: Observations::default(),
            memory: MemoryGrants::default(),
            commands: CommandTable::default(),
            pool: Pool::default(),
            pass_requested: Notify::new(),
            provisioned: AtomicU64::new(0),
            starts_over: AtomicBool::new(false),
            consumer_problems: RwLock::default(),
        }
    }

    /// Asks the reconciler for a pass, where what changed is not in the store.
    pub(crate) fn request_pass(&self) {
        self.pass_requested.notify_one();
    }

    /// Lets the cells of a generation start: its provisioning has come to an end.
    pub(super) fn set_provisioned(&self, generation: u64) {
        self.provisioned.store(generation, Ordering::SeqCst);
        self.request_pass();
    }

    /// Whether provisioning for this generation has come to an end.
    pub(super) fn is_provisioned(&self, generation: u64) -> bool {
        self.provisioned.load(Ordering::SeqCst) == generation
    }

    /// Records that a pass which began after the shutdown request has ended.
    pub(super) fn set_starts_over(&self) {
        self.starts_over.store(true, Ordering::SeqCst);
    }

    /// Whether the reconciler starts nothing any more, also not by a call that it is still waiting for.
    pub(crate) fn starts_over(&self) -> bool {
        self.starts_over.load(Ordering::SeqCst)
    }

    /// Resolves when a pass is requested.
    pub(super) async fn pass_requested(&self) {
        self.pass_requested.notified().await;
    }

    /// Why the databases and accounts of agents in a service are not as planned, by service.
    pub(crate) fn consumer_problems(&self) -> BTreeMap<Slug, String> {
        self.consumer_problems.read().clone()
    }

    pub(super) fn set_consumer_problems(&self, problems: BTreeMap<Slug, String>) {
        *self.consumer_problems.write() = problems;
    }
}
