//! Budgets.

use crate::macros::{documents, operations, queries};
use crate::time::Time;
use abbey_model::{BudgetState, Metric, Window};

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
        /// Whether it belongs to an agent that the house does not have any more.
        #[serde(default)]
        removed: bool,
        /// What is counted.
        metric: Metric,
        /// When it starts again.
        window: Window,
        /// Most that may be spent in the window; absent where there is no limit.
        limit: Option<u64>,
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
    }
}
