//! All of the house's state that must not be lost, behind operations rather than SQL.
//!
//! [`Storage`] is the interface; [`Sqlite`] implements it with one writer thread that groups the
//! operations of many callers into one flush, and a pool of read-only connections beside it.
//! Each operation runs the `engine` inside the transaction and writes its activity entries in the
//! same one. Only the store's clock decides leases; callers hand in durations, never instants.
//! Deliberately absent: policy. No decision is written in SQL.

mod chain;
mod clock;
mod document;
mod error;
mod escalation;
mod sqlite;
mod types;

pub use chain::{Entry, GENESIS, Verdict, canonical, entry_hash, verify};
pub use clock::{Clock, Guarded, SystemClock};
pub use document::{DocumentRow, WriteDocument};
pub use error::{Error, Result};
pub use escalation::{Escalate, Escalation};
pub use sqlite::{Options, Sqlite};
pub use types::*;

use abbey_model::{CellName, Principal, ReservationId, RunId, SagaId, Slug, TaskRef, Timestamp};
use std::collections::BTreeMap;

/// An answer that arrives when its transaction is on disk.
#[derive(Debug)]
pub struct Reply<T>(tokio::sync::oneshot::Receiver<Result<T>>);

impl<T> Reply<T> {
    pub(crate) fn new() -> (tokio::sync::oneshot::Sender<Result<T>>, Self) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        (sender, Reply(receiver))
    }

    /// Blocks until the answer is there; for threads outside an async runtime.
    ///
    /// # Errors
    /// What the operation says, or [`Error::Closed`].
    pub fn wait(self) -> Result<T> {
        self.0.blocking_recv().unwrap_or(Err(Error::Closed))
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T>;
    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0)
            .poll(cx)
            .map(|r| r.unwrap_or(Err(Error::Closed)))
    }
}

/// Everything the house asks of its store. Each write is one transaction with its activity
/// entries; dropping a [`Reply`] does not undo it.
pub trait Storage: Send + Sync {
    /// Adds a task and admits it. The same idempotency key gives the same task.
    fn add_task(&self, new: NewTask) -> Reply<Added>;
    /// Admits a waiting task anew.
    fn admit(&self, task: TaskRef, intake: Intake) -> Reply<TaskRow>;
    /// Grants the lease of a ready task to one agent and begins a run.
    fn claim(&self, claim: Claim) -> Reply<Claimed>;
    /// Extends a lease and takes what the worker reports of its run.
    fn renew(&self, task: TaskRef, hold: Hold, facts: RunFacts) -> Reply<LeaseView>;
    /// Ends a run well; whoever calls has looked at the declared evidence.
    fn complete(
        &self,
        task: TaskRef,
        hold: Hold,
        outcome: (Outcome, Checked),
        facts: RunFacts,
    ) -> Reply<TaskRow>;
    /// Ends a run badly.
    fn fail(&self, task: TaskRef, hold: Hold, failure: Failure, facts: RunFacts) -> Reply<TaskRow>;
    /// Ends a run because the work waits for somebody.
    fn block(&self, task: TaskRef, hold: Hold, on: String, why: String) -> Reply<TaskRow>;
    /// Ends such a wait.
    fn unblock(&self, task: TaskRef, who: Principal) -> Reply<TaskRow>;
    /// Changes a task that nobody holds, and admits it anew.
    fn edit_task(&self, task: TaskRef, edit: TaskEdit, who: Principal) -> Reply<TaskRow>;
    /// Calls a task off.
    fn cancel(&self, task: TaskRef, who: Principal) -> Reply<TaskRow>;
    /// Gives work that nobody fits to its receiver; once for each task.
    fn escalate(&self, new: Escalate) -> Reply<TaskRow>;
    /// The time of one is over; entered once. With `cancels`, work that nobody took up is called off with it.
    fn escalation_over(&self, task: u64, cancels: bool) -> Reply<()>;
    /// Those whose task is not over.
    fn escalations(&self) -> Reply<Vec<Escalation>>;
    /// Starts a finished task again.
    fn retry(&self, task: TaskRef, who: Principal) -> Reply<TaskRow>;
    /// Takes back every lease of an agent's boots before `keep` (all of them without one).
    fn holder_lost(
        &self,
        agent: Slug,
        keep: Option<abbey_model::Generation>,
    ) -> Reply<Vec<TaskRow>>;
    /// Ends leases and runs whose time is over. Writes nothing when there are none.
    fn sweep(&self) -> Reply<Vec<TaskRow>>;

