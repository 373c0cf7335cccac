//! Schedules.

use super::case::cases;
use crate::support::{Bench, Done, intake, new_task};
use abbey_engine::timetable::Overlap;
use abbey_engine::workflow::{State, Workflow};
use abbey_model::*;
use abbey_store::*;
use std::collections::{BTreeMap, BTreeSet};

cases! {
    a_schedule_is_registered_once_and_anew_when_it_changes checks register_schedule schedules;
    an_instant_fires_once checks fire_schedule schedule_history;
    an_overlap_is_skipped_queued_or_replaced checks fire_schedule;
    missed_instants_are_counted checks fire_schedule schedules;
    a_schedule_starts_workflows checks fire_schedule workflow;
    a_removed_schedule_is_forgotten_with_its_history checks remove_schedules fire_schedule;
    history_is_bounded checks schedule_history fire_schedule;
}

const NAME: &str = "agent-a/nightly";

fn register(bench: &Bench) {
    bench
        .store()
        .register_schedule(NAME.into(), "d1".into())
        .done();
}

fn row(bench: &Bench) -> ScheduleRow {
    bench.store().schedules().done()[NAME].clone()
}

fn at(bench: &Bench, ms: i64) -> Timestamp {
    bench.store().now() + Millis(ms)
}

fn fire_task(instant: Timestamp, overlap: Overlap) -> FireSchedule {
    FireSchedule {
        name: NAME.into(),
        by: Principal::House,
        through: instant,
        missed: 0,
        work: Some((
            instant,
            ScheduledStart::Task(Box::new(new_task("agent-a", "tidy"))),
        )),
        overlap,
    }
}

fn a_schedule_is_registered_once_and_anew_when_it_changes(bench: &mut Bench) {
    register(bench);
    let since = row(bench).since;
    bench.clock.advance(1000);
    register(bench);
    assert_eq!(row(bench).since, since);
    bench
        .store()
        .register_schedule(NAME.into(), "d2".into())
        .done();
    let changed = row(bench);
    assert_eq!(
        (changed.since, changed.settled),
        (at(bench, 0), at(bench, 0))
    );
}

fn an_instant_fires_once(bench: &mut Bench) {
    register(bench);
    let instant = at(bench, 1000);
    for _ in 0..3 {
        bench
            .store()
            .fire_schedule(fire_task(instant, Overlap::Queue))
            .done();
    }
    let settled = row(bench);
    assert_eq!(
        (settled.fired, settled.settled, settled.last_task),
        (1, instant, Some(1))
    );
    let lines = bench.store().schedule_history(NAME.into()).done();
    assert_eq!(
        (lines.len(), lines[0].task, lines[0].outcome.as_str()),
        (1, Some(1), "fired")
    );
}

fn an_overlap_is_skipped_queued_or_replaced(bench: &mut Bench) {
    register(bench);
    let (one, two, three, four) = (at(bench, 1), at(bench, 2), at(bench, 3), at(bench, 4));
    let fire = |instant, overlap| {
        bench
            .store()
            .fire_schedule(fire_task(instant, overlap))
            .done()
    };
    fire(one, Overlap::Skip);
    fire(two, Overlap::Skip);
    let settled = row(bench);
    assert_eq!(
        (settled.fired, settled.skipped, settled.last_task),
        (1, 1, Some(1))
    );
    fire(three, Overlap::Queue);
    assert_eq!(row(bench).last_task, Some(2));
    fire(four, Overlap::Replace);
    assert_eq!(
        bench.task(&TaskRef::Number(2)).state(),
        TaskState::Cancelled
    );
    let lines = bench.store().schedule_history(NAME.into()).done();
    let outcomes: Vec<&str> = lines.iter().map(|l| l.outcome.as_str()).collect();
    let skipped = "skipped: TASK-1 is not over";
    assert_eq!(
        outcomes,
        ["fired, in place of TASK-2", "fired", skipped, "fired"]
    );
}

fn missed_instants_are_counted(bench: &mut Bench) {
    register(bench);
    let through = at(bench, 5000);
    let head = bench.store().audit_head();
    let missed = FireSchedule {
        missed: 4,
        work: None,
        ..fire_task(through, Overlap::Skip)
    };
    bench.store().fire_schedule(missed).done();
    let settled = row(bench);
    assert_eq!(
        (settled.missed, settled.fired, settled.settled),
        (4, 0, through)
    );
    assert_eq!(bench.logged_after(head), ["schedule.missed"]);
}

fn a_schedule_starts_workflows(bench: &mut Bench) {
    register(bench);
    let instant = at(bench, 1000);
    let run = NewRun {
        name: "release".into(),
        workflow: Workflow {
            input: BTreeMap::new(),
            steps: BTreeMap::new(),
            output: BTreeMap::new(),
            within: None,
            on: BTreeSet::new(),
        },
        digest: "d".into(),
        input: BTreeMap::new(),
        by: Principal::House,
        key: None,
    };
    let intakes: Intakes = Box::new(|_| intake(&["agent-a"]));
    let work = Some((instant, ScheduledStart::Workflow(Box::new(run), intakes)));
    let fire = FireSchedule {
        work,
        ..fire_task(instant, Overlap::Skip)
    };
    bench.store().fire_schedule(fire).done();
    assert_eq!(row(bench).last_run, Some(1));
    assert_eq!(bench.store().workflow(1).done().run.state, State::Running);
    let lines = bench.store().schedule_history(NAME.into()).done();
    assert_eq!(lines[0].outcome, "fired: WF-1");
}

fn a_removed_schedule_is_forgotten_with_its_history(bench: &mut Bench) {
    register(bench);
    let instant = at(bench, 1000);
    bench
        .store()
        .fire_schedule(fire_task(instant, Overlap::Skip))
        .done();
    bench.store().remove_schedules(vec![NAME.into()]).done();
    assert!(bench.store().schedules().done().is_empty());
    assert!(
        bench
            .store()
            .schedule_history(NAME.into())
            .done()
            .is_empty()
    );
    let gone = bench
        .store()
        .fire_schedule(fire_task(instant, Overlap::Skip))
        .wait();
    assert!(matches!(gone, Err(Error::NotFound { .. })));
}

fn history_is_bounded(bench: &mut Bench) {
    register(bench);
    let start = at(bench, 0);
    for n in 0..205 {
        let instant = start + Millis(n);
        bench
            .store()
            .fire_schedule(fire_task(instant, Overlap::Skip))
            .done();
    }
    let lines = bench.store().schedule_history(NAME.into()).done();
    assert_eq!((lines.len(), lines[0].instant), (200, start + Millis(204)));
}
