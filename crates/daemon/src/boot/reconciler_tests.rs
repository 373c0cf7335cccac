//! Tests of the reconciler with a fake backend and a manual clock.

use crate::api_server::plans;
use crate::boot::control_plane::ControlPlane;
use crate::boot::testing::control_plane_on;
use crate::cells::observations::Seen;
use crate::cells::reconciler::reconcile_all_cells;
use crate::cells::reconciler::run_reconciler;
use crate::core::manual_timers::{ManualClock, ManualTimers};
use crate::core::runtime::{Runtime, System, Timers};
use abbey_cells::Backend;
use abbey_engine::supervision::{self, Desired, History};
use abbey_model::{
    CellName, DesiredState, ExitKind, Observed, Presence, Principal, Slug, TaskState, Timestamp,
};
use abbey_store::{CellChange, Clock};
use abbey_testkit::fake::FakeBackend;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

const MANIFEST: &str = "version: 1
house: passes
listen: { address: 127.0.0.1:0 }
defaults: { cell: process, waive: [limits] }
agents:
  worker: { template: sysadmin }
";
const START: i64 = 1_800_000_000_000;
const CRASHED: ExitKind = ExitKind::Code { code: 1 };

/// One agent, and everything that a pass over it looks at.
struct Stage {
    plane: Arc<ControlPlane>,
    backend: Arc<FakeBackend>,
    clock: Arc<ManualClock>,
    timers: Arc<ManualTimers>,
    histories: BTreeMap<CellName, History>,
    dir: tempfile::TempDir,
}

fn worker() -> Slug {
    "worker".parse().unwrap()
}

fn cell() -> CellName {
    CellName::Agent(worker())
}

impl Stage {
    /// The plan is in force, and no pass was made yet.
    async fn new() -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock(AtomicI64::new(START)));
        let backend = Arc::new(FakeBackend::default());
        backend.set_time(Timestamp(START));
        let timers = Arc::new(ManualTimers::new());
        let plane = open(&dir, &clock, &timers, &backend).await;
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
        Stage {
            plane,
            backend,
            clock,
            timers,
            histories: BTreeMap::new(),
            dir,
        }
    }

    /// As [`Stage::new`], after the pass that starts the agent.
    async fn running() -> Stage {
        let mut stage = Stage::new().await;
        stage.pass().await;
        assert_eq!(stage.presence(), Presence::Ready);
        stage
    }

    async fn pass(&mut self) -> Duration {
        reconcile_all_cells(&self.plane.cells, &mut self.histories)
            .await
            .unwrap()
    }

    /// A control plane dies, and another one opens the same state; cells go on.
    async fn restart_control_plane(&mut self) {
        self.histories.clear();
        self.plane = open(&self.dir, &self.clock, &self.timers, &self.backend).await;
        self.pass().await;
    }

    fn advance(&self, time: Duration) {
        let ms = i64::try_from(time.as_millis()).unwrap();
        let before = self.clock.0.fetch_add(ms, Ordering::SeqCst);
        self.backend.set_time(Timestamp(before + ms));
        self.timers.advance(time);
    }

    async fn want(&self, desired: DesiredState) {
        let change = CellChange {
            desired: Some((desired, Some(Principal::Operator))),
            history: None,
        };
        let store = &self.plane.core.store;
        store.set_cell(cell(), change).await.unwrap();
        self.plane.cells.desired.set(cell(), desired);
    }

    fn seen(&self) -> Seen {
        self.plane.cells.observations.snapshot()[&cell()].clone()
    }

    fn presence(&self) -> Presence {
        let seen = self.seen();
        supervision::presence(&seen.desired, &seen.observed, &seen.history, true)
    }

    fn generation(&self) -> u64 {
        self.seen().history.generation.0
    }
}

async fn open(
    dir: &tempfile::TempDir,
    clock: &Arc<ManualClock>,
    timers: &Arc<ManualTimers>,
    backend: &Arc<FakeBackend>,
) -> Arc<ControlPlane> {
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    let backend = Arc::clone(backend) as Arc<dyn Backend>;
    let rt = Runtime::new(Arc::clone(timers) as Arc<dyn Timers>, Arc::new(System));
    let plane = control_plane_on(dir.path(), clock, backend, rt).await;
    // As at start-up: no cell starts before this.
    crate::cells::provision::provision_plan(&plane.cells)
        .await
        .unwrap();
    plane
}

