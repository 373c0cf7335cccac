//! One table describes the manifest. The checker, its error messages and the JSON Schema for
//! editors all read it, so they cannot drift apart.

use crate::node::{Entry, Kind, Mistake, Node, Place};
use abbey_model::{Allowed, SecretRef, Slug, Tool};

/// What may stand in one place of the manifest.
pub(crate) enum Shape {
    /// Free text.
    Text,
    /// A [`Slug`].
    Name,
    /// A path, relative to the manifest or absolute.
    Path,
    /// A whole number within bounds.
    Integer(i64, i64),
    /// A decimal number above 0 and up to the bound.
    Number(f64),
    /// `true` or `false`.
    Boolean,
    /// Bytes with a unit: `512MiB`.
    Bytes,
    /// A duration with a unit: `24h`.
    Duration,
    /// `80%`.
    Percent,
    /// Two ports: `18800-18999`.
    PortRange,
    /// An IPv4 network: `10.77.0.0/16`.
    Network,
    /// An address and port.
    Socket,
    /// An IANA time zone.
    TimeZone,
    /// `PROVIDER/MODEL`.
    Model,
    /// A reference to a secret.
    Secret,
    /// One of these words. A word of the second list is known and refused until it is built.
    Word(&'static [&'static str], &'static [&'static str]),
    /// A list.
    List(&'static Shape),
    /// A list of tools, or the word `all`.
    Tools,
    /// A list of destinations, or one of the words `none` and `full`.
    Egress,
    /// Whom an agent may give work to: a word, or a list of them.
    Delegates,
    /// A mapping from names to things of one shape.
    Map(&'static Shape),
    /// A mapping with these keys.
    Object(&'static [Field]),
}

/// One key of an object.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) required: bool,
    pub(crate) doc: &'static str,
}

const fn key(name: &'static str, shape: Shape, doc: &'static str) -> Field {
    Field {
        name,
        shape,
        required: false,
        doc,
    }
}
const fn must(name: &'static str, shape: Shape, doc: &'static str) -> Field {
    Field {
        name,
        shape,
        required: true,
        doc,
    }
}

const CELLS: Shape = Shape::Word(&["process", "sandbox", "microvm", "container", "jail"], &[]);
const SERVICE_CELLS: Shape =
    Shape::Word(&["process", "sandbox"], &["microvm", "container", "jail"]);
const DRIVES: Shape = Shape::Object(&[
    key(
        "state",
        Shape::Bytes,
        "Its home, which lasts; default `256MiB`.",
    ),
    key(
        "workspace",
        Shape::Bytes,
        "Charter, memory and work, which last; default `1GiB`.",
    ),
    key(
        "scratch",
        Shape::Bytes,
        "Everything else that is written, gone with the boot; default `1GiB`.",
    ),
]);
const VMMS: Shape = Shape::Word(&["qemu", "firecracker"], &[]);
const VMM: &str = "What runs microVMs: `qemu` (the default), or `firecracker`, which needs KVM.";
const PROFILES: Shape = Shape::Word(&["strict", "jit", "nested"], &[]);
const RUNTIMES: Shape = Shape::Word(
    &["native"],
    &[
        "openclaw",
        "hermes",
        "pi",
        "claude-code",
        "codex",
        "command",
    ],
);
const LIMITS: Shape = Shape::Object(&[
    key("memory", Shape::Bytes, "Most memory, for example `512MiB`."),
    key(
        "cpus",
        Shape::Number(1024.0),
        "Most CPU time for each second, for example `0.5`.",
    ),
    key(
        "processes",
        Shape::Integer(8, 1_000_000),
        "Most processes and threads.",
    ),
    key(
        "io",
        Shape::Bytes,
        "Most bytes in a second read from the disk, and as many written to it, for example `20MiB`.",
    ),
]);
const TOOLS: Shape = Shape::Object(&[
    key(
        "allow",
        Shape::Tools,
        "Tools that the model may call, or `all`.",
    ),
    key(
        "paths",
        Shape::List(&Shape::Text),
        "Prefixes inside the workspace that file tools may touch.",
    ),
    key(
        "turns",
        Shape::Integer(1, 1000),
        "Most model turns in one run.",
    ),
    key("output", Shape::Bytes, "Most output of one run."),
    key("wall", Shape::Duration, "Longest run."),
]);
const NAMES: Shape = Shape::List(&Shape::Name);
const WAIVE: Shape = Shape::List(&Shape::Word(
    &[
        "limits",
        "user",
        "mounts",
        "pids",
        "ipc",
        "uts",
        "cgroup",
        "network",
        "root",
        "capabilities",
        "no_new_privs",
        "seccomp",
        "landlock",
    ],
    &[],
));

/// Keys of the whole manifest.
pub(crate) const MANIFEST: Shape = Shape::Object(&[
    must(
        "version",
        Shape::Integer(1, 1),
        "Format of this file; always 1.",
    ),
    must("house", Shape::Name, "Name of this installation."),
    key(
        "listen",
        Shape::Object(&[
            key(
                "address",
                Shape::Socket,
                "Outside door; default `127.0.0.1:3100`, port 0 picks a free one.",
            ),
            key(
                "tls_certificate",
                Shape::Path,
                "PEM certificate chain; needed off loopback.",
            ),
            key(
                "tls_key",
                Shape::Path,
                "PEM private key; needed off loopback.",
            ),
        ]),
        "Where the operator's API listens.",
    ),
    key(
        "network",
        Shape::Object(&[
            key(
                "pool",
                Shape::Network,
                "Addresses from which every agent gets a subnet.",
            ),
            key(
                "prefix",
                Shape::Integer(16, 30),
                "Prefix length of one agent's subnet.",
            ),
            key(
                "ports",
                Shape::PortRange,
                "Ports from which doors and services get theirs.",
            ),
            key(
                "layout",
                Shape::Word(&["routed", "bridge"], &[]),
                "`routed` (the default): a wire for each cell; `bridge`: one bridge for all, of at most 1,023 ports.",
            ),
            key(
                "slots",
                Shape::Map(&Shape::Integer(2, 65_534)),
                "Places of services in every agent's subnet; default `{ git: 2, cms: 3, models: 4, db: 5 }`.",
            ),
        ]),
        "Addresses and ports of the house.",
    ),
    key(
        "delegation",
        Shape::Object(&[
            key(
                "depth",
                Shape::Integer(1, 32),
                "Longest chain of delegation below what was first asked; default 4.",
            ),
            key(
                "fan_out",
                Shape::Integer(1, 1024),
                "Most open pieces of one task; default 16.",
            ),
        ]),
        "How far delegation may go.",
    ),
    key(
        "admission",
        Shape::Object(&[key(
            "memory_reserve",
            Shape::Bytes,
            "Memory of the host that cells leave free; a cell that does not fit waits. Default `128MiB`.",
        )]),
        "Whether one more cell fits.",
    ),
    key(
        "providers",
        Shape::Map(&Shape::Object(&[
            must(
                "kind",
                Shape::Word(&["openai"], &["anthropic"]),
                "Wire format.",
            ),
            key(
                "base_url",
                Shape::Text,
                "Base of the API, up to and including `/v1`.",
            ),
            key(
                "service",
                Shape::Name,
                "A service of this house that speaks the API, instead of `base_url`.",
            ),
            key("key", Shape::Secret, "Reference to the API key."),
            key(
                "input_usd_per_mtok",
                Shape::Number(1e6),
                "Price of a million input tokens.",
            ),
            key(
                "output_usd_per_mtok",
                Shape::Number(1e6),
                "Price of a million output tokens.",
            ),
            key(
                "output_tokens_max",
                Shape::Integer(1, 1_000_000),
                "Output tokens reserved for a call that names no maximum.",
            ),
        ])),
        "Model providers.",
    ),
    key(
        "defaults",
        Shape::Object(&[
            key("runtime", RUNTIMES, "The program that thinks."),
            key("cell", CELLS, "Kind of isolation."),
            key("model", Shape::Model, "Model, as `PROVIDER/MODEL`."),
            key("limits", LIMITS, "Ceilings of every cell."),
            key(
                "profile",
                PROFILES,
                "System calls of every sandbox: `strict`, `jit` or `nested`.",
            ),
            key("tools", TOOLS, "Tool policy of every agent."),
            key("waive", WAIVE, "Layers that may be missing on this host."),
            key("image", Shape::Name, IMAGE),
            key("vmm", VMMS, VMM),
            key(
                "drives",
                DRIVES,
                "Sizes of every microVM's drives, and of the file systems of every sandbox.",
            ),
            key("egress", Shape::Egress, EGRESS),
        ]),
        "Values for agents that do not set their own.",
    ),
    key(
        "budget",
        Shape::Object(&[
            key(
                "tokens_per_day",
                Shape::Integer(0, i64::MAX),
                "Most model tokens in a day.",
            ),
            key("usd_per_day", Shape::Number(1e9), "Most money in a day."),
            key(
                "runs_per_day",
                Shape::Integer(0, i64::MAX),
                "Most runs in a day.",
            ),
            key(
                "minutes_per_day",
                Shape::Integer(0, 1 << 40),
                "Most wall minutes of runs in a day.",
            ),
            key(
                "timezone",
                Shape::TimeZone,
                "Where midnight is; default UTC.",
            ),
            key("warn_at", Shape::Percent, "Level of warning; default 80%."),
        ]),
        "Budget of the house.",
    ),
    key(
        "services",
        Shape::Map(&Shape::Object(&[
            key(
                "cell",
                SERVICE_CELLS,
                "Kind of isolation; default `sandbox`.",
            ),
            key(
                "enabled",
                Shape::Boolean,
                "Whether it is part of the house; of two alternatives on one slot and port one is not. Default true.",
            ),
            must(
                "command",
                Shape::List(&Shape::Text),
                "Program and arguments; `{port}` stands for the port.",
            ),
            key(
                "port",
                Shape::Integer(1, 65535),
                "Port; one of the house's range when not given.",
            ),
            key(
                "probe",
                Shape::Text,
                "Path that answers 200 when the service is well.",
            ),
            key(
                "shared",
                Shape::Boolean,
                "Whether every agent may use it; default true.",
            ),
            key("limits", LIMITS, "Ceilings of its cell."),
            key(
                "profile",
                PROFILES,
                "System calls of its sandbox: `strict`, `jit` (the default) or `nested`.",
            ),
            key("waive", WAIVE, "Layers that may be missing on this host."),
            key(
                "terminal",
                Shape::Boolean,
                "Whether it runs on a terminal, for `abbey attach`.",
            ),
            key("egress", Shape::Egress, EGRESS),
            key(
                "slot",
                Shape::Name,
                "Place in every agent's subnet at which it is reached; see `network.slots`.",
            ),
        ])),
        "Programs that agents use.",
    ),
    key(
        "agents",
        Shape::Map(&Shape::Object(&[
            key(
                "name",
                Shape::Text,
                "Display name; never used in paths, commands or SQL.",
            ),
            key("role", Shape::Text, "What it is for."),
            key(
                "template",
                Shape::Name,
                "Stock template; see `abbey template list`.",
            ),
            key("charter", Shape::Path, "File with its charter."),
            key("reports_to", Shape::Name, "The agent above it."),
            key(
                "delegates_to",
                Shape::Delegates,
                "Whom it may give work to: `all`, `none` (the default), or a list; `-NAME` takes one out of `all`.",
            ),
            key(
                "grants",
                Shape::Map(&Shape::Object(&[
                    key(
                        "tokens",
                        Shape::Integer(1, i64::MAX),
                        "Most tokens of one piece of work.",
                    ),
                    key(
                        "skills",
                        Shape::List(&Shape::Text),
                        "Skills that such work may use; any when not given.",
                    ),
                ])),
                "What work for one colleague is narrowed to.",
            ),
            key(
                "relations",
                Shape::Object(&[
                    key("lineage", NAMES, "Whom it descends from."),
                    key("mentor", NAMES, "Who teaches it."),
                    key("works_with", NAMES, "Whom it works with."),
                    key("may_ask", NAMES, "Whom it may ask; a hint, and no right."),
                ]),
                "What it is to others; gives no right by itself.",
            ),
            key("runtime", RUNTIMES, "The program that thinks."),
            key("cell", CELLS, "Kind of isolation."),
            key("model", Shape::Model, "Model, as `PROVIDER/MODEL`."),
            key(
                "skills",
                Shape::List(&Shape::Text),
                "Skills assigned to it, in place of its template's.",
            ),
            key(
                "budget",
                Shape::Object(&[
                    key("share", Shape::Percent, "Share of the house's budget."),
                    key(
                        "tokens_per_day",
                        Shape::Integer(0, i64::MAX),
                        "Most model tokens in a day.",
                    ),
                    key("usd_per_day", Shape::Number(1e9), "Most money in a day."),
                    key(
                        "runs_per_day",
                        Shape::Integer(0, i64::MAX),
                        "Most runs in a day.",
                    ),
                    key(
                        "minutes_per_day",
                        Shape::Integer(0, 1 << 40),
                        "Most wall minutes of runs in a day.",
                    ),
                    key(
                        "egress_per_day",
                        Shape::Bytes,
                        "Most bytes that the egress proxy carries for it in a day.",
                    ),
                ]),
                "Its budget.",
            ),
            key(
                "wake",
                Shape::Object(&[
                    must("every", Shape::Duration, "Distance between two wakes."),
                    key("jitter", Shape::Duration, "Most that a wake is moved back."),
                ]),
                "Repeating wake.",
            ),
            key(
                "schedules",
                Shape::Map(&Shape::Object(&[
                    key(
                        "cron",
                        Shape::Text,
                        "Minute, hour, day, month and weekday, for example `30 2 * * *`.",
                    ),
                    key("every", Shape::Duration, "Distance between two."),
                    key("at", Shape::Text, "One instant, as `2026-12-01T10:00:00Z`."),
                    key(
                        "timezone",
                        Shape::TimeZone,
                        "Zone of `cron`; the budget's when not given.",
                    ),
                    must("task", Shape::Text, "What is to be done."),
                    key("jitter", Shape::Duration, "Most that it is moved back."),
                    key(
                        "overlap",
                        Shape::Word(&["skip", "queue", "replace"], &[]),
                        "When the one before is not over; default `skip`.",
                    ),
                    key(
                        "catch_up",
                        Shape::Text,
                        "What of those that were missed fires: `skip`, `once` (the default), or a number.",
                    ),
                    key("timeout", Shape::Duration, "Time for one of them."),
                ])),
                "Work that comes by itself.",
            ),
            key("limits", LIMITS, "Ceilings of its cell."),
            key(
                "profile",
                PROFILES,
                "System calls of its sandbox: `strict`, `jit` (the default) or `nested`.",
            ),
            key("tools", TOOLS, "Its tool policy."),
            key(
                "max_concurrent_runs",
                Shape::Integer(1, 64),
                "Most runs at once; default 1.",
            ),
            key(
                "charter_writable",
                Shape::Boolean,
                "Whether it may rewrite its own charter.",
            ),
            key("waive", WAIVE, "Layers that may be missing on this host."),
            key(
                "terminal",
                Shape::Boolean,
                "Whether it runs on a terminal, for `abbey attach`.",
            ),
            key("image", Shape::Name, IMAGE),
            key("vmm", VMMS, VMM),
            key(
                "drives",
                DRIVES,
                "Sizes of its microVM's drives, or of its sandbox's file systems; a sandbox without shares the disk of the house.",
            ),
            key("egress", Shape::Egress, EGRESS),
        ])),
        "The agents.",
    ),
]);

const IMAGE: &str = "What its microVM boots from (see `abbey image`), or its container is made from. Default `base`.";
const EGRESS: &str = "What it may reach outside: `none` (the default), `full`, or a list.";

/// Keys whose mechanism is known but not built; refused by name, not as unknown.
const NOT_BUILT: &[&str] = &[
    "fallback",
    "locale",
    "channels",
    "skills",
    "workflows",
    "teams",
    "approvals",
    "evidence",
    "env",
    "secrets",
    "mounts",
];

/// Checks a tree against a shape and collects every mistake.
pub(crate) fn check(shape: &Shape, node: &Node, path: &str, mistakes: &mut Vec<Mistake>) {
    match shape {
        Shape::Object(fields) => check_object(fields, node, path, mistakes),
        Shape::Map(inner) => {
            let Kind::Map(entries) = &node.kind else {
                if !node.is_null() {
                    mistakes.push(node.place.mistake(format!(
                        "`{path}` is a mapping of names, not {}",
                        node.describe()
                    )));
                }
                return;
            };
            for Entry { key, place, value } in entries {
                if let Err(error) = key.parse::<Slug>() {
                    mistakes.push(place.mistake(error.to_string()));
                }
                check(inner, value, &format!("{path}.{key}"), mistakes);
            }
        }
        Shape::List(inner) => {
            let Kind::List(items) = &node.kind else {
                mistakes.push(
                    node.place
                        .mistake(format!("`{path}` is a list, not {}", node.describe())),
                );
                return;
            };
            for item in items {
                check(inner, item, path, mistakes);
            }
        }
        Shape::Egress => match &node.kind {
            Kind::Scalar { text, .. } if text == "none" || text == "full" => {}
            Kind::List(items) => {
                for item in items {
                    if let Err(error) = item.text().unwrap_or("").parse::<Allowed>() {
                        mistakes.push(item.place.mistake(format!("`{path}`: {error}")));
                    }
                }
            }
            Kind::Scalar { .. } | Kind::Map(_) => {
                mistakes.push(node.place.mistake(format!(
                    "`{path}` is `none`, `full` or a list like `[api.example.org:443]`"
                )));
            }
        },
        Shape::Delegates => {
            let words: Vec<&Node> = match &node.kind {
                Kind::Scalar { .. } => vec![node],
                Kind::List(items) => items.iter().collect(),
                Kind::Map(_) => Vec::new(),
            };
            if words.is_empty() && !matches!(&node.kind, Kind::List(_)) {
                mistakes.push(node.place.mistake(format!(
                    "`{path}` is `all`, `none`, or a list like `[ezra, atlas]` or `[all, -manager]`"
                )));
            }
            for word in words {
                let text = word.text().unwrap_or("");
                if let Err(error) = abbey_model::Authority::default().add(text) {
                    mistakes.push(word.place.mistake(format!("`{path}`: {error}")));
                }
            }
        }
        Shape::Tools => match &node.kind {
            Kind::Scalar { text, .. } if text == "all" => {}
            Kind::List(items) => {
                for item in items {
                    if let Err(error) = item.text().unwrap_or("").parse::<Tool>() {
                        mistakes.push(item.place.mistake(format!("`{path}`: {error}")));
                    }
                }
            }
            Kind::Scalar { .. } | Kind::Map(_) => {
                mistakes.push(
                    node.place
                        .mistake(format!("`{path}` is a list of tools or the word `all`")),
                );
            }
        },
        scalar => {
            let Some(text) = node.text() else {
                mistakes.push(node.place.mistake(format!(
                    "`{path}` is {}, not {}",
                    scalar.title(),
                    node.describe()
                )));
                return;
            };
            if let Err(why) = scalar.accepts(text) {
                mistakes.push(node.place.mistake(format!("`{path}`: {why}")));
            }
        }
    }
}

fn check_object(fields: &[Field], node: &Node, path: &str, mistakes: &mut Vec<Mistake>) {
    let Kind::Map(entries) = &node.kind else {
        // An agent may be named and nothing more.
        if !node.is_null() || fields.iter().any(|f| f.required) {
            mistakes.push(
                node.place
                    .mistake(format!("`{path}` is a mapping, not {}", node.describe())),
            );
        }
        return;
    };
    for Entry { key, place, value } in entries {
        let at = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        match fields.iter().find(|f| f.name == key) {
            Some(field) => check(&field.shape, value, &at, mistakes),
            None => mistakes.push(unknown(fields, key, &at, *place)),
        }
    }
    for field in fields.iter().filter(|f| f.required) {
        if !entries.iter().any(|e| e.key == field.name) {
            let owner = if path.is_empty() {
                "the manifest".to_owned()
            } else {
                format!("`{path}`")
            };
            mistakes.push(node.place.mistake(format!(
                "{owner} needs the key `{}`: {}",
                field.name, field.doc
            )));
        }
    }
}

fn unknown(fields: &[Field], key: &str, at: &str, place: Place) -> Mistake {
    if NOT_BUILT.contains(&key) {
        return place.mistake(format!(
            "`{at}` is not built yet; this version refuses it rather than ignore it"
        ));
    }
    let nearest = fields
        .iter()
        .map(|f| (strsim::damerau_levenshtein(f.name, key), f.name))
        .min()
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3));
    match nearest {
        Some((_, name)) => place.mistake(format!("unknown key `{at}`; did you mean `{name}`?")),
        None => {
            let known: Vec<&str> = fields.iter().map(|f| f.name).collect();
            place.mistake(format!(
                "unknown key `{at}`; known here: {}",
                known.join(", ")
            ))
        }
    }
}

