//! Claim + complete through the full path (lease, fencing token, reservation, activity entry) at
//! 1, 16 and 64 workers, beside the raw one-row commit and a peer in a process of its own.
//!
//! `bench/queue/run` prints one table; the peer's binary is named by `BENCH_PEER`.

use abbey_engine::admission::AgentFact;
use abbey_engine::matcher::{Candidate, Match};
use abbey_model::*;
use abbey_store::*;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

struct Row {
    name: String,
    rate: f64,
    p50: Duration,
    p99: Duration,
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times
        .get(times.len().saturating_sub(1) * percent / 100)
        .copied()
        .unwrap_or_default()
}

/// The floor: one row, one commit, one thread, with the same promise.
fn raw(dir: &Path, rows: usize) -> Row {
    let db = rusqlite::Connection::open(dir.join("raw.db")).expect("opens");
    db.pragma_update(None, "journal_mode", "WAL").expect("wal");
    db.pragma_update(None, "synchronous", "FULL").expect("full");
    db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, payload TEXT)")
        .expect("table");
    let payload = "x".repeat(200);
    let mut times = Vec::with_capacity(rows);
    let start = Instant::now();
    for _ in 0..rows {
        let one = Instant::now();
        db.prepare_cached("INSERT INTO t (payload) VALUES (?1)")
            .and_then(|mut s| s.execute([&payload]))
            .expect("insert");
        times.push(one.elapsed());
    }
    let rate = rows as f64 / start.elapsed().as_secs_f64();
    Row {
        name: "raw one-row commit".into(),
        rate,
        p50: percentile(&mut times, 50),
        p99: percentile(&mut times, 99),
    }
}

fn ours(dir: &Path, workers: usize, tasks: usize) -> Row {
    let store = Sqlite::open(SqliteOptions {
        path: dir.join(format!("abbey-{workers}.db")),
        clock: Arc::new(SystemClock::new()),
        redactor: Arc::default(),
        signing_key: [1; 32],
        entropy: Arc::new(SystemEntropy),
        on_fatal: Box::new(|why| panic!("{why}")),
    })
    .expect("opens");
    let agent: Slug = "worker".parse().expect("a slug");
    let limit = |scope, metric| BudgetLimit {
        scope,
        metric,
        window: Window::Day,
        limit: Some(1 << 50),
        warn_percent: 80,
    };
    let limits = [Metric::Runs, Metric::Seconds]
        .into_iter()
        .flat_map(|m| {
            [
                limit(Scope::House, m),
                limit(Scope::Agent(agent.clone()), m),
            ]
        })
        .collect();
    store
        .set_budgets(limits, "UTC".into())
        .wait()
        .expect("budgets");
    let fact = AgentFact {
        slug: agent.clone(),
        skills: vec!["s".into()],
        is_root: true,
        has_model: false,
        provider: Some("p".into()),
        run: BudgetAmounts::default(),
        run_wait: None,
        model_wait: None,
        suited: None,
    };
    let fit = Match::One(Candidate {
        skill: "s".into(),
        score: 900,
        args: Default::default(),
    });
    let text = "x".repeat(200);
    let replies: Vec<_> = (0..tasks)
        .map(|_| {
            store.add_task(NewTask {
                text: text.clone(),
                author: Principal::Operator,
                assignee: Some(agent.clone()),
                priority: Priority::P2,
                budget: BudgetAmounts::default(),
                policy: None,
                idempotency: None,
                delegated: None,
                intake: Intake {
                    fit: fit.clone(),
                    agents: vec![fact.clone()],
                    reason: String::new(),
                    suggested: Vec::new(),
                },
            })
        })
        .collect();
    let ids: Vec<TaskRef> = replies
        .into_iter()
        .map(|r| TaskRef::Id(r.wait().expect("added").task.id))
        .collect();
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let work = || {
            let mut times = Vec::new();
            while let Some(task) = ids.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
                let one = Instant::now();
                let claim = Claim {
                    task,
                    agent: agent.clone(),
                    generation: Generation(1),
                    ttl: Millis(30_000),
                    wall: Millis(900_000),
                    runs_max: 100_000,
                    seen: None,
                    configured_model: None,
                    effective_model: None,
                    charter_hash: None,
                };
                let claimed = store.claim(claim).wait().expect("claimed");
                times.push(one.elapsed());
                let hold = LeaseProof {
                    agent: agent.clone(),
                    token: claimed.lease.token,
                    ttl: Millis(30_000),
                };
                let outcome = Outcome {
                    text: "done".into(),
                    source: ResultSource::Skill,
                    data: serde_json::Value::Null,
                };
                store
                    .complete(
                        task,
                        hold,
                        (outcome, EvidenceCheck::NotRun),
                        RunFacts::default(),
                    )
                    .wait()
                    .expect("completed");
            }
            times
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().expect("a worker"))
            .collect()
    });
    let rate = tasks as f64 / start.elapsed().as_secs_f64();
    let verdict = store
        .verify_audit_log(abbey_store::KnownCheckpoints::default())
        .wait()
        .expect("verified");
    assert!(verdict.ok, "the chain verifies after the run");
    let reserved: u64 = store
        .budgets()
        .wait()
        .expect("budgets")
        .iter()
        .map(|a| a.reserved)
        .sum();
    assert_eq!(reserved, 0, "reservations return to 0");
    Row {
        name: format!("abbey, {workers} workers"),
        rate,
        p50: percentile(&mut times, 50),
        p99: percentile(&mut times, 99),
    }
}

