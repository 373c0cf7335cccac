//! Schedules: a row for each, and a line of history for each instant that was settled.

use super::transitions::cancel_subtask;
use super::{audit_log, task_rows, tasks, workflows};
use crate::rows::{Columns, Query, Rows, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{
    Error, FireSchedule, Result, ScheduleRecord, ScheduleRow, ScheduledStart, WorkflowSignal,
};
use abbey_engine::timetable::Overlap;
use abbey_model::{Principal, TaskRef};
use serde_json::json;
use std::collections::BTreeMap;

/// Lines of history that a schedule keeps.
const LINES_MAX: u32 = 200;

const SELECT: &str = "SELECT name, digest, since, settled, fired, skipped, missed, last_task, last_run FROM schedules";

fn read_schedule(columns: &mut Columns<'_>) -> Result<(String, ScheduleRow)> {
    Ok((
        columns.get()?,
        ScheduleRow {
            digest: columns.get()?,
            since: columns.get()?,
            settled: columns.get()?,
            fired: columns.get()?,
            skipped: columns.get()?,
            missed: columns.get()?,
            last_task: columns.get()?,
            last_run: columns.get()?,
        },
    ))
}

/// Reads every registered schedule, by `agent/name`.
pub(crate) fn list(rows: &dyn Rows) -> Result<BTreeMap<String, ScheduleRow>> {
    let schedules = rows.all(SELECT, params![], read_schedule)?;
    Ok(schedules.into_iter().collect())
}

/// Reads what the instants of one schedule started, newest first, at most 200.
pub(crate) fn history(rows: &dyn Rows, name: &str) -> Result<Vec<ScheduleRecord>> {
    rows.all(
        "SELECT instant, at, outcome, task FROM schedule_log WHERE name = ?1 ORDER BY instant DESC LIMIT ?2",
        params![name, LINES_MAX],
        |c| {
            Ok(ScheduleRecord {
                instant: c.get()?,
                at: c.get()?,
                outcome: c.get()?,
                task: c.get()?,
            })
        },
    )
}

/// Stores a schedule that counts from now on. One that is stored with another digest starts over; one with the same
/// digest stays unchanged.
pub(crate) fn register(tx: &mut Tx<'_>, name: &str, digest: &str) -> Result<()> {
    let changed = tx.execute(
        "INSERT INTO schedules VALUES (?1, ?2, ?3, ?3, 0, 0, 0, NULL, NULL) ON CONFLICT (name) DO UPDATE SET digest = ?2, since = ?3, settled = ?3 WHERE schedules.digest <> ?2",
        params![name, digest, tx.now],
    )?;
    if changed > 0 {
        tx.publish(Topic::Schedules);
    }
    Ok(())
}

/// Deletes schedules and their history.
pub(crate) fn remove(tx: &mut Tx<'_>, names: &[String]) -> Result<()> {
    for name in names {
        tx.execute("DELETE FROM schedules WHERE name = ?1", params![name])?;
        tx.execute("DELETE FROM schedule_log WHERE name = ?1", params![name])?;
    }
    if !names.is_empty() {
        tx.publish(Topic::Schedules);
    }
    Ok(())
}

/// Records instants of a schedule as fired or missed, each once, and starts the task or workflow of the one that fires,
/// unless the previous start is unfinished and the schedule skips then.
pub(crate) fn fire(tx: &mut Tx<'_>, fire: FireSchedule) -> Result<()> {
    let known = tx.rows.first(
        &format!("{SELECT} WHERE name = ?1"),
        params![&fire.name],
        read_schedule,
    )?;
    let Some((_, schedule)) = known else {
        return Err(Error::NotFound {
            what: "schedule",
            name: fire.name,
        });
    };
    let settled = fire.through.max(schedule.settled);
    tx.execute(
        "UPDATE schedules SET settled = ?2, missed = missed + ?3 WHERE name = ?1",
        params![&fire.name, settled, fire.missed],
    )?;
    tx.publish(Topic::Schedules);
    if fire.missed > 0 {
        let detail = json!({ "missed": fire.missed, "through": fire.through });
        let who = Principal::House;
        audit_log::append(tx, &who, "schedule.missed", &fire.name, detail)?;
    }
    let Some((instant, work)) = fire.work else {
        return Ok(());
    };
    let settled_before = tx.rows.exists(
        "SELECT 1 FROM schedule_log WHERE name = ?1 AND instant = ?2",
        params![&fire.name, instant],
    )?;
    if settled_before {
        return Ok(());
    }
    let unfinished = unfinished_start(tx.rows, &schedule, &work)?;
    let (outcome, started) = match (unfinished, fire.overlap) {
        (Some(before), Overlap::Skip) => (format!("skipped: {before} is not over"), None),
        (Some(before), Overlap::Replace) => {
            cancel_start(tx, before, &work)?;
            let outcome = format!("fired, in place of {before}");
            (outcome, Some(start(tx, work)?))
        }
        (Some(_), Overlap::Queue) | (None, _) => ("fired".to_owned(), Some(start(tx, work)?)),
    };
    let (fired, skipped) = (u64::from(started.is_some()), u64::from(started.is_none()));
    let (task, run) = match started {
        Some(Started::Task(number)) => (Some(number), None),
        Some(Started::Run(number)) => (None, Some(number)),
        None => (None, None),
    };
    tx.execute(
        "UPDATE schedules SET fired = fired + ?2, skipped = skipped + ?3, last_task = coalesce(?4, last_task), last_run = coalesce(?5, last_run) WHERE name = ?1",
        params![&fire.name, fired, skipped, task, run],
    )?;
    let outcome = match run {
        Some(run) => format!("{outcome}: WF-{run}"),
        None => outcome,
    };
    tx.execute(
        "INSERT INTO schedule_log VALUES (?1, ?2, ?3, ?4, ?5)",
        params![&fire.name, instant, tx.now, &outcome, task],
    )?;
    tx.execute(
        "DELETE FROM schedule_log WHERE name = ?1 AND instant <= (SELECT instant FROM schedule_log WHERE name = ?1 ORDER BY instant DESC LIMIT 1 OFFSET ?2)",
        params![&fire.name, LINES_MAX],
    )?;
    let detail = json!({ "instant": instant, "outcome": outcome, "task": task.map(|n| format!("TASK-{n}")), "run": run.map(|n| format!("WF-{n}")) });
    audit_log::append(tx, &fire.by, "schedule.fire", &fire.name, detail)?;
    Ok(())
}

/// What an instant started.
#[derive(Clone, Copy)]
enum Started {
    Task(u64),
    Run(u64),
}

impl std::fmt::Display for Started {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Started::Task(n) => write!(f, "TASK-{n}"),
            Started::Run(n) => write!(f, "WF-{n}"),
        }
    }
}

