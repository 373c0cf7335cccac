//! The validated house: what the manifest means, with every default filled in.

use crate::locale::Locale;
use abbey_engine::workflow::Workflow;
use abbey_model::{
    Authority, Bytes, CellKind, Drives, Egress, Grants, Layer, Limits, Millis, NanoUsd, Profile,
    SecretRef, Slug, Subnet, ToolPolicy, Vmm,
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// Where a value of the effective configuration comes from (S2-21).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The agent's own entry, at this line.
    Manifest(usize),
    /// `defaults:` in the manifest, at this line.
    Defaults(usize),
    /// The agent's template.
    Template(String),
    /// Built in.
    BuiltIn,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Manifest(line) => write!(f, "manifest, line {line}"),
            Origin::Defaults(line) => write!(f, "defaults, line {line}"),
            Origin::Template(name) => write!(f, "template {name}"),
            Origin::BuiltIn => f.write_str("built in"),
        }
    }
}

/// A whole installation.
#[derive(Debug, Clone)]
pub struct House {
    /// Language of reports that are nobody's; a tag of BCP 47.
    pub display: Option<String>,
    /// Its name.
    pub name: Slug,
    /// Outside door.
    pub listen: Listen,
    /// Addresses and ports.
    pub network: Network,
    /// Where work goes that nobody fits.
    pub escalation: Option<Escalation>,
    /// Longest chain of delegation, and most open pieces of one task.
    pub delegation: (u32, u32),
    /// Memory of the host that cells leave free.
    pub memory_reserve: Bytes,
    /// Model providers by name.
    pub providers: BTreeMap<Slug, Provider>,
    /// Budget of everything.
    pub budget: Budget,
    /// Programs that agents use.
    pub services: BTreeMap<Slug, Service>,
    /// The agents.
    pub agents: BTreeMap<Slug, Agent>,
    /// Work in steps.
    pub workflows: BTreeMap<Slug, Workflow>,
    /// Who may tell the house what happened elsewhere.
    pub hooks: BTreeMap<Slug, Hook>,
    /// A secret that many share, good for `/api/controlplane` alone.
    pub controlplane_secret: Option<SecretRef>,
    /// What agents share to read.
    pub documents: BTreeMap<Slug, Document>,
}

/// Where the operator's API listens.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Address; port 0 asks for a free one.
    pub address: SocketAddr,
    /// Certificate chain and key, both or neither.
    pub tls: Option<(String, String)>,
}

/// Addresses and ports from which the allocator serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// First address of the pool.
    pub pool: Ipv4Addr,
    /// Prefix length of the pool.
    pub pool_prefix: u8,
    /// Prefix length of one agent's subnet.
    pub prefix: u8,
    /// First and last port.
    pub ports: (u16, u16),
    /// Whether cells are ports of one bridge, and have no wires of their own.
    pub bridged: bool,
    /// Places of services in every agent's subnet, by name (S1-08).
    pub slots: BTreeMap<Slug, u32>,
}

impl Network {
    /// Every subnet of the pool, the last one first.
    pub fn subnets_from_the_end(&self) -> impl Iterator<Item = Subnet> + use<> {
        let (pool, prefix) = (u64::from(u32::from(self.pool)), self.prefix);
        let count = 1u64 << prefix.saturating_sub(self.pool_prefix);
        let size = 1u64 << (32 - prefix);
        (0..count).rev().filter_map(move |n| {
            let base = u32::try_from(pool + n * size).ok()?;
            Subnet::new(Ipv4Addr::from(base), prefix)
        })
    }
}

/// A model provider.
#[derive(Debug, Clone)]
pub struct Provider {
    /// Base of its API, or the service that speaks it.
    pub endpoint: Endpoint,
    /// Its key.
    pub key: Option<SecretRef>,
    /// Prices of a million tokens, input and output; unknown when not given.
    pub price: Option<(NanoUsd, NanoUsd)>,
    /// Output tokens reserved for a call that names no maximum.
    pub output_tokens_max: u64,
}

