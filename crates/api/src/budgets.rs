//! Budgets.

use crate::headers::IdempotencyKey;
use crate::macros::{documents, operations, queries, requests};
use crate::time::Time;
use abbey_model::{BudgetState, Metric, Window, words};

documents! {
    /// A page of budgets.
    BudgetDoc {
        /// Always 1.
        version: u32,
        /// Budgets.
        scopes: Vec<BudgetScope>,
        /// Names the next page; absent on the last one.
        #[serde(default)]
        cursor: Option<String>,
    }
    /// A budget and what is spent of it.
    BudgetScope {
        /// What the budget belongs to: `house`, `agent:NAME`, `task:ID` or `run:ID`.
        scope: String,
        /// Number of the task that it belongs to, such as `TASK-7`.
        #[serde(default)]
        task: Option<String>,
        /// Whether it belongs to an agent that the house does not have any more.
        #[serde(default)]
        removed: bool,
        /// What is counted.
        metric: Metric,
        /// When it starts again.
        window: Window,
        /// Most that may be spent in the window; absent where there is no limit.
        limit: Option<u64>,
        /// The operator's change of the limit; absent where the limit is the manifest's.
        #[serde(default)]
        changed: Option<LimitChange>,
        /// Amount that is settled.
        spent: u64,
        /// Amount that is reserved for calls and runs in progress.
        reserved: u64,
        /// How much is left.
        state: BudgetState,
        /// When the window starts again.
        resets_at: Option<Time>,
    }
}

documents! {
    /// A limit that the operator set in place of the one in the manifest. It ends when the manifest states another one.
    LimitChange {
        /// Limit that the manifest states; absent where it states none.
        manifest: Option<u64>,
        /// Principal that set the limit.
        by: String,
        /// When it was set.
        at: Time,
    }
}

words! {
    /// What is changed of a budget.
    BudgetAction {
        /// The limit is `amount`, or no limit without an amount, until the manifest states another one.
        Set = "set",
        /// The limit is the one of the manifest again.
        Manifest = "manifest",
        /// The limit is raised by `amount`, until the manifest states another one.
        Raise = "raise",
        /// The amount spent in the present window starts again from 0.
        Reset = "reset",
    }
}

requests! {
    /// A change of a budget.
    ChangeBudget {
        /// What the budget belongs to: `house`, `agent:NAME`, or a task as `TASK-7`.
        scope: String,
        /// What is counted.
        metric: Metric,
        /// What is changed.
        action: BudgetAction,
        /// Amount in the unit of the metric; for `set` and `raise` only.
        #[serde(default)]
        amount: Option<u64>,
        /// Reason, for the audit log.
        #[serde(default)]
        note: Option<String>,
    }
}

queries! {
    /// Which budgets to list.
    BudgetsQuery {
        /// Most rows of one page.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<u32>,
        /// `cursor` of the page before.
        cursor: Option<String>,
    }
}

operations! {
    /// Budgets: `client.budgets()`.
    BudgetsClient {
        /// A page of budgets, by scope.
        GET "/api/v1/budgets" list() [query BudgetsQuery] -> json(BudgetDoc);
        /// Changes a budget in place of the manifest, and wakes the tasks that wait for it.
        POST "/api/v1/budgets" change() [body ChangeBudget] [header key: Option<IdempotencyKey>] -> json(BudgetScope);
    }
}
