//! The ledger: holds on every enclosing budget, all or none, settled exactly once.

use super::writer::Tx;
use super::{activity, links, parse, tasks};
use crate::{BudgetLimit, CallHold, CallUse, Error, Result};
use abbey_engine::budget::{Account, TimeZone};
use abbey_model::{
    Amounts, Metric, NanoUsd, Principal, ReservationId, RunId, Scope, Slug, TaskId, Timestamp,
    Tokens, Window,
};
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;

const SELECT: &str = "SELECT scope, metric, window, limit_, warn, spent, reserved, period_start, resets_at FROM budgets";

fn account(r: &rusqlite::Row<'_>) -> rusqlite::Result<Result<Account>> {
    let (scope, metric, window): (String, String, String) = (r.get(0)?, r.get(1)?, r.get(2)?);
    let resets_at: Option<i64> = r.get(8)?;
    let build = |limit, warn_percent, spent, reserved, period_start| {
        Ok(Account {
            scope: parse(&scope)?,
            metric: parse(&metric)?,
            window: if window == "day" {
                Window::Day
            } else {
                Window::Total
            },
            limit,
            warn_percent,
            spent,
            reserved,
            period_start: Timestamp(period_start),
            resets_at: resets_at.map(Timestamp),
        })
    };
    Ok(build(r.get(3)?, r.get(4)?, r.get(5)?, r.get(6)?, r.get(7)?))
}

/// The house's time zone; UTC until one was set.
pub(super) fn zone(db: &Connection) -> TimeZone {
    let name: Option<String> = db
        .prepare_cached("SELECT value FROM meta WHERE key = 'timezone'")
        .and_then(|mut s| s.query_row([], |r| r.get(0)).optional())
        .unwrap_or_default();
    name.and_then(|n| TimeZone::get(&n).ok())
        .unwrap_or(TimeZone::UTC)
}

/// The account of a scope, as it stands now; read once for each group of operations.
fn get(tx: &mut Tx<'_>, scope: &Scope, metric: Metric) -> Result<Option<Account>> {
    let key = (scope.to_string(), metric.name());
    if let Some(cached) = tx.accounts.get(&key) {
        return Ok(cached.as_ref().map(|(a, _)| a.clone()));
    }
    let found = tx
        .db
        .prepare_cached(&format!("{SELECT} WHERE scope = ?1 AND metric = ?2"))?
        .query_row(params![key.0, key.1], account)
        .optional()?
        .transpose()?
        .map(|a| a.at(tx.now, &tx.zone));
    tx.accounts.insert(key, found.clone().map(|a| (a, false)));
    Ok(found)
}

fn put(tx: &mut Tx<'_>, account: Account) {
    let key = (account.scope.to_string(), account.metric.name());
    let old = tx.accounts.insert(key.clone(), Some((account, true)));
    tx.undo.push((key, old.flatten()));
}

/// Writes the accounts that this group changed.
pub(super) fn flush(tx: &mut Tx<'_>) -> Result<()> {
    for (account, dirty) in std::mem::take(&mut tx.accounts).into_values().flatten() {
        if dirty {
            tx.db
                .prepare_cached(
                    "INSERT INTO budgets VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9) ON CONFLICT (scope, metric) DO UPDATE SET
                     window=?3, limit_=?4, warn=?5, spent=?6, reserved=?7, period_start=?8, resets_at=?9",
                )?
                .execute(params![
                    account.scope.to_string(), account.metric.name(), account.window.name(), account.limit,
                    account.warn_percent, account.spent, account.reserved, account.period_start.0,
                    account.resets_at.map(|t| t.0),
                ])?;
        }
    }
    Ok(())
}

pub(super) fn list(db: &Connection, now: Timestamp) -> Result<Vec<Account>> {
    let zone = zone(db);
    let mut statement = db.prepare_cached(&format!("{SELECT} ORDER BY scope, metric"))?;
    let rows = statement.query_map([], account)?;
    rows.map(|r| Ok(r??.at(now, &zone))).collect()
}

