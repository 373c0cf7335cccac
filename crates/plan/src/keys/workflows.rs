//! Keys of a workflow and its steps.

use crate::key::{Shape, live, must};

const VALUES: Shape = Shape::Dict(&Shape::Value);

const UNDO: Shape = Shape::Object(&[
    live("task", Shape::Text, "What an agent is to do, in words."),
    live("skill", Shape::Name, "Skill that runs."),
    live("agent", Shape::Agent, "Agent that does it."),
    live("with", VALUES, "Values passed to it."),
]);

const CONDITION: Shape = Shape::Object(&[
    must(
        "value",
        Shape::Value,
        "Value that is compared, as `$steps.check.count`.",
    ),
    live("is", Shape::Value, "It must equal this."),
    live("not", Shape::Value, "It must differ from this."),
    live(
        "above",
        Shape::Value,
        "It must be a larger number than this.",
    ),
    live(
        "below",
        Shape::Value,
        "It must be a smaller number than this.",
    ),
]);

const STEP: Shape = Shape::Object(&[
    live("task", Shape::Text, "What an agent is to do, in words."),
    live(
        "skill",
        Shape::Name,
        "The skill that runs, without a model.",
    ),
    live(
        "approval",
        Shape::Text,
        "Question to the person who approves.",
    ),
    live(
        "event",
        Shape::Name,
        "Name of an outside event to wait for; `abbey workflow event` reports it.",
    ),
    live("pause", Shape::Duration, "How long to wait."),
    live(
        "agent",
        Shape::Agent,
        "Agent that does it; chosen by the house when not given.",
    ),
    live(
        "needs",
        Shape::List(&Shape::Name),
        "Steps that must be done first; a step whose value is used is needed without mention.",
    ),
    live(
        "when",
        Shape::List(&CONDITION),
        "Conditions that must all hold; otherwise the step is skipped.",
    ),
    live(
        "each",
        Shape::Text,
        "It runs once for each item of this list: `$input.hosts`.",
    ),
    live(
        "with",
        VALUES,
        "Values passed to it: literals, `$input.NAME`, `$steps.STEP.FIELD`, `$item`.",
    ),
    live(
        "expects",
        Shape::Dict(&Shape::Word(
            &["text", "number", "boolean", "list", "object"],
            &[],
        )),
        "Fields that its result must have.",
    ),
    live("within", Shape::Duration, "Time for one attempt."),
    live("retry", Shape::Integer(0, 3), "Attempts after the first."),
    live(
        "retry_after",
        Shape::Duration,
        "Pause before another; default `5s`.",
    ),
    live(
        "tokens",
        Shape::Integer(1, 1 << 40),
        "Most tokens of one attempt.",
    ),
    live(
        "may_fail",
        Shape::Boolean,
        "Whether the run continues when it fails.",
    ),
    live(
        "silence",
        Shape::Word(&["approve", "deny"], &[]),
        "What an approval without an answer in time counts as; default `deny`.",
    ),
    live(
        "undo",
        UNDO,
        "What undoes it when the run fails later or is cancelled.",
    ),
]);

/// What may stand below `workflows`.
pub(crate) const WORKFLOWS: Shape = Shape::Map(&Shape::Object(&[
    live(
        "input",
        Shape::Dict(&Shape::Object(&[
            must(
                "type",
                Shape::Word(&["text", "number", "boolean", "list", "object"], &[]),
                "Type of the field.",
            ),
            live("default", Shape::Value, "Value when none is given."),
        ])),
        "Its input fields by name.",
    ),
    must(
        "steps",
        Shape::Map(&STEP),
        "Its steps by name; those that need no other start at once.",
    ),
    live("output", VALUES, "Its output values by name."),
    live("within", Shape::Duration, "Time for the whole run."),
    live(
        "on",
        Shape::List(&Shape::Name),
        "Events that start it; the data of the event is its input `payload`.",
    ),
]));