/// Where a provider answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A URL.
    Url(String),
    /// A service of this house.
    Service(Slug),
}

/// Budget of the house.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Daily limits.
    pub limits: AgentBudget,
    /// IANA time zone of its midnight.
    pub timezone: String,
    /// Level of warning, percent.
    pub warn_percent: u8,
}

/// Where work goes that nobody fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escalation {
    /// The agent who decides; the operator when there is none.
    pub to: Option<Slug>,
    /// Time for that.
    pub within: Option<Millis>,
    /// Whether it is called off when nobody decided in time.
    pub cancels: bool,
}

/// Daily limits, each absent when there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct AgentBudget {
    /// Model tokens.
    pub tokens: Option<u64>,
    /// Money.
    pub nano_usd: Option<u64>,
    /// Runs.
    pub runs: Option<u64>,
    /// Wall seconds.
    pub seconds: Option<u64>,
}

/// A program that agents use.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Its slug.
    pub slug: Slug,
    /// Kind of isolation.
    pub cell: CellKind,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Fixed port.
    pub port: Option<u16>,
    /// Path that answers 200.
    pub probe: Option<String>,
    /// Whether every agent may use it.
    pub shared: bool,
    /// Ceilings.
    pub limits: Limits,
    /// Layers that may be missing on this host.
    pub waived: BTreeSet<Layer>,
    /// Filter of system calls in a sandbox.
    pub profile: Profile,
    /// What it may reach outside.
    pub egress: Egress,
    /// Whether it runs on a terminal.
    pub terminal: bool,
    /// Place in every agent's subnet.
    pub slot: Option<Slug>,
    /// Where it answers, when somebody else runs it; then it has no cell.
    pub at: Option<SocketAddrV4>,
    /// What of the house's own it is.
    pub kind: ServiceKind,
    /// Services that answer before it starts.
    pub needs: BTreeSet<Slug>,
    /// What belongs to a consumer in it, where its name is not by the rule.
    pub names: BTreeMap<Slug, Slug>,
    /// How long what a consumer left behind is kept.
    pub grace: Millis,
    /// Most connections of one consumer at once.
    pub connections: u32,
    /// Most requests of one consumer in a minute.
    pub rate: u32,
    /// Most bytes that one consumer keeps.
    pub quota: Bytes,
    /// Line of the manifest.
    pub line: usize,
}

impl Service {
    /// The path that says whether it is well; empty where a connection says it.
    pub fn probe(&self) -> Option<&str> {
        match self.kind {
            ServiceKind::Command => self.probe.as_deref(),
            ServiceKind::Git | ServiceKind::Site | ServiceKind::Tools => Some("/healthz"),
            ServiceKind::Postgres => Some(""),
        }
    }

    /// What belongs to this agent in it: a database and its role, or a place for repositories (S1-16).
    pub fn name_for(&self, agent: &Slug) -> String {
        match (self.names.get(agent), self.kind) {
            (Some(own), ServiceKind::Postgres) => own.as_str().replace('-', "_"),
            (None, ServiceKind::Postgres) => agent.postgres_name(),
            (Some(own), _) => own.to_string(),
            (None, _) => agent.to_string(),
        }
    }
}

/// What a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceKind {
    /// A program that the manifest names.
    #[default]
    Command,
    /// PostgreSQL, with a database for each agent that uses it.
    Postgres,
    /// Git repositories over HTTP, a place for each agent that uses it.
    Git,
    /// Files over HTTP.
    Site,
    /// A program that offers tools to the agents who use it.
    Tools,
}

impl ServiceKind {
    /// Name in the manifest.
    pub const fn name(self) -> &'static str {
        match self {
            ServiceKind::Command => "command",
            ServiceKind::Postgres => "postgres",
            ServiceKind::Git => "git",
            ServiceKind::Site => "site",
            ServiceKind::Tools => "tools",
        }
    }

    /// Whether the manifest names its program.
    pub const fn has_command(self) -> bool {
        matches!(self, ServiceKind::Command | ServiceKind::Tools)
    }

    /// Whether its cell runs this binary.
    pub const fn is_stock(self) -> bool {
        !matches!(self, ServiceKind::Command)
    }

    /// Whether each consumer has a credential of its own there.
    pub const fn has_consumers(self) -> bool {
        matches!(
            self,
            ServiceKind::Postgres | ServiceKind::Git | ServiceKind::Site
        )
    }
}