pub(super) fn set_limits(tx: &mut Tx<'_>, limits: &[BudgetLimit], timezone: &str) -> Result<()> {
    tx.zone = TimeZone::get(timezone).map_err(|_| Error::TimeZone(timezone.to_owned()))?;
    tx.db.execute(
        "INSERT INTO meta VALUES ('timezone', ?1) ON CONFLICT (key) DO UPDATE SET value = ?1",
        [timezone],
    )?;
    for limit in limits {
        let old = get(tx, &limit.scope, limit.metric)?;
        let fresh = Account {
            scope: limit.scope.clone(),
            metric: limit.metric,
            window: limit.window,
            limit: limit.limit,
            warn_percent: limit.warn_percent,
            spent: 0,
            reserved: 0,
            period_start: tx.now,
            resets_at: None,
        };
        // What was spent stays: applying a manifest again is not a new day (S4-14).
        let account = match old {
            Some(old) => Account {
                limit: limit.limit,
                warn_percent: limit.warn_percent,
                window: limit.window,
                resets_at: None,
                ..old
            },
            None => fresh,
        };
        let account = account.at(tx.now, &tx.zone);
        put(tx, account);
    }
    Ok(())
}

/// Limits of one task over all its runs.
pub(super) fn limit_task(tx: &mut Tx<'_>, task: TaskId, budget: &Amounts) -> Result<()> {
    for &metric in Metric::ALL {
        if budget.of(metric) > 0 {
            counter(tx, Scope::Task(task), metric, Some(budget.of(metric)))?;
        }
    }
    Ok(())
}

/// Makes sure that a task's tokens are counted, whoever works on it.
pub(super) fn count_task(tx: &mut Tx<'_>, task: TaskId) -> Result<()> {
    counter(tx, Scope::Task(task), Metric::Tokens, None)
}

/// Makes sure that a scope is counted.
fn counter(tx: &mut Tx<'_>, scope: Scope, metric: Metric, limit: Option<u64>) -> Result<()> {
    if get(tx, &scope, metric)?.is_none() {
        let account = Account {
            scope,
            metric,
            window: Window::Total,
            limit,
            warn_percent: 80,
            spent: 0,
            reserved: 0,
            period_start: tx.now,
            resets_at: None,
        };
        put(tx, account);
    }
    Ok(())
}

