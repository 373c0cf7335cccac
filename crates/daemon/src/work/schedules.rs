//! Schedules: fires each at its instants, once each, also after the host was suspended (S2-16,
//! S4-05). Between two instants nothing is read or written.

use crate::core::error::Result;
use crate::core::plan::PlanInForce;
use crate::work::state::WorkState;
use crate::work::workflows;
use abbey_api::{
    Problem, ScheduleDoc, ScheduleLineView, ScheduleView, SchedulesDoc, Time, VERSION,
};
use abbey_engine::budget::TimeZone;
use abbey_engine::timetable::{CatchUp, Overlap, ScheduleTiming, parse_cron, parse_instant};
use abbey_model::{FaultKind, Millis, Principal, Slug, Timestamp};
use abbey_plan::{Schedule, ScheduleAction, ScheduleTrigger};
use abbey_store::{DelegationRequest, FireSchedule, NewTask, ScheduleRow, ScheduledStart};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Longest pause between two passes, after which a changed clock is noticed.
const PASS_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// A schedule of the plan with its timing.
struct PlannedSchedule<'a> {
    name: String,
    agent: &'a Slug,
    schedule: &'a Schedule,
    timing: ScheduleTiming,
}

/// Every schedule of the plan with a valid timing.
fn planned_schedules(current: &PlanInForce) -> Vec<PlannedSchedule<'_>> {
    let zone = &current.house.budget.timezone;
    let agents = current.house.agents.values();
    let all = agents.flat_map(|a| a.schedules.iter().map(move |(name, s)| (&a.slug, name, s)));
    all.filter_map(|(agent, name, schedule)| {
        Some(PlannedSchedule {
            name: format!("{agent}/{name}"),
            agent,
            schedule,
            timing: parse_timing(schedule, zone).ok()?,
        })
    })
    .collect()
}

/// ScheduleTiming of a declared schedule; `zone` is the default time zone.
///
/// # Errors
/// A sentence that says what is wrong with its pattern, instant or zone.
pub(crate) fn parse_timing(
    schedule: &Schedule,
    zone: &str,
) -> std::result::Result<ScheduleTiming, String> {
    match &schedule.trigger {
        ScheduleTrigger::Every(every) => Ok(ScheduleTiming::Every(*every)),
        ScheduleTrigger::At(text) => Ok(ScheduleTiming::At(parse_instant(text)?)),
        ScheduleTrigger::Cron(text) => {
            let zone = schedule.timezone.as_deref().unwrap_or(zone);
            Ok(ScheduleTiming::Cron {
                pattern: Box::new(parse_cron(text)?),
                zone: TimeZone::get(zone).map_err(|e| e.to_string())?,
            })
        }
    }
}

/// Delay of an instant within the schedule's jitter, derived from its name and instant so that it
/// is stable.
fn jitter_of_instant(name: &str, instant: Timestamp, jitter: Millis) -> Millis {
    if jitter.0 <= 0 {
        return Millis(0);
    }
    let digest = abbey_support::digest::sha256_hex(format!("{name} {}", instant.0).as_bytes());
    let part = i64::from_str_radix(&digest[..12], 16).unwrap_or(0);
    Millis(part.rem_euclid(jitter.0 + 1))
}

/// Digest of a schedule's timing, by which a changed one is noticed.
fn schedule_digest(schedule: &Schedule, zone: &str) -> String {
    let text =
        serde_json::to_vec(&(&schedule.trigger, &schedule.timezone, zone)).unwrap_or_default();
    abbey_support::digest::sha256_hex(&text)
}

/// Task or workflow run that a schedule starts at an instant.
fn scheduled_start(
    work: &Arc<WorkState>,
    one: &PlannedSchedule<'_>,
    instant: Timestamp,
) -> Result<ScheduledStart> {
    let key = format!("schedule {} {}", one.name, instant.0);
    match &one.schedule.action {
        ScheduleAction::Workflow(name, input) => {
            let new =
                workflows::check_new_run(work, name, input.clone(), Principal::House, Some(key))?;
            Ok(ScheduledStart::Workflow(
                Box::new(new),
                workflows::intakes_for_steps(work),
            ))
        }
        ScheduleAction::Skill(skill, args) => Ok(ScheduledStart::Task(Box::new(NewTask {
            intake: work.intake_for_skill(skill, args.clone()),
            ..scheduled_task(work, one, &format!("{}: {skill}", one.name), key)
        }))),
        ScheduleAction::Task(text) => Ok(ScheduledStart::Task(Box::new(scheduled_task(
            work, one, text, key,
        )))),
    }
}

