//! The table of the manifest: every key with its shape and its meaning, once. The checker, its messages and the
//! JSON Schema read it.

use crate::documents::DOCUMENTS;
use crate::hooks::HOOKS;
use crate::locale::LOCALE;
use crate::services::SERVICES;
use crate::shape::{Shape, key, must};
use crate::workflows::WORKFLOWS;

const CELLS: Shape = Shape::Word(&["process", "sandbox", "microvm", "container", "jail"], &[]);
pub(crate) const SERVICE_CELLS: Shape =
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
pub(crate) const PROFILES: Shape = Shape::Word(&["strict", "jit", "nested"], &[]);
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
pub(crate) const LIMITS: Shape = Shape::Object(&[
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
pub(crate) const NAMES: Shape = Shape::List(&Shape::Name);
pub(crate) const WAIVE: Shape = Shape::List(&Shape::Word(
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
        "escalation",
        Shape::Object(&[
            must(
                "to",
                Shape::Name,
                "The agent who decides about work that nobody fits, or `operator`.",
            ),
            key(
                "within",
                Shape::Duration,
                "Time for that; any when not given.",
            ),
            key(
                "then",
                Shape::Word(&["keep", "cancel"], &[]),
                "What becomes of it when nobody decided in time; default `keep`.",
            ),
        ]),
        "Where work goes that nobody fits.",
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
            key(
                "locale",
                LOCALE,
                "Languages of every agent, and of the house's own reports.",
            ),
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
    key("services", SERVICES, "Programs that agents use."),
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
                "asks",
                Shape::Delegates,
                "Whom it may ask something: `all`, `none` (the default), or a list. An answer is theirs to give; its costs are the asker's.",
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
                "files",
                Shape::Object(&[key(
                    "command",
                    Shape::List(&Shape::Text),
                    "Program and arguments; the path of the task's file comes last. Without, somebody else works.",
                )]),
                "It works by files: a task lies in `work/`, and is done when its result lies in `completed/`.",
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
            key(
                "uses",
                NAMES,
                "Services that it uses: in `postgres` it has a database, in `git` a place for repositories.",
            ),
            key("runtime", RUNTIMES, "The program that thinks."),
            key("cell", CELLS, "Kind of isolation."),
            key("model", Shape::Model, "Model, as `PROVIDER/MODEL`."),
            key(
                "skills",
                Shape::List(&Shape::Text),
                "Skills assigned to it, in place of its template's; `NAME@VERSION` where it must be that version.",
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
                    key("task", Shape::Text, "What is to be done."),
                    key(
                        "skill",
                        Shape::Name,
                        "The skill that its agent runs, and is assigned by that: `checkpoint`, `report`, `service-status` or any other.",
                    ),
                    key("workflow", Shape::Name, "The workflow that starts."),
                    key(
                        "with",
                        Shape::Dict(&Shape::Value),
                        "Arguments of the skill, or input of the workflow.",
                    ),
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
            key("locale", LOCALE, "Its languages."),
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
    key(
        "workflows",
        WORKFLOWS,
        "Work in steps: what each needs, and what flows between them.",
    ),
    key(
        "hooks",
        HOOKS,
        "Who may tell the house what happened elsewhere, at `/hooks/NAME`.",
    ),
    key(
        "compatibility",
        Shape::Object(&[key(
            "controlplane_secret",
            Shape::Secret,
            "A secret that many share, good for `/api/controlplane` alone; for the time of a move.",
        )]),
        "What older clients need.",
    ),
    key(
        "documents",
        DOCUMENTS,
        "What agents share to read: each has one writer, is added to only, or is made from the state.",
    ),
]);

const IMAGE: &str = "What its microVM boots from (see `abbey image`), or its container is made from. Default `base`.";
pub(crate) const EGRESS: &str =
    "What it may reach outside: `none` (the default), `full`, or a list.";