/// Tokens left in an agent's own and the house's budget.
pub(super) fn tokens_left(tx: &mut Tx<'_>, agent: &Slug) -> Result<Option<u64>> {
    let mut least: Option<u64> = None;
    for scope in [Scope::House, Scope::Agent(agent.clone())] {
        for metric in [Metric::Tokens, Metric::NanoUsd] {
            let left = get(tx, &scope, metric)?.and_then(|a| a.left());
            // Money left says whether anything can be bought, not how many tokens.
            let left = if metric == Metric::NanoUsd {
                left.filter(|l| *l == 0)
            } else {
                left
            };
            least = match (least, left) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
    }
    Ok(least)
}

/// Everything that a call of a run is charged to: also what the work is a piece of.
fn scopes(tx: &Tx<'_>, agent: &Slug, task: TaskId, run: RunId) -> Result<Vec<Scope>> {
    let mut scopes = vec![
        Scope::House,
        Scope::Agent(agent.clone()),
        Scope::Task(task),
        Scope::Run(run),
    ];
    scopes.extend(links::ancestors(tx.db, task)?.into_iter().map(Scope::Task));
    Ok(scopes)
}

/// Holds `amounts` on every scope that counts them, or on none.
fn hold(tx: &mut Tx<'_>, scopes: &[Scope], amounts: &Amounts) -> Result<()> {
    for scope in scopes {
        for &metric in Metric::ALL {
            let amount = amounts.of(metric);
            if amount > 0
                && let Some(mut account) = get(tx, scope, metric)?
            {
                account.reserve(amount)?;
                put(tx, account);
            }
        }
    }
    Ok(())
}

fn record(
    tx: &Tx<'_>,
    agent: &Slug,
    task: TaskId,
    run: RunId,
    kind: &str,
    amounts: &Amounts,
    scopes: &[Scope],
) -> Result<ReservationId> {
    let id = tasks::new_reservation(tx.now)?;
    tx.db
        .prepare_cached("INSERT INTO reservations VALUES (?1,?2,?3,?4,?5,?6,?7,?8)")?
        .execute(params![
            id.to_string(),
            run.to_string(),
            task.to_string(),
            agent.as_str(),
            kind,
            serde_json::to_string(amounts)?,
            serde_json::to_string(scopes)?,
            tx.now.0,
        ])?;
    Ok(id)
}

/// The hold of a run as such: one run and its wall time. Scopes that count neither are left out.
pub(super) fn reserve_run(
    tx: &mut Tx<'_>,
    agent: &Slug,
    task: TaskId,
    run: RunId,
    amounts: Amounts,
) -> Result<()> {
    let mut counted = Vec::new();
    let own = scopes(tx, agent, task, run)?;
    for scope in own.into_iter().filter(|s| !matches!(s, Scope::Run(_))) {
        if get(tx, &scope, Metric::Runs)?.is_some() || get(tx, &scope, Metric::Seconds)?.is_some() {
            counted.push(scope);
        }
    }
    if counted.is_empty() {
        return Ok(());
    }
    hold(tx, &counted, &amounts)?;
    record(tx, agent, task, run, "run", &amounts, &counted)?;
    Ok(())
}

pub(super) fn settle_run(tx: &mut Tx<'_>, run: RunId, seconds: u64) -> Result<()> {
    let found: Option<String> = tx
        .db
        .prepare_cached("SELECT id FROM reservations WHERE run = ?1 AND kind = 'run'")?
        .query_row([run.to_string()], |r| r.get(0))
        .optional()?;
    match found {
        Some(id) => release(
            tx,
            parse(&id)?,
            &Amounts {
                runs: 1,
                seconds,
                ..Amounts::default()
            },
        )
        .map(drop),
        None => Ok(()),
    }
}

struct Open {
    run: RunId,
    agent: Slug,
    amounts: Amounts,
}

/// Ends a hold with the true amounts.
fn release(tx: &mut Tx<'_>, id: ReservationId, actual: &Amounts) -> Result<Open> {
    let (run, agent, amounts, scopes): (String, String, String, String) = tx
        .db
        .prepare_cached(
            "DELETE FROM reservations WHERE id = ?1 RETURNING run, agent, amounts, scopes",
        )?
        .query_row([id.to_string()], |r| {
            Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?))
        })
        .optional()?
        .ok_or_else(|| Error::NotFound {
            what: "open reservation",
            name: id.to_string(),
        })?;
    let amounts: Amounts = serde_json::from_str(&amounts)?;
    let scopes: Vec<Scope> = serde_json::from_str(&scopes)?;
    for scope in &scopes {
        for &metric in Metric::ALL {
            let (held, used) = (amounts.of(metric), actual.of(metric));
            if (held > 0 || used > 0)
                && let Some(mut account) = get(tx, scope, metric)?
            {
                account.settle(held, used);
                put(tx, account);
            }
        }
    }
    Ok(Open {
        run: parse(&run)?,
        agent: parse(&agent)?,
        amounts,
    })
}