impl Shape {
    /// What the value is, for messages.
    pub(crate) fn title(&self) -> &'static str {
        match self {
            Shape::Text => "a text",
            Shape::Name => "a name",
            Shape::Path => "a path",
            Shape::Integer(..) => "a whole number",
            Shape::Number(_) => "a number",
            Shape::Boolean => "`true` or `false`",
            Shape::Bytes => "an amount like `512MiB`",
            Shape::Duration => "a duration like `5m`",
            Shape::Percent => "a percentage like `80%`",
            Shape::PortRange => "two ports like `18800-18999`",
            Shape::Network => "a network like `10.77.0.0/16`",
            Shape::Socket => "an address like `127.0.0.1:3100`",
            Shape::TimeZone => "a time zone like `Europe/Ljubljana`",
            Shape::Model => "a model like `ollama/qwen2.5:1.5b`",
            Shape::Secret => "a reference like `env:NAME`",
            Shape::Word(..) => "a word",
            Shape::List(_) => "a list",
            Shape::Tools => "a list of tools",
            Shape::Egress => "a list of destinations",
            Shape::Delegates => "a list of agents",
            Shape::Map(_) | Shape::Object(_) => "a mapping",
        }
    }

    /// Whether a text fits a scalar shape.
    fn accepts(&self, text: &str) -> Result<(), String> {
        let not = || format!("`{text}` is not {}", self.title());
        let ok = |good: bool| if good { Ok(()) } else { Err(not()) };
        match self {
            Shape::Text => ok(!text.is_empty() && text.len() <= 4096 && !text.contains('\0')),
            Shape::Path => ok(!text.is_empty() && text.len() <= 4096 && !text.contains('\0')),
            Shape::Name => text.parse::<Slug>().map(drop).map_err(|e| e.to_string()),
            Shape::Integer(least, most) => match text.replace('_', "").parse::<i64>() {
                Ok(n) if (*least..=*most).contains(&n) => Ok(()),
                Ok(n) => Err(format!("{n} is outside {least} to {most}")),
                Err(_) => Err(not()),
            },
            Shape::Number(most) => match text.parse::<f64>() {
                Ok(n) if n > 0.0 && n <= *most => Ok(()),
                Ok(n) => Err(format!("{n} must be above 0 and at most {most}")),
                Err(_) => Err(not()),
            },
            Shape::Boolean => ok(matches!(text, "true" | "false")),
            Shape::Bytes => ok(bytes(text).is_some()),
            Shape::Duration => ok(duration_ms(text).is_some()),
            Shape::Percent => ok(percent(text).is_some()),
            Shape::PortRange => ok(port_range(text).is_some()),
            Shape::Network => ok(network(text).is_some()),
            Shape::Socket => ok(text.parse::<std::net::SocketAddr>().is_ok()),
            // The zone itself is looked up by the engine when the budget is opened.
            Shape::TimeZone => ok(!text.is_empty()
                && text.len() < 64
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"/_+-".contains(&b))),
            Shape::Model => ok(text
                .split_once('/')
                .is_some_and(|(p, m)| p.parse::<Slug>().is_ok() && !m.is_empty())),
            // The text is not repeated: it may be a secret that was pasted here.
            Shape::Secret => text
                .parse::<SecretRef>()
                .map(drop)
                .map_err(|e| e.to_string()),
            Shape::Word(words, later) => {
                if words.contains(&text) {
                    Ok(())
                } else if later.contains(&text) {
                    Err(format!(
                        "`{text}` is not built yet on this host; use {}",
                        quoted(words)
                    ))
                } else {
                    Err(format!("`{text}` is none of {}", quoted(words)))
                }
            }
            Shape::List(_)
            | Shape::Tools
            | Shape::Egress
            | Shape::Delegates
            | Shape::Map(_)
            | Shape::Object(_) => Err(not()),
        }
    }
}

