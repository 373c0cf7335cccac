//! A store on a clock that the test turns, and the objects that cases put into it.

use abbey_engine::admission::AgentFact;
use abbey_engine::matcher::{Candidate, Match};
use abbey_model::*;
use abbey_store::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Instant at which every case begins.
pub(crate) const START: Timestamp = Timestamp(1_800_000_000_000);
/// Length of the leases that cases take, in milliseconds.
pub(crate) const LEASE_MS: i64 = 30_000;

/// A clock that moves only when a test moves it.
#[derive(Debug)]
pub(crate) struct ManualClock {
    now: AtomicI64,
    jumped: AtomicI64,
}

impl ManualClock {
    pub(crate) fn advance(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
    }

    /// Sets the clock forward, as if the host's was set.
    pub(crate) fn jump(&self, ms: i64) {
        self.jumped.fetch_add(ms, Ordering::SeqCst);
        self.advance(ms);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::SeqCst))
    }

    fn unsettled_jump(&self) -> Millis {
        Millis(self.jumped.load(Ordering::SeqCst))
    }

    fn settle_jump(&self, jump: Millis) {
        self.jumped.fetch_sub(jump.0, Ordering::SeqCst);
    }
}

/// Where a case's store lies. A second database gives its own.
pub(crate) trait Factory {
    /// Opens the store: empty the first time, as it was left later.
    fn open(&self, clock: Arc<dyn Clock>) -> Result<Box<dyn Storage>>;
    /// Opens a copy that [`Storage::backup`] made.
    fn open_backup(&self, copy: &Path, clock: Arc<dyn Clock>) -> Result<Box<dyn Storage>>;
    /// A path for a copy.
    fn backup_path(&self) -> PathBuf;
}

/// SQLite in a temporary directory.
pub(crate) struct SqliteFactory(tempfile::TempDir);

impl SqliteFactory {
    pub(crate) fn new() -> Self {
        SqliteFactory(tempfile::tempdir().expect("a directory"))
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("abbey.db")
    }
}

impl Factory for SqliteFactory {
    fn open(&self, clock: Arc<dyn Clock>) -> Result<Box<dyn Storage>> {
        open_sqlite(&self.path(), clock)
    }

    fn open_backup(&self, copy: &Path, clock: Arc<dyn Clock>) -> Result<Box<dyn Storage>> {
        open_sqlite(copy, clock)
    }

    fn backup_path(&self) -> PathBuf {
        self.0.path().join("copy.db")
    }
}

pub(crate) fn open_sqlite(path: &Path, clock: Arc<dyn Clock>) -> Result<Box<dyn Storage>> {
    Ok(Box::new(Sqlite::open(SqliteOptions {
        path: path.to_owned(),
        clock,
        entropy: Arc::new(SystemEntropy),
        redactor: Arc::default(),
        signing_key: [7; 32],
        on_fatal: Box::new(|why| panic!("{why}")),
    })?))
}

pub(crate) fn manual_clock() -> Arc<ManualClock> {
    Arc::new(ManualClock {
        now: AtomicI64::new(START.0),
        jumped: AtomicI64::new(0),
    })
}

/// Waits for an answer that must be good.
pub(crate) trait Done<T> {
    fn done(self) -> T;
}

impl<T> Done<T> for Reply<T> {
    #[track_caller]
    fn done(self) -> T {
        match self.wait() {
            Ok(answer) => answer,
            Err(error) => panic!("the operation failed: {error:?}"),
        }
    }
}

/// A store with its clock.
pub(crate) struct Bench {
    store: Option<Box<dyn Storage>>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) factory: Box<dyn Factory>,
    /// Calls of operations before the store was last reopened.
    earlier_calls: BTreeMap<&'static str, u64>,
}

pub(crate) fn slug(text: &str) -> Slug {
    text.parse().expect("a slug")
}

/// A fact about an agent with the skill `s` and a model.
pub(crate) fn agent_fact(agent: &str) -> AgentFact {
    AgentFact {
        slug: slug(agent),
        skills: vec!["s".into()],
        is_root: true,
        has_model: true,
        provider: Some("p".into()),
        suited: None,
        run: BudgetAmounts {
            runs: 1,
            seconds: 900,
            ..BudgetAmounts::default()
        },
        run_wait: None,
        model_wait: None,
    }
}

/// Admission by the skill `s`, to one of these agents; parked when there are none.
pub(crate) fn intake(agents: &[&str]) -> Intake {
    Intake {
        fit: Match::One(Candidate {
            skill: "s".into(),
            score: 900,
            args: BTreeMap::default(),
        }),
        agents: agents.iter().map(|a| agent_fact(a)).collect(),
        reason: String::new(),
        suggested: Vec::new(),
    }
}

/// A task for one agent by name.
pub(crate) fn new_task(agent: &str, text: &str) -> NewTask {
    NewTask {
        text: text.into(),
        author: Principal::Operator,
        assignee: Some(slug(agent)),
        priority: Priority::P2,
        budget: BudgetAmounts::default(),
        policy: None,
        idempotency: None,
        delegated: None,
        intake: intake(&[agent]),
    }
}

pub(crate) fn outcome(data: serde_json::Value) -> Outcome {
    Outcome {
        text: "x".into(),
        source: ResultSource::Skill,
        data,
    }
}

