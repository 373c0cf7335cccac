//! From a checked tree to a [`House`]: values resolved and decoded, references checked, every mistake
//! reported at once.

use crate::colleagues::{pinned, with_scheduled};
use crate::house::{
    Agent, AgentBudget, Endpoint, House, Listen, Network, Origin, Provider, Service,
};
use crate::keys::{Budget, ListenKeys, MANIFEST, ManifestKeys, NetworkKeys, ProviderKeys};
use crate::node::{self, Entry, Mistake, Node};
use crate::settings::{self, Given, Layer};
use crate::shape;
use crate::templates;
use crate::value::FromValue;
use abbey_model::{Bytes, NanoUsd, Slug, Subnet, ToolPolicy, is_private};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Service addresses of a house that names none.
const SLOTS: [(&str, u32); 4] = [("git", 2), ("cms", 3), ("models", 4), ("db", 5)];
/// Smallest drive that a file system fits on.
const DRIVE_MIN: Bytes = Bytes(16 << 20);
/// Shortest distance between two wakes, in milliseconds.
const WAKE_EVERY_MIN: i64 = 30_000;

/// Parses a manifest.
///
/// # Errors
/// Every mistake, in the order of the text.
pub fn parse(text: &str) -> Result<House, Vec<Mistake>> {
    let root = node::read(text)?;
    let mut mistakes = Vec::new();
    shape::check(&MANIFEST, &root, "", &mut mistakes);
    let house = Decoder {
        root: &root,
        mistakes: &mut mistakes,
    }
    .house();
    if mistakes.is_empty() {
        return house
            .ok_or_else(|| vec![root.place.mistake("the manifest has no name for the house")]);
    }
    mistakes.sort();
    mistakes.dedup();
    Err(mistakes)
}

pub(crate) struct Decoder<'a> {
    pub(crate) root: &'a Node,
    pub(crate) mistakes: &'a mut Vec<Mistake>,
}