/// The program that thinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// Abbey's own loop.
    Native,
}

impl Runtime {
    /// Name in the manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Runtime::Native => "native",
        }
    }
}

/// A model at a provider.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelRef {
    /// Provider.
    pub provider: Slug,
    /// Name that the provider knows.
    pub model: String,
}

impl std::fmt::Display for ModelRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.provider, self.model)
    }
}

/// Text of an agent's charter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Charter {
    /// A file, relative to the manifest.
    File(String),
    /// The stock text of a template.
    Stock(String),
}

/// A repeating wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wake {
    /// Distance.
    pub every: Millis,
    /// Most that a wake is moved back.
    pub jitter: Millis,
}

/// A named identity.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Keys everything.
    pub slug: Slug,
    /// Free text for people (S1-05).
    pub display_name: String,
    /// What it is for.
    pub role: String,
    /// Template that it was made from.
    pub template: Option<String>,
    /// Its charter.
    pub charter: Charter,
    /// Whether it may rewrite its own charter.
    pub charter_writable: bool,
    /// The agent above it.
    pub reports_to: Option<Slug>,
    /// Whom it may give work to.
    pub delegates: Authority,
    /// Whom it may ask something.
    pub asks: Authority,
    /// What work for a colleague is narrowed to.
    pub grants: Grants,
    /// What it is to others, by kind; no right comes of it (S2-01, S2-32).
    pub relations: BTreeMap<&'static str, Vec<Slug>>,
    /// The program that thinks.
    pub runtime: Runtime,
    /// Kind of isolation.
    pub cell: CellKind,
    /// Its model.
    pub model: Option<ModelRef>,
    /// Skills assigned to it.
    pub skills: Vec<String>,
    /// Versions that some of them must have.
    pub pins: BTreeMap<String, String>,
    /// Its daily limits; shares are already worked out.
    pub budget: AgentBudget,
    /// Share of the house's budget in percent, where one was given.
    pub share: Option<u8>,
    /// Its languages.
    pub locale: Locale,
    /// Services that it uses, in which something belongs to it.
    pub uses: BTreeSet<Slug>,
    /// It works by files: the program that does so, or none where somebody else looks for them.
    pub files: Option<Vec<String>>,
    /// Work that comes by itself, by name.
    pub schedules: BTreeMap<Slug, Schedule>,
    /// Repeating wake.
    pub wake: Option<Wake>,
    /// Ceilings of its cell.
    pub limits: Limits,
    /// Layers that may be missing on this host.
    pub waived: BTreeSet<Layer>,
    /// Filter of system calls in a sandbox.
    pub profile: Profile,
    /// What its microVM boots from.
    pub image: String,
    /// What runs its microVM.
    pub vmm: Vmm,
    /// Sizes of its microVM's drives.
    pub drives: Drives,
    /// Whether somebody named them, so that a sandbox has file systems of such sizes as well.
    pub drives_named: bool,
    /// What it may reach outside.
    pub egress: Egress,
    /// Whether it runs on a terminal.
    pub terminal: bool,
    /// Bytes that the egress proxy carries for it in a day.
    pub egress_bytes: Option<u64>,
    /// What its runs may do.
    pub tools: ToolPolicy,
    /// Most runs at once.
    pub max_concurrent_runs: u32,
    /// Line of the manifest.
    pub line: usize,
    /// Where each value comes from.
    pub origins: BTreeMap<&'static str, Origin>,
}

