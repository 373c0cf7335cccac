//! Keys of an agent, and those that `defaults` may set for all of them.

use super::colleagues::{GRANT, RELATION_KINDS};
use super::locale::Locale;
use super::schedules::SCHEDULE;
use super::shapes::{NAMES, PROFILES, WAIVE};
use crate::agent_values::{AgentBudget, Charter, ModelRef};
use crate::key::Effect::{Live, None as NoEffect, Restart};
use crate::key::{Key, Shape, keys};
use crate::schedule::Schedule;
use crate::settings::{Setting, Settings};
use crate::value::{FromValue, cpu_milli, file_command, later, nano_usd, seconds};
use abbey_model::{
    Authority, Bytes, CellKind, Drives, Egress, Grants, Layer, Limits, Millis, Profile, Runtime,
    Slug, Subnet, Tool, ToolPolicy, Vmm,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const CELLS: Shape = Shape::Word(&["process", "sandbox", "microvm", "container", "jail"], &[]);
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

const IN_SANDBOX: &[CellKind] = &[CellKind::Sandbox];
const IN_MICROVM: &[CellKind] = &[CellKind::Microvm];
const WITH_DRIVES: &[CellKind] = &[CellKind::Microvm, CellKind::Sandbox];
const WITH_IMAGE: &[CellKind] = &[CellKind::Microvm, CellKind::Container];

/// Keys of a budget that can only restrict. A share is of what others have, too.
const BUDGET_LIMITS: &[&str] = &[
    "tokens_per_day",
    "usd_per_day",
    "runs_per_day",
    "minutes_per_day",
    "egress_per_day",
];

keys! {
    /// A named identity. Values are effective: the agent's own, from `defaults`, from its template, or built in.
    pub struct Agent {
        /// Display name; never used in paths, commands or SQL. The slug when not given.
        pub display_name: String = Key::new("name", Shape::Text, Live).own(),
        /// What it is for; from its template when not given.
        pub role: String = Key::new("role", Shape::Text, Live),
        /// Stock template; see `abbey template list`. It sets role, charter, skills and tools.
        pub template: Option<String> = Key::new("template", Shape::Name, NoEffect),
        /// File with its charter, in the directory of the manifest; the template's when not given.
        pub charter: Charter = Key::new("charter", Shape::Path, Live),
        /// The agent above it.
        pub reports_to: Option<Slug> = Key::new("reports_to", Shape::Agent, Live).of_this_house(),
        /// Agents that it may delegate to: `all`, `none`, or a list; `-NAME` excludes one from `all`.
        pub delegates: Authority = Key::new("delegates_to", Shape::Delegates, Live).authority(&["none"]).default("none").of_this_house(),
        /// Agents that it may ask questions: `all`, `none`, or a list. The costs of the answer are charged to the agent
        /// that asks.
        pub asks: Authority = Key::new("asks", Shape::Delegates, Live).authority(&["none"]).default("none").of_this_house(),
        /// Limits of the subtasks that it delegates, by agent.
        pub grants: Grants = Key::new("grants", Shape::ByAgent(&Shape::Object(GRANT)), Live).authority(&[]).of_this_house(),
        /// It works by files: a task lies in `work/`, and is done when its result lies in `completed/`.
        pub files: Option<Vec<String>> = Key::new("files", Shape::Object(FILES), Live).authority(&[]).of_this_house() => file_command,
        /// Relations to other agents, for its prompt; they give no right by themselves.
        pub relations: BTreeMap<&'static str, Vec<Slug>> =
            Key::new("relations", Shape::Section(RELATION_KINDS), Live).of_this_house(),
        /// Services that it uses: in `postgres` it has a database, in `git` a place for repositories. The cell
        /// restarts when this changes which addresses it reaches.
        pub uses: BTreeSet<Slug> = Key::new("uses", NAMES, Live).authority(&[]),
        /// Program that runs the agent.
        pub runtime: Runtime = Key::new("runtime", RUNTIMES, Restart).authority(&["native"]).default("native").inherited(),
        /// Kind of isolation.
        pub cell: CellKind = Key::new("cell", CELLS, Restart).authority(&["sandbox", "microvm", "container"]).default("sandbox").inherited(),
        /// Model, as `PROVIDER/MODEL`. From the next run on.
        pub model: Option<ModelRef> = Key::new("model", Shape::Model, Live).inherited(),
        /// Skills assigned to it, in place of its template's, or in addition to them if each is written `+NAME`;
        /// `NAME@VERSION` pins a version.
        pub skills: Vec<String> = Key::new("skills", Shape::List(&Shape::Text), Live),
        /// Its daily budget; the share of the house's budget is already worked out.
        pub daily: AgentBudgetKeys = Key::new("budget", Shape::Section(AgentBudgetKeys::KEYS), Live).authority(BUDGET_LIMITS).of_this_house(),
        /// Repeating wake.
        pub wake: Option<Wake> = Key::new("wake", Shape::Object(Wake::KEYS), Live).authority(&[]).own(),
        /// Tasks that start by themselves, by name.
        pub schedules: BTreeMap<Slug, Schedule> =
            Key::new("schedules", Shape::Map(&Shape::Object(SCHEDULE)), Live).authority(&[]).own() => later,
        /// Its languages.
        pub locale: Locale = Key::new("locale", Shape::Section(Locale::KEYS), Live).inherited(),
        /// Resource limits of its cell.
        pub limits: Limits = Key::new("limits", Shape::Section(LimitKeys::KEYS), Restart).authority(&[]).inherited(),
        /// Filter of system calls in a sandbox: `jit` or `strict`.
        pub profile: Profile =
            Key::new("profile", PROFILES, Restart).authority(&["strict", "jit"]).default("jit").inherited().only_in(IN_SANDBOX, NoEffect),
        /// Its tool policy.
        pub tools: ToolPolicy = Key::new("tools", Shape::Section(ToolKeys::KEYS), Live).authority(&[]).inherited(),
        /// Most runs at once.
        pub max_concurrent_runs: u32 =
            Key::new("max_concurrent_runs", Shape::Integer(1, 64), Live).authority(&["1"]).default("1"),
        /// Whether it may rewrite its own charter.
        pub charter_writable: bool =
            Key::new("charter_writable", Shape::Boolean, Restart).authority(&["false"]).default("false").only_in(IN_SANDBOX, Live),
        /// Isolation layers that may be missing on this host.
        pub waived: BTreeSet<Layer> = Key::new("waive", WAIVE, Restart).authority(&[]).inherited(),
        /// Whether it runs on a terminal, for `abbey attach`.
        pub terminal: bool = Key::new("terminal", Shape::Boolean, Restart).default("false"),
        /// What its microVM boots from (see `abbey image`), or its container is made from.
        pub image: String =
            Key::new("image", Shape::Name, Restart).default("base").inherited().only_in(WITH_IMAGE, NoEffect),
        /// What runs its microVM: `qemu`, or `firecracker`, which needs KVM.
        pub vmm: Vmm = Key::new("vmm", Shape::Word(&["qemu", "firecracker"], &[]), Restart)
            .default("qemu")
            .inherited()
            .only_in(IN_MICROVM, NoEffect),
        /// Sizes of its microVM's drives, or of its sandbox's file systems, each at least 16 MiB; a sandbox without shares the disk of
        /// the house.
        pub drives: Drives =
            Key::new("drives", Shape::Section(DriveKeys::KEYS), Restart).authority(&[]).inherited().whole(),
        /// Subnet of its cell, like `10.77.7.0/24`: one of `network.pool` in the size of `network.prefix`. Without one it
        /// gets a free one and keeps it.
        pub subnet: Option<Subnet> =
            Key::new("subnet", Shape::Network, Restart).authority(&[]).own().only_in(IN_SANDBOX, NoEffect),
        /// What it may reach outside: `none`, `full`, or a list like `[api.example.org:443]`.
        pub egress: Egress = Key::new("egress", Shape::Egress, Live).authority(&["none"]).default("none").inherited(),
    }
    derived {
        /// Name of the agent in the manifest, paths and the API.
        pub slug: Slug,
        /// Line of the manifest.
        pub line: usize,
        /// Every effective value, with where it comes from.
        pub settings: Settings,
        /// Versions that some of its skills must have.
        pub pins: BTreeMap<String, String>,
    }
}

keys! {
    /// Daily limits of an agent.
    pub struct AgentBudgetKeys {
        /// Share of the house's budget.
        pub share: Option<u8> = Key::new("share", Shape::Percent, Live),
        /// Most model tokens in a day.
        pub tokens: Option<u64> = Key::new("tokens_per_day", Shape::Integer(0, i64::MAX), Live).unset("unlimited"),
        /// Most money in a day, in US dollars.
        pub nano_usd: Option<u64> = Key::new("usd_per_day", Shape::Number(1e9), Live).unset("unlimited") => nano_usd,
        /// Most runs in a day.
        pub runs: Option<u64> = Key::new("runs_per_day", Shape::Integer(0, i64::MAX), Live).unset("unlimited"),
        /// Most wall-clock minutes of runs in a day.
        pub seconds: Option<u64> = Key::new("minutes_per_day", Shape::Integer(0, 1 << 40), Live).unset("unlimited") => seconds,
        /// Most bytes that the egress proxy carries for it in a day.
        pub egress: Option<Bytes> = Key::new("egress_per_day", Shape::Bytes, Live).unset("unlimited"),
    }
}

keys! {
    /// Resource limits of a cell.
    pub(crate) struct LimitKeys {
        /// Most memory, for example `512MiB`.
        pub(crate) memory: Bytes = Key::new("memory", Shape::Bytes, Restart).default("512MiB"),
        /// Most CPU time for each second of wall-clock time, for example `0.5`.
        pub(crate) cpus: u32 = Key::new("cpus", Shape::Number(1024.0), Restart).default("1") => cpu_milli,
        /// Most processes and threads.
        pub(crate) processes: u32 =
            Key::new("processes", Shape::Integer(Limits::PROCESSES_MIN as i64, Limits::PROCESSES_MAX as i64), Restart).default("256"),
        /// Most bytes in a second read from the disk, and as many written to it, for example `20MiB`.
        pub(crate) io: Option<Bytes> = Key::new("io", Shape::Bytes, Restart).unset("unlimited"),
    }
}

keys! {
    /// Sizes of an agent's file systems.
    pub(crate) struct DriveKeys {
        /// Its home; persistent.
        pub(crate) state: Bytes =
            Key::new("state", Shape::Bytes, Restart).default("256MiB").only_in(WITH_DRIVES, NoEffect),
        /// Charter, memory and work; persistent.
        pub(crate) workspace: Bytes =
            Key::new("workspace", Shape::Bytes, Restart).default("1GiB").only_in(WITH_DRIVES, NoEffect),
        /// Everything else that a microVM writes; removed at the end of a boot.
        pub(crate) scratch: Bytes =
            Key::new("scratch", Shape::Bytes, Restart).default("1GiB").only_in(IN_MICROVM, NoEffect),
    }
}

keys! {
    /// What the runs of an agent may do.
    pub(crate) struct ToolKeys {
        /// Tools that the model may call, or `all`; every tool but `shell` when not given.
        pub(crate) allow: BTreeSet<Tool> = Key::new("allow", Shape::Tools, Live),
        /// Prefixes inside the workspace that file tools may touch; all of it when not given.
        pub(crate) paths: Vec<String> = Key::new("paths", Shape::List(&Shape::Text), Live),
        /// Most model turns in one run.
        pub(crate) turns: u32 = Key::new("turns", Shape::Integer(1, 1000), Live).default("16"),
        /// Most output of one run.
        pub(crate) output: Bytes = Key::new("output", Shape::Bytes, Live).default("1MiB"),
        /// Longest run.
        pub(crate) wall: Millis = Key::new("wall", Shape::Duration, Live).default("15m"),
    }
}

keys! {
    /// A repeating wake.
    #[derive(Copy, PartialEq, Eq)]
    pub struct Wake {
        /// Interval between two wakes.
        pub every: Millis = Key::new("every", Shape::Duration, Live).required(),
        /// Largest random delay of a wake.
        pub jitter: Millis = Key::new("jitter", Shape::Duration, Live).default("0s"),
    }
}

impl FromValue for Limits {
    fn from_value(value: &Value) -> Option<Self> {
        LimitKeys::from_value(value).map(|keys| Limits {
            memory: keys.memory,
            cpu_milli: keys.cpus,
            processes: keys.processes,
            io: keys.io,
        })
    }
}

impl FromValue for Drives {
    fn from_value(value: &Value) -> Option<Self> {
        DriveKeys::from_value(value).map(|keys| Drives {
            state: keys.state,
            workspace: keys.workspace,
            scratch: keys.scratch,
        })
    }
}

impl FromValue for ToolPolicy {
    fn from_value(value: &Value) -> Option<Self> {
        ToolKeys::from_value(value).map(|keys| ToolPolicy {
            tools: keys.allow,
            paths: keys.paths,
            turns_max: keys.turns,
            output_bytes_max: keys.output.0,
            wall_ms_max: keys.wall.0,
        })
    }
}

const FILES: &[Key] = &[crate::key::live(
    "command",
    Shape::List(&Shape::Text),
    "Program and arguments; the path of the task's file comes last. Without it, another program picks up the files.",
)];

impl Agent {
    /// Daily limits of the agent's own budget.
    pub fn budget(&self) -> AgentBudget {
        AgentBudget {
            tokens: self.daily.tokens,
            nano_usd: self.daily.nano_usd,
            runs: self.daily.runs,
            seconds: self.daily.seconds,
        }
    }

    /// Sizes of the file systems that the agent's sandbox has of its own; none when it shares the disk of the house.
    pub fn disks(&self) -> Option<Drives> {
        let named = self.settings.is_set("drives.");
        (self.cell == CellKind::Sandbox && named).then_some(self.drives)
    }

    /// Every effective value as (key, value, origin) in text, for `agent show --effective`. Secrets are shown as
    /// references.
    pub fn effective(&self) -> Vec<(String, String, String)> {
        let row = |s: &Setting| {
            let open = s.path == "cell" && !self.cell.isolates();
            let text = match open {
                true => format!("{} (not isolated)", s.text()),
                false => s.text(),
            };
            (s.path.clone(), text, s.origin.to_string())
        };
        self.settings.iter().map(row).collect()
    }
}
