//! Limits of budgets that the operator set in place of the manifest's.
//!
//! A changed limit is kept beside the budgets, so that it outlives a restart. It ends when the manifest states another
//! limit than the one that it replaced.

use super::audit_log;
use crate::rows::{Query, Rows, params, parse};
use crate::transaction::Tx;
use crate::{BudgetLimit, Error, LimitOverride, Result};
use abbey_model::{Metric, Principal, Scope};
use serde_json::json;
use std::collections::BTreeMap;

/// Prefix of the keys in the table `meta`, before the scope, a slash and the metric.
const PREFIX: &str = "budget_limit/";

fn key(scope: &Scope, metric: Metric) -> String {
    format!("{PREFIX}{scope}/{metric}")
}

/// Reads the limits that stand in place of the manifest's, by scope and metric.
pub(crate) fn list(rows: &dyn Rows) -> Result<BTreeMap<(String, Metric), LimitOverride>> {
    let found = rows.all(
        "SELECT key, value FROM meta WHERE key >= ?1 AND key < ?2",
        // The character after the slash ends the range of keys with this prefix.
        params![PREFIX, "budget_limit0"],
        |c| Ok((c.get::<String>()?, c.json::<LimitOverride>()?)),
    )?;
    let named = found.into_iter().map(|(key, limit)| {
        let name = key.strip_prefix(PREFIX).unwrap_or(&key);
        let (scope, metric) = name
            .rsplit_once('/')
            .ok_or_else(|| Error::Row(format!("`{key}` names no budget")))?;
        Ok(((scope.to_owned(), parse(metric)?), limit))
    });
    named.collect()
}

/// Limit that stands in place of the manifest's, if there is one.
pub(crate) fn read(
    rows: &dyn Rows,
    scope: &Scope,
    metric: Metric,
) -> Result<Option<LimitOverride>> {
    rows.first(
        "SELECT value FROM meta WHERE key = ?1",
        params![key(scope, metric)],
        |c| c.json(),
    )
}

/// Stores a limit that stands in place of the manifest's.
pub(crate) fn write(
    tx: &Tx<'_>,
    scope: &Scope,
    metric: Metric,
    limit: &LimitOverride,
) -> Result<()> {
    tx.execute(
        "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2",
        params![key(scope, metric), serde_json::to_string(limit)?],
    )?;
    Ok(())
}

/// Lets the limit of the manifest stand again.
pub(crate) fn remove(tx: &Tx<'_>, scope: &Scope, metric: Metric) -> Result<()> {
    tx.execute(
        "DELETE FROM meta WHERE key = ?1",
        params![key(scope, metric)],
    )?;
    Ok(())
}

/// Limit in force for what the manifest states: the operator's, unless the manifest states another one than it replaced.
pub(crate) fn limit_in_force(tx: &mut Tx<'_>, stated: &BudgetLimit) -> Result<Option<u64>> {
    let (scope, metric) = (&stated.scope, stated.metric);
    match read(tx.rows, scope, metric)? {
        None => Ok(stated.limit),
        Some(changed) if changed.manifest == stated.limit => Ok(changed.limit),
        Some(changed) => {
            remove(tx, scope, metric)?;
            let detail = json!({ "metric": metric, "before": changed.limit, "limit": stated.limit, "why": "the manifest states another limit" });
            audit_log::append(
                tx,
                &Principal::House,
                "budget.set",
                &scope.to_string(),
                detail,
            )?;
            Ok(stated.limit)
        }
    }
}

/// Ends changed limits of agents for which the manifest states none any more: those of removed agents must not meet a later
/// agent of the same name.
pub(crate) fn end_unstated(tx: &mut Tx<'_>, stated: &[BudgetLimit]) -> Result<()> {
    for (scope, metric) in list(tx.rows)?.into_keys() {
        let is_stated = |s: &BudgetLimit| s.metric == metric && s.scope.to_string() == scope;
        match parse::<Scope>(&scope)? {
            scope @ Scope::Agent(_) if !stated.iter().any(is_stated) => remove(tx, &scope, metric)?,
            _ => {}
        }
    }
    Ok(())
}

/// Keeps what the operator changed when an agent is renamed, and nothing of an earlier agent of the new name.
pub(crate) fn rename(tx: &mut Tx<'_>, old: &Scope, new: &Scope) -> Result<()> {
    for &metric in Metric::ALL {
        remove(tx, new, metric)?;
        if let Some(limit) = read(tx.rows, old, metric)? {
            remove(tx, old, metric)?;
            write(tx, new, metric, &limit)?;
        }
    }
    Ok(())
}