/// Work that comes by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Schedule {
    /// When.
    pub when: When,
    /// Zone of a pattern; the house's when not given.
    pub timezone: Option<String>,
    /// What is to be done.
    pub does: Does,
    /// Most that it is moved back.
    pub jitter: Millis,
    /// `skip`, `queue` or `replace`.
    pub overlap: String,
    /// `skip`, `once` or a number.
    pub catch_up: String,
    /// Time for one of them.
    pub timeout: Option<Millis>,
}

/// What a schedule begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Does {
    /// A task of its agent.
    Task(String),
    /// A skill of its agent, with these arguments.
    Skill(String, BTreeMap<String, String>),
    /// A workflow, with this input.
    Workflow(Slug, BTreeMap<String, serde_json::Value>),
}

/// A shared document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// How it comes to be.
    pub kind: DocumentKind,
    /// Agents who read it; everybody when not given. Its writers do anyway.
    pub readers: Option<BTreeSet<Slug>>,
}

/// How a document comes to be. What agents may not write, the operator writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentKind {
    /// Whole versions, by this agent if one is named.
    Text(Option<Slug>),
    /// Entries by these agents, or by everybody.
    Log(Option<BTreeSet<Slug>>),
    /// A report of this name, made at every reading.
    Report(String),
}

impl Document {
    /// Whether an agent writes it, or adds to it.
    pub fn written_by(&self, agent: &Slug) -> bool {
        match &self.kind {
            DocumentKind::Text(writer) => writer.as_ref() == Some(agent),
            DocumentKind::Log(writers) => writers.as_ref().is_none_or(|w| w.contains(agent)),
            DocumentKind::Report(_) => false,
        }
    }

    /// Whether an agent reads it.
    pub fn read_by(&self, agent: &Slug) -> bool {
        let named = self.readers.as_ref().is_none_or(|r| r.contains(agent));
        named || self.written_by(agent)
    }
}

/// Who may tell the house what happened elsewhere, at `/hooks/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// How a delivery is signed.
    pub kind: HookKind,
    /// With what.
    pub secret: SecretRef,
    /// What comes of a delivery.
    pub then: Then,
    /// Where the end of a task is reported: the root of the sender's API.
    pub api: Option<String>,
    /// With which credential.
    pub token: Option<SecretRef>,
    /// Whom a caller may name beside the agent of `then`; of kind `openclaw`.
    pub agents: Vec<Slug>,
    /// Whether a message is an instruction, and not only data; of kind `openclaw`.
    pub trusted: bool,
}

/// How deliveries are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HookKind {
    /// Standard Webhooks (standardwebhooks.com): `webhook-id`, `webhook-timestamp`, `webhook-signature`.
    Standard,
    /// GitHub: `X-Hub-Signature-256`.
    Github,
    /// Gitea and Forgejo: `X-Gitea-Signature`.
    Gitea,
    /// A bearer credential, with the fields of OpenClaw's hooks.
    Openclaw,
}

/// What comes of a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// A task, with the delivery as data.
    Task(Slug),
    /// A workflow, with the delivery as its input `payload`.
    Workflow(Slug),
    /// An event of the house.
    Event(Slug),
}

/// When a schedule fires, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// A pattern of five fields.
    Cron(String),
    /// A distance.
    Every(Millis),
    /// An instant, RFC 3339.
    At(String),
}

/// Kinds of relations between agents.
pub const RELATIONS: [&str; 4] = ["lineage", "mentor", "works_with", "may_ask"];

impl Agent {
    /// Sizes of the file systems of its sandbox, if it has any of its own.
    pub fn disks(&self) -> Option<Drives> {
        (self.cell == CellKind::Sandbox && self.drives_named).then_some(self.drives)
    }

