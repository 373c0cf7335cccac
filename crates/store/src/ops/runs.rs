//! Runs: one row for each attempt at a task.

use crate::rows::{Columns, Query, Rows, params};
use crate::{AnsweringModel, Error, ModelUsage, Result, RunCost, RunRow};
use abbey_engine::admission::Route;
use abbey_engine::task::Wait;
use abbey_model::{Generation, RunId, RunState, TaskId, Timestamp};

const SELECT: &str = "SELECT id, task, agent, generation, state, reason, configured_model, effective_model, actual_model, input, output, cached, usage_source, cost, cost_unknown, charter_hash, facts, started_at, ended_at, failure FROM runs";

/// Most runs that [`list_costs`] answers with.
const COSTS_MAX: u32 = 5000;

fn read_run(columns: &mut Columns<'_>) -> Result<RunRow> {
    Ok(RunRow {
        id: columns.parse()?,
        task: columns.parse()?,
        agent: columns.parse()?,
        generation: Generation(columns.get()?),
        state: columns.parse()?,
        reason: columns.parse_optional()?,
        configured_model: columns.get()?,
        effective_model: columns.get()?,
        actual_model: columns.get()?,
        input: columns.get()?,
        output: columns.get()?,
        cached: columns.get()?,
        usage_source: columns.get()?,
        cost_nano_usd: columns.get()?,
        cost_unknown: columns.get()?,
        charter_hash: columns.get()?,
        facts: columns.json()?,
        started_at: columns.get()?,
        ended_at: columns.get()?,
        failure: columns.get()?,
    })
}

/// Reads one run by its identifier.
///
/// # Errors
/// [`Error::NotFound`].
pub(crate) fn load(rows: &dyn Rows, run: RunId) -> Result<RunRow> {
    let found = rows.first(
        &format!("{SELECT} WHERE id = ?1"),
        params![run.to_string()],
        read_run,
    )?;
    found.ok_or_else(|| Error::NotFound {
        what: "run",
        name: run.to_string(),
    })
}

/// Reads why the last model call of a run was refused for now; none when it was not.
pub(crate) fn wait(rows: &dyn Rows, run: RunId) -> Result<Option<Wait>> {
    let found = rows.first(
        "SELECT wait FROM runs WHERE id = ?1",
        params![run.to_string()],
        |c| c.json_optional(),
    )?;
    Ok(found.flatten())
}

/// Reads the runs of one task, oldest first.
pub(crate) fn list_of_task(rows: &dyn Rows, task: TaskId) -> Result<Vec<RunRow>> {
    rows.all(
        &format!("{SELECT} WHERE task = ?1 ORDER BY id"),
        params![task.to_string()],
        read_run,
    )
}

/// Reads tokens, time and outcome of the runs that ended at or after `since`, newest first, at most 5,000; without those
/// after which their task waits for a provider or a budget, which count as no run.
pub(crate) fn list_costs(rows: &dyn Rows, since: Timestamp) -> Result<Vec<RunCost>> {
    rows.all(
        "SELECT t.number, t.route, r.agent, r.input + r.output, r.ended_at - r.started_at, r.state FROM runs r JOIN tasks t ON t.id = r.task WHERE r.ended_at >= ?1 AND (r.wait IS NULL OR r.reason NOT IN ('provider_error', 'budget_exhausted', 'agent_error')) ORDER BY r.ended_at DESC LIMIT ?2",
        params![since, COSTS_MAX],
        |c| {
            Ok(RunCost {
                task: c.get()?,
                skill: c.json::<Route>()?.skill,
                agent: c.parse()?,
                tokens: c.get()?,
                time_ms: u64::try_from(c.get::<i64>()?).unwrap_or(0),
                succeeded: c.parse::<RunState>()? == RunState::Succeeded,
            })
        },
    )
}

/// Counts the runs that started at or after `since` by the model that was asked and the one that answered.
pub(crate) fn list_answering_models(
    rows: &dyn Rows,
    since: Timestamp,
) -> Result<Vec<AnsweringModel>> {
    rows.all(
        "SELECT agent, effective_model, actual_model, count(*) FROM runs WHERE started_at >= ?1 AND effective_model IS NOT NULL AND actual_model IS NOT NULL GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        params![since],
        |c| {
            Ok(AnsweringModel {
                agent: c.get()?,
                asked: c.get()?,
                answered: c.get()?,
                runs: c.get()?,
            })
        },
    )
}

/// Sums the model usage of the runs that started at or after `since`, by agent and model.
pub(crate) fn sum_model_usage(rows: &dyn Rows, since: Timestamp) -> Result<Vec<ModelUsage>> {
    rows.all(
        "SELECT agent, coalesce(actual_model, effective_model, ''), count(*), CAST(sum(runs.input) AS BIGINT), CAST(sum(output) AS BIGINT), CAST(sum(cached) AS BIGINT), CAST(sum(cost) AS BIGINT), CAST(sum(cost_unknown) AS BIGINT), CAST(sum(CASE WHEN usage_source = 'unknown' THEN 1 ELSE 0 END) AS BIGINT), CAST(coalesce(sum(spent), 0) AS BIGINT) FROM runs LEFT JOIN budgets ON scope = 'run:' || runs.id AND metric = 'tokens' WHERE started_at >= ?1 AND usage_source <> 'none' GROUP BY 1, 2 ORDER BY 1, 2",
        params![since],
        |c| {
            Ok(ModelUsage {
                agent: c.get()?,
                model: c.get()?,
                runs: c.get()?,
                input: c.get()?,
                output: c.get()?,
                cached: c.get()?,
                cost_nano_usd: c.get()?,
                cost_unknown: c.get()?,
                usage_unknown: c.get()?,
                charged: c.get()?,
            })
        },
    )
}
