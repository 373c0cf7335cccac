//! Decodes services and checks their dependencies and users (S1-16 to S1-18, S2-05).

use super::decoder::{Decoder, names, suggest_similar, text};
use crate::keys::{Agent, NO_PROBE, Service};
use crate::node::{Entry, Node};
use crate::service_kind::ServiceKind;
use crate::settings::{self, Given, Layer};
use abbey_model::Slug;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

/// Names that PostgreSQL or the house uses itself.
const TAKEN: [&str; 4] = ["postgres", "template0", "template1", "abbey"];

/// Link-local addresses are those of a cloud's metadata as well.
fn may_be_service(address: Ipv4Addr) -> bool {
    !(address.is_link_local()
        || address.is_multicast()
        || address.is_unspecified()
        || address.is_broadcast())
}

impl Decoder<'_> {
    /// Decodes the services of the manifest: those that are enabled, and the names of the disabled ones. Reports
    /// mistakes in each.
    pub(crate) fn decode_services(
        &mut self,
        slots: &BTreeMap<Slug, u32>,
    ) -> (BTreeMap<Slug, Service>, BTreeSet<Slug>) {
        let mut services: BTreeMap<Slug, Service> = BTreeMap::new();
        let mut disabled = BTreeSet::new();
        let entries = self.root.get("services").map_or(&[][..], Node::entries);
        for entry in entries {
            let Ok(slug) = entry.key.parse::<Slug>() else {
                continue;
            };
            // Alternatives share a slot and a port; of these at most one is enabled (S1-08).
            if text(Some(&entry.value), "enabled") == Some("false") {
                disabled.insert(slug);
                continue;
            }
            if let Some(service) = self.service(slug.clone(), entry, slots) {
                services.insert(slug, service);
            }
        }
        self.needs(&services);
        (services, disabled)
    }

    fn service(
        &mut self,
        slug: Slug,
        entry: &Entry,
        slots: &BTreeMap<Slug, u32>,
    ) -> Option<Service> {
        let Entry { place, value, .. } = entry;
        let own = Layer {
            node: value,
            defaults: false,
        };
        let defaults = self.root.get("defaults").map(|node| Layer {
            node,
            defaults: true,
        });
        let layers: Vec<Layer<'_>> = std::iter::once(own).chain(defaults).collect();
        let (decoded, settings) = settings::resolve(Service::KEYS.iter(), &layers, Given::new());
        let mut service = Service::read(&decoded, slug.clone(), place.line, settings)?;
        let kind = service.kind;
        match (!kind.has_command(), value.get("command")) {
            (false, None) if value.get("at").is_none() => self
                .mistakes
                .push(place.mistake(format!(
                "`services.{slug}` needs `command`, or a `kind` that the house has a program for"
            ))),
            (false, Some(_)) if service.command.is_empty() => {
                let text = format!("`services.{slug}.command` names no program");
                self.mistakes.push(place.mistake(text));
            }
            (true, Some(at)) => {
                let text = format!(
                    "`command` cannot be set for a `{}`, which has a built-in program",
                    kind.name()
                );
                self.report_mistake(Some(at), text);
            }
            _ => {}
        }
        let is_probe = |probe: &str| probe.starts_with('/') || probe == NO_PROBE;
        if service.probe.as_deref().is_some_and(|p| !is_probe(p)) {
            self.report_mistake(
                value.get("probe"),
                format!("`services.{slug}.probe` must be a path that begins with `/`, or `none`"),
            );
        }
        if kind.is_stock() && service.probe.is_some() {
            let text = format!(
                "`probe` cannot be set for a `{}`, which has a built-in health check",
                kind.name()
            );
            self.report_mistake(value.get("probe"), text);
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
                let text = format!("`{name}` cannot be set for a `{}`", kind.name());
                self.report_mistake(Some(at), text);
            }
        }
        if let Some(name) = &service.slot {
            let at = value.get("slot");
            if !slots.contains_key(name) {
                let known = suggest_similar(name.as_str(), slots.keys().map(Slug::as_str));
                self.report_mistake(at, format!("no slot `{name}` is declared{known}"));
            }
        }
        service.at = self.external_address(&slug, kind, value);
        Some(service)
    }

    /// The address of a service outside the house; it must be an IPv4 address that a server can have.
    fn external_address(
        &mut self,
        slug: &Slug,
        kind: ServiceKind,
        value: &Node,
    ) -> Option<std::net::SocketAddrV4> {
        let node = value.get("at")?;
        let at: SocketAddr = node.text()?.parse().ok()?;
        let taken = [
            "command", "cell", "port", "limits", "egress", "terminal", "profile", "expose",
        ];
        for key in taken {
            if let Some(there) = value.get(key) {
                let text = format!("`{key}` cannot be set for a service outside the house (`at`)");
                self.report_mistake(Some(there), text);
            }
        }
        if kind != ServiceKind::Command {
            let text = format!("a `{}` is run by the house", kind.name());
            self.report_mistake(Some(node), text);
        }
        match at {
            SocketAddr::V4(at) if may_be_service(*at.ip()) => Some(at),
            _ => {
                let text = format!(
                    "`services.{slug}.at` must be the IPv4 address of a server and not a link-local address"
                );
                self.report_mistake(Some(node), text);
                None
            }
        }
    }

    /// Reports needed services that are not declared, and services that need themselves.
    fn needs(&mut self, services: &BTreeMap<Slug, Service>) {
        for entry in self.root.get("services").map_or(&[][..], Node::entries) {
            let Some(service) = entry.key.parse().ok().and_then(|s: Slug| services.get(&s)) else {
                continue;
            };
            let at = entry.value.get("needs");
            for needed in &service.needs {
                if !services.contains_key(needed) {
                    let known = suggest_similar(needed.as_str(), services.keys().map(Slug::as_str));
                    self.report_mistake(at, format!("no service `{needed}` is declared{known}"));
                }
            }
            let mut waits: Vec<&Slug> = service.needs.iter().collect();
            let mut seen = BTreeSet::new();
            while let Some(next) = waits.pop() {
                if *next == service.slug {
                    let text = format!(
                        "`{next}` would wait for itself, since its dependencies form a cycle"
                    );
                    self.report_mistake(at, text);
                    break;
                }
                if seen.insert(next) {
                    waits.extend(services.get(next).iter().flat_map(|s| &s.needs));
                }
            }
        }
    }

    /// Reports services that one agent would meet at the same address and port: those on one slot differ by port, or no
    /// agent reaches both (S1-08).
    fn check_slots(&mut self, services: &BTreeMap<Slug, Service>, agents: &BTreeMap<Slug, Agent>) {
        let mut seen: Vec<&Service> = Vec::new();
        for entry in self.root.get("services").map_or(&[][..], Node::entries) {
            let Some(service) = entry.key.parse().ok().and_then(|s: Slug| services.get(&s)) else {
                continue;
            };
            let Some(slot) = &service.slot else { continue };
            let meets = |agent: &Agent, s: &Service| s.shared || agent.uses.contains(&s.slug);
            let other = seen.iter().find(|other| {
                let place = other.slot.as_ref() == Some(slot)
                    && (service.port.is_none() || other.port == service.port);
                let both = |a: &Agent| meets(a, service) && meets(a, other);
                place && ((service.shared && other.shared) || agents.values().any(both))
            });
            if let Some(other) = other {
                let other = &other.slug;
                self.report_mistake(entry.value.get("slot"), format!("slot `{slot}` is already used by service `{other}`; give each its own `port`, set `enabled: false` on one of two alternatives, or `shared: false` on both if no agent uses both"));
            }
            seen.push(service);
        }
    }

    /// Reports agents' `uses` of services that are not declared, and names within a service that two agents would share
    /// (S1-16).
    pub(crate) fn check_consumers(
        &mut self,
        services: &BTreeMap<Slug, Service>,
        agents: &BTreeMap<Slug, Agent>,
    ) {
        self.check_slots(services, agents);
        for entry in self.root.get("agents").map_or(&[][..], Node::entries) {
            let used = names(Some(&entry.value), "uses");
            for name in used.iter().filter(|n| !services.contains_key(*n)) {
                let declared = self.root.get("services");
                let text = match declared.and_then(|all| all.get(name.as_str())) {
                    Some(_) => format!(
                        "agent `{}` uses the service `{name}`, which is disabled; enable it, or take it out of `uses`",
                        entry.key
                    ),
                    None => {
                        let all = services.keys().map(Slug::as_str);
                        let known = suggest_similar(name.as_str(), all);
                        format!(
                            "agent `{}` uses the service `{name}`, which is not declared{known}",
                            entry.key
                        )
                    }
                };
                self.report_mistake(entry.value.get("uses"), text);
            }
        }
        for entry in self.root.get("services").map_or(&[][..], Node::entries) {
            let Some(service) = entry.key.parse().ok().and_then(|s: Slug| services.get(&s)) else {
                continue;
            };
            let at = entry.value.get("names");
            for agent in service.names.keys() {
                // One that does not use the service now may have data there, under this name.
                if !agents.contains_key(agent) {
                    self.report_mistake(at, format!("there is no agent `{agent}`"));
                }
            }
            let mut held: BTreeMap<String, &Slug> = BTreeMap::new();
            let consumers = agents
                .values()
                .filter(|a| a.uses.contains(&service.slug) || service.names.contains_key(&a.slug));
            for agent in consumers.filter(|_| service.kind.has_consumers()) {
                let name = service.name_for(&agent.slug);
                if service.kind == ServiceKind::Postgres
                    && (TAKEN.contains(&name.as_str()) || name.starts_with("pg_"))
                {
                    let text = format!(
                        "`{name}` is reserved by the server; give `{}` another name under `names`",
                        agent.slug
                    );
                    self.report_mistake(at, text);
                }
                if let Some(other) = held.insert(name.clone(), &agent.slug) {
                    // Whoever has no name of its own there gets one more easily.
                    let named = service.names.contains_key(&agent.slug);
                    let unnamed = if named { other } else { &agent.slug };
                    let text = format!(
                        "`{name}` would belong to both `{other}` and `{}`; give one of them another name under `services.{}.names`, such as `{unnamed}: {unnamed}-2`",
                        agent.slug, service.slug
                    );
                    self.report_mistake(at.or(Some(&entry.value)), text);
                }
            }
        }
    }
}