pub(crate) fn limits(tokens: u64) -> Vec<BudgetLimit> {
    let limit = |scope, metric, limit| BudgetLimit {
        scope,
        metric,
        window: Window::Day,
        limit,
        warn_percent: 80,
    };
    vec![
        limit(Scope::House, Metric::Tokens, Some(tokens)),
        limit(Scope::House, Metric::Runs, Some(1_000_000)),
        limit(
            Scope::Agent(slug("agent-a")),
            Metric::Tokens,
            Some(tokens / 2),
        ),
    ]
}

/// SQLite, empty.
pub(crate) fn sqlite() -> Bench {
    Bench::new(Box::new(SqliteFactory::new()))
}

impl Bench {
    pub(crate) fn new(factory: Box<dyn Factory>) -> Bench {
        let clock = manual_clock();
        let store = factory.open(clock.clone()).expect("it opens");
        Bench {
            store: Some(store),
            clock,
            factory,
            earlier_calls: BTreeMap::new(),
        }
    }

    pub(crate) fn store(&self) -> &dyn Storage {
        self.store.as_deref().expect("it is open")
    }

    /// Closes the store and opens it again, as after a restart.
    pub(crate) fn reopen(&mut self) {
        self.earlier_calls = self.calls();
        drop(self.store.take());
        let clock = self.clock.clone();
        self.store = Some(self.factory.open(clock).expect("it opens again"));
    }

    /// Calls of operations in this case so far.
    pub(crate) fn calls(&self) -> BTreeMap<&'static str, u64> {
        let mut calls = self.store().calls();
        for (operation, earlier) in &self.earlier_calls {
            *calls.entry(operation).or_default() += earlier;
        }
        calls
    }

    pub(crate) fn add(&self, agent: &str, key: Option<&str>) -> TaskRef {
        self.try_add(agent, key, "do it").expect("added")
    }

    pub(crate) fn try_add(&self, agent: &str, key: Option<&str>, text: &str) -> Result<TaskRef> {
        let new = NewTask {
            idempotency: key.map(|k| (k.to_owned(), text.to_owned())),
            ..new_task(agent, text)
        };
        let added = self.store().add_task(new).wait()?;
        Ok(TaskRef::Id(added.task.id))
    }

    pub(crate) fn task(&self, task: &TaskRef) -> TaskRow {
        self.store().task(*task).done()
    }

    pub(crate) fn claim(&self, task: &TaskRef, agent: &str) -> Result<Claimed> {
        self.store().claim(claim(task, agent)).wait()
    }

    /// Adds a task for an agent and claims it.
    pub(crate) fn claimed(&self, agent: &str) -> (TaskRef, Claimed) {
        let task = self.add(agent, None);
        let claimed = self.claim(&task, agent).expect("claimed");
        (task, claimed)
    }

    pub(crate) fn proof(&self, agent: &str, token: u64) -> LeaseProof {
        LeaseProof {
            agent: slug(agent),
            token: LeaseToken(token),
            ttl: Millis(LEASE_MS),
        }
    }

    pub(crate) fn renew(&self, task: &TaskRef, agent: &str, token: u64) -> Result<LeaseView> {
        let proof = self.proof(agent, token);
        self.store().renew(*task, proof, RunFacts::default()).wait()
    }

    pub(crate) fn complete(&self, task: &TaskRef, agent: &str, token: u64) -> Result<TaskRow> {
        self.complete_with(task, agent, token, serde_json::Value::Null)
    }

    pub(crate) fn complete_with(
        &self,
        task: &TaskRef,
        agent: &str,
        token: u64,
        data: serde_json::Value,
    ) -> Result<TaskRow> {
        let result = (outcome(data), EvidenceCheck::NotRun);
        let proof = self.proof(agent, token);
        self.store()
            .complete(*task, proof, result, RunFacts::default())
            .wait()
    }

    pub(crate) fn reserve(&self, agent: &str, run: RunId, tokens: u64) -> Result<ReservationId> {
        let amounts = BudgetAmounts {
            tokens: Tokens(tokens),
            ..BudgetAmounts::default()
        };
        self.store()
            .reserve_call(CallReservation {
                agent: slug(agent),
                run: Some(run),
                amounts,
                model: "p/m".into(),
            })
            .wait()
    }

    pub(crate) fn reserved(&self) -> u64 {
        self.store()
            .budgets()
            .done()
            .iter()
            .map(|a| a.reserved)
            .sum()
    }

    pub(crate) fn account(&self, scope: &str, metric: Metric) -> abbey_engine::budget::Account {
        let all = self.store().budgets().done();
        all.into_iter()
            .find(|a| a.scope.to_string() == scope && a.metric == metric)
            .expect("it is counted")
    }

    /// Actions of the audit entries after a sequence number.
    pub(crate) fn logged_after(&self, seq: u64) -> Vec<String> {
        let entries = self.store().audit_entries(seq, 10_000).done();
        entries.into_iter().map(|e| e.action).collect()
    }
}

pub(crate) fn claim(task: &TaskRef, agent: &str) -> Claim {
    Claim {
        task: *task,
        agent: slug(agent),
        generation: Generation(1),
        ttl: Millis(LEASE_MS),
        wall: Millis(900_000),
        runs_max: 1000,
        seen: None,
        configured_model: None,
        effective_model: Some("p/m".into()),
        charter_hash: None,
    }
}
