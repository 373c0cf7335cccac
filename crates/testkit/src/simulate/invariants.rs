//! What must hold after each event, compared with the state of the house.

use super::world::World;
use abbey_engine::budget::{Account, TimeZone, day_bounds};
use abbey_engine::task::{Phase, Wait};
use abbey_model::{Metric, Millis, Scope, TaskRef, TaskState, Timestamp, WaitKind};
use abbey_store::{AuditEntry, KnownCheckpoints, TaskFilter, TaskRow};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// How long after its instant something may still wait to be processed.
const LATE_MAX: Millis = Millis(60_000);
/// Time after which everything is checked although nothing seems to have changed, milliseconds.
const CHECK_INTERVAL: i64 = 30 * 60_000;
/// Longest time for which anything waits by the clock: a day of a budget with a change of summer time, and then some.
const WAIT_MAX: Millis = Millis::from_secs(2 * 86_400);
const OPEN: [TaskState; 6] = [
    TaskState::Pending,
    TaskState::Parked,
    TaskState::Ready,
    TaskState::Running,
    TaskState::Blocked,
    TaskState::AwaitingApproval,
];

/// A task that was acknowledged.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// Completions that were acknowledged since it was added or retried.
    completions: u32,
    /// State in which it ended.
    pub(super) ended: Option<TaskState>,
}

/// The state of the house at one instant.
struct Seen {
    now: Timestamp,
    open: Vec<TaskRow>,
    accounts: Vec<Account>,
    next_deadline: Option<Timestamp>,
    new: Vec<AuditEntry>,
}

impl World {
    pub(super) fn acknowledged(&mut self, number: u64) {
        self.known.entry(number).or_default();
    }

    pub(super) fn completed(&mut self, number: u64) {
        let known = self.known.entry(number).or_default();
        known.completions += 1;
        if known.completions > 1 {
            self.violated(format!("TASK-{number} was completed twice"));
        }
    }

    pub(super) fn retried(&mut self, number: u64) {
        self.known.insert(number, Known::default());
    }

    /// Tasks that have not ended; none while the control plane is away.
    pub(super) fn open_tasks(&self) -> Vec<TaskRow> {
        let Some((tokio, store)) = self.store() else {
            return Vec::new();
        };
        let open = TaskFilter {
            states: OPEN.into(),
            limit: 10_000,
            ..TaskFilter::default()
        };
        tokio.block_on(store.tasks(open)).unwrap_or_default()
    }

    fn look(&self) -> Result<Option<Seen>, abbey_store::Error> {
        let Some((tokio, store)) = self.store() else {
            return Ok(None);
        };
        let changed = store.audit_head() != self.audited;
        if !changed && self.elapsed - self.checked_at < CHECK_INTERVAL {
            return Ok(None);
        }
        let open = self.open_tasks();
        tokio.block_on(async {
            Ok(Some(Seen {
                now: store.now(),
                open,
                accounts: store.budgets().await?,
                next_deadline: store.next_deadline().await?,
                new: store.audit_entries(self.audited, 100_000).await?,
            }))
        })
    }

    /// Checks every invariant.
    pub(super) fn check(&mut self) {
        let seen = match self.look() {
            Ok(Some(seen)) => seen,
            Ok(None) => return,
            Err(error) => return self.violated(format!("the state cannot be read: {error}")),
        };
        self.checked_at = self.elapsed;
        self.read_audit_entries(&seen.new);
        self.check_nothing_is_lost(&seen);
        for task in &seen.open {
            self.checks += 1;
            if let Some(what) = self.fault_of_task(&seen, task) {
                self.violated(format!("TASK-{}: {what}: {:?}", task.number, task.phase));
            }
        }
        self.check_budgets(&seen);
        self.checks += 1;
        if self.provider.calls() != self.calls_made {
            self.violated("a model was called for no run".to_owned());
        }
    }

