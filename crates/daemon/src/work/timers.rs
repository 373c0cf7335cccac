//! Timed loops: expired leases, waits and retries, wakes of agents, retention.
//!
//! Each sleeps until the next instant that it knows of; an idle house reads and writes nothing.

use crate::core::error::Result;
use crate::work::state::WorkState;
use abbey_cells::hostd::FileName;
use abbey_engine::schedule::Interval;
use abbey_engine::task::Phase;
use abbey_model::{CellName, Millis, Slug, Timestamp};
use abbey_store::{NewTask, Topic};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Longest time between two looks at the next deadline: it is of the wall clock, which can be set, and sleeping is not.
const PASS_INTERVAL_MAX: Duration = Duration::from_secs(30);
/// Least time between two sweeps, so that a busy house does not read the store for each claim.
const SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// Pause between attempts to settle model calls for which there was no space on the disk.
const UNSETTLED_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two removals of old records.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(3600);
/// How long finished tasks are kept.
const RETENTION: Millis = Millis::from_secs(90 * 86_400);

/// Ends expired leases and deadlines, and admits tasks whose backoff is over, until the control
/// plane stops.
pub(crate) async fn run_deadline_sweeper(work: Arc<WorkState>) {
    let mut deadlines = work.core.store.subscribe(Topic::Deadlines);
    loop {
        let pause = match expire_due_deadlines(&work).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::error!(
                    error = error.chain(),
                    "expired leases and deadlines could not be processed; retrying in a second"
                );
                Duration::from_secs(1)
            }
        };
        tokio::select! {
            () = work.core.rt.stopped() => return,
            _ = deadlines.changed() => work.core.rt.sleep(SWEEP_INTERVAL_MIN).await,
            () = work.core.rt.sleep(pause) => {}
        }
    }
}

/// Expires due deadlines, admits tasks whose backoff is over, and returns the time until the next
/// deadline.
pub(crate) async fn expire_due_deadlines(work: &Arc<WorkState>) -> Result<Duration> {
    let Some(next) = work.core.store.next_deadline().await? else {
        return Ok(Duration::from_secs(86_400));
    };
    let now = work.core.store.now();
    if next > now {
        return Ok(next.since(now).to_std().min(PASS_INTERVAL_MAX));
    }
    let changed = work.core.store.expire_deadlines().await?;
    for task in changed {
        let due = match task.phase {
            Phase::Pending { not_before } => not_before <= work.core.store.now(),
            // Its wait is over, or there is room in its budget.
            Phase::Parked { .. } => true,
            _ => false,
        };
        if due {
            work.readmit_task(&task).await?;
        }
    }
    Ok(SWEEP_INTERVAL_MIN)
}

/// The waker's cache of each agent's wakes, which the store has as well.
#[derive(Default)]
pub(crate) struct Heartbeats {
    /// Number of the last wake that fired.
    fired: BTreeMap<Slug, u64>,
    /// Instant from which an agent's wakes are counted.
    anchors: BTreeMap<CellName, Timestamp>,
}

impl Heartbeats {
    /// Reads which wakes have fired.
    pub(crate) async fn load(&mut self, work: &WorkState) -> Result<()> {
        self.fired = work.core.store.wakes().await?;
        Ok(())
    }
}

/// Wakes agents at their times until the control plane stops; an agent with an empty heartbeat file
/// gets no task (S3-20).
pub(crate) async fn run_agent_waker(work: Arc<WorkState>) {
    let mut heartbeats = Heartbeats::default();
    if let Err(error) = heartbeats.load(&work).await {
        tracing::error!(
            error = error.chain(),
            "the numbers of the last wakes could not be read; wakes are counted from now"
        );
    }
    loop {
        let pause = fire_due_wakes(&work, &mut heartbeats)
            .await
            .unwrap_or_else(|error| {
                tracing::error!(
                    error = error.chain(),
                    "due wakes could not be fired; retrying in a minute"
                );
                Duration::from_secs(60)
            });
        tokio::select! {
            () = work.core.rt.stopped() => return,
            () = work.core.rt.sleep(pause) => {}
        }
    }
}

