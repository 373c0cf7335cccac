//! Nouns of budgets and the ledger.

use crate::words::{text_form, words};
use crate::{NanoUsd, RunId, Slug, TaskId, Tokens};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Object that a budget belongs to. A call is reserved in every scope that encloses it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The whole house.
    House,
    /// One agent.
    Agent(Slug),
    /// One task, over all its runs.
    Task(TaskId),
    /// One run.
    Run(RunId),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::House => f.write_str("house"),
            Scope::Agent(slug) => write!(f, "agent:{slug}"),
            Scope::Task(id) => write!(f, "task:{id}"),
            Scope::Run(id) => write!(f, "run:{id}"),
        }
    }
}

impl FromStr for Scope {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!("`{text}` is not a budget scope; one of: house, agent:NAME, task:ID, run:ID")
        };
        match text.split_once(':') {
            None if text == "house" => Ok(Scope::House),
            Some(("agent", rest)) => rest.parse().map(Scope::Agent).map_err(|_| bad()),
            Some(("task", rest)) => rest.parse().map(Scope::Task).map_err(|_| bad()),
            Some(("run", rest)) => rest.parse().map(Scope::Run).map_err(|_| bad()),
            _ => Err(bad()),
        }
    }
}

text_form!(Scope);

words! {
    /// What a budget counts.
    Metric {
        /// Model tokens.
        Tokens = "tokens",
        /// Money, in billionths of a US dollar.
        NanoUsd = "nano_usd",
        /// Runs started.
        Runs = "runs",
        /// Wall seconds of runs.
        Seconds = "seconds",
    }
}

words! {
    /// When a budget starts again.
    Window {
        /// At midnight of the house's time zone.
        Day = "day",
        /// Never.
        Total = "total",
    }
}

words! {
    /// How much of a budget is left.
    BudgetState {
        /// No limit is set; amounts are only counted.
        Unlimited = "unlimited",
        /// Below the warning level.
        Ok = "ok",
        /// At or above the warning level.
        Warning = "warning",
        /// Nothing is left.
        Exhausted = "exhausted",
    }
}

/// A bundle of amounts, one for each metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BudgetAmounts {
    /// Tokens of all classes.
    #[serde(default)]
    pub tokens: Tokens,
    /// Money.
    #[serde(default)]
    pub nano_usd: NanoUsd,
    /// Number of runs.
    #[serde(default)]
    pub runs: u64,
    /// Wall seconds.
    #[serde(default)]
    pub seconds: u64,
}

impl BudgetAmounts {
    /// Amount of one metric.
    pub const fn of(&self, metric: Metric) -> u64 {
        match metric {
            Metric::Tokens => self.tokens.0,
            Metric::NanoUsd => self.nano_usd.0,
            Metric::Runs => self.runs,
            Metric::Seconds => self.seconds,
        }
    }
}