#[tokio::test]
async fn a_new_agent_is_started_by_one_pass() {
    let mut stage = Stage::new().await;
    let pause = stage.pass().await;
    assert_eq!((stage.presence(), stage.generation()), (Presence::Ready, 1));
    assert!(pause >= Duration::from_secs(30), "nothing else is due");
    let entries = stage.plane.core.store.audit_head();
    stage.pass().await;
    assert_eq!(
        stage.plane.core.store.audit_head(),
        entries,
        "a second pass writes nothing"
    );
}

#[tokio::test]
async fn no_cell_starts_before_its_plan_is_provisioned() {
    let mut stage = Stage::new().await;
    let plan = stage.plane.core.plan.current().unwrap();
    let next = crate::core::plan::PlanInForce {
        generation: plan.generation + 1,
        ..(*plan).clone()
    };
    stage.plane.core.plan.replace(next);
    stage.pass().await;
    assert_eq!(
        (stage.presence(), stage.generation()),
        (Presence::Starting, 0)
    );
    assert_eq!(stage.backend.list().unwrap(), []);
    crate::cells::provision::provision_plan(&stage.plane.cells)
        .await
        .unwrap();
    stage.pass().await;
    assert_eq!((stage.presence(), stage.generation()), (Presence::Ready, 1));
}

#[tokio::test]
async fn a_crashed_agent_starts_again_after_its_backoff() {
    let mut stage = Stage::running().await;
    stage.backend.crash(&cell(), CRASHED);
    let pause = stage.pass().await;
    assert_eq!((stage.presence(), stage.generation()), (Presence::Down, 1));
    assert_eq!(
        pause,
        Duration::from_secs(1),
        "the reconciler sleeps until the next start"
    );
    stage.advance(Duration::from_millis(999));
    stage.pass().await;
    assert_eq!(stage.presence(), Presence::Down);
    stage.advance(Duration::from_millis(1));
    stage.pass().await;
    assert_eq!((stage.presence(), stage.generation()), (Presence::Ready, 2));
    assert_eq!(stage.seen().history.restarts, 1);
}

#[tokio::test]
async fn the_reconciler_loop_starts_a_crashed_agent_when_its_timer_fires() {
    let stage = Stage::new().await;
    let before = stage.timers.sleeps_begun();
    let reconciler = tokio::spawn(run_reconciler(Arc::clone(&stage.plane.cells)));
    stage.timers.sleep_after(before).await;
    assert_eq!((stage.presence(), stage.generation()), (Presence::Ready, 1));
    stage.backend.crash(&cell(), CRASHED);
    let before = stage.timers.sleeps_begun();
    stage.plane.cells.request_reconcile();
    let pause = stage.timers.sleep_after(before).await;
    assert_eq!(
        (stage.presence(), pause),
        (Presence::Down, Duration::from_secs(1))
    );
    let before = stage.timers.sleeps_begun();
    stage.advance(pause);
    stage.timers.sleep_after(before).await;
    assert_eq!((stage.presence(), stage.generation()), (Presence::Ready, 2));
    stage.plane.core.rt.request_stop();
    reconciler.await.unwrap();
}

#[tokio::test]
async fn a_crash_loop_doubles_the_backoff_and_shows_as_degraded() {
    let mut stage = Stage::running().await;
    for expected_s in [1, 2, 4, 8] {
        stage.backend.crash(&cell(), CRASHED);
        let pause = stage.pass().await;
        assert_eq!(
            pause.min(Duration::from_secs(30)),
            Duration::from_secs(expected_s)
        );
        stage.advance(Duration::from_secs(expected_s));
        stage.pass().await;
        assert!(matches!(stage.seen().observed, Observed::Running { .. }));
    }
    stage.backend.crash(&cell(), CRASHED);
    stage.pass().await;
    assert_eq!(
        (stage.presence(), stage.seen().history.failures),
        (Presence::Degraded, 5)
    );
}

#[tokio::test]
async fn stable_uptime_ends_a_crash_loop() {
    let mut stage = Stage::running().await;
    stage.backend.crash(&cell(), CRASHED);
    stage.pass().await;
    stage.advance(Duration::from_secs(1));
    let pause = stage.pass().await;
    assert_eq!(stage.seen().history.failures, 1);
    stage.advance(pause.max(Duration::from_secs(60)));
    stage.pass().await;
    assert_eq!(stage.seen().history.failures, 0);
}

