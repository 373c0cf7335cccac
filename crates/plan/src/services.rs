//! Services out of the manifest's text: what each is, what it needs, and who uses it (S1-16 to S1-18, S2-05).

use crate::decode::{Decoder, egress, integer, layers, limits, names, nearest, text, words};
use crate::house::{Agent, Service, ServiceKind};
use crate::node::{Entry, Node};
use crate::shape::{self, Shape, key};
use crate::table::{EGRESS, LIMITS, NAMES, PROFILES, SERVICE_CELLS, WAIVE};
use abbey_model::{Bytes, CellKind, Limits, Millis, Slug};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// How long what a consumer left behind is kept, where nothing is said: seven days.
const GRACE: Millis = Millis::from_secs(7 * 86_400);
/// Connections of one consumer, where nothing is said.
const CONNECTIONS: u32 = 20;
/// Requests of one consumer in a minute, and bytes that it keeps, where nothing is said.
const RATE: u32 = 600;
const QUOTA: Bytes = Bytes(1 << 30);
/// Names that a database server has for itself.
const TAKEN: [&str; 4] = ["postgres", "template0", "template1", "abbey"];

/// What may stand below `services`.
pub(crate) const SERVICES: Shape = Shape::Map(&Shape::Object(&[
    key(
        "kind",
        Shape::Word(&["command", "postgres", "git", "site", "tools"], &[]),
        "What it is: a program that `command` names (the default), or one of the house's own: `postgres` has a database for each agent that uses it, `git` a place for repositories, `site` a place for files that all read; `tools` is a program that offers tools by the Model Context Protocol on its standard streams.",
    ),
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
    key(
        "at",
        Shape::Socket,
        "Where it answers, as `192.0.2.7:8080`, when somebody else runs it.",
    ),
    key(
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
        "Whether every agent may use it; default true. Otherwise only who `uses` it.",
    ),
    key("needs", NAMES, "Services that are well before it starts."),
    key(
        "names",
        Shape::Map(&Shape::Name),
        "What an agent's database or place for repositories is called, where not by the rule.",
    ),
    key(
        "grace",
        Shape::Duration,
        "How long what an agent left behind in it is kept; default 7 days.",
    ),
    key(
        "connections",
        Shape::Integer(1, 10_000),
        "Most connections of one agent at once; default 20.",
    ),
    key(
        "rate",
        Shape::Integer(1, 1_000_000),
        "Most requests of one agent in a minute; default 600.",
    ),
    key(
        "quota",
        Shape::Bytes,
        "Most that one agent keeps in it; default `1GiB`.",
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
]));

/// Link-local addresses are those of a cloud's metadata as well.
fn may_be_service(address: Ipv4Addr) -> bool {
    !(address.is_link_local()
        || address.is_multicast()
        || address.is_unspecified()
        || address.is_broadcast())
}

fn kind(node: Option<&Node>) -> ServiceKind {
    match text(node, "kind") {
        Some("postgres") => ServiceKind::Postgres,
        Some("git") => ServiceKind::Git,
        Some("site") => ServiceKind::Site,
        Some("tools") => ServiceKind::Tools,
        _ => ServiceKind::Command,
    }
}

impl Decoder<'_> {
    pub(crate) fn services(&mut self, slots: &BTreeMap<Slug, u32>) -> BTreeMap<Slug, Service> {
        let mut services: BTreeMap<Slug, Service> = BTreeMap::new();
        let entries = self.root.get("services").map_or(&[][..], Node::entries);
        for entry in entries {
            let Ok(slug) = entry.key.parse::<Slug>() else {
                continue;
            };
            // Alternatives share a slot and a port; of these at most one is enabled (S1-08).
            if text(Some(&entry.value), "enabled") == Some("false") {
                continue;
            }
            let service = self.service(slug.clone(), entry, slots, &services);
            services.insert(slug, service);
        }
        self.needs(&services);
        services
    }

    fn service(
        &mut self,
        slug: Slug,
        entry: &Entry,
        slots: &BTreeMap<Slug, u32>,
        others: &BTreeMap<Slug, Service>,
    ) -> Service {
        let Entry { place, value, .. } = entry;
        let node = Some(value);
        let kind = kind(node);
        let command = words(node, "command");
        match (!kind.has_command(), value.get("command")) {
            (false, None) if value.get("at").is_none() => self
                .mistakes
                .push(place.mistake(format!(
                "`services.{slug}` needs `command`, or a `kind` that the house has a program for"
            ))),
            (false, Some(_)) if command.is_empty() => {
                let text = format!("`services.{slug}.command` names no program");
                self.mistakes.push(place.mistake(text));
            }
            (true, Some(at)) => {
                let text = format!("a `{}` has a program already", kind.name());
                self.blame(Some(at), text);
            }
            _ => {}
        }
        let probe = text(node, "probe").map(str::to_owned);
        if probe.as_ref().is_some_and(|p| !p.starts_with('/')) {
            self.blame(
                value.get("probe"),
                format!("`services.{slug}.probe` is a path and begins with `/`"),
            );
        }
        if kind.is_stock() && probe.is_some() {
            let text = format!(
                "the house knows by itself whether a `{}` is well",
                kind.name()
            );
            self.blame(value.get("probe"), text);
        }
        for (name, used) in [
            ("names", kind.has_consumers()),
            ("grace", kind.has_consumers()),
            ("connections", kind.has_consumers()),
            (
                "rate",
                kind.has_consumers() && kind != ServiceKind::Postgres,
            ),
            (
                "quota",
                kind.has_consumers() && kind != ServiceKind::Postgres,
            ),
        ] {
            if let (false, Some(at)) = (used, value.get(name)) {
                let text = format!("`{name}` has no meaning for a `{}`", kind.name());
                self.blame(Some(at), text);
            }
        }
        let slot: Option<Slug> = text(node, "slot").and_then(|s| s.parse().ok());
        if let Some(name) = &slot {
            let at = value.get("slot");
            if !slots.contains_key(name) {
                let known = nearest(name.as_str(), slots.keys().map(Slug::as_str));
                self.blame(at, format!("no slot `{name}` is declared{known}"));
            }
            // Two on one slot are told apart by port, so both ports must be known (S1-08).
            let port = text(node, "port");
            let same = others.values().find(|other| {
                other.slot.as_ref() == Some(name)
                    && (port.is_none() || other.port.map(|p| p.to_string()).as_deref() == port)
            });
            if let Some(other) = same {
                let other = &other.slug;
                self.blame(at, format!("slot `{name}` is taken by service `{other}`; give both a `port` of their own, or set `enabled: false` on one of two alternatives"));
            }
        }
        let own_names = value.get("names").map_or(&[][..], Node::entries);
        let own_names = own_names.iter().filter_map(|e| {
            let (agent, name) = (e.key.parse().ok()?, e.value.text()?.parse().ok()?);
            Some((agent, name))
        });
        Service {
            kind,
            names: own_names.collect(),
            needs: names(node, "needs"),
            grace: text(node, "grace")
                .and_then(shape::duration_ms)
                .map_or(GRACE, Millis),
            connections: integer(node, "connections")
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(CONNECTIONS),
            rate: integer(node, "rate")
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(RATE),
            quota: text(node, "quota")
                .and_then(shape::bytes)
                .map_or(QUOTA, Bytes),
            at: self.elsewhere(&slug, kind, value),
            egress: egress(value.get("egress")),
            terminal: text(node, "terminal") == Some("true"),
            slot,
            cell: text(node, "cell")
                .and_then(|c| c.parse().ok())
                .unwrap_or(CellKind::Sandbox),
            command,
            port: integer(node, "port").and_then(|p| u16::try_from(p).ok()),
            probe,
            shared: text(node, "shared") != Some("false"),
            limits: limits(Limits::default(), value.get("limits")).0,
            waived: layers(value.get("waive")),
            profile: text(node, "profile")
                .and_then(|p| p.parse().ok())
                .unwrap_or_default(),
            line: place.line,
            slug,
        }
    }

    /// The address of a service that somebody else runs: an IPv4 one that a service can have.
    fn elsewhere(&mut self, slug: &Slug, kind: ServiceKind, value: &Node) -> Option<SocketAddrV4> {
        let node = value.get("at")?;
        let at: SocketAddr = node.text()?.parse().ok()?;
        let taken = [
            "command", "cell", "port", "limits", "egress", "terminal", "profile",
        ];
        for key in taken {
            if let Some(there) = value.get(key) {
                let text = format!("`{key}` has no meaning for a service that somebody else runs");
                self.blame(Some(there), text);
            }
        }
        if kind != ServiceKind::Command {
            let text = format!("a `{}` is run by the house", kind.name());
            self.blame(Some(node), text);
        }
        match at {
            SocketAddr::V4(at) if may_be_service(*at.ip()) => Some(at),
            _ => {
                let text = format!(
                    "`services.{slug}.at` is an IPv4 address of a server, and no link-local one"
                );
                self.blame(Some(node), text);
                None
            }
        }
    }

    /// What a service needs is there, and nothing waits for itself.
    fn needs(&mut self, services: &BTreeMap<Slug, Service>) {
        for entry in self.root.get("services").map_or(&[][..], Node::entries) {
            let Some(service) = entry.key.parse().ok().and_then(|s: Slug| services.get(&s)) else {
                continue;
            };
            let at = entry.value.get("needs");
            for needed in &service.needs {
                if !services.contains_key(needed) {
                    let known = nearest(needed.as_str(), services.keys().map(Slug::as_str));
                    self.blame(at, format!("no service `{needed}` is declared{known}"));
                }
            }
            let mut waits: Vec<&Slug> = service.needs.iter().collect();
            let mut seen = std::collections::BTreeSet::new();
            while let Some(next) = waits.pop() {
                if *next == service.slug {
                    let text = format!("`{next}` would wait for itself");
                    self.blame(at, text);
                    break;
                }
                if seen.insert(next) {
                    waits.extend(services.get(next).iter().flat_map(|s| &s.needs));
                }
            }
        }
    }

    /// Who uses what, and that nothing of two agents has one name (S1-16).
    pub(crate) fn consumers(
        &mut self,
        services: &BTreeMap<Slug, Service>,
        agents: &BTreeMap<Slug, Agent>,
    ) {
        for entry in self.root.get("agents").map_or(&[][..], Node::entries) {
            let used = names(Some(&entry.value), "uses");
            for name in used.iter().filter(|n| !services.contains_key(*n)) {
                let known = nearest(name.as_str(), services.keys().map(Slug::as_str));
                let text = format!(
                    "agent `{}` uses `{name}`, and no such service is declared{known}",
                    entry.key
                );
                self.blame(entry.value.get("uses"), text);
            }
        }
        for entry in self.root.get("services").map_or(&[][..], Node::entries) {
            let Some(service) = entry.key.parse().ok().and_then(|s: Slug| services.get(&s)) else {
                continue;
            };
            let at = entry.value.get("names");
            for agent in service.names.keys() {
                if !agents
                    .get(agent)
                    .is_some_and(|a| a.uses.contains(&service.slug))
                {
                    let text = format!("no agent `{agent}` uses `{}`", service.slug);
                    self.blame(at, text);
                }
            }
            let mut held: BTreeMap<String, &Slug> = BTreeMap::new();
            let consumers = agents.values().filter(|a| a.uses.contains(&service.slug));
            for agent in consumers.filter(|_| service.kind.has_consumers()) {
                let name = service.name_for(&agent.slug);
                if service.kind == ServiceKind::Postgres
                    && (TAKEN.contains(&name.as_str()) || name.starts_with("pg_"))
                {
                    let text = format!(
                        "`{name}` is a name of the server's own; give `{}` another",
                        agent.slug
                    );
                    self.blame(at, text);
                }
                if let Some(other) = held.insert(name.clone(), &agent.slug) {
                    let text = format!("`{name}` would be of both `{other}` and `{}`", agent.slug);
                    self.blame(at.or(Some(&entry.value)), text);
                }
            }
        }
    }
}
