//! Keys of a schedule.

use crate::key::{Key, Shape, live};

/// Keys of one schedule of an agent.
pub(crate) const SCHEDULE: &[Key] = &[
    live(
        "cron",
        Shape::Text,
        "Minute, hour, day, month and weekday, for example `30 2 * * *`.",
    ),
    live("every", Shape::Duration, "Interval between two starts."),
    live("at", Shape::Text, "One instant, as `2026-12-01T10:00:00Z`."),
    live(
        "timezone",
        Shape::TimeZone,
        "Time zone of `cron`; the budget's when not given.",
    ),
    live("task", Shape::Text, "Task that starts, in words."),
    live(
        "skill",
        Shape::Name,
        "The skill that its agent runs, and that is assigned to it by this: `checkpoint`, `report`, `service-status` or any other.",
    ),
    live("workflow", Shape::Name, "Workflow that starts."),
    live(
        "with",
        Shape::Dict(&Shape::Value),
        "Arguments of the skill, or input of the workflow.",
    ),
    live(
        "jitter",
        Shape::Duration,
        "Largest random delay of a start.",
    ),
    live(
        "overlap",
        Shape::Word(&["skip", "queue", "replace"], &[]),
        "What happens when the previous start has not ended; default `skip`.",
    ),
    live(
        "catch_up",
        Shape::Text,
        "How many missed starts are made up for: `skip`, `once` (the default), or a number.",
    ),
    live("timeout", Shape::Duration, "Most time for one start."),
];
