//! Budgets.

use crate::Time;
use crate::macros::{documents, operations, queries};
use abbey_model::{BudgetState, Metric, Window};

documents! {
    /// `abbey budget show`.
    BudgetDoc {
        /// Always 1.
        version: u32,
        /// Every budget.
        scopes: Vec<BudgetScope>,
        /// Names the next page; absent on the last one.
        #[serde(default)]
        cursor: Option<String>,
    }
    /// One budget.
    BudgetScope {
        /// Whose.
        scope: String,
        /// What is counted.
        metric: Metric,
        /// `day` or `total`.
        window: Window,
        /// Most in the window.
        limit: Option<u64>,
        /// Settled.
        spent: u64,
        /// Held.
        reserved: u64,
        /// `unlimited`, `ok`, `warning` or `exhausted`.
        state: BudgetState,
        /// When it starts again.
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
