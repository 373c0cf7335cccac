//! Keys of a schedule.

use crate::key::{Key, Shape, live};

/// Keys of one schedule of an agent.
pub(crate) const SCHEDULE: &[Key] = &[
    live(
        "cron",
        Shape::Text,
        "Minute, hour, day, month and weekday, for example `30 2 * * *`.",
    ),
    live("every", Shape::Duration, "Distance between two."),
    live("at", Shape::Text, "One instant, as `2026-12-01T10:00:00Z`."),
    live(
        "timezone",
        Shape::TimeZone,
        "Zone of `cron`; the budget's when not given.",
    ),
    live("task", Shape::Text, "What is to be done."),
    live(
        "skill",
        Shape::Name,
        "The skill that its agent runs, and is assigned by that: `checkpoint`, `report`, `service-status` or any other.",
    ),
    live("workflow", Shape::Name, "The workflow that starts."),
    live(
        "with",
        Shape::Dict(&Shape::Value),
        "Arguments of the skill, or input of the workflow.",
    ),
    live(
        "jitter",
        Shape::Duration,
        "Most that it is moved back, by chance.",
    ),
    live(
        "overlap",
        Shape::Word(&["skip", "queue", "replace"], &[]),
        "What happens when the previous one still runs; default `skip`.",
    ),
    live(
        "catch_up",
        Shape::Text,
        "How many missed ones fire: `skip`, `once` (the default), or a number.",
    ),
    live("timeout", Shape::Duration, "Time for one of them."),
];
