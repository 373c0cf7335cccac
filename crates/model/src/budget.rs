//! Nouns of the ledger.

use crate::{NanoUsd, RunId, Slug, TaskId, Tokens};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a budget belongs to; a call is held against every scope that encloses it.
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
        let bad = || format!("`{text}` is not a budget scope");
        match text.split_once(':') {
            None if text == "house" => Ok(Scope::House),
            Some(("agent", rest)) => rest.parse().map(Scope::Agent).map_err(|_| bad()),
            Some(("task", rest)) => rest.parse().map(Scope::Task).map_err(|_| bad()),
            Some(("run", rest)) => rest.parse().map(Scope::Run).map_err(|_| bad()),
            _ => Err(bad()),
        }
    }
}

impl Serialize for Scope {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What a budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Model tokens.
    Tokens,
    /// Money, in nano-dollars.
    NanoUsd,
    /// Runs started.
    Runs,
    /// Wall seconds of runs.
    Seconds,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Metric; 4] = [
        Metric::Tokens,
        Metric::NanoUsd,
        Metric::Runs,
        Metric::Seconds,
    ];

    /// Name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Metric::Tokens => "tokens",
            Metric::NanoUsd => "nano_usd",
            Metric::Runs => "runs",
            Metric::Seconds => "seconds",
        }
    }
}

impl FromStr for Metric {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Metric::ALL
            .into_iter()
            .find(|m| m.name() == text)
            .ok_or_else(|| format!("`{text}` is not a budget metric"))
    }
}

/// When a budget starts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// At midnight of the house's time zone.
    Day,
    /// Never.
    Total,
}

impl Window {
    /// Name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Window::Day => "day",
            Window::Total => "total",
        }
    }
}

/// How a budget stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetState {
    /// No limit is set; amounts are only counted.
    Unlimited,
    /// Below the warning level.
    Ok,
    /// At or above the warning level.
    Warning,
    /// Nothing is left.
    Exhausted,
}

/// A bundle of amounts, one for each metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Amounts {
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

impl Amounts {
    /// The amount of one metric.
    pub const fn of(&self, metric: Metric) -> u64 {
        match metric {
            Metric::Tokens => self.tokens.0,
            Metric::NanoUsd => self.nano_usd.0,
            Metric::Runs => self.runs,
            Metric::Seconds => self.seconds,
        }
    }
}
