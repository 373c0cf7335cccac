//! The ledger: reservations on every enclosing budget, all or none, settled exactly once.

use super::{audit_log, limit_overrides, task_rows, waits};
use crate::rows::{Columns, Query, Rows, params, parse};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{BudgetLimit, CallReservation, CallUsage, Error, Result};
use abbey_engine::budget::{Account, TimeZone};
use abbey_engine::task::Phase;
use abbey_model::{
    BudgetAmounts, BudgetState, Metric, NanoUsd, Principal, ReservationId, RunId, Scope, Slug,
    TaskId, Timestamp, Tokens, Window,
};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const SELECT: &str = "SELECT scope, metric, \"window\", limit_, warn, spent, reserved, period_start, resets_at FROM budgets";

fn read_account(columns: &mut Columns<'_>) -> Result<Account> {
    Ok(Account {
        scope: columns.parse()?,
        metric: columns.parse()?,
        window: match columns.get::<String>()?.as_str() {
            "day" => Window::Day,
            _ => Window::Total,
        },
        limit: columns.get()?,
        warn_percent: columns.get()?,
        spent: columns.get()?,
        reserved: columns.get()?,
        period_start: columns.get()?,
        resets_at: columns.get()?,
    })
}

/// Time zone in which daily budgets begin; UTC until one is set.
pub(crate) fn time_zone(rows: &dyn Rows) -> Result<TimeZone> {
    let name: Option<String> =
        rows.value("SELECT value FROM meta WHERE key = 'timezone'", params![])?;
    Ok(name
        .and_then(|n| TimeZone::get(&n).ok())
        .unwrap_or(TimeZone::UTC))
}

/// The account of a scope as it stands now; read once for each group of operations.
pub(crate) fn account(tx: &mut Tx<'_>, scope: &Scope, metric: Metric) -> Result<Option<Account>> {
    let key = (scope.to_string(), metric.name());
    if let Some(cached) = tx.accounts.get(&key) {
        return Ok(cached.as_ref().map(|(a, _)| a.clone()));
    }
    let found = tx
        .rows
        .first(
            &format!("{SELECT} WHERE scope = ?1 AND metric = ?2"),
            params![&key.0, key.1],
            read_account,
        )?
        .map(|a| a.as_of(tx.now, &tx.zone));
    tx.accounts.insert(key, found.clone().map(|a| (a, false)));
    Ok(found)
}

/// Changes an account in this group of operations; [`write_changed_accounts`] writes it.
pub(crate) fn put_account(tx: &mut Tx<'_>, account: Account) {
    let key = (account.scope.to_string(), account.metric.name());
    let old = tx.accounts.insert(key.clone(), Some((account, true)));
    tx.undo.push((key, old.flatten()));
}

/// Writes the budget accounts that this transaction changed in its cache to the database.
pub(crate) fn write_changed_accounts(tx: &mut Tx<'_>) -> Result<()> {
    for (account, changed) in std::mem::take(&mut tx.accounts).into_values().flatten() {
        if changed {
            tx.execute(
                "INSERT INTO budgets VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (scope, metric) DO UPDATE SET
                 \"window\" = ?3, limit_ = ?4, warn = ?5, spent = ?6, reserved = ?7, period_start = ?8, resets_at = ?9",
                params![
                    account.scope.to_string(), account.metric.name(), account.window.name(), account.limit,
                    account.warn_percent, account.spent, account.reserved, account.period_start, account.resets_at,
                ],
            )?;
        }
    }
    Ok(())
}

/// Reads every budget account with its limit, spending and reservations at `now`.
pub(crate) fn list(rows: &dyn Rows, now: Timestamp) -> Result<Vec<Account>> {
    let zone = time_zone(rows)?;
    rows.all(
        &format!("{SELECT} ORDER BY scope, metric"),
        params![],
        |c| Ok(read_account(c)?.as_of(now, &zone)),
    )
}

/// Numbers of the tasks that have a budget account.
pub(crate) fn task_numbers(rows: &dyn Rows) -> Result<BTreeMap<TaskId, u64>> {
    let rows = rows.all(
        "SELECT id, number FROM tasks WHERE id IN
         (SELECT substr(scope, 6) FROM budgets WHERE scope LIKE 'task:%')",
        params![],
        |c| Ok((c.parse()?, c.get()?)),
    )?;
    Ok(rows.into_iter().collect())
}

