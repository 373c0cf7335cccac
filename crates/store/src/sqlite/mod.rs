//! The SQLite store: WAL, `synchronous=FULL`, one writer, many readers.

mod activity;
mod approvals;
mod backup;
mod documents;
mod edit;
mod escalations;
mod house;
mod ledger;
mod links;
mod open;
mod read;
mod runs;
mod schedules;
mod tasks;
mod workflows;
mod writer;

pub use open::Options;

use crate::{
    Added, CallHold, CallUse, CellChange, CellRow, Checked, Claim, Claimed, Commit, DocumentRow,
    Entry, Error, Failure, GenerationRow, Guarded, Hold, Intake, LeaseView, NewTask, Note, Outcome,
    Reply, Result, RunFacts, RunRow, SagaRow, Storage, TaskEdit, TaskFilter, TaskRow, TokenRow,
    Verdict, WriteDocument,
};
use abbey_model::{
    CellName, Generation, Millis, Principal, ReservationId, RunId, SagaId, Slug, TaskId, TaskRef,
    Timestamp,
};
use read::Readers;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use writer::Writer;

/// The store in one SQLite file.
pub struct Sqlite {
    writer: Writer,
    readers: Readers,
    clock: Arc<Guarded>,
    path: PathBuf,
}

impl Sqlite {
    /// Opens or creates the state file.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for anything but a sound file of a known format; a damaged file is
    /// never taken for an empty house.
    pub fn open(options: Options) -> Result<Sqlite> {
        let path = options.path.clone();
        let opened = open::open(&options)?;
        let clock = Arc::new(Guarded::new(options.clock, opened.newest));
        let readers = Readers::open(&path)?;
        let writer = Writer::start(
            opened,
            Arc::clone(&clock),
            &path,
            options.redactor,
            (options.on_commit, options.on_fatal),
        );
        Ok(Sqlite {
            writer,
            readers,
            clock,
            path,
        })
    }

    /// Path of the state file.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    fn write<T: Send + 'static>(
        &self,
        op: impl FnOnce(&mut writer::Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Reply<T> {
        self.writer.submit(op)
    }

    fn read<T: Send + 'static>(
        &self,
        op: impl FnOnce(&rusqlite::Connection) -> Result<T> + Send + 'static,
    ) -> Reply<T> {
        self.readers.submit(op)
    }
}