// The shape check has already reported what does not parse; here such values are just absent.
pub(crate) fn text<'a>(node: Option<&'a Node>, key: &str) -> Option<&'a str> {
    node?.get(key)?.text()
}
fn slug(node: Option<&Node>, key: &str) -> Option<Slug> {
    text(node, key)?.parse().ok()
}
pub(crate) fn integer(node: Option<&Node>, key: &str) -> Option<u64> {
    text(node, key)?.replace('_', "").parse().ok()
}
pub(crate) fn words(node: Option<&Node>, key: &str) -> Vec<String> {
    let items = node.and_then(|n| n.get(key)).map_or(&[][..], Node::items);
    items
        .iter()
        .filter_map(|i| i.text().map(str::to_owned))
        .collect()
}
/// Names of a list.
pub(crate) fn names(node: Option<&Node>, key: &str) -> BTreeSet<Slug> {
    let words = words(node, key).into_iter();
    words.filter_map(|w| w.parse().ok()).collect()
}
impl Decoder<'_> {
    fn house(&mut self) -> Option<House> {
        let own = Layer {
            node: self.root,
            defaults: false,
        };
        let resources = ["agents", "services"];
        let keys = MANIFEST.keys().filter(|k| !resources.contains(&k.name));
        let (value, settings) = settings::resolve(keys, &[own], Given::new());
        let keys = ManifestKeys::from_value(&value)?;
        let listen = self.listen(keys.listen);
        let network = self.network(keys.network);
        let (services, disabled) = self.services(&network.slots);
        let providers = self.providers(keys.providers, &services);
        let agents = self.agents(&keys.budget, &providers);
        self.org_chart(&agents);
        self.check_colleagues(&agents);
        self.shares(&agents);
        self.consumers(&services, &agents);
        let workflows = self.workflows(&agents);
        let hooks = self.hooks(&agents, &workflows);
        let documents = self.documents(&agents);
        let escalation = self.escalation(&agents);
        let locale = self.root.get("defaults").and_then(|d| d.get("locale"));
        let display = text(locale, "display").and_then(|t| abbey_words::tag(t).ok());
        Some(House {
            display,
            escalation,
            name: keys.house?,
            listen,
            network,
            delegation: keys.delegation,
            admission: keys.admission,
            providers,
            budget: keys.budget,
            services,
            agents,
            compatibility: keys.compatibility,
            hooks,
            documents,
            workflows,
            disabled,
            settings,
        })
    }

    fn listen(&mut self, keys: ListenKeys) -> Listen {
        let node = self.root.get("listen");
        let address = keys.address;
        let tls = match (keys.tls_certificate, keys.tls_key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                self.blame(
                    node,
                    "`listen` needs both `tls_certificate` and `tls_key`, or neither",
                );
                None
            }
        };
        if tls.is_none() && !address.ip().is_loopback() {
            self.blame(node, format!(
                "`listen.address`: {address} is reachable from other hosts, so TLS is required: \
                 set `tls_certificate` and `tls_key`, or listen on 127.0.0.1"
            ));
        }
        Listen { address, tls }
    }

    pub(crate) fn blame(&mut self, node: Option<&Node>, text: impl Into<String>) {
        let place = node.map_or(self.root.place, |n| n.place);
        self.mistakes.push(place.mistake(text));
    }

    fn network(&mut self, keys: NetworkKeys) -> Network {
        let node = self.root.get("network");
        let (pool, pool_prefix) =
            shape::network(&keys.pool).unwrap_or((Ipv4Addr::new(10, 77, 0, 0), 16));
        let prefix = keys.prefix;
        if prefix < pool_prefix {
            self.blame(node, format!("`network.prefix`: a subnet of /{prefix} does not fit into the pool /{pool_prefix}"));
        }
        if !is_private((pool, pool_prefix)) {
            let text = format!(
                "`network.pool`: {pool}/{pool_prefix} is not inside 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10; others would no longer be reached from this host"
            );
            self.blame(node, text);
        }
        let slots = self.slots(prefix, &keys.slots);
        Network {
            bridged: keys.layout == "bridge",
            pool,
            pool_prefix,
            prefix,
            ports: shape::port_range(&keys.ports).unwrap_or((18800, 18999)),
            slots,
        }
    }

    /// Service addresses by name; those that do not fit are reported.
    fn slots(&mut self, prefix: u8, declared: &BTreeMap<Slug, u32>) -> BTreeMap<Slug, u32> {
        let written = self.root.get("network").and_then(|n| n.get("slots"));
        let Some(node) = written else {
            let fits = |(_, offset): &(&str, u32)| *offset < Subnet::cell_offset(prefix);
            let known = SLOTS.into_iter().filter(fits);
            return known
                .filter_map(|(name, offset)| Some((name.parse().ok()?, offset)))
                .collect();
        };
        let (last, cell) = (u32::MAX >> prefix, Subnet::cell_offset(prefix));
        let mut slots = BTreeMap::new();
        for Entry { key, place, .. } in node.entries() {
            let declared = key
                .parse()
                .ok()
                .and_then(|s: Slug| declared.get_key_value(&s));
            let Some((slug, &offset)) = declared else {
                continue;
            };
            let why = if offset >= last {
                format!("is outside a subnet of /{prefix}")
            } else if offset == cell {
                "is the address of the cell itself".to_owned()
            } else if let Some((other, _)) = slots.iter().find(|(_, o)| **o == offset) {
                format!("is taken by slot `{other}`")
            } else {
                slots.insert(slug.clone(), offset);
                continue;
            };
            self.mistakes
                .push(place.mistake(format!("`network.slots.{slug}`: {offset} {why}")));
        }
        slots
    }

    fn providers(
        &mut self,
        written: BTreeMap<Slug, ProviderKeys>,
        services: &BTreeMap<Slug, Service>,
    ) -> BTreeMap<Slug, Provider> {
        let mut providers = BTreeMap::new();
        let entries = self.root.get("providers").map_or(&[][..], Node::entries);
        for Entry { key, place, value } in entries {
            let Some((name, keys)) = key
                .parse()
                .ok()
                .and_then(|s: Slug| written.get_key_value(&s))
            else {
                continue;
            };
            let endpoint = match (&keys.base_url, &keys.service) {
                (Some(url), None) => {
                    if !(url.starts_with("http://") || url.starts_with("https://")) {
                        self.blame(
                            value.get("base_url"),
                            format!("`providers.{name}.base_url` begins with http:// or https://"),
                        );
                    }
                    Endpoint::Url(url.trim_end_matches('/').to_owned())
                }
                (None, Some(service)) => {
                    if !services.contains_key(service) {
                        let known = nearest(service.as_str(), services.keys().map(Slug::as_str));
                        self.blame(
                            value.get("service"),
                            format!("no service `{service}` is declared{known}"),
                        );
                    }
                    Endpoint::Service(service.clone())
                }
                _ => {
                    self.mistakes.push(place.mistake(format!(
                        "`providers.{name}` needs either `base_url` or `service`"
                    )));
                    continue;
                }
            };
            let (input, output) = (keys.input_nano_usd, keys.output_nano_usd);
            providers.insert(
                name.clone(),
                Provider {
                    endpoint,
                    key: keys.key.clone(),
                    price: input.map(NanoUsd).zip(output.map(NanoUsd)),
                    output_tokens_max: keys.output_tokens_max,
                },
            );
        }
        providers
    }

    fn agents(
        &mut self,
        house: &Budget,
        providers: &BTreeMap<Slug, Provider>,
    ) -> BTreeMap<Slug, Agent> {
        let mut agents = BTreeMap::new();
        let entries = self.root.get("agents").map_or(&[][..], Node::entries);
        let services = self.root.get("services").map_or(&[][..], Node::entries);
        for entry in entries {
            let Ok(slug) = entry.key.parse::<Slug>() else {
                continue;
            };
            if let Some(service) = services.iter().find(|s| s.key == entry.key) {
                self.mistakes.push(entry.place.mistake(format!(
                    "`{slug}` is already the name of a service, on line {}",
                    service.place.line
                )));
            }
            if let Some(agent) = self.agent(&slug, entry, house, providers) {
                agents.insert(slug, agent);
            }
        }
        agents
    }

    fn agent(
        &mut self,
        slug: &Slug,
        entry: &Entry,
        house: &Budget,
        providers: &BTreeMap<Slug, Provider>,
    ) -> Option<Agent> {
        let own = Layer {
            node: &entry.value,
            defaults: false,
        };
        let defaults = self.root.get("defaults").map(|node| Layer {
            node,
            defaults: true,
        });
        let layers: Vec<Layer<'_>> = std::iter::once(own).chain(defaults).collect();
        let given = self.given(slug, entry);
        let (value, settings) = settings::resolve(Agent::KEYS.iter(), &layers, given);
        let line = entry.place.line;
        let mut agent = Agent::read(&value, slug.clone(), line, settings, BTreeMap::new())?;
        agent.schedules = self.schedules(entry.value.get("schedules"));
        let (skills, pins) = pinned(std::mem::take(&mut agent.skills));
        agent.skills = with_scheduled(skills, &agent.schedules);
        agent.pins = pins;
        self.check_agent(&agent, entry, providers);
        self.share(&mut agent, entry, house);
        Some(agent)
    }

    /// Values of an agent that are neither written nor the same for all: by its slug and its template.
    fn given(&mut self, slug: &Slug, entry: &Entry) -> Given {
        let name = text(Some(&entry.value), "template");
        let stock = name.and_then(templates::find);
        if let (Some(name), None) = (name, stock) {
            let known = nearest(name, templates::ALL.iter().map(|t| t.name));
            self.blame(
                entry.value.get("template"),
                format!("no template `{name}`{known}; `abbey template list` shows all"),
            );
        }
        let origin = match stock {
            Some(template) => Origin::Template(template.name.to_owned()),
            None => Origin::BuiltIn,
        };
        let role = stock.map_or("agent", |t| t.role);
        let charter = stock.map_or("worker", |t| t.name);
        let skills = stock.map_or(&[][..], |t| t.skills);
        let policy = stock.map_or_else(ToolPolicy::default, |t| t.tool_policy());
        Given::from([
            ("name", (slug.as_str().into(), Origin::BuiltIn)),
            ("role", (role.into(), origin.clone())),
            ("charter", (json!({ "stock": charter }), origin.clone())),
            ("skills", (json!(skills), origin.clone())),
            ("tools.allow", (settings::tools(policy.tools), origin)),
        ])
    }

    /// What the shapes of the keys do not say.
    fn check_agent(&mut self, agent: &Agent, entry: &Entry, providers: &BTreeMap<Slug, Provider>) {
        // Where a key was written: by the agent or under `defaults`.
        let defaults = self.root.get("defaults");
        let written = |key: &str| entry.value.get(key).or_else(|| defaults?.get(key));
        if let Some(model) = &agent.model
            && !providers.contains_key(&model.provider)
        {
            let provider = &model.provider;
            let known = nearest(provider.as_str(), providers.keys().map(Slug::as_str));
            self.blame(
                written("model"),
                format!("no provider `{provider}` is declared{known}"),
            );
        }
        for path in &agent.tools.paths {
            if path.starts_with('/') || path.split('/').any(|part| part == "..") {
                self.mistakes.push(entry.place.mistake(format!(
                    "`tools.paths`: `{path}` must stay inside the workspace"
                )));
            }
        }
        let wake = entry.value.get("wake");
        if let Some(times) = agent.wake {
            if times.every.0 < WAKE_EVERY_MIN {
                self.blame(wake, "`wake.every` is at least 30s");
            }
            if times.jitter > times.every {
                self.blame(wake, "`wake.jitter` is at most `wake.every`");
            }
        }
        let drives = written("drives");
        for (key, size) in [
            ("state", agent.drives.state),
            ("workspace", agent.drives.workspace),
            ("scratch", agent.drives.scratch),
        ] {
            if size < DRIVE_MIN {
                self.blame(
                    drives.and_then(|d| d.get(key)),
                    "a drive has at least 16 MiB",
                );
            }
        }
    }

    /// Works out an agent's share of the house's budget. Both count: the share of the house's limit and, where
    /// given, the agent's own.
    fn share(&mut self, agent: &mut Agent, entry: &Entry, house: &Budget) {
        let Some(percent) = agent.daily.share else {
            return;
        };
        let house = house.limits();
        if house == AgentBudget::default() {
            self.blame(
                entry.value.get("budget"),
                format!(
                    "agent `{}` has a share of a budget that the house does not set",
                    agent.slug
                ),
            );
        }
        let daily = &mut agent.daily;
        let limits = [
            (
                "budget.tokens_per_day",
                house.tokens,
                &mut daily.tokens,
                1.0,
            ),
            (
                "budget.usd_per_day",
                house.nano_usd,
                &mut daily.nano_usd,
                1e9,
            ),
            ("budget.runs_per_day", house.runs, &mut daily.runs, 1.0),
            (
                "budget.minutes_per_day",
                house.seconds,
                &mut daily.seconds,
                60.0,
            ),
        ];
        for (path, whole, own, unit) in limits {
            let Some(whole) = whole else { continue };
            let share = u128::from(whole) * u128::from(percent) / 100;
            let share = u64::try_from(share).unwrap_or(u64::MAX);
            if own.is_none_or(|own| share < own) {
                *own = Some(share);
                let value = match share as f64 / unit {
                    _ if unit == 1.0 => json!(share),
                    whole if whole.fract() == 0.0 => json!(whole as u64),
                    part => json!(part),
                };
                agent.settings.set(path, value, Some(Origin::Share));
            }
        }
    }

    fn org_chart(&mut self, agents: &BTreeMap<Slug, Agent>) {
        let entries = self.root.get("agents").map_or(&[][..], Node::entries);
        for entry in entries {
            let Some(above) = slug(Some(&entry.value), "reports_to") else {
                continue;
            };
            let place = entry
                .value
                .get("reports_to")
                .map_or(entry.place, |n| n.place);
            if !agents.contains_key(&above) {
                let known = nearest(above.as_str(), agents.keys().map(Slug::as_str));
                self.mistakes
                    .push(place.mistake(format!("no agent `{above}`{known}")));
                continue;
            }
            let mut seen = vec![entry.key.clone()];
            let mut at = Some(above);
            while let Some(slug) = at {
                if seen.iter().any(|s| s == slug.as_str()) {
                    seen.push(slug.to_string());
                    self.mistakes.push(place.mistake(format!(
                        "`reports_to` goes in a circle: {}",
                        seen.join(" → ")
                    )));
                    break;
                }
                seen.push(slug.to_string());
                at = agents.get(&slug).and_then(|a| a.reports_to.clone());
            }
        }
    }

    fn shares(&mut self, agents: &BTreeMap<Slug, Agent>) {
        let sum: u32 = agents
            .values()
            .filter_map(|a| a.daily.share)
            .map(u32::from)
            .sum();
        if sum > 100 {
            self.blame(
                self.root.get("agents"),
                format!(
                    "the shares of the agents add up to {sum}%, which is more than the house has"
                ),
            );
        }
    }
}

/// "; did you mean …?", when something is near.
pub(crate) fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> String {
    known
        .map(|name| (strsim::damerau_levenshtein(name, wanted), name))
        .min()
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3))
        .map_or_else(String::new, |(_, name)| format!("; did you mean `{name}`?"))
}