/// Sets budget limits and the time zone of daily budgets. Amounts already spent stay, so that applying a manifest again
/// does not start a new day (S4-14).
pub(crate) fn set_limits(tx: &mut Tx<'_>, limits: &[BudgetLimit], timezone: &str) -> Result<()> {
    tx.zone = TimeZone::get(timezone).map_err(|_| Error::TimeZone(timezone.to_owned()))?;
    tx.execute(
        "INSERT INTO meta VALUES ('timezone', ?1) ON CONFLICT (key) DO UPDATE SET value = ?1",
        params![timezone],
    )?;
    let limits = with_unstated(tx, limits)?;
    limit_overrides::end_unstated(tx, &limits)?;
    for limit in &limits {
        let in_force = limit_overrides::limit_in_force(tx, limit)?;
        let account = match account(tx, &limit.scope, limit.metric)? {
            Some(old) => Account {
                limit: in_force,
                warn_percent: limit.warn_percent,
                ..old.with_window(limit.window, tx.now, &tx.zone)
            },
            None => Account {
                scope: limit.scope.clone(),
                metric: limit.metric,
                window: limit.window,
                limit: in_force,
                warn_percent: limit.warn_percent,
                spent: 0,
                // Runs that began before the budget was counted are settled on it as well.
                reserved: open_reservations(tx.rows, &limit.scope, limit.metric)?,
                period_start: tx.now,
                resets_at: None,
            },
        };
        let account = account.as_of(tx.now, &tx.zone);
        put_account(tx, account);
    }
    tx.publish(Topic::Budgets);
    Ok(())
}

/// The limits, with an entry without a limit for each metric that is counted for one of their scopes and about which the
/// manifest states nothing (any more).
fn with_unstated(tx: &mut Tx<'_>, limits: &[BudgetLimit]) -> Result<Vec<BudgetLimit>> {
    let name = |scope: &Scope, metric: Metric| (scope.to_string(), metric);
    let mut stated: BTreeSet<(String, Metric)> =
        limits.iter().map(|l| name(&l.scope, l.metric)).collect();
    let mut all = limits.to_vec();
    for limit in limits {
        for &metric in Metric::ALL {
            let is_new = stated.insert(name(&limit.scope, metric));
            if is_new && account(tx, &limit.scope, metric)?.is_some() {
                all.push(BudgetLimit {
                    metric,
                    limit: None,
                    ..limit.clone()
                });
            }
        }
    }
    Ok(all)
}

/// Sum of what open reservations hold of a scope's metric.
fn open_reservations(rows: &dyn Rows, scope: &Scope, metric: Metric) -> Result<u64> {
    let open = rows.all("SELECT amounts, scopes FROM reservations", params![], |c| {
        Ok((c.json::<BudgetAmounts>()?, c.json::<Vec<Scope>>()?))
    })?;
    let held = open
        .into_iter()
        .filter(|(_, scopes)| scopes.contains(scope));
    Ok(held.fold(0, |sum: u64, (amounts, _)| {
        sum.saturating_add(amounts.of(metric))
    }))
}

/// Moves what an agent has spent and reserved to the accounts of its new name. Nothing stays under the old one, nor what
/// an earlier agent of the new name spent.
pub(crate) fn rename_agent_accounts(tx: &mut Tx<'_>, old: &Slug, new: &Slug) -> Result<()> {
    let scope = Scope::Agent(new.clone());
    for &metric in Metric::ALL {
        remove_account(tx, &scope, metric)?;
        if let Some(before) = remove_account(tx, &Scope::Agent(old.clone()), metric)? {
            put_account(
                tx,
                Account {
                    scope: scope.clone(),
                    ..before
                },
            );
        }
    }
    limit_overrides::rename(tx, &Scope::Agent(old.clone()), &Scope::Agent(new.clone()))
}