/// A task for the schedule's agent; `key` makes the same instant the same task.
fn scheduled_task(work: &WorkState, one: &PlannedSchedule<'_>, text: &str, key: String) -> NewTask {
    NewTask {
        idempotency: Some((key, abbey_support::digest::sha256_hex(text.as_bytes()))),
        delegated: one.schedule.timeout.map(|within| DelegationRequest {
            within: Some(within),
            ..DelegationRequest::default()
        }),
        ..work.house_task(one.agent, text.to_owned())
    }
}

/// Fires due schedules until the control plane stops.
pub(crate) async fn run_scheduler(work: Arc<WorkState>) {
    let mut plans = work.core.plan.subscribe();
    let mut known: Option<BTreeMap<String, ScheduleRow>> = None;
    loop {
        let pause = match fire_due_schedules(&work, &mut known).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::error!(
                    error = error.chain(),
                    "due schedules could not be fired; retrying in 5 seconds"
                );
                known = None;
                Duration::from_secs(5)
            }
        };
        tokio::select! {
            () = work.core.rt.stopped() => return,
            _ = plans.changed() => {}
            () = work.core.rt.sleep(pause) => {}
        }
    }
}

/// Makes one pass: registers new schedules, removes old ones, fires what is due, and returns the
/// pause until the next instant. `known` caches the store's rows between passes.
pub(crate) async fn fire_due_schedules(
    work: &Arc<WorkState>,
    known: &mut Option<BTreeMap<String, ScheduleRow>>,
) -> Result<Duration> {
    let Some(current) = work.core.plan.current() else {
        return Ok(PASS_INTERVAL_MAX);
    };
    let zone = &current.house.budget.timezone;
    let all = planned_schedules(&current);
    let mut rows = match known.take() {
        Some(rows) => rows,
        None => work.core.store.schedules().await?,
    };
    let gone: Vec<String> = rows
        .keys()
        .filter(|name| !all.iter().any(|p| p.name == **name))
        .cloned()
        .collect();
    if !gone.is_empty() {
        rows.retain(|name, _| !gone.contains(name));
        work.core.store.remove_schedules(gone).await?;
    }
    let mut fresh = false;
    for one in &all {
        let digest = schedule_digest(one.schedule, zone);
        if rows.get(&one.name).is_none_or(|r| r.digest != digest) {
            work.core
                .store
                .register_schedule(one.name.clone(), digest)
                .await?;
            fresh = true;
        }
    }
    if fresh {
        rows = work.core.store.schedules().await?;
    }
    let mut pause = PASS_INTERVAL_MAX;
    for one in &all {
        if let Some(row) = rows.get_mut(&one.name) {
            pause = pause.min(fire_due_instants(work, one, row).await?);
        }
    }
    *known = Some(rows);
    Ok(pause)
}

