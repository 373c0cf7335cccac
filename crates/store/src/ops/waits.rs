//! Waits of tasks: why an agent can't begin a run or call a model now, and what ends the waits of parked tasks.

use super::task_rows::PARKED_FOR_SEVERAL;
use super::{ledger, provider_health, task_rows};
use crate::rows::{Query, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{Result, TaskRow};
use abbey_engine::admission::AgentFact;
use abbey_engine::budget::{Account, Demand, Room};
use abbey_engine::task::{Phase, Wait};
use abbey_model::{BudgetAmounts, Metric, Scope, Slug, WaitKind, WaitingFor};

/// Waiting tasks that one settled reservation wakes at most: it makes room for few.
const WOKEN_MAX: usize = 8;
/// Waiting tasks that are looked at for that.
const LOOKED_AT_MAX: u32 = 64;

/// Fills in why an agent can't begin a run of a task, and why it can't call its model.
pub(crate) fn fill_in(tx: &mut Tx<'_>, row: &TaskRow, agent: &mut AgentFact) -> Result<()> {
    agent.run_wait = of_run(tx, &agent.slug, row, &agent.run)?;
    agent.model_wait = match agent.has_model {
        true => of_model(
            tx,
            &agent.slug,
            agent.provider.as_deref(),
            &demands(&row.phase),
        )?,
        false => None,
    };
    Ok(())
}

/// Amounts that budgets refused to the last run of a parked task.
fn demands(phase: &Phase) -> Vec<Demand> {
    match phase {
        Phase::Parked { reasons } => reasons.iter().filter_map(|r| r.demand.clone()).collect(),
        _ => Vec::new(),
    }
}

/// Why an agent can't begin a run of a task that reserves `amounts`; none when it can.
fn of_run(
    tx: &mut Tx<'_>,
    agent: &Slug,
    row: &TaskRow,
    amounts: &BudgetAmounts,
) -> Result<Option<Wait>> {
    let mut scopes = vec![
        Scope::House,
        Scope::Agent(agent.clone()),
        Scope::Task(row.id),
    ];
    if row.link.as_ref().is_some_and(|l| l.above().is_some()) {
        let above = task_rows::ancestors(tx.rows, row.id)?;
        scopes.extend(above.into_iter().map(Scope::Task));
    }
    for scope in scopes {
        for metric in [Metric::Runs, Metric::Seconds] {
            let account = ledger::account(tx, &scope, metric)?;
            if let Some(wait) = account.and_then(|a| a.wait_for(amounts.of(metric))) {
                return Ok(Some(wait));
            }
        }
    }
    Ok(None)
}

/// Why an agent can't call a model of `provider`: a budget has less left than the task demands, or nothing, or the
/// provider cools down.
pub(crate) fn of_model(
    tx: &mut Tx<'_>,
    agent: &Slug,
    provider: Option<&str>,
    demands: &[Demand],
) -> Result<Option<Wait>> {
    for scope in [Scope::House, Scope::Agent(agent.clone())] {
        for metric in [Metric::Tokens, Metric::NanoUsd] {
            let mut asked = demands.iter();
            let asked = asked.find(|d| d.scope == scope && d.metric == metric);
            let amount = asked.map_or(1, |d| d.amount);
            let account = ledger::account(tx, &scope, metric)?;
            if let Some(wait) = account.and_then(|a| a.wait_for(amount)) {
                return Ok(Some(wait));
            }
        }
    }
    let Some(provider) = provider else {
        return Ok(None);
    };
    let condition = provider_health::condition(tx.rows, provider)?;
    Ok(condition.wait(provider, tx.now))
}

/// Makes every task due that waits for this thing.
pub(crate) fn end(tx: &mut Tx<'_>, kind: WaitKind, name: &str) -> Result<()> {
    let now = tx.now;
    let woken = tx.execute(
        &format!("UPDATE tasks SET deadline = ?2 WHERE waiting = ?1 OR ({PARKED_FOR_SEVERAL})"),
        params![key(kind, name), now],
    )?;
    if woken > 0 {
        tx.publish(Topic::Deadlines);
    }
    Ok(())
}

/// Makes the first tasks due that wait for this budget and fit into it now, or never will.
pub(crate) fn wake_for_room(tx: &mut Tx<'_>, account: &Account) -> Result<()> {
    if account.limit.is_none() || matches!(account.scope, Scope::Run(_)) {
        return Ok(());
    }
    let key = key(WaitKind::Budget, &account.scope.to_string());
    let mut waiting = Vec::new();
    for condition in ["waiting = ?1", PARKED_FOR_SEVERAL] {
        waiting.extend(tx.rows.all(
            &format!(
                "SELECT queue_key, number, phase FROM tasks WHERE {condition} ORDER BY queue_key LIMIT ?2"
            ),
            params![&key, LOOKED_AT_MAX],
            |c| Ok((c.get::<i64>()?, c.get::<u64>()?, c.json::<Phase>()?)),
        )?);
    }
    waiting.sort_by_key(|(place, number, _)| (*place, *number));
    let fits = |phase: &Phase| {
        demands(phase).iter().any(|d| {
            d.scope == account.scope
                && d.metric == account.metric
                && !matches!(account.room_for(d.amount), Room::Later(_))
        })
    };
    let fitting = waiting.into_iter().filter(|(_, _, phase)| fits(phase));
    for (_, number, _) in fitting.take(WOKEN_MAX) {
        let now = tx.now;
        tx.execute(
            "UPDATE tasks SET deadline = ?2 WHERE number = ?1",
            params![number, now],
        )?;
        tx.publish(Topic::Deadlines);
    }
    Ok(())
}

/// Makes a task due that was just parked for a budget which has room meanwhile: what made the room looked for tasks that
/// were parked then.
pub(crate) fn wake_if_room(tx: &mut Tx<'_>, row: &TaskRow) -> Result<()> {
    for demand in demands(&row.phase) {
        let account = ledger::account(tx, &demand.scope, demand.metric)?;
        if account.is_some_and(|a| a.room_for(demand.amount) == Room::Now) {
            let now = tx.now;
            tx.execute(
                "UPDATE tasks SET deadline = ?2 WHERE number = ?1",
                params![row.number, now],
            )?;
            tx.publish(Topic::Deadlines);
        }
    }
    Ok(())
}

fn key(kind: WaitKind, name: &str) -> String {
    WaitingFor {
        kind,
        name: name.to_owned(),
        until: None,
    }
    .key()
}
