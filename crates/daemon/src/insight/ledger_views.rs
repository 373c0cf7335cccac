//! Budgets and audit log entries as API documents.

use abbey_api::{BudgetScope, EntryView, LimitChange, Time};
use abbey_engine::budget::Account;
use abbey_model::{Metric, Scope, Slug, TaskId, TaskRef};
use abbey_store::{AuditEntry, LimitOverride};
use std::collections::BTreeMap;

/// Budget accounts of the store as API documents; `numbers` has those of tasks, `is_agent` knows the agents of the house.
pub(crate) fn budget_views(
    accounts: &[Account],
    changed: &BTreeMap<(String, Metric), LimitOverride>,
    numbers: &BTreeMap<TaskId, u64>,
    is_agent: impl Fn(&Slug) -> bool,
) -> Vec<BudgetScope> {
    let view = |a: &Account| {
        let removed = matches!(&a.scope, Scope::Agent(slug) if !is_agent(slug));
        let changed = changed.get(&(a.scope.to_string(), a.metric));
        let number = match &a.scope {
            Scope::Task(id) => numbers.get(id).copied(),
            Scope::House | Scope::Agent(_) | Scope::Run(_) => None,
        };
        BudgetScope {
            removed,
            ..budget_view(a, number, changed)
        }
    };
    accounts.iter().map(view).collect()
}

/// A budget account of the store as an API document; `number` is that of the task that it belongs to.
pub(crate) fn budget_view(
    account: &Account,
    number: Option<u64>,
    changed: Option<&LimitOverride>,
) -> BudgetScope {
    BudgetScope {
        scope: account.scope.to_string(),
        task: number.map(|n| TaskRef::Number(n).to_string()),
        removed: false,
        metric: account.metric,
        window: account.window,
        limit: account.limit,
        changed: changed.map(|c| LimitChange {
            manifest: c.manifest,
            by: c.by.clone(),
            at: c.at.into(),
        }),
        spent: account.spent,
        reserved: account.reserved,
        state: account.state(),
        resets_at: account.resets_at.map(Time),
    }
}

/// An entry of the audit log as an API document.
pub(crate) fn audit_entry_view(entry: AuditEntry) -> EntryView {
    EntryView {
        seq: entry.seq,
        at: entry.at.into(),
        actor: entry.actor,
        action: entry.action,
        entity: entry.entity,
        detail: entry.detail,
        prev: entry.prev,
        hash: entry.hash,
    }
}
