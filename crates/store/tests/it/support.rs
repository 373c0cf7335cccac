//! A store on a clock that the test turns.

use abbey_engine::admission::AgentFact;
use abbey_engine::matcher::{Candidate, Match};
use abbey_model::*;
use abbey_store::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

#[derive(Debug)]
pub(crate) struct Turned(AtomicI64);

impl Turned {
    pub(crate) fn turn(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for Turned {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

pub(crate) struct Bench {
    pub(crate) store: Box<dyn Storage>,
    pub(crate) clock: Arc<Turned>,
    dir: tempfile::TempDir,
}

fn open(dir: &Path, clock: Arc<Turned>) -> Result<Box<dyn Storage>> {
    Ok(Box::new(Sqlite::open(Options {
        path: dir.join("abbey.db"),
        clock,
        redactor: Arc::default(),
        signing_key: [7; 32],
        entropy: Arc::new(SystemEntropy),
        on_commit: Arc::new(|_| {}),
        on_fatal: Box::new(|why| panic!("{why}")),
    })?))
}

pub(crate) fn try_open(dir: &Path) -> Result<Box<dyn Storage>> {
    open(dir, Arc::new(Turned(AtomicI64::new(1_800_000_000_000))))
}

pub(crate) fn sqlite() -> Bench {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(Turned(AtomicI64::new(1_800_000_000_000)));
    Bench {
        store: open(dir.path(), Arc::clone(&clock)).expect("it opens"),
        clock,
        dir,
    }
}

pub(crate) fn set_format(path: &Path, format: u32) {
    use std::io::{Seek, SeekFrom, Write};
    // `user_version` lies at byte 60 of the file (sqlite.org/fileformat).
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .expect("the file");
    file.seek(SeekFrom::Start(60)).expect("a seek");
    file.write_all(&format.to_be_bytes()).expect("a write");
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
            Scope::Agent("agent-a".parse().expect("a slug")),
            Metric::Tokens,
            Some(tokens / 2),
        ),
    ]
}

impl Bench {
    pub(crate) fn reopen(self) -> Bench {
        let Bench { store, clock, dir } = self;
        drop(store);
        Bench {
            store: open(dir.path(), Arc::clone(&clock)).expect("it opens again"),
            clock,
            dir,
        }
    }

    pub(crate) fn close(self) -> PathBuf {
        drop(self.store);
        self.dir.keep()
    }

    pub(crate) fn add(&self, agent: &str, key: Option<&str>) -> TaskRef {
        self.try_add(agent, key, "do it").expect("added")
    }

    pub(crate) fn try_add(&self, agent: &str, key: Option<&str>, text: &str) -> Result<TaskRef> {
        let slug: Slug = agent.parse().expect("a slug");
        let fact = AgentFact {
            slug: slug.clone(),
            skills: vec!["s".into()],
            is_root: true,
            has_model: true,
            tokens_left: None,
        };
        let fit = Match::One(Candidate {
            skill: "s".into(),
            score: 900,
            args: Default::default(),
        });
        let new = NewTask {
            text: text.into(),
            author: Principal::Operator,
            assignee: Some(slug),
            priority: Priority::P2,
            budget: Amounts::default(),
            policy: None,
            idempotency: key.map(|k| (k.to_owned(), text.to_owned())),
            delegated: None,
            intake: Intake {
                fit,
                agents: vec![fact],
            },
        };
        self.store
            .add_task(new)
            .wait()
            .map(|a| TaskRef::Id(a.task.id))
    }

    pub(crate) fn claim(&self, task: &TaskRef, agent: &str) -> Result<Claimed> {
        let claim = Claim {
            task: *task,
            agent: agent.parse().expect("a slug"),
            generation: Generation(1),
            ttl: Millis(30_000),
            wall: Millis(900_000),
            runs_max: 1000,
            seen: None,
            configured_model: None,
            effective_model: None,
            charter_hash: None,
        };
        self.store.claim(claim).wait()
    }

    pub(crate) fn hold(&self, agent: &str, token: u64) -> Hold {
        Hold {
            agent: agent.parse().expect("a slug"),
            token: LeaseToken(token),
            ttl: Millis(30_000),
        }
    }

    pub(crate) fn renew(&self, task: &TaskRef, agent: &str, token: u64) -> Result<LeaseView> {
        self.store
            .renew(*task, self.hold(agent, token), RunFacts::default())
            .wait()
    }

    pub(crate) fn complete(&self, task: &TaskRef, agent: &str, token: u64) -> Result<TaskRow> {
        let outcome = Outcome {
            text: "x".into(),
            source: ResultSource::Skill,
            data: serde_json::Value::Null,
        };
        self.store
            .complete(
                *task,
                self.hold(agent, token),
                (outcome, Checked::No),
                RunFacts::default(),
            )
            .wait()
    }

    pub(crate) fn reserve(&self, agent: &str, run: RunId, tokens: u64) -> Result<ReservationId> {
        let amounts = Amounts {
            tokens: Tokens(tokens),
            ..Amounts::default()
        };
        self.store
            .reserve(CallHold {
                agent: agent.parse().expect("a slug"),
                run: Some(run),
                amounts,
                model: "p/m".into(),
            })
            .wait()
    }

    pub(crate) fn reserved(&self) -> u64 {
        self.store
            .budgets()
            .wait()
            .expect("budgets")
            .iter()
            .map(|a| a.reserved)
            .sum()
    }

    pub(crate) fn account(&self, scope: &str, metric: Metric) -> abbey_engine::budget::Account {
        let all = self.store.budgets().wait().expect("budgets");
        all.into_iter()
            .find(|a| a.scope.to_string() == scope && a.metric == metric)
            .expect("it is counted")
    }
}