impl Storage for Sqlite {
    fn add_task(&self, new: NewTask) -> Reply<Added> {
        self.write(move |tx| tasks::add(tx, new))
    }
    fn admit(&self, task: TaskRef, intake: Intake) -> Reply<TaskRow> {
        self.write(move |tx| tasks::admit(tx, task, intake))
    }
    fn claim(&self, claim: Claim) -> Reply<Claimed> {
        self.write(move |tx| tasks::claim(tx, claim))
    }
    fn renew(&self, task: TaskRef, hold: Hold, facts: RunFacts) -> Reply<LeaseView> {
        self.write(move |tx| tasks::renew(tx, task, &hold, &facts))
    }
    fn complete(
        &self,
        task: TaskRef,
        hold: Hold,
        outcome: (Outcome, Checked),
        facts: RunFacts,
    ) -> Reply<TaskRow> {
        self.write(move |tx| tasks::complete(tx, task, &hold, outcome, &facts))
    }
    fn fail(&self, task: TaskRef, hold: Hold, failure: Failure, facts: RunFacts) -> Reply<TaskRow> {
        self.write(move |tx| tasks::fail(tx, task, &hold, failure, &facts))
    }
    fn block(&self, task: TaskRef, hold: Hold, on: String, why: String) -> Reply<TaskRow> {
        self.write(move |tx| tasks::block(tx, task, &hold, on, why))
    }
    fn unblock(&self, task: TaskRef, who: Principal) -> Reply<TaskRow> {
        self.write(move |tx| tasks::simple(tx, task, &abbey_engine::task::Event::Unblock, &who))
    }
    fn edit_task(&self, task: TaskRef, change: TaskEdit, who: Principal) -> Reply<TaskRow> {
        self.write(move |tx| edit::edit(tx, task, change, &who))
    }
    fn cancel(&self, task: TaskRef, who: Principal) -> Reply<TaskRow> {
        self.write(move |tx| tasks::simple(tx, task, &abbey_engine::task::Event::Cancel, &who))
    }
    fn escalate(&self, new: crate::Escalate) -> Reply<TaskRow> {
        self.write(move |tx| escalations::escalate(tx, new))
    }
    fn escalation_over(&self, task: u64, cancels: bool) -> Reply<()> {
        self.write(move |tx| escalations::over(tx, task, cancels))
    }
    fn escalations(&self) -> Reply<Vec<crate::Escalation>> {
        self.read(escalations::all)
    }
    fn retry(&self, task: TaskRef, who: Principal) -> Reply<TaskRow> {
        self.write(move |tx| tasks::simple(tx, task, &abbey_engine::task::Event::Retry, &who))
    }
    fn holder_lost(&self, agent: Slug, keep: Option<Generation>) -> Reply<Vec<TaskRow>> {
        self.write(move |tx| tasks::holder_lost(tx, &agent, keep))
    }
    fn sweep(&self) -> Reply<Vec<TaskRow>> {
        self.write(tasks::sweep)
    }
    fn reserve(&self, call: CallHold) -> Reply<ReservationId> {
        self.write(move |tx| ledger::reserve_call(tx, &call))
    }
    fn settle(&self, reservation: ReservationId, used: CallUse) -> Reply<()> {
        self.write(move |tx| ledger::settle_call(tx, reservation, &used))
    }
    fn charge_lost(&self) -> Reply<u64> {
        self.write(ledger::charge_lost)
    }
    fn set_budgets(&self, limits: Vec<crate::BudgetLimit>, timezone: String) -> Reply<()> {
        self.write(move |tx| ledger::set_limits(tx, &limits, &timezone))
    }
    fn append(&self, note: Note) -> Reply<u64> {
        self.write(move |tx| {
            activity::append(tx, &note.actor, &note.action, &note.entity, note.detail)
        })
    }
    fn checkpoint(&self) -> Reply<Option<u64>> {
        self.write(activity::checkpoint)
    }
    fn commit_generation(&self, commit: Commit) -> Reply<u64> {
        self.write(move |tx| house::commit(tx, commit))
    }
    fn set_cell(&self, cell: CellName, change: CellChange) -> Reply<()> {
        self.write(move |tx| house::set_cell(tx, &cell, change))
    }
    fn forget_cell(&self, cell: CellName) -> Reply<()> {
        self.write(move |tx| house::forget_cell(tx, &cell))
    }
    fn add_token(&self, token: TokenRow) -> Reply<()> {
        self.write(move |tx| house::add_token(tx, &token))
    }
    fn revoke_tokens(
        &self,
        principal: Principal,
        keep: Option<String>,
        overlap: Millis,
    ) -> Reply<u64> {
        self.write(move |tx| house::revoke_tokens(tx, &principal, keep.as_deref(), overlap))
    }
    fn saga_begin(
        &self,
        id: SagaId,
        kind: String,
        subject: String,
        steps: Vec<String>,
    ) -> Reply<()> {
        self.write(move |tx| house::saga_begin(tx, id, &kind, &subject, &steps))
    }
    fn saga_event(
        &self,
        id: SagaId,
        event: abbey_engine::saga::Event,
    ) -> Reply<abbey_engine::saga::State> {
        self.write(move |tx| house::saga_event(tx, id, event))
    }
    fn note_wake(&self, agent: Slug, number: u64) -> Reply<()> {
        self.write(move |tx| house::note_wake(tx, &agent, number))
    }
    fn folded(&self) -> Reply<u64> {
        self.read(house::folded)
    }
    fn fold(&self, from: u64, to: u64, notes: Vec<Note>) -> Reply<bool> {
        self.write(move |tx| house::fold(tx, from, to, &notes))
    }
    fn retain(&self, keep: Millis) -> Reply<u64> {
        self.write(move |tx| house::retain(tx, keep))
    }
    fn now(&self) -> Timestamp {
        self.clock.now()
    }
    fn task(&self, task: TaskRef) -> Reply<TaskRow> {
        self.read(move |c| tasks::load(c, task))
    }
    fn tasks(&self, filter: TaskFilter) -> Reply<Vec<TaskRow>> {
        self.read(move |c| tasks::list(c, &filter))
    }
    fn offers(&self, agent: Slug, limit: u32) -> Reply<Vec<TaskRow>> {
        self.read(move |c| tasks::offers(c, &agent, limit))
    }
    fn tree(&self, task: TaskRef) -> Reply<Vec<(u32, TaskRow)>> {
        self.read(move |c| links::tree(c, task))
    }
    fn ask_approval(&self, ask: crate::AskApproval) -> Reply<crate::ApprovalRow> {
        self.write(move |tx| approvals::ask(tx, ask))
    }
    fn decide_approval(
        &self,
        number: u64,
        verdict: abbey_engine::approval::Verdict,
        note: Option<String>,
        by: Principal,
    ) -> Reply<(crate::ApprovalRow, Option<TaskRow>)> {
        self.write(move |tx| approvals::decide(tx, number, verdict, note, &by))
    }
    fn use_approval(&self, take: crate::UseApproval) -> Reply<crate::ApprovalRow> {
        self.write(move |tx| {
            approvals::take(
                tx,
                take.number,
                &take.agent,
                take.token,
                &take.action,
                &take.args,
            )
        })
    }
    fn approval(&self, number: u64) -> Reply<crate::ApprovalRow> {
        self.read(move |c| approvals::load(c, number))
    }
    fn approvals(&self, task: Option<u64>, all: bool) -> Reply<Vec<crate::ApprovalRow>> {
        self.read(move |c| approvals::list(c, task, all))
    }
    fn start_workflow(&self, new: crate::NewRun) -> Reply<(u64, bool)> {
        self.write(move |tx| workflows::start(tx, new))
    }
    fn advance_workflow(
        &self,
        number: u64,
        nudge: crate::Nudge,
        intakes: crate::Intakes,
    ) -> Reply<crate::WorkflowRow> {
        self.write(move |tx| workflows::advance(tx, number, nudge, &intakes))
    }
    fn workflow(&self, number: u64) -> Reply<crate::WorkflowRow> {
        self.read(move |c| workflows::load(c, number))
    }
    fn workflows(&self, open: bool, limit: u32) -> Reply<Vec<crate::WorkflowRow>> {
        self.read(move |c| workflows::list(c, open, limit))
    }
    fn workflows_due(&self) -> Reply<(Vec<u64>, Option<Timestamp>)> {
        let now = self.clock.now();
        self.read(move |c| workflows::due(c, now))
    }
    fn write_document(&self, new: WriteDocument) -> Reply<DocumentRow> {
        self.write(move |tx| documents::write(tx, new))
    }
    fn documents(&self) -> Reply<Vec<DocumentRow>> {
        self.read(documents::list)
    }
    fn document(&self, name: Slug, through: u64, limit: u32) -> Reply<Vec<DocumentRow>> {
        self.read(move |db| documents::load(db, &name, through, limit))
    }
    fn schedules(&self) -> Reply<BTreeMap<String, crate::ScheduleRow>> {
        self.read(schedules::list)
    }
    fn schedule_history(&self, name: String) -> Reply<Vec<crate::ScheduleLine>> {
        self.read(move |c| schedules::history(c, &name))
    }
    fn know_schedule(&self, name: String, digest: String) -> Reply<()> {
        self.write(move |tx| schedules::know(tx, &name, &digest))
    }
    fn forget_schedules(&self, names: Vec<String>) -> Reply<()> {
        self.write(move |tx| schedules::forget(tx, &names))
    }
    fn fire(&self, fire: crate::Fire) -> Reply<()> {
        self.write(move |tx| schedules::fire(tx, fire))
    }
    fn outbox(&self) -> Reply<Vec<crate::Notice>> {
        self.read(links::outbox)
    }
    fn delivered(&self, task: u64) -> Reply<()> {
        self.write(move |tx| links::delivered(tx, task))
    }
    fn runs(&self, task: TaskId) -> Reply<Vec<RunRow>> {
        self.read(move |c| runs::of(c, task))
    }
    fn run(&self, run: RunId) -> Reply<RunRow> {
        self.read(move |c| runs::load(c, run))
    }
    fn runs_since(&self, since: Timestamp) -> Reply<Vec<crate::RunCost>> {
        self.read(move |c| runs::costs(c, since))
    }
    fn former(&self, agent: Slug) -> Reply<Option<(u64, String, String)>> {
        self.read(move |c| house::former(c, &agent))
    }
    fn usage_since(&self, since: Timestamp) -> Reply<Vec<crate::Usage>> {
        self.read(move |c| runs::usage(c, since))
    }
    fn next_deadline(&self) -> Reply<Option<Timestamp>> {
        self.read(tasks::next_deadline)
    }
    fn budgets(&self) -> Reply<Vec<abbey_engine::budget::Account>> {
        let now = self.clock.now();
        self.read(move |c| ledger::list(c, now))
    }
    fn activity(&self, after: u64, limit: u32) -> Reply<Vec<Entry>> {
        self.read(move |c| activity::list(c, after, limit))
    }
    fn head(&self) -> u64 {
        self.writer.head()
    }
    fn verify(&self) -> Reply<Verdict> {
        self.read(activity::verify)
    }
    fn current(&self) -> Reply<Option<GenerationRow>> {
        self.read(house::current)
    }
    fn cells(&self) -> Reply<BTreeMap<CellName, CellRow>> {
        self.read(house::cells)
    }
    fn tokens(&self) -> Reply<Vec<TokenRow>> {
        let now = self.clock.now();
        self.read(move |c| house::tokens(c, now))
    }
    fn open_sagas(&self) -> Reply<Vec<SagaRow>> {
        self.read(house::open_sagas)
    }
    fn wakes(&self) -> Reply<BTreeMap<Slug, u64>> {
        self.read(house::wakes)
    }
    fn backup(&self, to: PathBuf) -> Reply<()> {
        self.read(move |c| backup::copy(c, &to))
    }
    fn state_hash(&self) -> Reply<String> {
        self.read(backup::state_hash)
    }
    fn counters(&self) -> (u64, u64) {
        self.writer.counters()
    }
}

/// Reads a typed value out of a text column.
fn parse<T: std::str::FromStr>(text: &str) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| Error::Row(e.to_string()))
}
