//! The validated house: what the manifest means, with every default filled in.

use crate::key::{Effect, Key, keys};
pub use crate::keys::{
    Admission, Agent, AgentBudgetKeys, Budget, Compatibility, Delegation, Service,
};
use crate::settings::{Setting, Settings};
use crate::shape::Shape;
use abbey_engine::workflow::Workflow;
pub use abbey_model::Runtime;
use abbey_model::{Millis, NanoUsd, SecretRef, Slug, Subnet};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

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
    /// Worked out from its share of the house's budget.
    Share,
    /// Built in.
    BuiltIn,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Manifest(line) => write!(f, "manifest, line {line}"),
            Origin::Defaults(line) => write!(f, "defaults, line {line}"),
            Origin::Template(name) => write!(f, "template {name}"),
            Origin::Share => f.write_str("share of the house's budget"),
            Origin::BuiltIn => f.write_str("built in"),
        }
    }
}

/// A whole installation.
#[derive(Debug, Clone)]
pub struct House {
    /// Language of the house's own reports; a tag of BCP 47.
    pub display: Option<String>,
    /// Name of the installation.
    pub name: Slug,
    /// Where the operator API listens.
    pub listen: Listen,
    /// Addresses and ports.
    pub network: Network,
    /// What happens to tasks without an eligible agent.
    pub escalation: Option<Escalation>,
    /// How far delegation may go.
    pub delegation: Delegation,
    /// Whether one more cell fits.
    pub admission: Admission,
    /// Model providers by name.
    pub providers: BTreeMap<Slug, Provider>,
    /// Budget of everything.
    pub budget: Budget,
    /// Enabled services by name.
    pub services: BTreeMap<Slug, Service>,
    /// Agents by name.
    pub agents: BTreeMap<Slug, Agent>,
    /// Workflows by name.
    pub workflows: BTreeMap<Slug, Workflow>,
    /// Webhooks by name.
    pub hooks: BTreeMap<Slug, Hook>,
    /// What older clients need.
    pub compatibility: Compatibility,
    /// Shared documents by name.
    pub documents: BTreeMap<Slug, Document>,
    /// Services that are declared and not enabled.
    pub disabled: BTreeSet<Slug>,
    /// Every effective value of the house itself, with where it comes from.
    pub settings: Settings,
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
    /// Reference to the API key.
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

/// What happens to tasks without an eligible agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escalation {
    /// The agent that decides; the operator when there is none.
    pub to: Option<Slug>,
    /// Time for the decision; without a limit when not given.
    pub within: Option<Millis>,
    /// Whether a task is cancelled when it was not decided about in time; otherwise it is kept.
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

impl Service {
    /// The HTTP path of its health check; empty where an accepted connection is the check.
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
    /// A program that offers tools to the agents that use it.
    Tools,
}

impl FromStr for ServiceKind {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut all = ServiceKind::ALL.into_iter();
        all.find(|k| k.name() == text).ok_or(())
    }
}

impl ServiceKind {
    /// Every kind.
    pub const ALL: [ServiceKind; 5] = [
        ServiceKind::Command,
        ServiceKind::Postgres,
        ServiceKind::Git,
        ServiceKind::Site,
        ServiceKind::Tools,
    ];

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

/// A model at a provider.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelRef {
    /// Provider.
    pub provider: Slug,
    /// Name that the provider knows.
    pub model: String,
}

impl FromStr for ModelRef {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (provider, model) = text.split_once('/').ok_or(())?;
        Ok(ModelRef {
            provider: provider.parse().map_err(drop)?,
            model: model.to_owned(),
        })
    }
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

keys! {
    /// A repeating wake.
    #[derive(Copy, PartialEq, Eq)]
    pub struct Wake {
        /// Distance between two wakes.
        pub every: Millis = Key::new("every", Shape::Duration, Effect::Live).required(),
        /// Most that a wake is moved back, by chance.
        pub jitter: Millis = Key::new("jitter", Shape::Duration, Effect::Live).default("0s"),
    }
}

/// A task that starts by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Schedule {
    /// When it fires.
    pub when: When,
    /// Zone of a pattern; the house's when not given.
    pub timezone: Option<String>,
    /// What it starts.
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
    /// Agents that read it; every agent when not given. Its writers always do.
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

/// A webhook: a sender that may report outside events at `/hooks/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// How a delivery is signed.
    pub kind: HookKind,
    /// Secret that signs deliveries.
    pub secret: SecretRef,
    /// What a delivery starts.
    pub then: Then,
    /// Where the result of a task is reported: the root of the sender's API.
    pub api: Option<String>,
    /// Credential for `api`.
    pub token: Option<SecretRef>,
    /// Agents that a caller may name besides that of `then`; kind `openclaw` only.
    pub agents: Vec<Slug>,
    /// Whether a message is an instruction and not only data; kind `openclaw` only.
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

/// What a delivery starts.
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
    /// Every effective value with its origin, for `agent show --effective`; secrets are references.
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
        let shared = self.compatibility.controlplane_secret.iter();
        let shared = shared.map(|secret| ("compatibility".to_owned(), secret));
        providers.chain(hooks).chain(shared)
    }
}
