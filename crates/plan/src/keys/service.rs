//! Keys of a service.

use super::agent::LimitKeys;
use super::shapes::{NAMES, PROFILES, WAIVE};
use crate::key::Effect::{Live, Restart};
use crate::key::{Key, Shape, keys};
use crate::service_kind::ServiceKind;
use crate::settings::Settings;
use abbey_model::{Bytes, CellKind, Egress, Layer, Limits, Millis, Profile, Slug};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;

const CELLS: Shape = Shape::Word(&["process", "sandbox"], &["microvm", "container", "jail"]);

/// Value of `probe` for a program that serves no port.
pub(crate) const NO_PROBE: &str = "none";

keys! {
    /// A program that agents use.
    pub struct Service {
        /// What it is: a program that `command` names, or one of the house's own: `postgres` has a database for
        /// each agent that uses it, `git` a place for repositories, `site` a place for files that all read;
        /// `tools` is a program that offers tools by the Model Context Protocol on its standard streams.
        pub kind: ServiceKind =
            Key::new("kind", Shape::Word(&["command", "postgres", "git", "site", "tools"], &[]), Restart)
                .default("command"),
        /// Kind of isolation.
        pub cell: CellKind = Key::new("cell", CELLS, Restart).default("sandbox"),
        /// Whether it is part of the house; of two alternatives on one slot and port one is not.
        pub enabled: bool = Key::new("enabled", Shape::Boolean, Restart).default("true"),
        /// Where it answers, as `192.0.2.7:8080`, when it does not run in this house.
        pub at: Option<SocketAddrV4> = Key::new("at", Shape::Socket, Live),
        /// Program and arguments; `{port}` stands for the port.
        pub command: Vec<String> = Key::new("command", Shape::List(&Shape::Text), Restart),
        /// Port; one of the house's range when not given.
        pub port: Option<u16> = Key::new("port", Shape::Integer(1, 65535), Restart),
        /// Path that answers 200 when the service is healthy. Without one, it is healthy once it accepts connections;
        /// `none` for a program that serves no port.
        pub probe: Option<String> = Key::new("probe", Shape::Text, Live),
        /// Whether every agent may use it; otherwise only those whose `uses` names it.
        pub shared: bool = Key::new("shared", Shape::Boolean, Live).default("true"),
        /// Services that must be healthy before it starts.
        pub needs: BTreeSet<Slug> = Key::new("needs", NAMES, Live),
        /// Name of an agent's database or place for repositories, where not by the rule.
        pub names: BTreeMap<Slug, Slug> = Key::new("names", Shape::ByAgent(&Shape::Name), Live),
        /// How long the data of an agent that no longer uses it is kept.
        pub grace: Millis = Key::new("grace", Shape::Duration, Live).default("7d"),
        /// Most connections of one agent at once.
        pub connections: u32 = Key::new("connections", Shape::Integer(1, 10_000), Live).default("20"),
        /// Most requests of one agent in a minute. Not for databases.
        pub rate: u32 = Key::new("rate", Shape::Integer(1, 1_000_000), Live).default("600"),
        /// Most bytes that one agent keeps in it. Not for databases.
        pub quota: Bytes = Key::new("quota", Shape::Bytes, Live).default("1GiB"),
        /// Resource limits of its cell.
        pub limits: Limits = Key::new("limits", Shape::Section(LimitKeys::KEYS), Restart),
        /// Filter of system calls in its sandbox: `jit` or `strict`.
        pub profile: Profile = Key::new("profile", PROFILES, Restart).default("jit"),
        /// Isolation layers that may be missing on this host.
        pub waived: BTreeSet<Layer> = Key::new("waive", WAIVE, Restart).inherited(),
        /// Whether it runs on a terminal, for `abbey attach`.
        pub terminal: bool = Key::new("terminal", Shape::Boolean, Restart).default("false"),
        /// What it may reach outside: `none`, `full`, or a list.
        pub egress: Egress = Key::new("egress", Shape::Egress, Live).default("none"),
        /// Its service address: the slot in every agent's subnet at which it is reached; see `network.slots`.
        pub slot: Option<Slug> = Key::new("slot", Shape::Name, Live),
        /// Port of the host, on loopback, at which programs of the host reach it.
        pub expose: Option<u16> = Key::new("expose", Shape::Integer(1, 65535), Restart),
        /// Whether agents may call it directly although it is a model provider, past all budgets.
        pub unmetered: bool = Key::new("unmetered", Shape::Boolean, Live).default("false"),
    }
    derived {
        /// Its slug.
        pub slug: Slug,
        /// Line of the manifest.
        pub line: usize,
        /// Every value, with where it comes from.
        pub settings: Settings,
    }
}

/// How a service is asked whether it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe<'a> {
    /// It accepts a connection.
    Connect,
    /// It answers a GET of this path with status 200.
    Http(&'a str),
    /// It answers the start of a connection of PostgreSQL's protocol. The kernel accepts connections also for a server
    /// that is stopped or hangs.
    Postgres,
}

impl Service {
    /// Health check of the service; none where there is none.
    pub fn probe(&self) -> Option<Probe<'_>> {
        match self.kind {
            ServiceKind::Command => match self.probe.as_deref() {
                None => Some(Probe::Connect),
                Some(NO_PROBE) => None,
                Some(path) => Some(Probe::Http(path)),
            },
            ServiceKind::Git | ServiceKind::Site | ServiceKind::Tools => {
                Some(Probe::Http("/healthz"))
            }
            ServiceKind::Postgres => Some(Probe::Postgres),
        }
    }

    /// Whether the manifest says that it answers at a port: it is of a stock kind, or names a port, a service address, a
    /// probe, or `{port}` in its command.
    pub fn serves_port(&self) -> bool {
        let probed = self.probe.as_deref().is_some_and(|probe| probe != NO_PROBE);
        self.kind != ServiceKind::Command
            || self.port.is_some()
            || self.slot.is_some()
            || probed
            || self.command.iter().any(|word| word.contains("{port}"))
    }

    /// Name of what belongs to an agent in this service: its database and role, or its folder (S1-16).
    pub fn name_for(&self, agent: &Slug) -> String {
        match (self.names.get(agent), self.kind) {
            (Some(own), ServiceKind::Postgres) => own.as_str().replace('-', "_"),
            (None, ServiceKind::Postgres) => agent.postgres_name(),
            (Some(own), _) => own.to_string(),
            (None, _) => agent.to_string(),
        }
    }
}
