//! What schedules did: a row a schedule, a line for each instant that was settled.

use super::writer::Tx;
use super::{activity, tasks, workflows};
use crate::{Error, Fire, Nudge, Result, ScheduleLine, ScheduleRow, Work};
use abbey_engine::task::Event;
use abbey_engine::timetable::Overlap;
use abbey_model::{Principal, TaskRef, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;

/// Lines of history that a schedule keeps.
const LINES_MAX: u32 = 200;

fn row(r: &rusqlite::Row<'_>) -> rusqlite::Result<(String, ScheduleRow)> {
    Ok((
        r.get(0)?,
        ScheduleRow {
            digest: r.get(1)?,
            since: Timestamp(r.get(2)?),
            settled: Timestamp(r.get(3)?),
            fired: r.get(4)?,
            skipped: r.get(5)?,
            missed: r.get(6)?,
            last_task: r.get(7)?,
            last_run: r.get(8)?,
        },
    ))
}

const SELECT: &str = "SELECT name, digest, since, settled, fired, skipped, missed, last_task, last_run FROM schedules";

pub(super) fn list(db: &Connection) -> Result<std::collections::BTreeMap<String, ScheduleRow>> {
    let mut statement = db.prepare_cached(SELECT)?;
    let rows = statement.query_map([], row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn history(db: &Connection, name: &str) -> Result<Vec<ScheduleLine>> {
    let mut statement = db.prepare_cached(
        "SELECT instant, at, outcome, task FROM schedule_log WHERE name = ?1 ORDER BY instant DESC LIMIT ?2",
    )?;
    let line = |r: &rusqlite::Row<'_>| {
        Ok(ScheduleLine {
            instant: Timestamp(r.get(0)?),
            at: Timestamp(r.get(1)?),
            outcome: r.get(2)?,
            task: r.get(3)?,
        })
    };
    let rows = statement.query_map(params![name, LINES_MAX], line)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Makes a schedule known, from now on; a changed one begins anew.
pub(super) fn know(tx: &mut Tx<'_>, name: &str, digest: &str) -> Result<()> {
    tx.db
        .prepare_cached("INSERT INTO schedules VALUES (?1, ?2, ?3, ?3, 0, 0, 0, NULL, NULL) ON CONFLICT (name) DO UPDATE SET digest = ?2, since = ?3, settled = ?3 WHERE digest != ?2")?
        .execute(params![name, digest, tx.now.0])?;
    Ok(())
}

/// Forgets schedules that nobody has any more.
pub(super) fn forget(tx: &mut Tx<'_>, names: &[String]) -> Result<()> {
    for name in names {
        tx.db
            .execute("DELETE FROM schedules WHERE name = ?1", [name])?;
        tx.db
            .execute("DELETE FROM schedule_log WHERE name = ?1", [name])?;
    }
    Ok(())
}

/// Settles one instant, once, whoever asks again. With work it fires, unless the one before is in the way.
pub(super) fn fire(tx: &mut Tx<'_>, fire: Fire) -> Result<()> {
    let known = tx
        .db
        .prepare_cached(&format!("{SELECT} WHERE name = ?1"))?
        .query_row([&fire.name], row)
        .optional()?;
    let Some((_, schedule)) = known else {
        return Err(Error::NotFound {
            what: "schedule",
            name: fire.name,
        });
    };
    let settled = fire.through.max(schedule.settled);
    tx.db
        .prepare_cached("UPDATE schedules SET settled = ?2, missed = missed + ?3 WHERE name = ?1")?
        .execute(params![fire.name, settled.0, fire.missed])?;
    if fire.missed > 0 {
        let detail = json!({ "missed": fire.missed, "through": fire.through });
        activity::append(tx, &Principal::House, "schedule.missed", &fire.name, detail)?;
    }
    let Some((instant, work)) = fire.work else {
        return Ok(());
    };
    let before = tx
        .db
        .prepare_cached("SELECT 1 FROM schedule_log WHERE name = ?1 AND instant = ?2")?
        .query_row(params![fire.name, instant.0], |_| Ok(()))
        .optional()?;
    if before.is_some() {
        return Ok(());
    }
    let running = running(tx, &schedule, &work)?;
    let (outcome, began) = match (running, fire.overlap) {
        (Some(running), Overlap::Skip) => (format!("skipped: {running} is not over"), None),
        (Some(running), Overlap::Replace) => {
            call_off(tx, running, &work)?;
            let outcome = format!("fired, in place of {running}");
            (outcome, Some(begin(tx, work)?))
        }
        (Some(_), Overlap::Queue) | (None, _) => ("fired".to_owned(), Some(begin(tx, work)?)),
    };
    let (fired, skipped) = (u64::from(began.is_some()), u64::from(began.is_none()));
    let (task, run) = match began {
        Some(Began::Task(number)) => (Some(number), None),
        Some(Began::Run(number)) => (None, Some(number)),
        None => (None, None),
    };
    tx.db
        .prepare_cached("UPDATE schedules SET fired = fired + ?2, skipped = skipped + ?3, last_task = coalesce(?4, last_task), last_run = coalesce(?5, last_run) WHERE name = ?1")?
        .execute(params![fire.name, fired, skipped, task, run])?;
    let told = match run {
        Some(run) => format!("{outcome}: WF-{run}"),
        None => outcome,
    };
    tx.db
        .prepare_cached("INSERT INTO schedule_log VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![fire.name, instant.0, tx.now.0, told, task])?;
    tx.db
        .prepare_cached("DELETE FROM schedule_log WHERE name = ?1 AND instant <= (SELECT instant FROM schedule_log WHERE name = ?1 ORDER BY instant DESC LIMIT 1 OFFSET ?2)")?
        .execute(params![fire.name, LINES_MAX])?;
    let detail = json!({ "instant": instant, "outcome": told, "task": task.map(|n| format!("TASK-{n}")), "run": run.map(|n| format!("WF-{n}")) });
    activity::append(tx, &fire.by, "schedule.fire", &fire.name, detail)?;
    Ok(())
}

/// What an instant began.
#[derive(Clone, Copy)]
enum Began {
    Task(u64),
    Run(u64),
}

impl std::fmt::Display for Began {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Began::Task(n) => write!(f, "TASK-{n}"),
            Began::Run(n) => write!(f, "WF-{n}"),
        }
    }
}

/// What the instant before began, when that is not over.
fn running(tx: &Tx<'_>, schedule: &ScheduleRow, work: &Work) -> Result<Option<Began>> {
    Ok(match work {
        Work::Task(_) => {
            let last = schedule.last_task;
            let task = last.and_then(|n| tasks::load(tx.db, TaskRef::Number(n)).ok());
            let open = task.filter(|t| !t.state().is_terminal());
            open.map(|t| Began::Task(t.number))
        }
        Work::Run(..) => {
            let last = schedule.last_run;
            let run = last.and_then(|n| workflows::load(tx.db, n).ok());
            let open = run.filter(|r| !r.run.state.is_over());
            open.map(|r| Began::Run(r.number))
        }
    })
}

fn call_off(tx: &mut Tx<'_>, running: Began, work: &Work) -> Result<()> {
    match (running, work) {
        (Began::Run(number), Work::Run(_, intakes)) => {
            let nudge = Nudge::CallOff(Principal::House);
            workflows::advance(tx, number, nudge, intakes).map(drop)
        }
        (Began::Task(number), _) => {
            let task = TaskRef::Number(number);
            tasks::simple(tx, task, &Event::Cancel, &Principal::House).map(drop)
        }
        (Began::Run(_), Work::Task(_)) => Ok(()),
    }
}

fn begin(tx: &mut Tx<'_>, work: Work) -> Result<Began> {
    match work {
        Work::Task(new) => Ok(Began::Task(tasks::add(tx, *new)?.task.number)),
        Work::Run(new, _) => Ok(Began::Run(workflows::start(tx, *new)?.0)),
    }
}
