//! Schedules of an agent: what triggers them and what they start.

use abbey_model::{Millis, Slug};
use serde::Serialize;
use std::collections::BTreeMap;

/// A task that starts by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Schedule {
    /// When it fires.
    pub trigger: ScheduleTrigger,
    /// Zone of a pattern; the house's when not given.
    pub timezone: Option<String>,
    /// What it starts.
    pub action: ScheduleAction,
    /// Most that it is moved back.
    pub jitter: Millis,
    /// `skip`, `queue` or `replace`.
    pub overlap: String,
    /// `skip`, `once` or a number.
    pub catch_up: String,
    /// Time for one of them.
    pub timeout: Option<Millis>,
}

/// What a schedule begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleAction {
    /// A task of its agent.
    Task(String),
    /// A skill of its agent, with these arguments.
    Skill(String, BTreeMap<String, String>),
    /// A workflow, with this input.
    Workflow(Slug, BTreeMap<String, serde_json::Value>),
}

/// When a schedule fires, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleTrigger {
    /// A pattern of five fields.
    Cron(String),
    /// A distance.
    Every(Millis),
    /// An instant, RFC 3339.
    At(String),
}