/// Adds a task for each agent whose wake is due, and returns the time until the next wake.
pub(crate) async fn fire_due_wakes(
    work: &Arc<WorkState>,
    heartbeats: &mut Heartbeats,
) -> Result<Duration> {
    let Heartbeats { fired, anchors } = heartbeats;
    // Often enough to notice a new plan, without asking the database for anything.
    let mut pause = match work.settle_waiting_calls().await {
        true => UNSETTLED_INTERVAL,
        false => PASS_INTERVAL_MAX,
    };
    let Some(current) = work.core.plan.current() else {
        return Ok(pause);
    };
    for agent in current.house.agents.values() {
        let Some(wake) = agent.wake else { continue };
        let anchor = first_wake_anchor(work, anchors, &agent.slug).await?;
        let interval = Interval {
            anchor,
            every: wake.every,
            jitter: wake.jitter,
            seed: agent.slug.to_string(),
        };
        let now = work.core.store.now();
        let last = fired.get(&agent.slug).copied().unwrap_or(0);
        let (number, at) = interval.next_instant(last, now);
        if at > now {
            pause = pause.min(at.since(now).to_std());
            continue;
        }
        fired.insert(agent.slug.clone(), number);
        let text = read_heartbeat(work, &agent.slug).await;
        if text.trim().is_empty() {
            // Nothing to consider: no task, no model, no entry; counted for the metrics.
            work.counters.wakes_skipped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let new = NewTask {
            idempotency: Some((
                format!("wake {} {number}", agent.slug),
                abbey_support::digest::sha256_hex(text.as_bytes()),
            )),
            ..work.house_task(&agent.slug, text)
        };
        work.core
            .store
            .record_wake(agent.slug.clone(), number)
            .await?;
        work.core.store.add_task(new).await?;
    }
    Ok(pause)
}

/// Instant from which an agent's wakes are counted, when its cell was first set to up; read once
/// and cached.
async fn first_wake_anchor(
    work: &WorkState,
    anchors: &mut BTreeMap<CellName, Timestamp>,
    agent: &Slug,
) -> Result<Timestamp> {
    let cell = CellName::Agent(agent.clone());
    if let Some(at) = anchors.get(&cell) {
        return Ok(*at);
    }
    let at = work
        .core
        .store
        .cells()
        .await?
        .get(&cell)
        .map_or_else(|| work.core.store.now(), |row| row.since);
    anchors.insert(cell, at);
    Ok(at)
}

/// Text of the agent's heartbeat file; empty if it cannot be read.
async fn read_heartbeat(work: &WorkState, agent: &Slug) -> String {
    let (hostd, owner) = (Arc::clone(&work.core.hostd), CellName::Agent(agent.clone()));
    let read =
        crate::core::hostd::call_blocking(move || hostd.read_file(owner, FileName::Heartbeat))
            .await;
    read.unwrap_or_default()
}

/// Removes old records, hourly until the control plane stops.
pub(crate) async fn run_store_maintenance(work: Arc<WorkState>) {
    loop {
        tokio::select! {
            () = work.core.rt.stopped() => return,
            () = work.core.rt.sleep(MAINTENANCE_INTERVAL) => {}
        }
        if let Err(error) = work.core.store.remove_old_records(RETENTION).await {
            tracing::error!(%error, "old records could not be removed; retrying in an hour");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_server::plans;
    use crate::boot::control_plane::ControlPlane;
    use crate::boot::testing;
    use crate::core::home::Home;
    use crate::core::manual_timers::ManualClock;
    use abbey_model::Principal;
    use abbey_store::Clock;
    use std::sync::atomic::AtomicI64;

    const MANIFEST: &str = "version: 1
house: idle
listen: { address: 127.0.0.1:0 }
providers: { p: { kind: openai, base_url: http://127.0.0.1:1/v1 } }
defaults: { cell: process, model: p/m, waive: [limits] }
agents:
  abbot: { template: orchestrator }
  sysadmin: { template: sysadmin, reports_to: abbot, wake: { every: 24h, jitter: 5m } }
";

    /// A whole day of the house's own timers on the turned clock: the daily wake comes due, finds
    /// an empty heartbeat, and leaves no trace; with something in it, it becomes one task.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_idle_day_writes_nothing_and_asks_no_model() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path().join("h"));
        let clock = Arc::new(ManualClock(AtomicI64::new(1_800_000_000_000)));
        let plane = testing::control_plane(dir.path(), Arc::clone(&clock) as Arc<dyn Clock>).await;
        let body = abbey_api::ManifestBody {
            render: None,
            manifest: MANIFEST.to_owned(),
            base_dir: "/".to_owned(),
            charters: BTreeMap::new(),
            reason: None,
            environment: BTreeMap::new(),
            consent: Vec::new(),
            renamed: BTreeMap::new(),
            first_files: BTreeMap::new(),
        };
        plans::apply_manifest(&plane.api, body, None, Principal::Operator)
            .await
            .unwrap();
        let mut heartbeats = Heartbeats::default();
        let mut day = async |plane: &Arc<ControlPlane>| {
            for _ in 0..50 {
                clock.0.fetch_add(30 * 60 * 1000, Ordering::SeqCst);
                expire_due_deadlines(&plane.work).await.unwrap();
                fire_due_wakes(&plane.work, &mut heartbeats).await.unwrap();
            }
        };
        let before = (plane.core.store.counters().0, plane.core.store.audit_head());
        day(&plane).await;
        assert_eq!(
            (plane.core.store.counters().0, plane.core.store.audit_head()),
            before,
            "no transaction, no entry"
        );
        assert_eq!(plane.work.counters.wakes_skipped.load(Ordering::SeqCst), 1);
        assert_eq!(plane.work.counters.model_calls.load(Ordering::SeqCst), 0);
        let heartbeat = home.agent_dir("sysadmin").join("workspace/HEARTBEAT.md");
        std::fs::write(heartbeat, "How much free disk space is there?").unwrap();
        day(&plane).await;
        let tasks = plane
            .core
            .store
            .tasks(abbey_store::TaskFilter {
                limit: 10,
                ..Default::default()
            })
            .await
            .unwrap();
        assert_eq!(tasks.len(), 1, "one wake, one task");
        assert_eq!(tasks[0].route.skill.as_deref(), Some("disk-usage"));
    }

    const LIMITED: &str = "version: 1
house: night
listen: { address: 127.0.0.1:0 }
providers: { p: { kind: openai, base_url: http://127.0.0.1:1/v1 } }
defaults: { cell: process, model: p/m, waive: [limits] }
budget: { runs_per_day: 1, timezone: Europe/Ljubljana }
agents:
  abbot: { template: orchestrator }
";

    /// A task that waits for the budget of a day is offered again at midnight of the budget's time zone, by the timer
    /// alone.
    #[tokio::test(flavor = "multi_thread")]
    async fn parked_tasks_resume_at_the_reset_of_their_budget() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock(AtomicI64::new(1_800_000_000_000)));
        let plane = testing::control_plane(dir.path(), Arc::clone(&clock) as Arc<dyn Clock>).await;
        let body = abbey_api::ManifestBody {
            render: None,
            manifest: LIMITED.to_owned(),
            base_dir: "/".to_owned(),
            charters: BTreeMap::new(),
            reason: None,
            environment: BTreeMap::new(),
            consent: Vec::new(),
            renamed: BTreeMap::new(),
            first_files: BTreeMap::new(),
        };
        plans::apply_manifest(&plane.api, body, None, Principal::Operator)
            .await
            .unwrap();
        let store = &plane.core.store;
        let abbot: Slug = "abbot".parse().unwrap();
        let add = async || {
            let new = plane.work.house_task(&abbot, "write a haiku".to_owned());
            store.add_task(new).await.unwrap().task
        };
        let claim = |task: &abbey_store::TaskRow| abbey_store::Claim {
            task: abbey_model::TaskRef::Id(task.id),
            agent: abbot.clone(),
            generation: abbey_model::Generation(1),
            ttl: Millis::from_secs(30),
            wall: Millis::from_secs(900),
            runs_max: 10,
            seen: None,
            configured_model: None,
            effective_model: Some("p/m".to_owned()),
            charter_hash: None,
        };
        let first = add().await;
        store.claim(claim(&first)).await.unwrap();
        store
            .cancel_task(abbey_model::TaskRef::Id(first.id), Principal::Operator)
            .await
            .unwrap();
        let second = add().await;
        let until = second.phase.parked_until().expect("it waits for midnight");
        // 2027-01-15T08:00:00Z, where the next midnight in Ljubljana is at 23:00.
        assert_eq!(until.since(Timestamp(1_800_000_000_000)).human(), "15 h");
        let state = async || {
            expire_due_deadlines(&plane.work).await.unwrap();
            let task = abbey_model::TaskRef::Id(second.id);
            store.task(task).await.unwrap().state()
        };
        clock.0.store(until.0 - 1, Ordering::SeqCst);
        assert_eq!(state().await, abbey_model::TaskState::Parked);
        clock.0.store(until.0, Ordering::SeqCst);
        assert_eq!(state().await, abbey_model::TaskState::Ready);
    }
}