/// Removes an account; returns it as it stood.
fn remove_account(tx: &mut Tx<'_>, scope: &Scope, metric: Metric) -> Result<Option<Account>> {
    let found = account(tx, scope, metric)?;
    let key = (scope.to_string(), metric.name());
    tx.execute(
        "DELETE FROM budgets WHERE scope = ?1 AND metric = ?2",
        params![&key.0, key.1],
    )?;
    let old = tx.accounts.insert(key.clone(), None);
    tx.undo.push((key, old.flatten()));
    Ok(found)
}

/// Sets the budget limits of one task, over all its runs and subtasks.
pub(crate) fn set_task_limits(tx: &mut Tx<'_>, task: TaskId, budget: &BudgetAmounts) -> Result<()> {
    for &metric in Metric::ALL {
        if budget.of(metric) > 0 {
            open_account(tx, Scope::Task(task), metric, Some(budget.of(metric)))?;
        }
    }
    Ok(())
}

/// Opens an account that counts the tokens of a task without limiting them, unless the task has one.
pub(crate) fn open_task_account(tx: &mut Tx<'_>, task: TaskId) -> Result<()> {
    open_account(tx, Scope::Task(task), Metric::Tokens, None)
}

/// Makes sure that a scope is counted; an account that exists stays as it is.
fn open_account(tx: &mut Tx<'_>, scope: Scope, metric: Metric, limit: Option<u64>) -> Result<()> {
    if account(tx, &scope, metric)?.is_none() {
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
        put_account(tx, account);
    }
    Ok(())
}

/// Everything that a call of a run is charged to, with the tasks above its own.
fn scopes_of_run(tx: &Tx<'_>, agent: &Slug, task: TaskId, run: RunId) -> Result<Vec<Scope>> {
    let mut scopes = vec![
        Scope::House,
        Scope::Agent(agent.clone()),
        Scope::Task(task),
        Scope::Run(run),
    ];
    let above = task_rows::ancestors(tx.rows, task)?;
    scopes.extend(above.into_iter().map(Scope::Task));
    Ok(scopes)
}

/// Reserves `amounts` on every scope that counts them; when one refuses, the operation fails and none is reserved.
fn reserve(tx: &mut Tx<'_>, scopes: &[Scope], amounts: &BudgetAmounts) -> Result<()> {
    for scope in scopes {
        for &metric in Metric::ALL {
            let amount = amounts.of(metric);
            if amount > 0
                && let Some(mut account) = account(tx, scope, metric)?
            {
                account.reserve(amount)?;
                put_account(tx, account);
            }
        }
    }
    Ok(())
}

/// What a reservation is for.
struct Purpose<'a> {
    agent: &'a Slug,
    task: TaskId,
    run: RunId,
    /// `run` or `call`.
    kind: &'static str,
}

fn insert_reservation(
    tx: &Tx<'_>,
    purpose: &Purpose<'_>,
    amounts: &BudgetAmounts,
    scopes: &[Scope],
) -> Result<ReservationId> {
    let id: ReservationId = tx.new_id()?;
    tx.execute(
        "INSERT INTO reservations VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            id.to_string(),
            purpose.run.to_string(),
            purpose.task.to_string(),
            purpose.agent.as_str(),
            purpose.kind,
            serde_json::to_string(amounts)?,
            serde_json::to_string(scopes)?,
            tx.now,
        ],
    )?;
    Ok(id)
}

/// Reserves the wall time of a new run, and one run, on every budget that counts them.
///
/// # Errors
/// When a budget refuses; then nothing is reserved.
pub(crate) fn reserve_run(
    tx: &mut Tx<'_>,
    agent: &Slug,
    task: TaskId,
    run: RunId,
    amounts: BudgetAmounts,
) -> Result<()> {
    let mut counted = Vec::new();
    let own = scopes_of_run(tx, agent, task, run)?;
    for scope in own.into_iter().filter(|s| !matches!(s, Scope::Run(_))) {
        if account(tx, &scope, Metric::Runs)?.is_some()
            || account(tx, &scope, Metric::Seconds)?.is_some()
        {
            counted.push(scope);
        }
    }
    if counted.is_empty() {
        return Ok(());
    }
    reserve(tx, &counted, &amounts)?;
    let purpose = Purpose {
        agent,
        task,
        run,
        kind: "run",
    };
    insert_reservation(tx, &purpose, &amounts, &counted)?;
    Ok(())
}

