//! What schedules did: a row a schedule, a line for each instant that was settled.

use super::writer::Tx;
use super::{activity, tasks};
use crate::{Error, Fire, NewTask, Result, ScheduleLine, ScheduleRow, TaskRow};
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
        },
    ))
}

const SELECT: &str =
    "SELECT name, digest, since, settled, fired, skipped, missed, last_task FROM schedules";

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
        .prepare_cached("INSERT INTO schedules VALUES (?1, ?2, ?3, ?3, 0, 0, 0, NULL) ON CONFLICT (name) DO UPDATE SET digest = ?2, since = ?3, settled = ?3 WHERE digest != ?2")?
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

/// Settles one instant, once, whoever asks again. With a task it fires, unless the one before is in the way.
pub(super) fn fire(tx: &mut Tx<'_>, fire: Fire) -> Result<Option<TaskRow>> {
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
    let Some((instant, new)) = fire.task else {
        return Ok(None);
    };
    let before = tx
        .db
        .prepare_cached("SELECT 1 FROM schedule_log WHERE name = ?1 AND instant = ?2")?
        .query_row(params![fire.name, instant.0], |_| Ok(()))
        .optional()?;
    if before.is_some() {
        return Ok(None);
    }
    let last = schedule
        .last_task
        .map(|n| tasks::load(tx.db, TaskRef::Number(n)));
    let running = last
        .transpose()
        .unwrap_or(None)
        .filter(|t| !t.state().is_terminal());
    let (outcome, task) = match (running, fire.overlap) {
        (Some(running), Overlap::Skip) => (
            format!("skipped: TASK-{} is not over", running.number),
            None,
        ),
        (Some(running), Overlap::Replace) => {
            let task = TaskRef::Number(running.number);
            tasks::simple(tx, task, &Event::Cancel, &Principal::House)?;
            let added = add(tx, new)?;
            (
                format!("fired, in place of TASK-{}", running.number),
                Some(added),
            )
        }
        (Some(_), Overlap::Queue) | (None, _) => ("fired".to_owned(), Some(add(tx, new)?)),
    };
    let (fired, skipped) = (u64::from(task.is_some()), u64::from(task.is_none()));
    let number = task.as_ref().map(|t: &TaskRow| t.number);
    tx.db
        .prepare_cached("UPDATE schedules SET fired = fired + ?2, skipped = skipped + ?3, last_task = coalesce(?4, last_task) WHERE name = ?1")?
        .execute(params![fire.name, fired, skipped, number])?;
    tx.db
        .prepare_cached("INSERT INTO schedule_log VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![fire.name, instant.0, tx.now.0, outcome, number])?;
    tx.db
        .prepare_cached("DELETE FROM schedule_log WHERE name = ?1 AND instant <= (SELECT instant FROM schedule_log WHERE name = ?1 ORDER BY instant DESC LIMIT 1 OFFSET ?2)")?
        .execute(params![fire.name, LINES_MAX])?;
    let detail = json!({ "instant": instant, "outcome": outcome, "task": number.map(|n| format!("TASK-{n}")) });
    activity::append(tx, &fire.by, "schedule.fire", &fire.name, detail)?;
    Ok(task)
}

fn add(tx: &mut Tx<'_>, new: NewTask) -> Result<TaskRow> {
    tasks::add(tx, new).map(|added| added.task)
}