/// What the instant before started, when that is not over.
fn unfinished_start(
    rows: &dyn Rows,
    schedule: &ScheduleRow,
    work: &ScheduledStart,
) -> Result<Option<Started>> {
    Ok(match work {
        ScheduledStart::Task(_) => {
            let last = schedule.last_task;
            let task = last.and_then(|n| task_rows::load(rows, TaskRef::Number(n)).ok());
            let open = task.filter(|t| !t.state().is_terminal());
            open.map(|t| Started::Task(t.number))
        }
        ScheduledStart::Workflow(..) => {
            let last = schedule.last_run;
            let run = last.and_then(|n| workflows::load(rows, n).ok());
            let open = run.filter(|r| !r.run.state.is_over());
            open.map(|r| Started::Run(r.number))
        }
    })
}

fn cancel_start(tx: &mut Tx<'_>, started: Started, work: &ScheduledStart) -> Result<()> {
    match (started, work) {
        (Started::Run(number), ScheduledStart::Workflow(_, intakes)) => {
            let cancel = WorkflowSignal::Cancel(Principal::House);
            workflows::advance(tx, number, cancel, intakes).map(drop)
        }
        (Started::Task(number), _) => {
            let task = task_rows::load(tx.rows, TaskRef::Number(number))?;
            let why = "its schedule starts it again, and replaces the earlier one".to_owned();
            cancel_subtask(tx, task, why, json!({ "because": "schedule" }))
        }
        (Started::Run(_), ScheduledStart::Task(_)) => Ok(()),
    }
}

fn start(tx: &mut Tx<'_>, work: ScheduledStart) -> Result<Started> {
    match work {
        ScheduledStart::Task(new) => Ok(Started::Task(tasks::add(tx, *new)?.task.number)),
        ScheduledStart::Workflow(new, _) => Ok(Started::Run(workflows::start(tx, *new)?.0)),
    }
}