/// Ends the reservation of a run and charges the wall seconds that it took, and one run unless it only had to wait.
pub(crate) fn settle_run(tx: &mut Tx<'_>, run: RunId, seconds: u64, waited: bool) -> Result<()> {
    let found: Option<String> = tx.rows.value(
        "SELECT id FROM reservations WHERE run = ?1 AND kind = 'run'",
        params![run.to_string()],
    )?;
    let Some(id) = found else { return Ok(()) };
    let actual = BudgetAmounts {
        runs: u64::from(!waited),
        seconds,
        ..BudgetAmounts::default()
    };
    close_reservation(tx, parse(&id)?, &actual)?;
    Ok(())
}

/// A reservation that was closed.
struct Closed {
    run: RunId,
    agent: Slug,
    amounts: BudgetAmounts,
}

/// Ends a reservation and charges what was really used.
fn close_reservation(tx: &mut Tx<'_>, id: ReservationId, actual: &BudgetAmounts) -> Result<Closed> {
    let found = tx.rows.first(
        "DELETE FROM reservations WHERE id = ?1 RETURNING run, agent, amounts, scopes",
        params![id.to_string()],
        |c| {
            let closed = Closed {
                run: c.parse()?,
                agent: c.parse()?,
                amounts: c.json()?,
            };
            Ok((closed, c.json::<Vec<Scope>>()?))
        },
    )?;
    let (closed, scopes) = found.ok_or_else(|| not_open(id))?;
    for scope in &scopes {
        for &metric in Metric::ALL {
            let (held, used) = (closed.amounts.of(metric), actual.of(metric));
            if (held > 0 || used > 0)
                && let Some(mut account) = account(tx, scope, metric)?
            {
                let before = account.state();
                // Less only in a house whose budgets an earlier release began to count in the middle of a run.
                account.settle(held.min(account.reserved), used);
                put_account(tx, account.clone());
                if let Some(level) = account.level_reached(before) {
                    report_level(tx, &account, level)?;
                }
                // An open reservation was in the way of others, whether it turned out smaller or not.
                waits::wake_for_room(tx, &account)?;
            }
        }
    }
    Ok(closed)
}

/// Enters in the audit log that a budget reached its level of warning, or is used up.
fn report_level(tx: &mut Tx<'_>, account: &Account, level: BudgetState) -> Result<()> {
    let action = match level {
        BudgetState::Exhausted => "budget.exhausted",
        BudgetState::Warning | BudgetState::Ok | BudgetState::Unlimited => "budget.warning",
    };
    let detail = json!({
        "metric": account.metric, "spent": account.spent, "limit": account.limit, "warn_percent": account.warn_percent,
    });
    let scope = account.scope.to_string();
    audit_log::append(tx, &Principal::House, action, &scope, detail)?;
    Ok(())
}

fn not_open(id: ReservationId) -> Error {
    Error::NotFound {
        what: "open reservation",
        name: id.to_string(),
    }
}

/// The task and run that a model call of an agent belongs to: the run that the caller named, or else the agent's only one.
pub(crate) fn live_run(
    tx: &Tx<'_>,
    agent: &Slug,
    named: Option<RunId>,
) -> Result<Option<(TaskId, RunId)>> {
    let held = tx.rows.all(
        "SELECT id, phase FROM tasks WHERE holder = ?1",
        params![agent.as_str()],
        |c| Ok((c.parse::<TaskId>()?, c.json::<Phase>()?)),
    )?;
    let mut fitting = held.iter().filter_map(|(task, phase)| {
        let lease = phase.lease().filter(|l| l.expires_at > tx.now)?;
        let matches = named.is_none_or(|run| run == lease.run);
        matches.then_some((*task, lease.run))
    });
    Ok(match (fitting.next(), fitting.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    })
}