fn quoted(words: &[&str]) -> String {
    words
        .iter()
        .map(|w| format!("`{w}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(split);
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// Bytes of an amount like `512MiB`.
pub fn bytes(text: &str) -> Option<u64> {
    scaled(
        text,
        &[
            ("B", 1),
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("TiB", 1 << 40),
        ],
    )
    .filter(|n| *n > 0)
}

/// Milliseconds of a duration like `60s`.
pub fn duration_ms(text: &str) -> Option<i64> {
    let units = [
        ("ms", 1),
        ("s", 1000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ];
    scaled(text, &units)
        .and_then(|ms| i64::try_from(ms).ok())
        .filter(|ms| *ms <= 366 * 86_400_000)
}

pub(crate) fn percent(text: &str) -> Option<u8> {
    text.strip_suffix('%')?.parse().ok().filter(|p| *p <= 100)
}

pub(crate) fn port_range(text: &str) -> Option<(u16, u16)> {
    let (a, b) = text.split_once('-')?;
    let (a, b) = (a.trim().parse().ok()?, b.trim().parse().ok()?);
    (a >= 1024 && a <= b).then_some((a, b))
}

pub(crate) fn network(text: &str) -> Option<(std::net::Ipv4Addr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: std::net::Ipv4Addr = address.parse().ok()?;
    let prefix: u8 = prefix.parse().ok().filter(|p| (8..=30).contains(p))?;
    // Host bits must be clear, or two people read two different networks.
    (u32::from(address) & (u32::MAX >> prefix) == 0).then_some((address, prefix))
}