    /// Holds funds on every enclosing budget, all or none, for a call of a live run.
    fn reserve(&self, call: CallHold) -> Reply<ReservationId>;
    /// Ends a hold with what was used.
    fn settle(&self, reservation: ReservationId, used: CallUse) -> Reply<()>;
    /// Charges the holds that a crash left open, in full.
    fn charge_lost(&self) -> Reply<u64>;
    /// Sets limits; what was spent stays.
    fn set_budgets(&self, limits: Vec<BudgetLimit>, timezone: String) -> Reply<()>;

    /// Appends an entry of its own.
    fn append(&self, note: Note) -> Reply<u64>;
    /// Bytes of hostd's journal that are in the chain already.
    fn folded(&self) -> Reply<u64>;
    /// Takes the journal's lines from byte `from` to `to` into the chain, unless somebody else has:
    /// all of them or none.
    fn fold(&self, from: u64, to: u64, notes: Vec<Note>) -> Reply<bool>;
    /// Signs the head of the chain if it moved since the last signature.
    fn checkpoint(&self) -> Reply<Option<u64>>;

    /// Makes a plan current; refused when another became current meanwhile.
    fn commit_generation(&self, commit: Commit) -> Reply<u64>;
    /// Remembers the wish for a cell and its supervision.
    fn set_cell(&self, cell: CellName, change: CellChange) -> Reply<()>;
    /// Forgets a cell.
    fn forget_cell(&self, cell: CellName) -> Reply<()>;
    /// Registers a credential by its hash.
    fn add_token(&self, token: TokenRow) -> Reply<()>;
    /// Lets every credential of a principal end at `overlap` from now, except `keep`.
    fn revoke_tokens(
        &self,
        principal: Principal,
        keep: Option<String>,
        overlap: abbey_model::Millis,
    ) -> Reply<u64>;
    /// Begins a saga.
    fn saga_begin(
        &self,
        id: SagaId,
        kind: String,
        subject: String,
        steps: Vec<String>,
    ) -> Reply<()>;
    /// Appends to a saga's log.
    fn saga_event(
        &self,
        id: SagaId,
        event: abbey_engine::saga::Event,
    ) -> Reply<abbey_engine::saga::State>;
    /// Remembers that a wake fired.
    fn note_wake(&self, agent: Slug, number: u64) -> Reply<()>;
    /// Removes finished tasks with their runs, spent idempotency keys and over sagas older than
    /// `keep`. The activity stays.
    fn retain(&self, keep: abbey_model::Millis) -> Reply<u64>;

