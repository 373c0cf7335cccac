//! Keys of an agent's grants and relations.

use super::shapes::AGENTS;
use crate::key::{Key, Shape, live};

/// Keys of one grant of an agent.
pub(crate) const GRANT: &[Key] = &[
    live(
        "tokens",
        Shape::Integer(1, i64::MAX),
        "Most tokens of one subtask.",
    ),
    live(
        "skills",
        Shape::Set(&Shape::Text),
        "Skills that such a subtask may use; any when not given.",
    ),
];

/// Kinds of relations between agents.
pub(crate) const RELATION_KINDS: &[Key] = &[
    live("lineage", AGENTS, "Agents that it descends from."),
    live("mentor", AGENTS, "Agents that teach it."),
    live("works_with", AGENTS, "Agents that it works with."),
    live(
        "may_ask",
        AGENTS,
        "Agents that it may ask, as a hint; the right is `asks`.",
    ),
];
