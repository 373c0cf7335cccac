//! Schedules of an agent: what triggers them and what they start.

use abbey_model::{Millis, Slug};
use serde::Serialize;
use std::collections::BTreeMap;

/// Work of an agent that starts by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Schedule {
    /// When the schedule fires.
    pub trigger: ScheduleTrigger,
    /// Time zone of a cron pattern; the house's when not given.
    pub timezone: Option<String>,
    /// Work that the schedule starts.
    pub action: ScheduleAction,
    /// Largest random delay of a start.
    pub jitter: Millis,
    /// `skip`, `queue` or `replace`.
    pub overlap: String,
    /// `skip`, `once` or a number.
    pub catch_up: String,
    /// Most time for one start.
    pub timeout: Option<Millis>,
}

/// Work that a schedule starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleAction {
    /// A task of its agent.
    Task(String),
    /// A skill of its agent, with these arguments.
    Skill(String, BTreeMap<String, serde_json::Value>),
    /// A workflow, with this input.
    Workflow(Slug, BTreeMap<String, serde_json::Value>),
}

/// When a schedule fires, as the manifest gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleTrigger {
    /// A cron pattern of five fields.
    Cron(String),
    /// An interval.
    Every(Millis),
    /// One instant, RFC 3339.
    At(String),
}
