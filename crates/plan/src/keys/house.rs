//! Keys of the house itself.

use super::agent::Agent;
use super::documents::DOCUMENTS;
use super::hooks::HOOKS;
use super::service::Service;
use super::sinks::SINKS;
use super::workflows::WORKFLOWS;
use crate::agent_values::AgentBudget;
use crate::key::Effect::{Live, None as NoEffect};
use crate::key::{Key, Shape, keys, live, must};
use crate::value::{later, nano_usd, seconds};
use abbey_model::{Bytes, SecretRef, Slug};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The whole manifest.
pub(crate) const MANIFEST: Shape = Shape::Section(ManifestKeys::KEYS);

/// Keys of `escalation`.
const ESCALATION: Shape = Shape::Object(&[
    must(
        "to",
        Shape::Agent,
        "The agent that decides about tasks without an eligible agent, or `operator`.",
    ),
    live(
        "within",
        Shape::Duration,
        "Time for that decision; without a limit when not given.",
    ),
    live(
        "then",
        Shape::Word(&["keep", "cancel"], &[]),
        "What happens to a task without a decision in time: `keep` (the default) or `cancel`.",
    ),
]);

keys! {
    /// The manifest.
    pub(crate) struct ManifestKeys {
        /// Format of this file; always 1.
        pub(crate) _version: Option<u64> = Key::new("version", Shape::Integer(1, 1), NoEffect).required(),
        /// Name of this installation. It stays: a manifest with another name is refused as that of another house.
        pub(crate) house: Option<Slug> = Key::new("house", Shape::Name, Live).required(),
        /// Where the operator API listens.
        pub(crate) listen: ListenKeys = Key::new("listen", Shape::Section(ListenKeys::KEYS), Live),
        /// Addresses and ports of the house.
        pub(crate) network: NetworkKeys = Key::new("network", Shape::Section(NetworkKeys::KEYS), Live),
        /// What happens to tasks without an eligible agent.
        pub(crate) _escalation: () = Key::new("escalation", ESCALATION, Live) => later,
        /// How far delegation may go.
        pub(crate) delegation: Delegation = Key::new("delegation", Shape::Section(Delegation::KEYS), Live),
        /// Whether one more cell fits.
        pub(crate) admission: Admission = Key::new("admission", Shape::Section(Admission::KEYS), Live),
        /// Model providers by name.
        pub(crate) providers: BTreeMap<Slug, ProviderKeys> =
            Key::new("providers", Shape::Map(&Shape::Object(ProviderKeys::KEYS)), Live),
        /// Values for agents that do not set their own.
        pub(crate) _defaults: () = Key::new("defaults", Shape::Defaults(Agent::KEYS), NoEffect) => later,
        /// Budget of the house.
        pub(crate) budget: Budget = Key::new("budget", Shape::Section(Budget::KEYS), Live),
        /// Programs that agents use, by name.
        pub(crate) _services: () = Key::new("services", Shape::Map(&Shape::Section(Service::KEYS)), Live) => later,
        /// The agents by name.
        pub(crate) _agents: () = Key::new("agents", Shape::ByAgent(&Shape::Section(Agent::KEYS)), Live) => later,
        /// Work in steps: what each needs, and which values pass between them.
        pub(crate) _workflows: () = Key::new("workflows", WORKFLOWS, Live) => later,
        /// Webhooks by name: senders that may report outside events at `/hooks/NAME`.
        pub(crate) _hooks: () = Key::new("hooks", HOOKS, Live) => later,
        /// Where signed heads of the audit log also go, by name.
        pub(crate) _checkpoint_sinks: () = Key::new("checkpoint_sinks", SINKS, Live) => later,
        /// What older clients need.
        pub(crate) compatibility: Compatibility =
            Key::new("compatibility", Shape::Section(Compatibility::KEYS), Live),
        /// Documents that agents share: each has one writer, is append-only, or is generated from the state.
        pub(crate) _documents: () = Key::new("documents", DOCUMENTS, Live) => later,
    }
}

keys! {
    /// Where the operator API listens.
    pub(crate) struct ListenKeys {
        /// Address of the operator API; port 0 picks a free one.
        pub(crate) address: SocketAddr = Key::new("address", Shape::Socket, Live).default("127.0.0.1:3100"),
        /// PEM certificate chain; needed off loopback.
        pub(crate) tls_certificate: Option<String> = Key::new("tls_certificate", Shape::Path, Live),
        /// PEM private key; needed off loopback.
        pub(crate) tls_key: Option<String> = Key::new("tls_key", Shape::Path, Live),
    }
}

