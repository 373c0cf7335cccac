//! apalis-sqlite under the same promise (WAL, synchronous=FULL): `bench-peer DB BATCH CONCURRENCY
//! TASKS` prints finished tasks in a second.

use apalis::prelude::*;
use apalis_sqlite::{Config, SqlitePool, SqliteStorage};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

static DONE: AtomicUsize = AtomicUsize::new(0);
static TASKS: AtomicUsize = AtomicUsize::new(0);

async fn work(_payload: String, worker: WorkerContext) -> Result<(), BoxDynError> {
    if DONE.fetch_add(1, Ordering::SeqCst) + 1 == TASKS.load(Ordering::SeqCst) {
        worker.stop()?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxDynError> {
    let args: Vec<String> = std::env::args().collect();
    let number = |i: usize| args.get(i).and_then(|a| a.parse::<usize>().ok()).unwrap_or(10);
    let (batch, concurrency, tasks) = (number(2), number(3), number(4));
    TASKS.store(tasks, Ordering::SeqCst);
    let pool = SqlitePool::connect(&format!("sqlite:{}?mode=rwc", args[1])).await?;
    sqlx::query("PRAGMA journal_mode = WAL").execute(&pool).await?;
    SqliteStorage::setup(&pool).await?;
    let backend: SqliteStorage<String> = SqliteStorage::new(&pool).with_config(Config::default().batch_size(batch));
    let mut filler = backend.clone();
    for _ in 0..tasks {
        filler.push("x".repeat(200)).await?;
    }
    let start = Instant::now();
    let worker = WorkerBuilder::new("peer").backend(backend).concurrency(concurrency).build(work);
    worker.run().await?;
    println!("{}", tasks as f64 / start.elapsed().as_secs_f64());
    Ok(())
}