/// Reserves the amounts of a model call on the budgets of the house, agent, tasks and run that it is charged to.
///
/// # Errors
/// [`Error::NoLease`] unless the agent has exactly one running task that the call can belong to; or the refusal of a
/// budget, and then nothing is reserved.
pub(crate) fn reserve_call(tx: &mut Tx<'_>, call: &CallReservation) -> Result<ReservationId> {
    let Some((task, run)) = live_run(tx, &call.agent, call.run)? else {
        return Err(Error::NoLease(call.run.map_or_else(
            || "(name it in the header Abbey-Run)".to_owned(),
            |run| run.to_string(),
        )));
    };
    let scopes = scopes_of_run(tx, &call.agent, task, run)?;
    for scope in [Scope::Task(task), Scope::Run(run)] {
        open_account(tx, scope, Metric::Tokens, None)?;
    }
    reserve(tx, &scopes, &call.amounts)?;
    let purpose = Purpose {
        agent: &call.agent,
        task,
        run,
        kind: "call",
    };
    let id = insert_reservation(tx, &purpose, &call.amounts, &scopes)?;
    // An earlier refusal is over.
    tx.execute(
        "UPDATE runs SET wait = NULL WHERE id = ?1 AND wait IS NOT NULL",
        params![run.to_string()],
    )?;
    let detail = json!({ "run": run, "reservation": id, "tokens": call.amounts.tokens, "model": call.model });
    let who = Principal::Agent(call.agent.clone());
    audit_log::append(tx, &who, "budget.reserve", "model-call", detail)?;
    Ok(id)
}

/// Ends the reservation of a model call and charges what the call used; all that was reserved when the usage is
/// unknown.
pub(crate) fn settle_call(tx: &mut Tx<'_>, id: ReservationId, used: &CallUsage) -> Result<()> {
    let held: Option<BudgetAmounts> = tx.rows.first(
        "SELECT amounts FROM reservations WHERE id = ?1",
        params![id.to_string()],
        |c| c.json(),
    )?;
    let held = held.ok_or_else(|| not_open(id))?;
    let actual = match used {
        CallUsage::Known {
            input,
            output,
            cost,
            ..
        } => BudgetAmounts {
            tokens: Tokens(input + output),
            // Without a price the money that was reserved is what it costs: unknown is never 0.
            nano_usd: cost.map_or(held.nano_usd, NanoUsd),
            ..BudgetAmounts::default()
        },
        CallUsage::Unknown { .. } => held,
        CallUsage::Released => BudgetAmounts::default(),
    };
    let closed = close_reservation(tx, id, &actual)?;
    let run = closed.run.to_string();
    let detail = match used {
        CallUsage::Known {
            input,
            output,
            cached,
            cost,
            model,
        } => {
            tx.execute(
                "UPDATE runs SET input = input + ?2, output = output + ?3, cached = cached + ?4, cost = cost + ?5, cost_unknown = CASE WHEN ?6 > cost_unknown THEN ?6 ELSE cost_unknown END,
                 actual_model = coalesce(?7, actual_model), usage_source = CASE usage_source WHEN 'unknown' THEN 'unknown' ELSE 'provider' END WHERE id = ?1",
                params![run, *input, *output, *cached, cost.unwrap_or(0), cost.is_none(), model],
            )?;
            json!({ "run": closed.run, "input": input, "output": output, "cached": cached, "model": model })
        }
        CallUsage::Unknown { model } => {
            tx.execute(
                "UPDATE runs SET usage_source = 'unknown', cost_unknown = 1, actual_model = coalesce(?2, actual_model) WHERE id = ?1",
                params![run, model],
            )?;
            json!({ "run": closed.run, "unknown": true, "charged_tokens": closed.amounts.tokens, "model": model })
        }
        CallUsage::Released => json!({ "run": closed.run, "released": true }),
    };
    let who = Principal::Agent(closed.agent);
    audit_log::append(tx, &who, "budget.settle", "model-call", detail)?;
    Ok(())
}

/// Charges in full every model call that was in flight when the process crashed, since the provider may have billed it.
/// Returns how many there were.
pub(crate) fn charge_lost_calls(tx: &mut Tx<'_>) -> Result<u64> {
    let open: Vec<ReservationId> = tx.rows.all(
        "SELECT id FROM reservations WHERE kind = 'call'",
        params![],
        |c| c.parse(),
    )?;
    for id in &open {
        settle_call(tx, *id, &CallUsage::Unknown { model: None })?;
    }
    Ok(open.len() as u64)
}