// A cell restarts when its own subnet, port or service address changes; the plan shows that on the cell.
keys! {
    /// Addresses and ports from which the allocator serves.
    pub(crate) struct NetworkKeys {
        /// Addresses from which every agent gets a subnet. Cells whose subnet moves restart.
        pub(crate) pool: String = Key::new("pool", Shape::Network, Live).default("10.77.0.0/16"),
        /// Prefix length of one agent's subnet. Cells whose subnet moves restart.
        pub(crate) prefix: u8 = Key::new("prefix", Shape::Integer(16, 30), Live).default("24"),
        /// Ports from which agents and services get theirs. Cells whose port is outside get another and restart.
        pub(crate) ports: String = Key::new("ports", Shape::PortRange, Live).default("18800-18999"),
        /// `routed`: a pair of interfaces for each cell; `bridge`: one bridge for all, of at most 1,023 ports.
        /// Cells with a network restart.
        pub(crate) layout: String = Key::new("layout", Shape::Word(&["routed", "bridge"], &[]), Live).default("routed"),
        /// Service addresses: the host number of each slot in every agent's subnet. By default
        /// `{ git: 2, cms: 3, models: 4, db: 5 }`. Agents that reach a service at a moved address restart.
        pub(crate) slots: BTreeMap<Slug, u32> = Key::new("slots", Shape::Map(&Shape::Integer(2, 65_534)), Live),
    }
}

keys! {
    /// How far delegation may go.
    #[derive(Copy)]
    pub struct Delegation {
        /// Longest chain of delegation below the first task.
        pub depth: u32 = Key::new("depth", Shape::Integer(1, 32), Live).default("4"),
        /// Most open subtasks of one task.
        pub fan_out: u32 = Key::new("fan_out", Shape::Integer(1, 1024), Live).default("16"),
    }
}

keys! {
    /// Whether one more cell fits.
    pub struct Admission {
        /// Memory of the host that cells leave free; a cell that does not fit waits.
        pub memory_reserve: Bytes = Key::new("memory_reserve", Shape::Bytes, Live).default("128MiB"),
    }
}

keys! {
    /// What older clients need.
    pub struct Compatibility {
        /// A shared secret, valid for `/api/controlplane` alone; for the time of a migration.
        pub controlplane_secret: Option<SecretRef> = Key::new("controlplane_secret", Shape::Secret, Live),
    }
}

keys! {
    /// A model provider as it is written.
    pub(crate) struct ProviderKeys {
        /// Wire format.
        pub(crate) _kind: Option<String> =
            Key::new("kind", Shape::Word(&["openai"], &["anthropic"]), Live).required(),
        /// Base URL of the API, up to and including `/v1`.
        pub(crate) base_url: Option<String> = Key::new("base_url", Shape::Text, Live),
        /// A service of this house that speaks the API, instead of `base_url`.
        pub(crate) service: Option<Slug> = Key::new("service", Shape::Name, Live),
        /// Reference to the API key.
        pub(crate) key: Option<SecretRef> = Key::new("key", Shape::Secret, Live),
        /// Price of a million input tokens in US dollars.
        pub(crate) input_nano_usd: Option<u64> =
            Key::new("input_usd_per_mtok", Shape::Number(1e6), Live) => nano_usd,
        /// Price of a million output tokens in US dollars.
        pub(crate) output_nano_usd: Option<u64> =
            Key::new("output_usd_per_mtok", Shape::Number(1e6), Live) => nano_usd,
        /// Output tokens reserved for a call that names no maximum.
        pub(crate) output_tokens_max: u64 =
            Key::new("output_tokens_max", Shape::Integer(1, 1_000_000), Live).default("1024"),
    }
}

keys! {
    /// Budget of the house.
    pub struct Budget {
        /// Most model tokens in a day.
        pub tokens: Option<u64> = Key::new("tokens_per_day", Shape::Integer(0, i64::MAX), Live).unset("unlimited"),
        /// Most money in a day, in US dollars.
        pub nano_usd: Option<u64> = Key::new("usd_per_day", Shape::Number(1e9), Live).unset("unlimited") => nano_usd,
        /// Most runs in a day.
        pub runs: Option<u64> = Key::new("runs_per_day", Shape::Integer(0, i64::MAX), Live).unset("unlimited"),
        /// Most wall-clock minutes of runs in a day.
        pub seconds: Option<u64> = Key::new("minutes_per_day", Shape::Integer(0, 1 << 40), Live).unset("unlimited") => seconds,
        /// IANA time zone of midnight, when daily budgets reset.
        pub timezone: String = Key::new("timezone", Shape::TimeZone, Live).default("UTC"),
        /// Share of a limit from which on it is reported as nearly used up.
        pub warn_percent: u8 = Key::new("warn_at", Shape::Percent, Live).default("80%"),
    }
}

impl Budget {
    /// Daily limits of the whole house.
    pub fn limits(&self) -> AgentBudget {
        AgentBudget {
            tokens: self.tokens,
            nano_usd: self.nano_usd,
            runs: self.runs,
            seconds: self.seconds,
        }
    }
}