    /// The store's clock.
    fn now(&self) -> Timestamp;
    /// One task.
    fn task(&self, task: TaskRef) -> Reply<TaskRow>;
    /// Tasks by filter, newest first.
    fn tasks(&self, filter: TaskFilter) -> Reply<Vec<TaskRow>>;
    /// Tasks that an agent may claim, most urgent first.
    fn offers(&self, agent: Slug, limit: u32) -> Reply<Vec<TaskRow>>;
    /// A task with everything that hangs on it, depth first, each with its depth.
    fn tree(&self, task: TaskRef) -> Reply<Vec<(u32, TaskRow)>>;
    /// The holder of a task asks for a yes; its run ends and the task waits.
    fn ask_approval(&self, ask: AskApproval) -> Reply<ApprovalRow>;
    /// Decides; a task that asked goes on or is over.
    fn decide_approval(
        &self,
        number: u64,
        verdict: abbey_engine::approval::Verdict,
        note: Option<String>,
        by: Principal,
    ) -> Reply<(ApprovalRow, Option<TaskRow>)>;
    /// Uses a yes: for exactly what it was given for, once, in time.
    fn use_approval(&self, take: UseApproval) -> Reply<ApprovalRow>;
    /// One approval.
    fn approval(&self, number: u64) -> Reply<ApprovalRow>;
    /// Approvals of a task or of all, those that nobody decided or every one, newest first.
    fn approvals(&self, task: Option<u64>, all: bool) -> Reply<Vec<ApprovalRow>>;
    /// Starts a run of a workflow. The same key starts the same run; whether it is a new one comes with it.
    fn start_workflow(&self, new: NewRun) -> Reply<(u64, bool)>;
    /// Brings a run as far as it goes by itself, with what came from outside: what is begun, called off and settled
    /// is one transaction.
    fn advance_workflow(&self, number: u64, nudge: Nudge, intakes: Intakes) -> Reply<WorkflowRow>;
    /// One run.
    fn workflow(&self, number: u64) -> Reply<WorkflowRow>;
    /// Runs, newest first; only those that go on, if wanted.
    fn workflows(&self, open: bool, limit: u32) -> Reply<Vec<WorkflowRow>>;
    /// Runs of which something is over that they waited for, and when the next thing happens by itself.
    fn workflows_due(&self) -> Reply<(Vec<u64>, Option<Timestamp>)>;
    /// Writes a version of a document, or adds an entry.
    fn write_document(&self, new: WriteDocument) -> Reply<DocumentRow>;
    /// The newest version or entry of every document.
    fn documents(&self) -> Reply<Vec<DocumentRow>>;
    /// Versions or entries of a document up to one, newest first; none when nobody wrote it yet.
    fn document(&self, name: Slug, through: u64, limit: u32) -> Reply<Vec<DocumentRow>>;
    /// Every schedule that was ever looked at, by `agent/name`.
    fn schedules(&self) -> Reply<BTreeMap<String, ScheduleRow>>;
    /// What a schedule did, newest first.
    fn schedule_history(&self, name: String) -> Reply<Vec<ScheduleLine>>;
    /// Makes a schedule known; one whose digest changed begins anew, from now.
    fn know_schedule(&self, name: String, digest: String) -> Reply<()>;
    /// Forgets schedules.
    fn forget_schedules(&self, names: Vec<String>) -> Reply<()>;
    /// Settles instants of a schedule, each once.
    fn fire(&self, fire: Fire) -> Reply<()>;
    /// Ends of work that somebody is to hear of and has not yet, oldest first.
    fn outbox(&self) -> Reply<Vec<Notice>>;
    /// Remembers that the end of this task was told.
    fn delivered(&self, task: u64) -> Reply<()>;
    /// Runs of a task, oldest first.
    fn runs(&self, task: abbey_model::TaskId) -> Reply<Vec<RunRow>>;
    /// One run.
    fn run(&self, run: RunId) -> Reply<RunRow>;
    /// What runs that ended since then cost, newest first, at most 5,000.
    fn runs_since(&self, since: Timestamp) -> Reply<Vec<RunCost>>;
    /// What models were asked in runs that began since then, by agent and model.
    fn usage_since(&self, since: Timestamp) -> Reply<Vec<Usage>>;
    /// When the next lease, wall time or pause ends.
    fn next_deadline(&self) -> Reply<Option<Timestamp>>;
    /// Every budget as it stands now.
    fn budgets(&self) -> Reply<Vec<abbey_engine::budget::Account>>;
    /// Entries after a sequence number.
    fn activity(&self, after: u64, limit: u32) -> Reply<Vec<Entry>>;
    /// Sequence number of the newest entry.
    fn head(&self) -> u64;
    /// Checks the whole chain.
    fn verify(&self) -> Reply<Verdict>;
    /// The current generation; none before the first.
    fn current(&self) -> Reply<Option<GenerationRow>>;
    /// The newest manifest that had an agent: its generation, its text, and the agent's charter.
    fn former(&self, agent: Slug) -> Reply<Option<(u64, String, String)>>;
    /// Every cell with its wish and history.
    fn cells(&self) -> Reply<BTreeMap<CellName, CellRow>>;
    /// Every credential that may still be valid.
    fn tokens(&self) -> Reply<Vec<TokenRow>>;
    /// Sagas that are not over.
    fn open_sagas(&self) -> Reply<Vec<SagaRow>>;
    /// Number of the last wake that fired, by agent.
    fn wakes(&self) -> Reply<BTreeMap<Slug, u64>>;
    /// Copies the whole state into a file while the house runs.
    fn backup(&self, to: std::path::PathBuf) -> Reply<()>;
    /// SHA-256 of the canonical export of everything but credentials.
    fn state_hash(&self) -> Reply<String>;
    /// Counters for metrics: (transactions, operations).
    fn counters(&self) -> (u64, u64);
}
