//! Budgets, reservations, and usage.

use abbey_engine::budget::Account;
use abbey_engine::provider_health::Observation;
use abbey_model::{BudgetAmounts, Metric, RefusedKey, RunId, Scope, Slug, Timestamp, Window};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Keys of requests that models refused, by provider and model.
pub type RefusedKeys = BTreeMap<(String, String), BTreeSet<RefusedKey>>;

/// One limit of a budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetLimit {
    /// Scope that is limited.
    pub scope: Scope,
    /// Metric that is counted.
    pub metric: Metric,
    /// Period after which spending starts again from 0.
    pub window: Window,
    /// Most that may be spent in a period; without one it is only counted.
    pub limit: Option<u64>,
    /// Share of the limit at which a warning is due, in percent.
    pub warn_percent: u8,
}

/// A change of a budget by the operator.
#[derive(Debug, Clone)]
pub struct BudgetChange {
    /// Scope of the budget.
    pub scope: Scope,
    /// Metric of the budget.
    pub metric: Metric,
    /// What changes.
    pub kind: BudgetChangeKind,
    /// Reason, for the audit log.
    pub note: Option<String>,
    /// Idempotency key, and digest of the request that it stands for.
    pub key: Option<(String, String)>,
}

/// Ways to change a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetChangeKind {
    /// This limit, or none, until the manifest states another one.
    Set(Option<u64>),
    /// The limit of the manifest again.
    FollowManifest,
    /// This much more than the present limit, until the manifest states another one.
    Raise(u64),
    /// The amount spent in the present window starts again from 0.
    Reset,
}

/// A limit that the operator set in place of the one in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitOverride {
    /// Limit in force; none when there is no limit.
    pub limit: Option<u64>,
    /// Limit that the manifest stated when this one was set; another one ends this one.
    pub manifest: Option<u64>,
    /// Principal that set it.
    pub by: String,
    /// Instant at which it was set.
    pub at: Timestamp,
}

/// A budget with what the operator changed of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedBudget {
    /// The budget.
    pub account: Account,
    /// Limit that stands in place of the manifest's; none when the manifest's is in force.
    pub changed: Option<LimitOverride>,
}

/// A reservation for one model call.
#[derive(Debug, Clone)]
pub struct CallReservation {
    /// Agent, from authentication.
    pub agent: Slug,
    /// Run that the call belongs to; the agent's only live run when absent.
    pub run: Option<RunId>,
    /// Most that the call can use.
    pub amounts: BudgetAmounts,
    /// Model that the call goes to.
    pub model: String,
}

/// How a call to a model provider ended.
#[derive(Debug, Clone)]
pub struct ProviderOutcome {
    /// Provider, by its name in the manifest.
    pub provider: String,
    /// Agent that called, from authentication.
    pub agent: Slug,
    /// Run that the call belongs to; the agent's only live run when absent.
    pub run: Option<RunId>,
    /// How it ended.
    pub seen: Observation,
}

/// Usage of a model call.
#[derive(Debug, Clone)]
pub enum CallUsage {
    /// The provider reported usage.
    Known {
        /// Input tokens.
        input: u64,
        /// Output tokens.
        output: u64,
        /// Input tokens that the provider had cached.
        cached: u64,
        /// Cost in billionths of a dollar; none when the price is unknown.
        cost: Option<u64>,
        /// Model that answered.
        model: Option<String>,
    },
    /// The call was sent and its usage is unknown: all that was reserved is charged.
    Unknown {
        /// Model that answered, where the provider named it.
        model: Option<String>,
    },
    /// The call was never sent: nothing is charged.
    Released,
}

/// Runs of an agent that asked for one model, and got an answer of this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnsweringModel {
    /// Agent.
    pub agent: String,
    /// Model that was asked for.
    pub asked: String,
    /// Model that answered last, in the provider's words.
    pub answered: String,
    /// Number of runs.
    pub runs: u64,
}

impl AnsweringModel {
    /// Whether another model answered than the one that was asked for. Providers leave out the maker of a model, and add its
    /// version.
    pub fn is_another(&self) -> bool {
        let name = |text: &str| text.rsplit('/').next().unwrap_or(text).to_lowercase();
        !name(&self.answered).starts_with(&name(&self.asked))
    }
}

/// Model usage of one agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelUsage {
    /// Agent.
    pub agent: String,
    /// Model, as the provider named it last.
    pub model: String,
    /// Number of runs.
    pub runs: u64,
    /// Input tokens.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// Input tokens that the provider had cached.
    pub cached: u64,
    /// Cost in billionths of a dollar.
    pub cost_nano_usd: u64,
    /// Number of runs with a call of unknown price.
    pub cost_unknown: u64,
    /// Number of runs with a call of unknown usage, which the other numbers leave out.
    pub usage_unknown: u64,
    /// Tokens that were charged to the budgets: what was used, and all that was reserved where usage is unknown.
    pub charged: u64,
}