/// Fires the due instants of one schedule, and returns the time until its next.
async fn fire_due_instants(
    work: &Arc<WorkState>,
    one: &PlannedSchedule<'_>,
    row: &mut ScheduleRow,
) -> Result<Duration> {
    let now = work.core.store.now();
    let catch_up: CatchUp = one.schedule.catch_up.parse().unwrap_or_default();
    // A delayed instant is not due before its delay is over.
    let ripe = |i: &Timestamp| *i + jitter_of_instant(&one.name, *i, one.schedule.jitter) <= now;
    let mut due = one
        .timing
        .due_instants(row.since, row.settled, now, catch_up);
    if let Some(unripe) = due.fire.iter().find(|i| !ripe(i)).copied() {
        due.fire.retain(|i| *i < unripe);
        due.through = due.fire.last().copied();
    }
    if let Some(through) = due.through {
        let overlap: Overlap = one.schedule.overlap.parse().unwrap_or_default();
        let mut missed = due.missed;
        let settle = |work, through, missed| FireSchedule {
            name: one.name.clone(),
            by: Principal::House,
            through,
            missed,
            work,
            overlap,
        };
        for instant in &due.fire {
            let due = Some((*instant, scheduled_start(work, one, *instant)?));
            let fire = settle(due, *instant, std::mem::take(&mut missed));
            work.core.store.fire_schedule(fire).await?;
        }
        if missed > 0 || due.fire.last() != Some(&through) {
            work.core
                .store
                .fire_schedule(settle(None, through, missed))
                .await?;
        }
        row.settled = through;
    }
    let next = one.timing.next_after(row.since, row.settled);
    Ok(next.map_or(PASS_INTERVAL_MAX, |next| {
        let at = next + jitter_of_instant(&one.name, next, one.schedule.jitter);
        at.since(now).to_std().max(Duration::from_millis(20))
    }))
}

/// Fires a schedule immediately for the operator, independently of its instants.
///
/// # Errors
/// `NotFound` if there is no such schedule.
pub(crate) async fn fire_schedule_now(
    work: &Arc<WorkState>,
    name: &str,
    by: Principal,
) -> Result<()> {
    let current = work.core.plan.current();
    let found = current.as_ref().and_then(|c| {
        let mut all = planned_schedules(c).into_iter();
        all.find(|p| p.name == name)
    });
    let Some(one) = found else {
        return Err(unknown_schedule(name));
    };
    let rows = work.core.store.schedules().await?;
    let now = work.core.store.now();
    let fire = FireSchedule {
        name: one.name.clone(),
        by,
        through: rows.get(name).map_or(now, |r| r.settled),
        missed: 0,
        work: Some((now, scheduled_start(work, &one, now)?)),
        overlap: one.schedule.overlap.parse().unwrap_or_default(),
    };
    work.core.store.fire_schedule(fire).await?;
    Ok(())
}

fn unknown_schedule(name: &str) -> crate::core::error::Error {
    Problem::new(
        FaultKind::NotFound,
        format!("there is no schedule `{name}`"),
    )
    .remedy("`abbey schedule list` lists the schedules as AGENT/NAME")
    .into()
}

fn schedule_view(
    work: &WorkState,
    one: &PlannedSchedule<'_>,
    row: Option<&ScheduleRow>,
) -> ScheduleView {
    let when = match &one.schedule.trigger {
        ScheduleTrigger::Cron(text) => format!("cron {text}"),
        ScheduleTrigger::Every(every) => format!("every {}", every.human()),
        ScheduleTrigger::At(text) => format!("at {text}"),
    };
    let (task, workflow) = match &one.schedule.action {
        ScheduleAction::Task(text) => (text.clone(), false),
        ScheduleAction::Skill(skill, _) => (skill.clone(), false),
        ScheduleAction::Workflow(name, _) => (name.to_string(), true),
    };
    let last = row.and_then(|r| match workflow {
        true => r.last_run.map(|n| format!("WF-{n}")),
        false => r.last_task.map(|n| format!("TASK-{n}")),
    });
    let now = work.core.store.now();
    let next = row.and_then(|r| one.timing.next_after(r.since, r.settled.max(now)));
    ScheduleView {
        name: one.name.clone(),
        agent: one.agent.to_string(),
        when,
        task,
        workflow,
        overlap: one.schedule.overlap.clone(),
        catch_up: one.schedule.catch_up.clone(),
        next_at: next.map(Time),
        fired: row.map_or(0, |r| r.fired),
        skipped: row.map_or(0, |r| r.skipped),
        missed: row.map_or(0, |r| r.missed),
        last_task: last,
    }
}

/// Every schedule with its next instant and counters.
pub(crate) async fn list_schedules(work: &Arc<WorkState>) -> Result<SchedulesDoc> {
    let rows = work.core.store.schedules().await?;
    let current = work.core.plan.current();
    let all = current
        .as_ref()
        .map(|c| planned_schedules(c))
        .unwrap_or_default();
    Ok(SchedulesDoc {
        version: VERSION,
        schedules: all
            .iter()
            .map(|p| schedule_view(work, p, rows.get(&p.name)))
            .collect(),
        cursor: None,
    })
}