#[tokio::test]
async fn a_start_that_fails_is_tried_again_after_its_backoff() {
    let mut stage = Stage::new().await;
    stage.backend.fail_starts(true);
    stage.pass().await;
    assert!(stage.seen().error.is_some());
    stage.pass().await;
    assert_eq!(stage.seen().history.failures, 1);
    stage.backend.fail_starts(false);
    stage.advance(Duration::from_secs(1));
    stage.pass().await;
    assert_eq!((stage.presence(), stage.generation()), (Presence::Ready, 2));
}

#[tokio::test]
async fn a_stopped_agent_stays_stopped_until_it_is_started() {
    let mut stage = Stage::running().await;
    stage.want(DesiredState::Down).await;
    stage.pass().await;
    stage.pass().await;
    assert_eq!(stage.presence(), Presence::Stopped);
    assert_eq!(
        stage.backend.list().unwrap(),
        [],
        "nothing is left of the cell"
    );
    stage.advance(Duration::from_secs(3600));
    stage.pass().await;
    assert_eq!(stage.presence(), Presence::Stopped);
    stage.want(DesiredState::Up).await;
    stage.pass().await;
    assert_eq!((stage.presence(), stage.generation()), (Presence::Ready, 2));
}

#[tokio::test]
async fn a_restart_starts_the_next_generation_without_backoff() {
    let mut stage = Stage::running().await;
    stage.backend.stop(&cell(), abbey_model::Millis(0)).unwrap();
    stage.pass().await;
    assert_eq!((stage.presence(), stage.generation()), (Presence::Ready, 2));
    assert_eq!(stage.seen().history.failures, 0);
}

#[tokio::test]
async fn a_restarted_control_plane_adopts_running_cells() {
    let mut stage = Stage::running().await;
    stage.restart_control_plane().await;
    assert_eq!((stage.presence(), stage.generation()), (Presence::Ready, 1));
}

#[tokio::test]
async fn a_restarted_control_plane_remembers_backoff_and_stopped_agents() {
    let mut stage = Stage::running().await;
    stage.backend.crash(&cell(), CRASHED);
    stage.pass().await;
    stage.restart_control_plane().await;
    assert_eq!(
        (stage.presence(), stage.seen().history.failures),
        (Presence::Down, 1)
    );
    stage.want(DesiredState::Down).await;
    stage.restart_control_plane().await;
    assert_eq!(stage.seen().desired, Desired::Down);
}

#[tokio::test]
async fn an_orphaned_cell_is_swept_and_started_again() {
    let mut stage = Stage::running().await;
    stage.backend.orphan(&cell());
    stage.pass().await;
    stage.advance(Duration::from_secs(1));
    stage.pass().await;
    assert_eq!((stage.presence(), stage.generation()), (Presence::Ready, 2));
}

#[tokio::test]
async fn a_paused_agent_keeps_its_generation_and_resumes() {
    let mut stage = Stage::running().await;
    stage.want(DesiredState::Paused).await;
    stage.pass().await;
    assert_eq!(stage.presence(), Presence::Paused);
    stage.restart_control_plane().await;
    assert_eq!(stage.presence(), Presence::Paused);
    stage.want(DesiredState::Up).await;
    stage.pass().await;
    assert_eq!((stage.presence(), stage.generation()), (Presence::Ready, 1));
}

#[tokio::test]
async fn going_down_stops_every_cell() {
    let mut stage = Stage::running().await;
    stage.plane.core.shutdown.request();
    stage.pass().await;
    stage.pass().await;
    assert_eq!(stage.backend.list().unwrap(), []);
}

#[tokio::test]
async fn a_draining_agent_is_offered_no_work_also_after_a_restart_of_the_control_plane() {
    let mut stage = Stage::running().await;
    let text = "How much free disk space is there?".to_owned();
    let task = stage.plane.work.house_task(&worker(), text);
    let added = stage.plane.core.store.add_task(task).await.unwrap();
    assert_eq!(added.task.state(), TaskState::Ready);
    let store = Arc::clone(&stage.plane.core.store);
    assert_eq!(store.offers(worker(), 1).await.unwrap().len(), 1);
    let drain = store.set_draining(worker(), true, Principal::Operator);
    drain.await.unwrap();
    assert_eq!(store.offers(worker(), 1).await.unwrap().len(), 0);
    stage.restart_control_plane().await;
    let store = Arc::clone(&stage.plane.core.store);
    assert_eq!(store.offers(worker(), 1).await.unwrap().len(), 0);
    assert_eq!(
        stage.presence(),
        Presence::Ready,
        "it may finish what it has"
    );
    let resume = store.set_draining(worker(), false, Principal::Operator);
    resume.await.unwrap();
    assert_eq!(store.offers(worker(), 1).await.unwrap().len(), 1);
}
