//! Runs as rows.

use super::parse;
use crate::{Error, Result, RunCost, RunRow, Usage};
use abbey_engine::admission::Route;
use abbey_model::{EndReason, Generation, RunId, RunState, TaskId, Timestamp};
use rusqlite::{Connection, OptionalExtension};

const SELECT_RUN: &str = "SELECT id, task, agent, generation, state, reason, configured_model, effective_model, actual_model, input, output, cached, usage_source, cost, cost_unknown, charter_hash, facts, started_at, ended_at FROM runs";

fn run_row(r: &rusqlite::Row<'_>) -> rusqlite::Result<Result<RunRow>> {
    let texts: [String; 5] = [r.get(0)?, r.get(1)?, r.get(2)?, r.get(4)?, r.get(16)?];
    let reason: Option<String> = r.get(5)?;
    let generation = Generation(r.get(3)?);
    let models: [Option<String>; 4] = [r.get(6)?, r.get(7)?, r.get(8)?, r.get(15)?];
    let numbers: [u64; 4] = [r.get(9)?, r.get(10)?, r.get(11)?, r.get(13)?];
    let (source, unknown, started, ended): (String, bool, i64, Option<i64>) =
        (r.get(12)?, r.get(14)?, r.get(17)?, r.get(18)?);
    let build = || -> Result<RunRow> {
        let [id, task, agent, state, facts] = &texts;
        let [
            configured_model,
            effective_model,
            actual_model,
            charter_hash,
        ] = models;
        Ok(RunRow {
            id: parse(id)?,
            task: parse(task)?,
            agent: parse(agent)?,
            generation,
            state: parse(state)?,
            reason: reason.as_deref().map(parse::<EndReason>).transpose()?,
            configured_model,
            effective_model,
            actual_model,
            input: numbers[0],
            output: numbers[1],
            cached: numbers[2],
            usage_source: source,
            cost_nano_usd: numbers[3],
            cost_unknown: unknown,
            charter_hash,
            facts: serde_json::from_str(facts)?,
            started_at: Timestamp(started),
            ended_at: ended.map(Timestamp),
        })
    };
    Ok(build())
}

pub(super) fn load(db: &Connection, run: RunId) -> Result<RunRow> {
    let found = db
        .prepare_cached(&format!("{SELECT_RUN} WHERE id = ?1"))?
        .query_row([run.to_string()], run_row)
        .optional()?;
    found.unwrap_or_else(|| {
        Err(Error::NotFound {
            what: "run",
            name: run.to_string(),
        })
    })
}

pub(super) fn of(db: &Connection, task: TaskId) -> Result<Vec<RunRow>> {
    let mut statement = db.prepare_cached(&format!("{SELECT_RUN} WHERE task = ?1 ORDER BY id"))?;
    let rows = statement.query_map([task.to_string()], run_row)?;
    rows.map(|r| r?).collect()
}

/// Most runs of one look.
const COSTS_MAX: u32 = 5000;

/// What runs that ended since then cost, newest first.
pub(super) fn costs(db: &Connection, since: Timestamp) -> Result<Vec<RunCost>> {
    let mut statement = db.prepare_cached(
        "SELECT t.number, t.route, r.agent, r.input + r.output, r.ended_at - r.started_at, r.state FROM runs r JOIN tasks t ON t.id = r.task WHERE r.ended_at >= ?1 ORDER BY r.ended_at DESC LIMIT ?2",
    )?;
    let cost = |r: &rusqlite::Row<'_>| -> rusqlite::Result<Result<RunCost>> {
        let (task, tokens, time): (u64, u64, i64) = (r.get(0)?, r.get(3)?, r.get(4)?);
        let [route, agent, state]: [String; 3] = [r.get(1)?, r.get(2)?, r.get(5)?];
        Ok((|| {
            let route: Route = serde_json::from_str(&route)?;
            Ok(RunCost {
                task,
                skill: route.skill,
                agent: parse(&agent)?,
                tokens,
                time_ms: u64::try_from(time).unwrap_or(0),
                good: parse::<RunState>(&state)? == RunState::Succeeded,
            })
        })())
    };
    let rows = statement.query_map(rusqlite::params![since.0, COSTS_MAX], cost)?;
    rows.map(|r| r?).collect()
}

/// What models were asked since then, by agent and model.
pub(super) fn usage(db: &Connection, since: Timestamp) -> Result<Vec<Usage>> {
    let mut statement = db.prepare_cached(
        "SELECT agent, coalesce(actual_model, effective_model, ''), count(*), sum(input), sum(output), sum(cached), sum(cost), sum(cost_unknown) FROM runs WHERE started_at >= ?1 AND usage_source <> 'none' GROUP BY 1, 2 ORDER BY 1, 2",
    )?;
    let rows = statement.query_map([since.0], |r| {
        Ok(Usage {
            agent: r.get(0)?,
            model: r.get(1)?,
            runs: r.get(2)?,
            input: r.get(3)?,
            output: r.get(4)?,
            cached: r.get(5)?,
            cost_nano_usd: r.get(6)?,
            cost_unknown: r.get(7)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
