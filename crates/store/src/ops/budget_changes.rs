//! Changes of budgets by the operator, in place of the manifest: other limits, and spending that starts again.

use super::limit_overrides::{read, remove, write};
use super::task_rows::{self, task_name};
use super::{audit_log, ledger, waits};
use crate::rows::{Query, Rows, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{BudgetChange, BudgetChangeKind, ChangedBudget, Error, LimitOverride, Result};
use abbey_engine::budget::Account;
use abbey_model::{Metric, Principal, Scope, TaskRef, WaitKind, Window};
use serde_json::json;

/// Budgets of a metric as messages name them.
const fn budget_of(metric: Metric) -> &'static str {
    match metric {
        Metric::Tokens => "token budget",
        Metric::NanoUsd => "money budget",
        Metric::Runs => "run budget",
        Metric::Seconds => "time budget",
    }
}

/// What a budget belongs to, as messages name it: people know a task by its number.
fn scope_name(rows: &dyn Rows, scope: &Scope) -> Result<String> {
    Ok(match scope {
        Scope::House => "the house".to_owned(),
        Scope::Agent(slug) => format!("agent {slug}"),
        Scope::Task(id) => task_name(&task_rows::load(rows, TaskRef::Id(*id))?),
        Scope::Run(id) => format!("run {id}"),
    })
}

fn refuse<T>(why: String) -> Result<T> {
    Err(Error::BudgetChange(why))
}

/// Whether a change with this idempotency key was made already; the key of a new one is stored.
///
/// # Errors
/// [`Error::KeyReused`] when the key came with another request.
fn is_repeated(tx: &Tx<'_>, change: &BudgetChange) -> Result<bool> {
    let Some((key, digest)) = &change.key else {
        return Ok(false);
    };
    let known: Option<String> = tx.rows.value(
        "SELECT digest FROM idempotency WHERE key = ?1",
        params![key],
    )?;
    match known {
        Some(known) if known == *digest => Ok(true),
        Some(_) => Err(Error::KeyReused(key.clone())),
        None => {
            // It stands for no task.
            tx.execute(
                "INSERT INTO idempotency VALUES (?1, ?2, '', ?3)",
                params![key, digest, tx.now],
            )?;
            Ok(false)
        }
    }
}

/// Changes a budget, logs who did it and why, and makes the tasks due that wait for it. A repeated idempotency key changes
/// nothing and returns the budget as it is.
///
/// # Errors
/// [`Error::KeyReused`] when the key came with another request, [`Error::NotFound`] for a budget that the house does not have, [`Error::BudgetChange`] for a change that changes
/// nothing or makes no sense.
pub(crate) fn change(
    tx: &mut Tx<'_>,
    change: &BudgetChange,
    who: &Principal,
) -> Result<ChangedBudget> {
    let (scope, metric) = (&change.scope, change.metric);
    let scope_name = scope_name(tx.rows, scope)?;
    let Some(before) = ledger::account(tx, scope, metric)? else {
        return Err(Error::NotFound {
            what: budget_of(metric),
            name: match scope {
                Scope::Task(_) => scope_name,
                _ => scope.to_string(),
            },
        });
    };
    let name = format!("{} of {scope_name}", budget_of(metric));
    let replaced = read(tx.rows, scope, metric)?;
    if is_repeated(tx, change)? {
        return Ok(ChangedBudget {
            account: before,
            changed: replaced,
        });
    }
    let manifest = replaced.as_ref().map_or(before.limit, |r| r.manifest);
    let (action, limit) = match change.kind {
        BudgetChangeKind::Set(Some(0)) => {
            return refuse(format!(
                "a limit of 0 for the {name} would stop its work for good; stop the agents instead"
            ));
        }
        BudgetChangeKind::Set(limit) => ("budget.set", limit),
        BudgetChangeKind::FollowManifest if replaced.is_none() => {
            return refuse(format!("the {name} has the limit of the manifest already"));
        }
        BudgetChangeKind::FollowManifest => ("budget.set", manifest),
        BudgetChangeKind::Raise(0) => return refuse(format!("the {name} can't be raised by 0")),
        BudgetChangeKind::Raise(more) => match before.limit {
            None => return refuse(format!("the {name} has no limit that could be raised")),
            Some(limit) => ("budget.raise", Some(limit.saturating_add(more))),
        },
        BudgetChangeKind::Reset if before.spent == 0 => {
            return refuse(format!("nothing is spent yet of the {name}"));
        }
        BudgetChangeKind::Reset => ("budget.reset", before.limit),
    };
    let is_reset = change.kind == BudgetChangeKind::Reset;
    if !is_reset && limit == before.limit && change.kind != BudgetChangeKind::FollowManifest {
        return refuse(format!("the {name} has this limit already"));
    }
    let account = Account {
        limit,
        spent: if is_reset { 0 } else { before.spent },
        ..before.clone()
    };
    // A budget that is not for a day belongs to a task, about which no manifest states anything.
    let is_stated = account.window == Window::Day;
    let changed = match is_stated && limit != manifest {
        false => None,
        true if is_reset => replaced.clone(),
        true => Some(LimitOverride {
            limit,
            manifest,
            by: who.to_string(),
            at: tx.now,
        }),
    };
    match &changed {
        Some(limit) => write(tx, scope, metric, limit)?,
        None => remove(tx, scope, metric)?,
    }
    ledger::put_account(tx, account.clone());
    let note = change.note.as_ref().map(|n| tx.redact(n));
    let detail = match is_reset {
        true => json!({ "metric": metric, "spent": before.spent, "limit": limit, "note": note }),
        false => {
            json!({ "metric": metric, "before": before.limit, "limit": limit, "spent": account.spent, "note": note })
        }
    };
    audit_log::append(tx, who, action, &scope.to_string(), detail)?;
    waits::end(tx, WaitKind::Budget, &scope.to_string())?;
    tx.publish(Topic::Budgets);
    Ok(ChangedBudget { account, changed })
}
