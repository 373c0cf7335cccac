//! Budgets and audit log entries as API documents.

use abbey_api::{BudgetScope, EntryView, Time};
use abbey_engine::budget::Account;
use abbey_model::{Scope, Slug};
use abbey_store::AuditEntry;

/// Budget accounts of the store as API documents; `is_agent` knows the agents of the house.
pub(crate) fn budget_views(
    accounts: &[Account],
    is_agent: impl Fn(&Slug) -> bool,
) -> Vec<BudgetScope> {
    let view = |a: &Account| BudgetScope {
        scope: a.scope.to_string(),
        removed: matches!(&a.scope, Scope::Agent(slug) if !is_agent(slug)),
        metric: a.metric,
        window: a.window,
        limit: a.limit,
        spent: a.spent,
        reserved: a.reserved,
        state: a.state(),
        resets_at: a.resets_at.map(Time),
    };
    accounts.iter().map(view).collect()
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
