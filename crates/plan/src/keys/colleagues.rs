//! Keys of an agent's grants and relations.

use super::shapes::NAMES;
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
        "Skills that such work may use; any when not given.",
    ),
];

/// Kinds of relations between agents.
pub(crate) const RELATION_KINDS: &[Key] = &[
    live("lineage", NAMES, "Whom it descends from."),
    live("mentor", NAMES, "Who teaches it."),
    live("works_with", NAMES, "Whom it works with."),
    live("may_ask", NAMES, "Whom it may ask; a hint, and no right."),
];