    fn read_audit_entries(&mut self, new: &[AuditEntry]) {
        let zone = TimeZone::get(self.household.zone).unwrap_or(TimeZone::UTC);
        let today = day_bounds(self.clock.true_now(), &zone).0;
        let mut actions: Vec<String> = Vec::new();
        for entry in new {
            self.checks += 1;
            self.audited = entry.seq;
            match self.verifier.verify_entry(entry) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => {
                    self.violated(format!("audit entry {} does not verify", entry.seq))
                }
                Err(error) => self.violated(format!("audit entry {}: {error}", entry.seq)),
            }
            actions.push(format!("{} {}", entry.action, entry.entity));
            let parked = entry.detail["state"] == "parked";
            let number = entry
                .entity
                .strip_prefix("TASK-")
                .and_then(|n| n.parse().ok());
            if let Some(number) = number.filter(|_| parked) {
                *self.waiting_entries.entry(number).or_default() += 1;
            }
            let ends_run = entry.detail["run"].is_string() && entry.detail["reason"].is_string();
            if number.is_some() && ends_run && !parked {
                if self.runs_of_day.0 != today {
                    self.runs_of_day = (today, 0);
                }
                self.runs_of_day.1 += 1;
            }
        }
        // Cells are reconciled at the same time, so their entries have no order among themselves.
        actions.sort_unstable();
        if !actions.is_empty() {
            self.log(&actions.join(", "));
        }
        let counts = self.clock.true_now() >= self.day_counts_from && self.runs_of_day.0 == today;
        if let Some(limit) = self.household.runs.filter(|_| counts) {
            self.checks += 1;
            if self.runs_of_day.1 > limit {
                self.violated(format!(
                    "{} runs of a day that has {limit}",
                    self.runs_of_day.1
                ));
            }
        }
    }

    /// Every acknowledged task is open, or has ended and stays so.
    fn check_nothing_is_lost(&mut self, seen: &Seen) {
        let open: BTreeSet<u64> = seen.open.iter().map(|t| t.number).collect();
        let gone = self
            .known
            .iter()
            .filter(|(n, k)| k.ended.is_none() && !open.contains(n));
        let gone: Vec<u64> = gone.map(|(n, _)| *n).collect();
        for number in gone {
            self.checks += 1;
            let Some((tokio, store)) = self.store() else {
                return;
            };
            match tokio.block_on(store.task(TaskRef::Number(number))) {
                Ok(task) if task.state().is_terminal() => {
                    let known = self.known.entry(number).or_default();
                    known.ended = Some(task.state());
                    if task.state() == TaskState::Done && known.completions != 1 {
                        let count = known.completions;
                        self.violated(format!("TASK-{number} is done after {count} completions"));
                    }
                }
                Ok(_) => {}
                Err(error) => self.violated(format!(
                    "TASK-{number} was acknowledged and is lost: {error}"
                )),
            }
        }
        let back = self
            .known
            .iter()
            .filter(|(n, k)| k.ended.is_some() && open.contains(n));
        let back: Vec<u64> = back.map(|(n, _)| *n).collect();
        for number in back {
            self.violated(format!("TASK-{number} had ended and is open again"));
        }
    }

    /// What is wrong with an open task: it has neither an owner nor something that will move it on.
    fn fault_of_task(&self, seen: &Seen, task: &TaskRow) -> Option<String> {
        // The house notices that its clock was set with its next pass.
        let set_now = self
            .clock_set_at
            .is_some_and(|at| self.elapsed - at <= LATE_MAX.0);
        let behind = set_now || self.recovers_from_full_disk();
        let instant = |at: Timestamp| {
            if seen.now.since(at) > LATE_MAX && !behind {
                return Some(format!("its instant was {} ms ago", seen.now.since(at).0));
            }
            if at.since(seen.now) > WAIT_MAX {
                return Some("its instant is too far away".to_owned());
            }
            match seen.next_deadline {
                Some(next) if next <= at => None,
                _ => Some("nothing wakes the house at its instant".to_owned()),
            }
        };
        match &task.phase {
            Phase::Pending { not_before } => instant(*not_before),
            Phase::Parked { reasons } if reasons.is_empty() => {
                Some("it waits for no reason".to_owned())
            }
            Phase::Parked { reasons } => {
                let mut faults = reasons.iter().filter_map(|r| self.fault_of_wait(seen, r));
                let first = task.phase.parked_until().and_then(instant);
                first.or_else(|| faults.next())
            }
            Phase::Ready { candidates } => {
                let names = self.household.names();
                let exists = candidates
                    .iter()
                    .any(|c| names.iter().any(|n| n == c.as_str()));
                (!exists).then(|| "it is offered to nobody".to_owned())
            }
            Phase::Running { lease } => instant(lease.expires_at.min(lease.wall_ends_at)),
            Phase::Blocked { on, .. } => on.is_empty().then(|| "it waits for nobody".to_owned()),
            Phase::AwaitingApproval { until, .. } => instant(*until),
            _ => None,
        }
    }

    /// What is wrong with a reason to wait: nothing will end it.
    fn fault_of_wait(&self, seen: &Seen, wait: &Wait) -> Option<String> {
        if wait.text.is_empty() {
            return Some("its reason is empty".to_owned());
        }
        let waiting_for = wait.waiting_for.as_ref()?;
        let ends = waiting_for.until.is_some()
            || match (waiting_for.kind, &wait.demand) {
                (WaitKind::Provider | WaitKind::Retry | WaitKind::Approval, _) => false,
                // It can never fit, so only another limit ends it, or the settlement of what is reserved does.
                (WaitKind::Budget, Some(demand)) => {
                    let mut accounts = seen.accounts.iter();
                    let account =
                        accounts.find(|a| a.scope == demand.scope && a.metric == demand.metric);
                    account.is_none_or(|a| {
                        a.limit.is_some_and(|l| demand.amount > l) || a.reserved > 0
                    })
                }
                (WaitKind::Budget, None) => false,
                (WaitKind::Blocked | WaitKind::Agent | WaitKind::Claim | WaitKind::Subtask, _) => {
                    true
                }
            };
        (!ends).then(|| "nothing ends this wait".to_owned())
    }

    fn check_budgets(&mut self, seen: &Seen) {
        let running = seen
            .open
            .iter()
            .filter(|t| t.state() == TaskState::Running)
            .count() as u64;
        for account in &seen.accounts {
            self.checks += 1;
            let key = (account.scope.to_string(), format!("{:?}", account.metric));
            let total = account.spent + account.reserved;
            let before = self.totals.insert(key, total);
            let over = account.limit.is_some_and(|limit| total > limit);
            // A limit may be lowered below what is spent, and a provider may bill more than a call could have.
            let explained = before.is_some_and(|before| total <= before);
            let by_provider =
                self.overstated && matches!(account.metric, Metric::Tokens | Metric::NanoUsd);
            if over && !explained && !by_provider {
                self.violated(format!(
                    "{} {:?}: {total} of {:?} are used",
                    account.scope, account.metric, account.limit
                ));
            }
            let expected = match account.metric {
                Metric::Tokens | Metric::NanoUsd => Some(0),
                Metric::Runs if account.scope == Scope::House => Some(running),
                Metric::Runs | Metric::Seconds => None,
            };
            // A call whose end a full disk could not take is settled later.
            let later = account.metric != Metric::Runs && self.recovers_from_full_disk();
            if expected.is_some_and(|e| e != account.reserved) && !later {
                self.violated(format!(
                    "{} {:?}: {} are reserved while no call is under way and {running} tasks run",
                    account.scope, account.metric, account.reserved
                ));
            }
        }
        self.overstated = false;
    }

    /// Verifies the audit log from its beginning.
    pub(super) fn verify_whole_log(&mut self) {
        let Some((tokio, store)) = self.store() else {
            return;
        };
        let verified = tokio.block_on(store.verify_audit_log(KnownCheckpoints::default()));
        self.checks += 1;
        match verified {
            Ok(found) if found.ok => {}
            Ok(found) => self.violated(format!("the audit log does not verify: {:?}", found.why)),
            Err(error) => self.violated(format!("the audit log cannot be read: {error}")),
        }
    }
}