pub(super) fn reserve_call(tx: &mut Tx<'_>, call: &CallHold) -> Result<ReservationId> {
    // Only a live lease of this very agent stands behind a call.
    let mut statement = tx.db.prepare_cached(
        "SELECT id, json_extract(phase, '$.lease.run'), json_extract(phase, '$.lease.expires_at') FROM tasks WHERE holder = ?1",
    )?;
    let live: Vec<(String, String, i64)> = statement
        .query_map([call.agent.as_str()], |r| {
            Ok((r.get(0)?, r.get(1)?, r.get(2)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    drop(statement);
    let wanted = call.run.map(|r| r.to_string());
    let mut fitting = live
        .iter()
        .filter(|(_, run, until)| *until > tx.now.0 && wanted.as_ref().is_none_or(|w| w == run));
    let (Some((task, run, _)), None) = (fitting.next(), fitting.next()) else {
        return Err(Error::NoLease(
            wanted.unwrap_or_else(|| "(name it in the header Abbey-Run)".to_owned()),
        ));
    };
    let (task, run): (TaskId, RunId) = (parse(task)?, parse(run)?);
    let scopes = scopes(tx, &call.agent, task, run)?;
    for scope in &scopes[2..4] {
        counter(tx, scope.clone(), Metric::Tokens, None)?;
    }
    hold(tx, &scopes, &call.amounts)?;
    let id = record(tx, &call.agent, task, run, "call", &call.amounts, &scopes)?;
    let detail = json!({ "run": run, "reservation": id, "tokens": call.amounts.tokens, "model": call.model });
    activity::append(
        tx,
        &Principal::Agent(call.agent.clone()),
        "budget.reserve",
        "model-call",
        detail,
    )?;
    Ok(id)
}

pub(super) fn settle_call(tx: &mut Tx<'_>, id: ReservationId, used: &CallUse) -> Result<()> {
    let held: Option<String> = tx
        .db
        .prepare_cached("SELECT amounts FROM reservations WHERE id = ?1")?
        .query_row([id.to_string()], |r| r.get(0))
        .optional()?;
    let held: Amounts = match held {
        Some(text) => serde_json::from_str(&text)?,
        None => {
            return Err(Error::NotFound {
                what: "open reservation",
                name: id.to_string(),
            });
        }
    };
    let actual = match used {
        CallUse::Known {
            input,
            output,
            cost,
            ..
        } => Amounts {
            tokens: Tokens(input + output),
            // Without a price the money that was held is what it costs: unknown is never 0.
            nano_usd: cost.map_or(held.nano_usd, NanoUsd),
            ..Amounts::default()
        },
        CallUse::Unknown { .. } => held,
        CallUse::Released => Amounts::default(),
    };
    let open = release(tx, id, &actual)?;
    let run = open.run.to_string();
    let detail = match used {
        CallUse::Known {
            input,
            output,
            cached,
            cost,
            model,
        } => {
            tx.db
                .prepare_cached(
                    "UPDATE runs SET input = input + ?2, output = output + ?3, cached = cached + ?4, cost = cost + ?5, cost_unknown = max(cost_unknown, ?6),
                     actual_model = coalesce(?7, actual_model), usage_source = CASE usage_source WHEN 'unknown' THEN 'unknown' ELSE 'provider' END WHERE id = ?1",
                )?
                .execute(params![run, input, output, cached, cost.unwrap_or(0), cost.is_none(), model])?;
            json!({ "run": open.run, "input": input, "output": output, "cached": cached, "model": model })
        }
        CallUse::Unknown { model } => {
            tx.db
                .prepare_cached("UPDATE runs SET usage_source = 'unknown', cost_unknown = 1, actual_model = coalesce(?2, actual_model) WHERE id = ?1")?
                .execute(params![run, model])?;
            json!({ "run": open.run, "unknown": true, "charged_tokens": open.amounts.tokens, "model": model })
        }
        CallUse::Released => json!({ "run": open.run, "released": true }),
    };
    activity::append(
        tx,
        &Principal::Agent(open.agent),
        "budget.settle",
        "model-call",
        detail,
    )?;
    Ok(())
}

/// Calls that a crash cut off: the provider may have billed them, so they cost all that was held.
pub(super) fn charge_lost(tx: &mut Tx<'_>) -> Result<u64> {
    let mut statement = tx
        .db
        .prepare_cached("SELECT id FROM reservations WHERE kind = 'call'")?;
    let ids: Vec<String> = statement
        .query_map([], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    drop(statement);
    for id in &ids {
        settle_call(tx, parse(id)?, &CallUse::Unknown { model: None })?;
    }
    Ok(ids.len() as u64)
}
