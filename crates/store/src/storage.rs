//! The storage interface: every operation is declared once, with the function of [`crate::ops`] that does it.

use crate::driver::Driver;
use crate::ops::*;
use crate::topic::{Subscription, Topic};
use crate::types::*;
use crate::{
    ApprovalRequest, ApprovalUse, AuditEntry, AuditVerification, DocumentRow, Escalation,
    KnownCheckpoints, NewDocumentVersion, NewEscalation, Reply, Result, SignedHead,
};
use abbey_engine::provider_health::ProviderCondition;
use abbey_engine::task::{Event, Wait};
use abbey_engine::{approval, budget, saga};
use abbey_model::{
    CellName, FirstFiles, Generation, Metric, Millis, Principal, RefusedKey, ReservationId, RunId,
    SagaId, Slug, TaskId, TaskRef, Timestamp,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Declares the trait, its implementation for every driver, and the list of names.
///
/// `write name(arguments) -> T = |tx| …` runs in a transaction, `essential` as well and with the space that is kept for it
/// on a full disk, `read name(arguments) -> T = |rows, now| …` on a committed view at the store's instant `now`, `scan` is a
/// `read` that is slow because it reads the whole state, and `driver name(arguments) -> T` is the driver's own.
macro_rules! operations {
    ($(
        $(#[$doc:meta])*
        $kind:ident $name:ident($($argument:ident: $type:ty),* $(,)?) -> $answer:ty $(= |$($bound:pat_param),+| $body:expr)?;
    )*) => {
        /// Every operation of the store. Each write is one transaction with its audit entries;
        /// dropping a [`Reply`] does not undo it.
        pub trait Storage: Send + Sync {
            $(
                $(#[$doc])*
                fn $name(&self $(, $argument: $type)*) -> operations!(@answer $kind $answer);
            )*
            /// Calls of each operation since the store was opened, by name.
            fn calls(&self) -> BTreeMap<&'static str, u64>;
        }

        /// Names of all operations, in the order of their declaration.
        pub const OPERATIONS: &[&str] = &[$(stringify!($name)),*];

        /// Numbers of operations: their places in [`OPERATIONS`].
        #[allow(non_camel_case_types, reason = "named after the operations")]
        #[derive(Clone, Copy)]
        enum Number { $($name),* }

        impl<D: Driver> Storage for D {
            $(
                fn $name(&self $(, $argument: $type)*) -> operations!(@answer $kind $answer) {
                    self.count_call(Number::$name as usize);
                    operations!(@body $kind self $name ($($argument),*) $(|$($bound),+| $body)?)
                }
            )*
            fn calls(&self) -> BTreeMap<&'static str, u64> {
                OPERATIONS.iter().copied().zip(Driver::calls(self)).collect()
            }
        }
    };
    (@answer write $answer:ty) => { Reply<$answer> };
    (@answer essential $answer:ty) => { Reply<$answer> };
    (@answer read $answer:ty) => { Reply<$answer> };
    (@answer scan $answer:ty) => { Reply<$answer> };
    (@answer driver $answer:ty) => { $answer };
    (@body write $self:ident $name:ident ($($argument:ident),*) |$tx:pat_param| $body:expr) => {
        Driver::write($self, move |$tx| $body)
    };
    (@body essential $self:ident $name:ident ($($argument:ident),*) |$tx:pat_param| $body:expr) => {
        Driver::write_essential($self, move |$tx| $body)
    };
    (@body read $self:ident $name:ident ($($argument:ident),*) |$rows:pat_param, $now:pat_param| $body:expr) => {{
        let $now = Driver::now($self);
        Driver::read($self, move |$rows| $body)
    }};
    (@body scan $self:ident $name:ident ($($argument:ident),*) |$rows:pat_param| $body:expr) => {
        Driver::scan($self, move |$rows| $body)
    };
    (@body driver $self:ident $name:ident ($($argument:ident),*)) => {
        Driver::$name($self $(, $argument)*)
    };
}

operations! {
    /// Adds a task and admits it. The same idempotency key gives the same task.
    write add_task(new: NewTask) -> Added = |tx| tasks::add(tx, new);
    /// Admits a waiting task again.
    write admit_task(task: TaskRef, intake: Intake) -> TaskRow = |tx| tasks::admit(tx, task, &intake);
    /// Grants the lease of a ready task to one agent and begins a run.
    write claim(claim: Claim) -> Claimed = |tx| leases::claim(tx, claim);
    /// Extends a lease and stores what the worker reports of its run.
    write renew(task: TaskRef, proof: LeaseProof, facts: RunFacts) -> LeaseView = |tx| leases::renew(tx, task, &proof, &facts);
    /// Ends a run with a result; the caller has checked the declared evidence.
    write complete(task: TaskRef, proof: LeaseProof, outcome: (Outcome, EvidenceCheck), facts: RunFacts) -> TaskRow =
        |tx| leases::complete(tx, task, &proof, outcome, &facts);
    /// Ends a run with a failure.
    write fail(task: TaskRef, proof: LeaseProof, failure: Failure, facts: RunFacts) -> TaskRow =
        |tx| leases::fail(tx, task, &proof, &failure, &facts);
    /// Ends a run because its task waits for something outside: `on` names it, `why` gives the reason.
    write block_task(task: TaskRef, proof: LeaseProof, on: String, why: String) -> TaskRow =
        |tx| leases::block(tx, task, &proof, (&on, &why));
    /// Ends the wait of a blocked task.
    write unblock_task(task: TaskRef, who: Principal) -> TaskRow =
        |tx| transitions::apply_event(tx, task, &Event::Unblock, &who);
    /// Changes text, priority and assignee of a task that is not running, and admits it again.
    write edit_task(task: TaskRef, edit: TaskEdit, who: Principal) -> TaskRow = |tx| tasks::edit(tx, task, edit, &who);
    /// Cancels a task with its subtasks.
    write cancel_task(task: TaskRef, who: Principal) -> TaskRow =
        |tx| transitions::apply_event(tx, task, &Event::Cancel, &who);
    /// Starts a finished task again.
    write retry_task(task: TaskRef, who: Principal) -> TaskRow =
        |tx| transitions::apply_event(tx, task, &Event::Retry, &who);
    /// Assigns a task without an eligible agent to the agent or operator that decides about it; once for each task.
    write escalate(new: NewEscalation) -> TaskRow = |tx| escalations::escalate(tx, new);
    /// Ends the decision time of an escalated task, once. With `cancels`, a task that no agent runs is cancelled.
    write close_escalation(task: u64, cancels: bool) -> () = |tx| escalations::end_decision_time(tx, task, cancels);
    /// Escalations whose task is not in a terminal state.
    read escalations() -> Vec<Escalation> = |rows, _| escalations::list_open(rows);
    /// Revokes every lease of an agent's boots before `keep` (all of them without one); `by_order` if these were ended by order.
    write revoke_leases(agent: Slug, keep: Option<Generation>, by_order: bool) -> Vec<TaskRow> =
        |tx| leases::revoke(tx, &agent, keep, by_order);
    /// Cancels the open subtasks of the tasks that only this agent may do, which is removed, and what it gave by itself.
    write cancel_subtasks_of_agent(agent: Slug) -> () = |tx| transitions::cancel_subtasks_of_agent(tx, &agent);
    /// Ends leases, runs, approvals and tasks whose time is over; returns them with the tasks whose pause is over,
    /// which the caller admits again. Writes nothing when there are none.
    write expire_deadlines() -> Vec<TaskRow> = |tx| leases::expire(tx);

    /// Reserves funds on every enclosing budget, all or none, for a model call of a live run.
    write reserve_call(call: CallReservation) -> ReservationId = |tx| ledger::reserve_call(tx, &call);
    /// Ends a reservation with what the call used.
    write settle_call(reservation: ReservationId, used: CallUsage) -> () =
        |tx| ledger::settle_call(tx, reservation, &used);
    /// Records how a call to a provider ended; the provider's condition afterwards.
    write record_provider_outcome(outcome: ProviderOutcome) -> ProviderCondition =
        |tx| provider_health::record_outcome(tx, &outcome);
    /// Records that a model call of an agent's run was refused for now, so that its task waits if the run fails for that.
    write record_run_wait(agent: Slug, run: Option<RunId>, wait: Wait) -> () =
        |tx| provider_health::record_run_wait(tx, &agent, run, &wait);
    /// Lets calls be sent again to providers that were changed, or that are to be called for the reason in `note`.
    write reset_provider_health(providers: Vec<String>, note: Option<String>, who: Principal) -> () =
        |tx| provider_health::reset(tx, &providers, note.as_deref(), &who);
    /// Records that a model of a provider refused a key of a request.
    write record_refused_key(provider: String, model: String, key: RefusedKey) -> () =
        |tx| provider_health::record_refused_key(tx, &provider, &model, key);
    /// Forgets the keys that models of these providers refused, as these were changed.
    write forget_refused_keys(providers: Vec<String>) -> () =
        |tx| provider_health::forget_refused_keys(tx, &providers);
    /// Keys of requests that models refused, by provider and model.
    read refused_keys() -> RefusedKeys = |rows, _| provider_health::refused_keys(rows);
    /// Condition of every provider whose last calls failed.
    read provider_health() -> BTreeMap<String, ProviderCondition> = |rows, _| provider_health::list(rows);
    /// Charges in full the model calls that were in flight at a crash; returns how many there were.
    write charge_lost_calls() -> u64 = |tx| ledger::charge_lost_calls(tx);
    /// Sets budget limits; amounts already spent stay.
    write set_budgets(limits: Vec<BudgetLimit>, timezone: String) -> () =
        |tx| ledger::set_limits(tx, &limits, &timezone);
    /// Changes a budget in place of the manifest and wakes the tasks that wait for it; refused when that changes nothing.
    write change_budget(change: BudgetChange, who: Principal) -> ChangedBudget =
        |tx| budget_changes::change(tx, &change, &who);
    /// Limits that the operator set in place of the manifest's, by scope and metric.
    read limit_overrides() -> BTreeMap<(String, Metric), LimitOverride> = |rows, _| limit_overrides::list(rows);
    /// Every budget as it stands now.
    read budgets() -> Vec<budget::Account> = |rows, now| ledger::list(rows, now);
    /// Numbers of the tasks that have a budget.
    read task_numbers_of_budgets() -> BTreeMap<TaskId, u64> = |rows, _| ledger::task_numbers(rows);

    /// Appends an entry to the audit log; its sequence number.
    write append_audit_entry(note: NewAuditEntry) -> u64 = |tx| audit_log::append_entry(tx, note);
    /// As [`Storage::append_audit_entry`], for what must be possible on a full disk: it ends, pauses or cleans up.
    essential append_essential_audit_entry(note: NewAuditEntry) -> u64 = |tx| audit_log::append_entry(tx, note);
    /// Signs the head of the audit log if it moved since the last signature; its sequence number.
    write checkpoint() -> Option<u64> = |tx| audit_log::checkpoint(tx);
    /// Entries of the audit log after a sequence number.
    read audit_entries(after: u64, limit: u32) -> Vec<AuditEntry> = |rows, _| audit_log::list(rows, after, limit);
    /// Entries of the audit log about what services opened for agents, closed and dropped, oldest first.
    scan service_access_entries() -> Vec<AuditEntry> = |rows| audit_log::service_access(rows);
    /// Checks the whole audit log, also against what is known from outside the database.
    scan verify_audit_log(known: KnownCheckpoints) -> AuditVerification = |rows| audit_log::verify(rows, known);
    /// Signed heads of the audit log after a sequence number.
    read signed_heads(after: u64) -> Vec<SignedHead> = |rows, _| audit_log::signed_heads(rows, after);
    /// Public key that signed the audit log first, hexadecimal; none in an empty state.
    read first_key() -> Option<String> = |rows, _| audit_log::first_key(rows);
    /// Public key that the audit log states last, hexadecimal; none in an empty state.
    read stated_key() -> Option<String> = |rows, _| audit_log::stated_key(rows);
    /// Logs that the state was restored from the backup with this digest; the key of the store signs from here on.
    write record_restore(previous: Option<[u8; 32]>, state_hash: String) -> u64 =
        |tx| audit_log::record_restore(tx, previous, &state_hash);
    /// Signs the audit log with this key from here on, which the key before confirms in the entry; its sequence number.
    write rotate_audit_key(actor: Principal, next: [u8; 32]) -> u64 =
        |tx| audit_log::rotate_key(tx, &actor, next);
    /// Bytes of hostd's journal that are in the audit log already.
    read journal_offset() -> u64 = |rows, _| hostd_journal::offset(rows);
    /// Logs the journal's lines from byte `from` to `to`, all or none; false when another caller was there first.
    write import_journal(from: u64, to: u64, notes: Vec<NewAuditEntry>) -> bool =
        |tx| hostd_journal::import(tx, from, to, notes);

    /// Makes a plan current; refused when another became current meanwhile.
    write commit_generation(commit: NewGeneration) -> u64 = |tx| generations::commit(tx, &commit);
    /// Instant since which the house has a hook of this name without a break.
    read hook_since(hook: Slug) -> Timestamp = |rows, _| hooks::since(rows, &hook);
    /// Number of the format that the state file has now: this version's own, unless another one changed the file.
    read format() -> i64 = |rows, _| generations::format(rows);
    /// The current generation; none before the first.
    read current_generation() -> Option<GenerationRow> = |rows, _| generations::current(rows);
    /// The newest manifest that had an agent, or the newest of those of this instant and before: its generation, its text, and the
    /// agent's charter.
    read last_manifest_with_agent(agent: Slug, until: Option<Timestamp>) -> Option<(u64, String, String)> =
        |rows, _| generations::last_with_agent(rows, &agent, until);
    /// Renamings of agents that the host has not followed yet, oldest first.
    read pending_renames() -> Vec<RenamedAgent> = |rows, _| renames::list_pending(rows);
    /// Records that the host has followed a renaming.
    write finish_rename(seq: u64) -> () = |tx| renames::finish(tx, seq);
    /// New agents that have not got their first files yet, with the source of those.
    read pending_first_files() -> Vec<(Slug, FirstFiles)> = |rows, _| first_files::list(rows);
    /// Records that an agent has its first files.
    write finish_first_files(agent: Slug) -> () = |tx| first_files::finish(tx, &agent);
    /// Stores the desired state of a cell, its supervision, or both.
    write set_cell(cell: CellName, change: CellChange) -> () = |tx| cells::set(tx, &cell, change);
    /// As [`Storage::set_cell`], for what must be possible on a full disk: the operator ends, pauses or resumes it.
    essential set_essential_cell(cell: CellName, change: CellChange) -> () = |tx| cells::set(tx, &cell, change);
    /// Removes a cell.
    write remove_cell(cell: CellName) -> () = |tx| cells::remove(tx, &cell);
    /// Every cell with its desired state and supervision.
    read cells() -> BTreeMap<CellName, CellRow> = |rows, _| cells::list(rows);

    /// Starts or ends the draining of an agent, which is offered no work meanwhile and finishes what it has.
    write set_draining(agent: Slug, draining: bool, who: Principal) -> () =
        |tx| draining::set(tx, &agent, draining, &who);
    /// Agents that are draining.
    read draining() -> BTreeSet<Slug> = |rows, _| draining::list(rows);

    /// Registers a credential by its hash.
    write add_token(token: NewToken) -> () = |tx| credentials::add(tx, &token);
    /// Removes a named token of the operator API at once; logged as an act of `by`.
    write revoke_named_token(name: Slug, by: Principal) -> () =
        |tx| credentials::revoke_named(tx, &name, &by);
    /// Records that a named token was used now; nothing is logged.
    write record_token_use(name: Slug) -> () = |tx| credentials::record_use(tx, &name);
    /// Every named token of the operator API, by name, also those that have expired.
    read named_tokens() -> Vec<TokenRow> = |rows, _| credentials::list_named(rows);
    /// Ends every credential of a principal that Abbey issued itself `overlap` from now, except those with a hash
    /// in `keep`; how many that changed.
    write revoke_tokens(principal: Principal, keep: Vec<String>, overlap: Millis) -> u64 =
        |tx| credentials::revoke(tx, &principal, &keep, overlap);
    /// Every credential that is still valid.
    read tokens() -> Vec<TokenRow> = |rows, now| credentials::list(rows, now);

    /// Begins a saga.
    write begin_saga(id: SagaId, kind: String, subject: String, steps: Vec<String>) -> () =
        |tx| sagas::begin(tx, id, &kind, &subject, &steps);
    /// Appends an event to a saga's log; the state that it leads to.
    write log_saga_event(id: SagaId, event: saga::Event) -> saga::State = |tx| sagas::log_event(tx, id, event);
    /// Sagas that are not over.
    read open_sagas() -> Vec<SagaRow> = |rows, _| sagas::list_open(rows);
    /// Records that a wake fired.
    write record_wake(agent: Slug, number: u64) -> () = |tx| wakes::record(tx, &agent, number);
    /// Number of the newest wake that fired, by agent.
    read wakes() -> BTreeMap<Slug, u64> = |rows, _| wakes::list(rows);
    /// Deletes what ended more than `keep` ago: tasks with their runs, idempotency keys, sagas, workflow runs.
    /// Returns the number of tasks. The audit log stays.
    write remove_old_records(keep: Millis) -> u64 = |tx| retention::remove_finished(tx, keep);

    /// Records that a run of an agent waits for a task that the agent gave, for so long; a wait that would never end is
    /// ended by cancelling that task. `asking` are the agents whose workers ask for work now; without them nothing is judged.
    write await_subtask(subtask: TaskRef, agent: Slug, patience: Millis, asking: Option<BTreeSet<Slug>>) -> () =
        |tx| delegation::await_subtask(tx, subtask, &agent, patience, asking);
    /// Ends the wait of an agent for a task that it gave.
    write end_subtask_wait(subtask: TaskRef, agent: Slug) -> () = |tx| delegation::end_wait(tx, subtask, &agent);
    /// One task.
    read task(task: TaskRef) -> TaskRow = |rows, _| task_rows::load(rows, task);
    /// Tasks by filter, newest first.
    read tasks(filter: TaskFilter) -> Vec<TaskRow> = |rows, _| task_rows::list(rows, &filter);
    /// Tasks for a view of the work queue, and the newest task of all, newest first, as they were at one instant.
    read queue_tasks(filter: QueueFilter) -> Vec<TaskRow> = |rows, _| task_rows::list_for_queue(rows, &filter);
    /// Tasks that an agent may claim, most urgent first; none while it is draining.
    read offers(agent: Slug, limit: u32) -> Vec<TaskRow> = |rows, _| task_rows::list_claimable(rows, &agent, limit);
    /// A task with every subtask below it, depth first, each with its depth.
    read task_tree(task: TaskRef) -> Vec<(u32, TaskRow)> = |rows, _| task_rows::tree(rows, task);
    /// When the next lease, wall time, pause, approval or task is over.
    read next_deadline() -> Option<Timestamp> = |rows, _| task_rows::next_deadline(rows);
    /// Notices of finished tasks that their recipients have not received yet, oldest first.
    read outbox() -> Vec<Notice> = |rows, _| outbox::list(rows);
    /// Removes the notice of this task from the outbox.
    write mark_delivered(task: u64) -> () = |tx| outbox::mark_delivered(tx, task);
    /// Runs of a task, oldest first.
    read runs(task: TaskId) -> Vec<RunRow> = |rows, _| runs::list_of_task(rows, task);
    /// One run.
    read run(run: RunId) -> RunRow = |rows, _| runs::load(rows, run);
    /// Cost of the runs that ended at or after `since`, newest first, at most 5,000.
    read runs_since(since: Timestamp) -> Vec<RunCost> = |rows, _| runs::list_costs(rows, since);
    /// Which models answered the runs that started at or after `since`.
    read answering_models_since(since: Timestamp) -> Vec<AnsweringModel> =
        |rows, _| runs::list_answering_models(rows, since);
    /// Model usage of the runs that started at or after `since`, by agent and model.
    read usage_since(since: Timestamp) -> Vec<ModelUsage> = |rows, _| runs::sum_model_usage(rows, since);

    /// Requests an approval as the holder of a task; its run ends and the task waits for the decision.
    write ask_approval(ask: ApprovalRequest) -> ApprovalRow = |tx| approvals::request_for_task(tx, ask);
    /// Stores a decision about an approval; the task that waits for it resumes or fails.
    write decide_approval(number: u64, verdict: approval::Verdict, note: Option<String>, by: Principal) -> (ApprovalRow, Option<TaskRow>) =
        |tx| approvals::decide(tx, number, verdict, note, &by);
    /// Marks a granted approval as used, for exactly the approved action, once, within 24 hours.
    write use_approval(used: ApprovalUse) -> ApprovalRow = |tx| approvals::consume(tx, &used);
    /// One approval.
    read approval(number: u64) -> ApprovalRow = |rows, _| approval_rows::load(rows, number);
    /// Approvals by filter, newest first.
    read approvals(filter: ApprovalFilter) -> Vec<ApprovalRow> =
        |rows, _| approval_rows::list(rows, &filter);

    /// Starts a run of a workflow: its number, and whether it is new. The same key gives the same run.
    write start_workflow(new: NewRun) -> (u64, bool) = |tx| workflows::start(tx, new);
    /// Advances a workflow run with an outside signal; everything that it starts, cancels and requests is one
    /// transaction.
    write advance_workflow(number: u64, nudge: WorkflowSignal, intakes: Intakes) -> WorkflowRow =
        |tx| workflows::advance(tx, number, nudge, &intakes);
    /// One run of a workflow.
    read workflow(number: u64) -> WorkflowRow = |rows, _| workflows::load(rows, number);
    /// Workflow runs, newest first; with `open`, only those that have not ended.
    read workflows(open: bool, limit: u32) -> Vec<WorkflowRow> =
        |rows, _| workflows::list(rows, open, limit);
    /// Runs of which a step could not be undone and that changed at or after this instant, newest first.
    read workflow_incidents(since: Timestamp) -> Vec<WorkflowRow> =
        |rows, _| workflows::list_incidents(rows, since);
    /// Numbers of the workflow runs that can advance now, and the next instant at which another can.
    read workflows_due() -> (Vec<u64>, Option<Timestamp>) = |rows, now| workflows::due(rows, now);

    /// Writes a version of a document, or adds an entry.
    write write_document(new: NewDocumentVersion) -> DocumentRow = |tx| documents::write(tx, new);
    /// The newest version or entry of every document.
    read documents() -> Vec<DocumentRow> = |rows, _| documents::list(rows);
    /// Versions or entries of a document up to number `through`, newest first; empty before the first.
    read document(name: Slug, through: u64, limit: u32) -> Vec<DocumentRow> =
        |rows, _| documents::history(rows, &name, through, limit);

    /// Every registered schedule, by `agent/name`.
    read schedules() -> BTreeMap<String, ScheduleRow> = |rows, _| schedules::list(rows);
    /// What the instants of a schedule started, newest first.
    read schedule_history(name: String) -> Vec<ScheduleRecord> = |rows, _| schedules::history(rows, &name);
    /// Registers a schedule from now on; one whose digest changed starts over.
    write register_schedule(name: String, digest: String) -> () =
        |tx| schedules::register(tx, &name, &digest);
    /// Removes schedules.
    write remove_schedules(names: Vec<String>) -> () = |tx| schedules::remove(tx, &names);
    /// Records instants of a schedule as fired or missed, each once, and starts the work of the one that fires.
    write fire_schedule(fire: FireSchedule) -> () = |tx| schedules::fire(tx, fire);

    /// The store's clock.
    driver now() -> Timestamp;
    /// Sequence number of the newest entry of the audit log.
    driver audit_head() -> u64;
    /// Subscribes to a topic, whose version rises after every commit that touched it.
    driver subscribe(topic: Topic) -> Subscription;
    /// Transactions and operations since the store was opened.
    driver counters() -> (u64, u64);
    /// Counts for metrics.
    read counts() -> HouseCounts = |rows, _| counts::read(rows);
    /// Records that a backup was written now.
    write record_backup() -> () = |tx| counts::record_backup(tx);
    /// Copies the whole state into a file while the house runs.
    driver backup(to: PathBuf) -> Reply<()>;
    /// SHA-256 of the canonical export of everything but credentials.
    driver state_hash() -> Reply<String>;
}

#[allow(dead_code, reason = "keeps the trait usable as an object")]
fn is_an_object(store: &dyn Storage) -> Result<()> {
    store.counters();
    Ok(())
}
