//! Keys of a shared document.

use crate::key::{Shape, live};

/// What may stand below `documents`.
pub(crate) const DOCUMENTS: Shape = Shape::Map(&Shape::Object(&[
    live(
        "kind",
        Shape::Word(&["text", "log"], &[]),
        "`text` (the default) has versions, each whole; a `log` is append-only.",
    ),
    live(
        "writer",
        Shape::Agent,
        "The one agent that writes a text; the operator alone when not given.",
    ),
    live(
        "writers",
        Shape::Set(&Shape::Agent),
        "Agents that append to a log; every agent when not given.",
    ),
    live(
        "readers",
        Shape::Set(&Shape::Agent),
        "Agents that read it; every agent when not given. Its writers always do.",
    ),
    live(
        "report",
        Shape::Word(
            &[
                "status", "disk", "budget", "tokens", "policy", "tests", "progress", "skills",
                "metrics",
            ],
            &[],
        ),
        "It is this report, generated from the state at every reading; no agent writes it.",
    ),
]));