    /// Every value with its origin, for `agent show --effective`; no secret is among them.
    pub fn effective(&self) -> Vec<(&'static str, String, String)> {
        let none = || "none".to_owned();
        let tools: Vec<&str> = self.tools.tools.iter().map(|t| t.name()).collect();
        let limit = |n: Option<u64>| n.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
        let values = [
            ("name", self.display_name.clone()),
            ("role", self.role.clone()),
            ("template", self.template.clone().unwrap_or_else(none)),
            (
                "charter",
                match &self.charter {
                    Charter::File(path) => path.clone(),
                    Charter::Stock(name) => format!("stock charter `{name}`"),
                },
            ),
            ("charter_writable", self.charter_writable.to_string()),
            (
                "reports_to",
                self.reports_to
                    .as_ref()
                    .map_or_else(none, ToString::to_string),
            ),
            ("delegates_to", self.delegates.to_string()),
            ("asks", self.asks.to_string()),
            ("runtime", self.runtime.name().to_owned()),
            (
                "cell",
                match self.cell.isolates() {
                    true => self.cell.to_string(),
                    false => format!("{} (not isolated)", self.cell),
                },
            ),
            (
                "model",
                self.model.as_ref().map_or_else(none, ToString::to_string),
            ),
            ("skills", self.skills.join(", ")),
            (
                "budget.share",
                self.share.map_or_else(none, |s| format!("{s}%")),
            ),
            ("budget.tokens_per_day", limit(self.budget.tokens)),
            ("budget.nano_usd_per_day", limit(self.budget.nano_usd)),
            ("budget.runs_per_day", limit(self.budget.runs)),
            ("budget.seconds_per_day", limit(self.budget.seconds)),
            (
                "wake",
                self.wake.map_or_else(none, |w| {
                    format!(
                        "every {} s, jitter {} s",
                        w.every.0 / 1000,
                        w.jitter.0 / 1000
                    )
                }),
            ),
            ("limits.memory", self.limits.memory.to_string()),
            (
                "limits.cpus",
                format!(
                    "{}.{:03}",
                    self.limits.cpu_milli / 1000,
                    self.limits.cpu_milli % 1000
                ),
            ),
            ("limits.processes", self.limits.processes.to_string()),
            (
                "limits.io",
                self.limits
                    .io
                    .map_or_else(|| "unlimited".to_owned(), |b| b.to_string()),
            ),
            ("tools.allow", tools.join(", ")),
            ("tools.paths", self.tools.paths.join(", ")),
            ("tools.turns", self.tools.turns_max.to_string()),
            ("tools.output", self.tools.output_bytes_max.to_string()),
            ("tools.wall", format!("{} s", self.tools.wall_ms_max / 1000)),
            ("profile", self.profile.name().to_owned()),
            ("image", self.image.clone()),
            ("vmm", self.vmm.name().to_owned()),
            ("drives.state", self.drives.state.to_string()),
            ("drives.workspace", self.drives.workspace.to_string()),
            ("drives.scratch", self.drives.scratch.to_string()),
            ("egress", self.egress.to_string()),
            ("terminal", self.terminal.to_string()),
            ("budget.egress_per_day", limit(self.egress_bytes)),
            ("max_concurrent_runs", self.max_concurrent_runs.to_string()),
            (
                "waive",
                match self.waived.is_empty() {
                    true => none(),
                    false => {
                        let names: Vec<&str> = self.waived.iter().map(|l| l.name()).collect();
                        names.join(", ")
                    }
                },
            ),
        ];
        values
            .into_iter()
            .map(|(key, value)| {
                let origin = self
                    .origins
                    .get(key)
                    .map_or_else(|| Origin::BuiltIn.to_string(), ToString::to_string);
                (key, value, origin)
            })
            .collect()
    }
}

impl House {
    /// Every secret that the house itself must read, and what for, as problems name it: `provider:NAME`.
    pub fn secrets(&self) -> impl Iterator<Item = (String, &SecretRef)> {
        let providers = self
            .providers
            .iter()
            .filter_map(|(name, p)| Some((format!("provider:{name}"), p.key.as_ref()?)));
        let hooks = self.hooks.iter().flat_map(|(name, hook)| {
            let both = std::iter::once(&hook.secret).chain(hook.token.as_ref());
            both.map(move |secret| (format!("hook:{name}"), secret))
        });
        let shared = self.controlplane_secret.iter();
        let shared = shared.map(|secret| ("compatibility".to_owned(), secret));
        providers.chain(hooks).chain(shared)
    }
}