fn peer(dir: &Path, batch: usize, concurrency: usize, tasks: usize) -> Option<Row> {
    let binary = std::env::var("BENCH_PEER").ok()?;
    let output = Command::new(binary)
        .arg(dir.join(format!("peer-{batch}.db")))
        .args([batch, concurrency, tasks].map(|n| n.to_string()))
        .output()
        .ok()?;
    let rate = String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .ok()?;
    Some(Row {
        name: format!("apalis-sqlite, batch {batch}, concurrency {concurrency}"),
        rate,
        p50: Duration::ZERO,
        p99: Duration::ZERO,
    })
}

fn main() {
    // On the disk that state lives on, not on a memory file system.
    let dir = tempfile::tempdir_in(std::env::var("BENCH_DIR").unwrap_or_else(|_| ".".into()))
        .expect("a directory");
    let mut rows = vec![raw(dir.path(), 3000)];
    for (workers, tasks) in [(1, 1500), (16, 12_000), (64, 30_000)] {
        rows.push(ours(dir.path(), workers, tasks));
    }
    rows.extend(
        [(10, 16), (200, 64)]
            .into_iter()
            .filter_map(|(batch, concurrency)| peer(dir.path(), batch, concurrency, 3000)),
    );
    let floor = rows[0].rate;
    let floor_p99 = rows[0].p99;
    let best_peer = rows
        .iter()
        .filter(|r| r.name.starts_with("apalis"))
        .map(|r| r.rate)
        .fold(f64::NAN, f64::max);
    println!(
        "| | tasks/s | × raw commit | × best peer | claim p50 ms | claim p99 ms | × raw p99 |"
    );
    println!("|---|---|---|---|---|---|---|");
    for row in &rows {
        let ms = |d: Duration| {
            if d.is_zero() {
                "–".to_owned()
            } else {
                format!("{:.2}", d.as_secs_f64() * 1000.0)
            }
        };
        let ratio = if row.p99.is_zero() {
            "–".to_owned()
        } else {
            format!("{:.1}", row.p99.as_secs_f64() / floor_p99.as_secs_f64())
        };
        println!(
            "| {} | {:.0} | {:.2} | {:.2} | {} | {} | {ratio} |",
            row.name,
            row.rate,
            row.rate / floor,
            row.rate / best_peer,
            ms(row.p50),
            ms(row.p99)
        );
    }
}
