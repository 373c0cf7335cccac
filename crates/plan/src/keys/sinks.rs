//! Keys of a checkpoint sink.

use crate::key::{Shape, live};

/// What may stand below `checkpoint_sinks`.
pub(crate) const SINKS: Shape = Shape::Map(&Shape::Object(&[
    live(
        "file",
        Shape::Path,
        "A file, best on another disk, with its absolute path. Lines are only appended to it; if root runs the house, it is root's, and so must the directories above it be.",
    ),
    live(
        "syslog",
        Shape::Text,
        "A collector of RFC 5424 messages: `unix:/dev/log`, `udp:HOST:PORT` or `tcp:HOST:PORT` (with octet counts, RFC 6587).",
    ),
    live(
        "url",
        Shape::Text,
        "An HTTP endpoint that takes JSON Lines by `POST` and answers with a status of 200 to 299.",
    ),
    live(
        "token",
        Shape::Secret,
        "Credential for `url`, sent as `Authorization: Bearer`.",
    ),
]));
