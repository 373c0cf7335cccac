//! The validated house: what the manifest means, with every default filled in.

use crate::document::Document;
use crate::hook::Hook;
use crate::keys::{Admission, Agent, Budget, Compatibility, Delegation, Service};
use crate::settings::Settings;
use crate::sink::CheckpointSink;
use abbey_engine::workflow::Workflow;
use abbey_model::{Layer, Millis, NanoUsd, SecretRef, Slug, Subnet};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

/// A house as its manifest describes it, validated and with every default filled in.
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
    /// Limits of delegation.
    pub delegation: Delegation,
    /// Whether one more cell fits.
    pub admission: Admission,
    /// Model providers by name.
    pub providers: BTreeMap<Slug, Provider>,
    /// Budget of the whole house.
    pub budget: Budget,
    /// Enabled services by name.
    pub services: BTreeMap<Slug, Service>,
    /// Agents by name.
    pub agents: BTreeMap<Slug, Agent>,
    /// Workflows by name.
    pub workflows: BTreeMap<Slug, Workflow>,
    /// Webhooks by name.
    pub hooks: BTreeMap<Slug, Hook>,
    /// Checkpoint sinks by name.
    pub checkpoint_sinks: BTreeMap<Slug, CheckpointSink>,
    /// Settings for clients of earlier systems.
    pub compatibility: Compatibility,
    /// Shared documents by name.
    pub documents: BTreeMap<Slug, Document>,
    /// Services that are declared and not enabled.
    pub disabled: BTreeSet<Slug>,
    /// Every effective value of the house itself, with where it comes from.
    pub settings: Settings,
}

/// Address and TLS certificate of the operator API.
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
    /// Whether cells are ports of one bridge instead of having a routed pair of interfaces each.
    pub bridged: bool,
    /// Offsets of service addresses in every agent's subnet, by slot (S1-08).
    pub slots: BTreeMap<Slug, u32>,
}

impl Network {
    /// Every subnet of the pool, from the last to the first.
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Base of its API, or the service that speaks it.
    pub endpoint: Endpoint,
    /// Reference to the API key.
    pub key: Option<SecretRef>,
    /// Prices of a million tokens, input and output; unknown when not given.
    pub price: Option<(NanoUsd, NanoUsd)>,
    /// Whether the manifest gives one of the two prices, which is no price.
    pub half_priced: bool,
    /// Output tokens reserved for a call that names no maximum.
    pub output_tokens_max: u64,
}

/// Endpoint of a model provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A URL.
    Url(String),
    /// A service of this house.
    Service(Slug),
}

/// Rule for tasks without an eligible agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escalation {
    /// The agent that decides; the operator when there is none.
    pub to: Option<Slug>,
    /// Time for the decision; without a limit when not given.
    pub within: Option<Millis>,
    /// Whether a task without a decision in time is cancelled; otherwise it is kept.
    pub cancels: bool,
}

impl House {
    /// The model provider whose calls this service answers, if it is one: by name, or because the provider's URL is the
    /// address of an external service.
    pub fn provider_of(&self, service: &Slug) -> Option<&Slug> {
        let at = self.services.get(service).and_then(|s| s.at);
        let is_endpoint = |provider: &Provider| match &provider.endpoint {
            Endpoint::Service(name) => name == service,
            Endpoint::Url(url) => at.is_some_and(|at| {
                let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
                rest.split('/').next() == Some(at.to_string().as_str())
            }),
        };
        let found = self.providers.iter().find(|(_, p)| is_endpoint(p));
        found.map(|(name, _)| name)
    }

    /// Isolation layers that `defaults.waive` accepts to be absent.
    pub fn waived_by_default(&self) -> BTreeSet<Layer> {
        let waived = self.settings.value("defaults.waive");
        let names = waived.and_then(|v| v.as_array()).into_iter().flatten();
        names
            .filter_map(|name| name.as_str()?.parse().ok())
            .collect()
    }

    /// References to every secret that the control plane itself must read, each with its use as messages name it:
    /// `provider:NAME`, `hook:NAME`, `checkpoint_sink:NAME`, `compatibility`.
    pub fn secrets(&self) -> impl Iterator<Item = (String, &SecretRef)> {
        let providers = self
            .providers
            .iter()
            .filter_map(|(name, p)| Some((format!("provider:{name}"), p.key.as_ref()?)));
        let hooks = self.hooks.iter().flat_map(|(name, hook)| {
            let both = std::iter::once(&hook.secret).chain(hook.token.as_ref());
            both.map(move |secret| (format!("hook:{name}"), secret))
        });
        let sinks = self
            .checkpoint_sinks
            .iter()
            .filter_map(|(name, sink)| match sink {
                CheckpointSink::Http { token, .. } => {
                    Some((format!("checkpoint_sink:{name}"), token.as_ref()?))
                }
                CheckpointSink::File(_) | CheckpointSink::Syslog(_) => None,
            });
        let shared = self.compatibility.controlplane_secret.iter();
        let shared = shared.map(|secret| ("compatibility".to_owned(), secret));
        providers.chain(hooks).chain(sinks).chain(shared)
    }
}
