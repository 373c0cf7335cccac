//! From a checked tree to a [`House`]: defaults filled in, references resolved, every mistake
//! reported at once.

use crate::colleagues::{delegates, grants, pinned, relations, with_scheduled};
use crate::house::{
    Agent, AgentBudget, Budget, Charter, Endpoint, House, Listen, ModelRef, Network, Origin,
    Provider, Runtime, Service, Wake,
};
use crate::node::{self, Entry, Mistake, Node};
use crate::shape;
use crate::table::MANIFEST;
use crate::templates;
use abbey_model::{
    Bytes, CellKind, Drives, Egress, Layer, Limits, Millis, NanoUsd, Slug, Subnet, Tool,
    ToolPolicy, is_private,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

/// What is kept back where nothing is said.
const MEMORY_RESERVE: Bytes = Bytes(128 << 20);
/// Slots of a house that names none.
const SLOTS: [(&str, u32); 4] = [("git", 2), ("cms", 3), ("models", 4), ("db", 5)];

/// Output tokens reserved for a call that names no maximum, unless the provider says otherwise.
const OUTPUT_TOKENS_MAX: u64 = 1024;

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
pub(crate) fn layers(node: Option<&Node>) -> BTreeSet<Layer> {
    let items = node.map_or(&[][..], Node::items);
    let known = items.iter().filter_map(|i| i.text()?.parse().ok());
    known.collect()
}
pub(crate) fn egress(node: Option<&Node>) -> Egress {
    match node.map(|n| (n.text(), n.items())) {
        Some((Some("full"), _)) => Egress::Full,
        None | Some((Some(_), _)) => Egress::None,
        Some((None, items)) => {
            let rules = items.iter().filter_map(|i| i.text()?.parse().ok());
            Egress::List(rules.collect())
        }
    }
}
fn usd(node: Option<&Node>, key: &str) -> Option<NanoUsd> {
    let dollars: f64 = text(node, key)?.parse().ok()?;
    // The shape bounds the number, so the product fits; the last nano-dollar may be rounded.
    Some(NanoUsd((dollars * 1e9).round() as u64))
}

impl Decoder<'_> {
    fn house(&mut self) -> Option<House> {
        let root = Some(self.root);
        let network = self.network();
        let budget = self.budget();
        let services = self.services(&network.slots);
        let providers = self.providers(&services);
        let agents = self.agents(&budget, &providers);
        self.org_chart(&agents);
        self.colleagues(&agents);
        self.shares(&agents);
        self.consumers(&services, &agents);
        let workflows = self.workflows(&agents);
        let hooks = self.hooks(&agents, &workflows);
        let documents = self.documents(&agents);
        let escalation = self.escalation(&agents);
        let display = self
            .locale(self.root.get("defaults").and_then(|d| d.get("locale")))
            .display;
        Some(House {
            display,
            escalation,
            name: slug(root, "house")?,
            listen: self.listen(),
            network,
            delegation: {
                let node = self.root.get("delegation");
                let number = |key, usual| {
                    let written = integer(node, key).and_then(|n| u32::try_from(n).ok());
                    written.unwrap_or(usual)
                };
                (number("depth", 4), number("fan_out", 16))
            },
            memory_reserve: text(self.root.get("admission"), "memory_reserve")
                .and_then(shape::bytes)
                .map_or(MEMORY_RESERVE, Bytes),
            providers,
            budget,
            services,
            agents,
            controlplane_secret: text(self.root.get("compatibility"), "controlplane_secret")
                .and_then(|s| s.parse().ok()),
            hooks,
            documents,
            workflows,
        })
    }

    fn listen(&mut self) -> Listen {
        let node = self.root.get("listen");
        let address = text(node, "address")
            .and_then(|a| a.parse::<SocketAddr>().ok())
            .unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 3100)));
        let tls = match (text(node, "tls_certificate"), text(node, "tls_key")) {
            (Some(c), Some(k)) => Some((c.to_owned(), k.to_owned())),
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

    fn network(&mut self) -> Network {
        let node = self.root.get("network");
        let (pool, pool_prefix) = text(node, "pool")
            .and_then(shape::network)
            .unwrap_or((Ipv4Addr::new(10, 77, 0, 0), 16));
        let prefix = integer(node, "prefix")
            .and_then(|p| u8::try_from(p).ok())
            .unwrap_or(24);
        if prefix < pool_prefix {
            self.blame(node, format!("`network.prefix`: a subnet of /{prefix} does not fit into the pool /{pool_prefix}"));
        }
        let ports = text(node, "ports")
            .and_then(shape::port_range)
            .unwrap_or((18800, 18999));
        if !is_private((pool, pool_prefix)) {
            let text = format!(
                "`network.pool`: {pool}/{pool_prefix} is not inside 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10; others would no longer be reached from this host"
            );
            self.blame(node, text);
        }
        let slots = self.slots(prefix);
        Network {
            bridged: text(node, "layout") == Some("bridge"),
            pool,
            pool_prefix,
            prefix,
            ports,
            slots,
        }
    }

    fn slots(&mut self, prefix: u8) -> BTreeMap<Slug, u32> {
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
        for Entry { key, place, value } in node.entries() {
            let (Ok(slug), Some(offset)) = (
                key.parse::<Slug>(),
                value.text().and_then(|t| t.parse::<u32>().ok()),
            ) else {
                continue;
            };
            let why = if offset >= last {
                format!("is outside a subnet of /{prefix}")
            } else if offset == cell {
                "is the address of the cell itself".to_owned()
            } else if let Some((other, _)) = slots.iter().find(|(_, o)| **o == offset) {
                format!("is taken by slot `{other}`")
            } else {
                slots.insert(slug, offset);
                continue;
            };
            self.mistakes
                .push(place.mistake(format!("`network.slots.{slug}`: {offset} {why}")));
        }
        slots
    }

    fn daily(node: Option<&Node>) -> AgentBudget {
        AgentBudget {
            tokens: integer(node, "tokens_per_day"),
            nano_usd: usd(node, "usd_per_day").map(|n| n.0),
            runs: integer(node, "runs_per_day"),
            seconds: integer(node, "minutes_per_day").map(|m| m.saturating_mul(60)),
        }
    }

    fn budget(&mut self) -> Budget {
        let node = self.root.get("budget");
        Budget {
            limits: Self::daily(node),
            timezone: text(node, "timezone").unwrap_or("UTC").to_owned(),
            warn_percent: text(node, "warn_at").and_then(shape::percent).unwrap_or(80),
        }
    }

    fn providers(&mut self, services: &BTreeMap<Slug, Service>) -> BTreeMap<Slug, Provider> {
        let mut providers = BTreeMap::new();
        let entries = self.root.get("providers").map_or(&[][..], Node::entries);
        for Entry { key, place, value } in entries {
            let Ok(slug_of) = key.parse::<Slug>() else {
                continue;
            };
            let node = Some(value);
            let endpoint = match (text(node, "base_url"), slug(node, "service")) {
                (Some(url), None) => {
                    if !(url.starts_with("http://") || url.starts_with("https://")) {
                        self.blame(
                            value.get("base_url"),
                            format!(
                                "`providers.{slug_of}.base_url` begins with http:// or https://"
                            ),
                        );
                    }
                    Endpoint::Url(url.trim_end_matches('/').to_owned())
                }
                (None, Some(service)) => {
                    if !services.contains_key(&service) {
                        let known = nearest(service.as_str(), services.keys().map(Slug::as_str));
                        self.blame(
                            value.get("service"),
                            format!("no service `{service}` is declared{known}"),
                        );
                    }
                    Endpoint::Service(service)
                }
                _ => {
                    self.mistakes.push(place.mistake(format!(
                        "`providers.{slug_of}` needs either `base_url` or `service`"
                    )));
                    continue;
                }
            };
            let price = usd(node, "input_usd_per_mtok").zip(usd(node, "output_usd_per_mtok"));
            let key = text(node, "key").and_then(|k| k.parse().ok());
            let output_tokens_max = integer(node, "output_tokens_max").unwrap_or(OUTPUT_TOKENS_MAX);
            providers.insert(
                slug_of,
                Provider {
                    endpoint,
                    key,
                    price,
                    output_tokens_max,
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
            let agent = self.agent(&slug, entry, house, providers);
            agents.insert(slug, agent);
        }
        agents
    }

    fn agent(
        &mut self,
        slug_of: &Slug,
        entry: &Entry,
        house: &Budget,
        providers: &BTreeMap<Slug, Provider>,
    ) -> Agent {
        let own = Some(&entry.value);
        let defaults = self.root.get("defaults");
        let mut origins = BTreeMap::new();
        let template = slug(own, "template").map(|t| t.to_string());
        let stock = template.as_deref().and_then(templates::find);
        if let (Some(name), None) = (&template, stock) {
            let known = nearest(name, templates::ALL.iter().map(|t| t.name));
            self.blame(
                entry.value.get("template"),
                format!("no template `{name}`{known}; `abbey template list` shows all"),
            );
        }
        let origin_template = || Origin::Template(template.clone().unwrap_or_default());
        // The three places a value can come from, nearest first.
        let pick =
            |origins: &mut BTreeMap<&'static str, Origin>, key: &'static str| -> Option<&Node> {
                if let Some(found) = entry.value.get(key) {
                    origins.insert(key, Origin::Manifest(found.place.line));
                    return Some(found);
                }
                let found = defaults?.get(key)?;
                origins.insert(key, Origin::Defaults(found.place.line));
                Some(found)
            };
        let role = match entry.value.get("role") {
            Some(node) => {
                origins.insert("role", Origin::Manifest(node.place.line));
                node.text().unwrap_or_default().to_owned()
            }
            None => match stock {
                Some(t) => {
                    origins.insert("role", origin_template());
                    t.role.to_owned()
                }
                None => "agent".to_owned(),
            },
        };
        let charter = match entry.value.get("charter") {
            Some(node) => {
                origins.insert("charter", Origin::Manifest(node.place.line));
                Charter::File(node.text().unwrap_or_default().to_owned())
            }
            None => {
                let name = stock.map_or("worker", |t| t.name);
                if stock.is_some() {
                    origins.insert("charter", origin_template());
                }
                Charter::Stock(name.to_owned())
            }
        };
        let cell = match pick(&mut origins, "cell") {
            Some(node) => node
                .text()
                .and_then(|c| c.parse().ok())
                .unwrap_or(CellKind::Sandbox),
            None => CellKind::Sandbox,
        };
        let model = pick(&mut origins, "model").and_then(|node| {
            let (provider, name) = node.text()?.split_once('/')?;
            let provider: Slug = provider.parse().ok()?;
            if !providers.contains_key(&provider) {
                let known = nearest(provider.as_str(), providers.keys().map(Slug::as_str));
                self.mistakes.push(
                    node.place
                        .mistake(format!("no provider `{provider}` is declared{known}")),
                );
            }
            Some(ModelRef {
                provider,
                model: name.to_owned(),
            })
        });
        pick(&mut origins, "runtime");
        let skills = match entry.value.get("skills") {
            Some(node) => {
                origins.insert("skills", Origin::Manifest(node.place.line));
                words(own, "skills")
            }
            None => {
                if stock.is_some() {
                    origins.insert("skills", origin_template());
                }
                stock.map_or_else(Vec::new, |t| {
                    t.skills.iter().map(|s| (*s).to_owned()).collect()
                })
            }
        };
        let schedules = self.schedules(entry.value.get("schedules"));
        let (skills, pins) = pinned(skills);
        let skills = with_scheduled(skills, &schedules);
        let mut cell_limits = Limits::default();
        let mut tools = stock.map_or_else(ToolPolicy::default, |t| t.tool_policy());
        if stock.is_some() {
            origins.insert("tools.allow", origin_template());
        }
        for (node, from_manifest) in [(defaults, false), (own, true)] {
            let origin = |line| {
                if from_manifest {
                    Origin::Manifest(line)
                } else {
                    Origin::Defaults(line)
                }
            };
            let limits_node = node.and_then(|n| n.get("limits"));
            let (new, set) = limits(cell_limits, limits_node);
            cell_limits = new;
            for (key, line) in set {
                origins.insert(key, origin(line));
            }
            let tools_node = node.and_then(|n| n.get("tools"));
            for (key, line) in narrow_tools(&mut tools, tools_node) {
                origins.insert(key, origin(line));
            }
        }
        for path in &tools.paths {
            if path.starts_with('/') || path.split('/').any(|part| part == "..") {
                self.mistakes.push(entry.place.mistake(format!(
                    "`tools.paths`: `{path}` must stay inside the workspace"
                )));
            }
        }
        let (budget, share) = self.agent_budget(slug_of, entry, house, &mut origins);
        let wake = entry.value.get("wake").and_then(|node| {
            origins.insert("wake", Origin::Manifest(node.place.line));
            let every = Millis(shape::duration_ms(text(Some(node), "every")?)?);
            if every.0 < 30_000 {
                self.mistakes
                    .push(node.place.mistake("`wake.every` is at least 30s"));
            }
            let jitter = text(Some(node), "jitter")
                .and_then(shape::duration_ms)
                .map_or(Millis(0), Millis);
            if jitter > every {
                self.mistakes
                    .push(node.place.mistake("`wake.jitter` is at most `wake.every`"));
            }
            Some(Wake { every, jitter })
        });
        let mut note = |key: &'static str| {
            if let Some(node) = entry.value.get(key) {
                origins.insert(key, Origin::Manifest(node.place.line));
            }
        };
        for key in [
            "name",
            "template",
            "reports_to",
            "delegates_to",
            "asks",
            "max_concurrent_runs",
            "charter_writable",
            "terminal",
        ] {
            note(key);
        }
        let waived = layers(pick(&mut origins, "waive"));
        let egress = egress(pick(&mut origins, "egress"));
        let daily = entry.value.get("budget");
        let egress_bytes = text(daily, "egress_per_day").and_then(shape::bytes);
        if let (Some(_), Some(node)) = (egress_bytes, daily) {
            origins.insert("budget.egress_per_day", Origin::Manifest(node.place.line));
        }
        let profile = pick(&mut origins, "profile")
            .and_then(|n| n.text()?.parse().ok())
            .unwrap_or_default();
        let image = pick(&mut origins, "image")
            .and_then(Node::text)
            .unwrap_or("base")
            .to_owned();
        let vmm = pick(&mut origins, "vmm")
            .and_then(|n| n.text()?.parse().ok())
            .unwrap_or_default();
        let named = pick(&mut origins, "drives");
        let drives_named = named.is_some();
        let (drives, sized) = drives(named);
        for node in sized {
            self.blame(Some(node), "a drive has at least 16 MiB".to_owned());
        }
        let usual = self.locale(defaults.and_then(|d| d.get("locale")));
        let locale = self.locale(entry.value.get("locale")).or(&usual);
        Agent {
            slug: slug_of.clone(),
            display_name: text(own, "name").unwrap_or(slug_of.as_str()).to_owned(),
            role,
            template,
            charter,
            charter_writable: text(own, "charter_writable") == Some("true"),
            reports_to: slug(own, "reports_to"),
            delegates: delegates(entry.value.get("delegates_to")),
            asks: delegates(entry.value.get("asks")),
            schedules,
            grants: grants(entry.value.get("grants")),
            relations: relations(entry.value.get("relations")),
            files: entry.value.get("files").map(|f| words(Some(f), "command")),
            uses: names(own, "uses"),
            locale,
            runtime: Runtime::Native,
            cell,
            model,
            skills,
            pins,
            budget,
            share,
            wake,
            limits: cell_limits,
            waived,
            profile,
            image,
            vmm,
            drives,
            drives_named,
            egress,
            terminal: text(own, "terminal") == Some("true"),
            egress_bytes,
            tools,
            max_concurrent_runs: integer(own, "max_concurrent_runs")
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(1),
            line: entry.place.line,
            origins,
        }
    }

    fn agent_budget(
        &mut self,
        slug: &Slug,
        entry: &Entry,
        house: &Budget,
        origins: &mut BTreeMap<&'static str, Origin>,
    ) -> (AgentBudget, Option<u8>) {
        let node = entry.value.get("budget");
        let mut budget = Self::daily(node);
        let line = node.map_or(entry.place.line, |n| n.place.line);
        let keys = [
            ("budget.tokens_per_day", budget.tokens),
            ("budget.nano_usd_per_day", budget.nano_usd),
            ("budget.runs_per_day", budget.runs),
            ("budget.seconds_per_day", budget.seconds),
        ];
        for (key, value) in keys {
            if value.is_some() {
                origins.insert(key, Origin::Manifest(line));
            }
        }
        let share = text(node, "share").and_then(shape::percent);
        if let Some(percent) = share {
            origins.insert("budget.share", Origin::Manifest(line));
            if house.limits == AgentBudget::default() {
                self.blame(
                    node,
                    format!("agent `{slug}` has a share of a budget that the house does not set"),
                );
            }
            // Both count: the share of the house's limit and, where given, the agent's own.
            let part = |whole: Option<u64>, own: Option<u64>| {
                let share = whole.map(|w| {
                    u64::try_from(u128::from(w) * u128::from(percent) / 100).unwrap_or(u64::MAX)
                });
                match (share, own) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                }
            };
            budget = AgentBudget {
                tokens: part(house.limits.tokens, budget.tokens),
                nano_usd: part(house.limits.nano_usd, budget.nano_usd),
                runs: part(house.limits.runs, budget.runs),
                seconds: part(house.limits.seconds, budget.seconds),
            };
        }
        (budget, share)
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
        let sum: u32 = agents.values().filter_map(|a| a.share).map(u32::from).sum();
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

pub(crate) fn limits(base: Limits, node: Option<&Node>) -> (Limits, Vec<(&'static str, usize)>) {
    let mut out = base;
    let mut set = Vec::new();
    let line = |key: &str| node.and_then(|n| n.get(key)).map_or(0, |n| n.place.line);
    if let Some(memory) = text(node, "memory").and_then(shape::bytes) {
        out.memory = Bytes(memory);
        set.push(("limits.memory", line("memory")));
    }
    if let Some(cpus) = text(node, "cpus").and_then(|c| c.parse::<f64>().ok()) {
        // Bounded by the shape, so the product fits.
        out.cpu_milli = ((cpus * 1000.0).round() as u32).max(1);
        set.push(("limits.cpus", line("cpus")));
    }
    if let Some(processes) = integer(node, "processes").and_then(|p| u32::try_from(p).ok()) {
        out.processes = processes;
        set.push(("limits.processes", line("processes")));
    }
    if let Some(io) = text(node, "io").and_then(shape::bytes) {
        out.io = Some(Bytes(io));
        set.push(("limits.io", line("io")));
    }
    (out, set)
}

/// Smallest drive that a file system fits on.
const DRIVE_MIN: Bytes = Bytes(16 << 20);

/// Sizes, and those that are too small.
fn drives(node: Option<&Node>) -> (Drives, Vec<&Node>) {
    let mut out = Drives::default();
    let mut small = Vec::new();
    for (key, size) in [
        ("state", &mut out.state),
        ("workspace", &mut out.workspace),
        ("scratch", &mut out.scratch),
    ] {
        let Some(wanted) = text(node, key).and_then(shape::bytes) else {
            continue;
        };
        *size = Bytes(wanted);
        small.extend(node.and_then(|n| n.get(key)).filter(|_| *size < DRIVE_MIN));
    }
    (out, small)
}

fn narrow_tools(policy: &mut ToolPolicy, node: Option<&Node>) -> Vec<(&'static str, usize)> {
    let mut set = Vec::new();
    let line = |key: &str| node.and_then(|n| n.get(key)).map_or(0, |n| n.place.line);
    if let Some(allow) = node.and_then(|n| n.get("allow")) {
        policy.tools = match allow.text() {
            Some(_) => Tool::ALL.into_iter().collect(),
            None => allow
                .items()
                .iter()
                .filter_map(|i| i.text()?.parse().ok())
                .collect(),
        };
        set.push(("tools.allow", allow.place.line));
    }
    if node.and_then(|n| n.get("paths")).is_some() {
        policy.paths = words(node, "paths");
        set.push(("tools.paths", line("paths")));
    }
    if let Some(turns) = integer(node, "turns").and_then(|t| u32::try_from(t).ok()) {
        policy.turns_max = turns;
        set.push(("tools.turns", line("turns")));
    }
    if let Some(output) = text(node, "output").and_then(shape::bytes) {
        policy.output_bytes_max = output;
        set.push(("tools.output", line("output")));
    }
    if let Some(wall) = text(node, "wall").and_then(shape::duration_ms) {
        policy.wall_ms_max = wall;
        set.push(("tools.wall", line("wall")));
    }
    set
}

/// "; did you mean …?", when something is near.
pub(crate) fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> String {
    known
        .map(|name| (strsim::damerau_levenshtein(name, wanted), name))
        .min()
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3))
        .map_or_else(String::new, |(_, name)| format!("; did you mean `{name}`?"))
}
