//! Keys of a webhook.

use crate::key::{Shape, live, must};

/// What may stand below `hooks`.
pub(crate) const HOOKS: Shape = Shape::Map(&Shape::Object(&[
    must(
        "kind",
        Shape::Word(&["standard", "github", "gitea", "openclaw"], &[]),
        "How a delivery is signed: as Standard Webhooks, as GitHub, or as Gitea and Forgejo do; `openclaw` is a credential for `/hooks/agent` and `/hooks/wake`.",
    ),
    must(
        "secret",
        Shape::Secret,
        "Reference to the secret that signs deliveries.",
    ),
    live(
        "on",
        Shape::List(&Shape::Text),
        "Kinds `github` and `gitea`: events of the sender that start something, as `push` or `issues.opened`; others are accepted and ignored. All when not given.",
    ),
    live(
        "agent",
        Shape::Agent,
        "Issues and pull requests become tasks of this agent; other deliveries are accepted and ignored.",
    ),
    live(
        "agents",
        Shape::Delegates,
        "Kind `openclaw`: agents that a caller may name besides `agent`; `all`, or a list like `[atlas, mason]` or `[all, -manager]`.",
    ),
    live(
        "trusted",
        Shape::Boolean,
        "Kind `openclaw`: a message is an instruction, as if the operator gave it; otherwise it is data.",
    ),
    live(
        "workflow",
        Shape::Name,
        "The workflow that starts, with the delivery as its input `payload` if it declares one.",
    ),
    live(
        "event",
        Shape::Name,
        "Name of the event that a delivery becomes.",
    ),
    live(
        "api",
        Shape::Text,
        "Where the result of a task is reported: `https://git.example.org/api/v1`.",
    ),
    live("token", Shape::Secret, "Credential for `api`."),
]));