/// One schedule with its history.
///
/// # Errors
/// `NotFound` if there is no such schedule.
pub(crate) async fn show_schedule(work: &Arc<WorkState>, name: &str) -> Result<ScheduleDoc> {
    let all = list_schedules(work).await?.schedules;
    let schedule = all.into_iter().find(|s| s.name == name);
    let lines = work.core.store.schedule_history(name.to_owned()).await?;
    Ok(ScheduleDoc {
        version: VERSION,
        schedule: schedule.ok_or_else(|| unknown_schedule(name))?,
        history: lines
            .into_iter()
            .map(|l| ScheduleLineView {
                instant: l.instant.into(),
                at: l.at.into(),
                outcome: l.outcome,
                task: l.task.map(|n| format!("TASK-{n}")),
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_server::plans;
    use crate::boot::control_plane::ControlPlane;
    use crate::boot::testing;
    use crate::core::manual_timers::ManualClock;
    use abbey_model::TaskState;
    use abbey_store::{Clock, TaskFilter, TaskRow};
    use std::sync::atomic::{AtomicI64, Ordering};

    fn manifest(schedules: &str) -> abbey_api::ManifestBody {
        abbey_api::ManifestBody {
            render: None,
            manifest: format!(
                "version: 1\nhouse: times\nlisten: {{ address: 127.0.0.1:0 }}\nbudget: {{ timezone: Europe/Ljubljana }}\ndefaults: {{ cell: process, waive: [limits] }}\nagents:\n  a: {{ template: sysadmin, schedules: {{ {schedules} }} }}\n"
            ),
            base_dir: "/".to_owned(),
            charters: BTreeMap::new(),
            reason: None,
            environment: BTreeMap::new(),
            consent: Vec::new(),
            renamed: BTreeMap::new(),
            first_files: BTreeMap::new(),
        }
    }

    struct Stage {
        plane: Arc<ControlPlane>,
        clock: Arc<ManualClock>,
        known: Option<BTreeMap<String, ScheduleRow>>,
        _dir: tempfile::TempDir,
    }

    impl Stage {
        async fn new(schedules: &str) -> Stage {
            let dir = tempfile::tempdir().unwrap();
            // The evening before the clock goes back.
            let start: jiff::Timestamp = "2026-10-24T20:00:00Z".parse().unwrap();
            let clock = Arc::new(ManualClock(AtomicI64::new(start.as_millisecond())));
            let plane =
                testing::control_plane(dir.path(), Arc::clone(&clock) as Arc<dyn Clock>).await;
            let mut stage = Stage {
                plane,
                clock,
                known: None,
                _dir: dir,
            };
            stage.apply(schedules).await;
            stage
        }

        async fn apply(&mut self, schedules: &str) {
            plans::apply_manifest(
                &self.plane.api,
                manifest(schedules),
                None,
                Principal::Operator,
            )
            .await
            .unwrap();
            self.fire_due().await;
        }

        async fn fire_due(&mut self) -> Duration {
            fire_due_schedules(&self.plane.work, &mut self.known)
                .await
                .unwrap()
        }

        /// Advances the clock in steps, with a pass after each.
        async fn live(&mut self, hours: i64, every_s: i64) {
            for _ in 0..hours * 3600 / every_s {
                self.clock.0.fetch_add(every_s * 1000, Ordering::SeqCst);
                self.fire_due().await;
            }
        }

        async fn sleep(&mut self, hours: i64) {
            self.clock.0.fetch_add(hours * 3_600_000, Ordering::SeqCst);
            self.fire_due().await;
        }

        async fn row(&self) -> ScheduleRow {
            self.plane.core.store.schedules().await.unwrap()["a/s"].clone()
        }

        async fn tasks(&self) -> Vec<TaskRow> {
            let filter = TaskFilter {
                limit: 500,
                ..Default::default()
            };
            self.plane.core.store.tasks(filter).await.unwrap()
        }
    }

    const WORK: &str = "task: 'How much free disk space is there?'";

    #[tokio::test(flavor = "multi_thread")]
    async fn a_night_with_a_changed_clock_fires_each_instant_once() {
        let mut stage = Stage::new(&format!(
            "s: {{ cron: '30 2 * * *', overlap: queue, {WORK} }}"
        ))
        .await;
        let before = stage.plane.core.store.counters().0;
        stage.live(2, 60).await;
        assert_eq!(
            stage.plane.core.store.counters().0,
            before,
            "an idle evening writes nothing"
        );
        stage.live(12, 60).await;
        assert_eq!((stage.row().await.fired, stage.tasks().await.len()), (1, 1));
        // After a restart, or in another pass, nothing is fired again.
        stage.known = None;
        stage.fire_due().await;
        stage.fire_due().await;
        assert_eq!(stage.tasks().await.len(), 1);
        // The same instant asked for twice is one task, however it is asked for.
        let task = stage.tasks().await.pop().unwrap();
        assert_eq!(task.author, Principal::House);
        assert_eq!(task.assignee.as_ref().map(Slug::as_str), Some("a"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_host_that_slept_a_day_catches_up_as_agreed() {
        for (policy, fired, missed) in [("skip", 0, 24), ("once", 1, 23), ("'5'", 5, 19)] {
            let schedule =
                format!("s: {{ cron: '0 * * * *', overlap: queue, catch_up: {policy}, {WORK} }}");
            let mut stage = Stage::new(&schedule).await;
            stage.clock.0.fetch_add(600_000, Ordering::SeqCst);
            stage.sleep(24).await;
            let row = stage.row().await;
            assert_eq!((row.fired, row.missed), (fired, missed), "{policy}");
            assert_eq!(stage.tasks().await.len() as u64, fired, "{policy}");
            // And goes on as before.
            stage.live(1, 30).await;
            assert_eq!(stage.row().await.fired, fired + 1, "{policy}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_one_before_may_be_in_the_way() {
        for (overlap, fired, skipped) in [("skip", 1, 2), ("queue", 3, 0), ("replace", 3, 0)] {
            let schedule = format!("s: {{ every: 1h, overlap: {overlap}, {WORK} }}");
            let mut stage = Stage::new(&schedule).await;
            stage.live(3, 30).await;
            let row = stage.row().await;
            assert_eq!((row.fired, row.skipped), (fired, skipped), "{overlap}");
            let tasks = stage.tasks().await;
            let open = tasks.iter().filter(|t| !t.state().is_terminal()).count();
            let expected = if overlap == "queue" { 3 } else { 1 };
            assert_eq!(open, expected, "{overlap}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn jitter_moves_back_and_a_schedule_goes_with_its_agent() {
        let mut stage = Stage::new(&format!(
            "s: {{ every: 1h, jitter: 20m, timeout: 5m, {WORK} }}"
        ))
        .await;
        let first = stage.row().await.since;
        stage.live(2, 10).await;
        let lines = stage
            .plane
            .core
            .store
            .schedule_history("a/s".to_owned())
            .await
            .unwrap();
        let line = lines.last().unwrap();
        assert_eq!(line.instant, first + Millis::from_secs(3600));
        let back = line.at.since(line.instant).0;
        assert!((0..=1_210_000).contains(&back), "{back}");
        // A piece of work has its own time, and then it is over.
        let task = stage.tasks().await.pop().unwrap();
        stage.clock.0.fetch_add(600_000, Ordering::SeqCst);
        stage.plane.core.store.expire_deadlines().await.unwrap();
        let task = abbey_model::TaskRef::Id(task.id);
        let state = stage.plane.core.store.task(task).await.unwrap().state();
        assert_eq!(state, TaskState::TimedOut);
        // Changed, it begins anew; taken out, nothing of it is left.
        stage.apply(&format!("s: {{ every: 2h, {WORK} }}")).await;
        assert!(stage.row().await.since > first);
        stage.apply("").await;
        assert!(stage.plane.core.store.schedules().await.unwrap().is_empty());
    }
}
