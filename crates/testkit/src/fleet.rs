//! Manifests that a walk goes through: a fleet of up to six agents and four services, and one random change of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Names that agents of a walk can have.
pub const AGENTS: [&str; 6] = ["ada", "bob", "cyd", "dan", "eve", "fay"];
/// Names that services of a walk can have.
pub const SERVICES: [&str; 4] = ["calc", "pad", "site", "wiki"];
/// Slot that each of [`SERVICES`] has, if it has one.
const SLOTS: [&str; 4] = ["models", "db", "cms", "git"];
/// Pools of the house; the second is smaller and the third lies inside the first.
const POOLS: [&str; 3] = ["10.77.0.0/16", "10.91.64.0/18", "10.77.128.0/17"];

/// An agent of the fleet.
#[derive(Debug, Clone, Default)]
pub struct AgentPart {
    /// Whether its cell is a `sandbox`; else it is a `process`.
    pub sandbox: bool,
    /// Whether its files are on drives. Only a sandbox has them, and it cannot give them up.
    pub drives: bool,
    /// Services that it uses; only the enabled ones are written.
    pub uses: BTreeSet<&'static str>,
}

/// A service of the fleet.
#[derive(Debug, Clone)]
pub struct ServicePart {
    /// Whether its cell is a `sandbox`; else it is a `process`.
    pub sandbox: bool,
    /// Whether it is enabled.
    pub enabled: bool,
    /// Its port, if the manifest names one.
    pub port: Option<u16>,
    /// Port of the host at which it is exposed, if it is.
    pub expose: Option<u16>,
    /// Whether it has a slot.
    pub slot: bool,
}

/// The manifest of a walk.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// Agents by name; there is always one.
    pub agents: BTreeMap<&'static str, AgentPart>,
    /// Services by name.
    pub services: BTreeMap<&'static str, ServicePart>,
    pool: usize,
    port: u16,
}

/// Three random numbers: which kind of change, and two choices within it.
pub type Change = (u8, u8, u8);

fn pick<T: Copy>(from: &[T], n: u8) -> Option<T> {
    from.get(usize::from(n) % from.len().max(1)).copied()
}

impl Fleet {
    /// Two agents and no services; services name few ports from `first_port` on, so that they collide.
    pub fn new(first_port: u16) -> Fleet {
        let ada = AgentPart {
            sandbox: true,
            ..AgentPart::default()
        };
        Fleet {
            agents: [("ada", ada), ("bob", AgentPart::default())].into(),
            services: BTreeMap::new(),
            pool: 0,
            port: first_port,
        }
    }

    /// The manifest, without `version`, `listen` and `network.ports`. Services run `program`, a flow sequence.
    pub fn manifest(&self, program: &str) -> String {
        let cell = |sandbox: bool| if sandbox { "sandbox" } else { "process" };
        let mut text = format!("house: walk\nnetwork: {{ pool: {} }}\n", POOLS[self.pool]);
        if !self.services.is_empty() {
            text.push_str("services:\n");
        }
        for (name, s) in &self.services {
            let _infallible = write!(
                text,
                "  {name}: {{ command: {program}, cell: {}, enabled: {}",
                cell(s.sandbox),
                s.enabled
            );
            if let Some(port) = s.port {
                let _infallible = write!(text, ", port: {port}");
            }
            if let Some(port) = s.expose {
                let _infallible = write!(text, ", expose: {port}");
            }
            if s.slot {
                let n = SERVICES.iter().position(|n| n == name).unwrap_or(0);
                let _infallible = write!(text, ", slot: {}", SLOTS[n]);
            }
            text.push_str(" }\n");
        }
        text.push_str("agents:\n");
        for (name, a) in &self.agents {
            let enabled = |n: &&&str| self.services.get(**n).is_some_and(|s| s.enabled);
            let uses: Vec<&str> = a.uses.iter().filter(enabled).copied().collect();
            let drives = match a.drives {
                true => ", drives: { state: 16MiB, workspace: 16MiB }",
                false => "",
            };
            let _infallible = writeln!(
                text,
                "  {name}: {{ cell: {}, uses: [{}]{drives} }}",
                cell(a.sandbox),
                uses.join(", ")
            );
        }
        text
    }

    /// Changes one thing. Returns the old and new name if an agent got another one.
    pub fn change(
        &mut self,
        (what, first, second): Change,
    ) -> Option<(&'static str, &'static str)> {
        let agents: Vec<_> = self.agents.keys().copied().collect();
        let services: Vec<_> = self.services.keys().copied().collect();
        let free_agents: Vec<_> = AGENTS.into_iter().filter(|n| !agents.contains(n)).collect();
        let (agent, other) = (pick(&agents, first), pick(&agents, second));
        let service = pick(&services, first).and_then(|n| self.services.get_mut(n));
        match (what % 14, service) {
            (0, _) => {
                if let Some(new) = pick(&free_agents, first) {
                    let part = AgentPart {
                        sandbox: second.is_multiple_of(2),
                        ..AgentPart::default()
                    };
                    self.agents.insert(new, part);
                }
            }
            (1, _) if agents.len() > 1 => drop(agent.map(|a| self.agents.remove(a))),
            (2, _) => {
                let (old, new) = agent.zip(pick(&free_agents, second))?;
                let part = self.agents.remove(old)?;
                self.agents.insert(new, part);
                return Some((old, new));
            }
            (3, _) => self.swap(agent?, other?),
            (4, _) => {
                let part = agent.and_then(|a| self.agents.get_mut(a))?;
                part.sandbox = !part.sandbox || part.drives;
            }
            (5, _) => {
                let part = agent.and_then(|a| self.agents.get_mut(a))?;
                let some = |s: &&str| s.len() as u8 % 3 != second % 3;
                part.uses = services.into_iter().filter(some).collect();
            }
            (6, Some(s)) => s.enabled = !s.enabled,
            (7, Some(s)) => s.sandbox = !s.sandbox,
            (8, Some(s)) => {
                let port = self.port + u16::from(second / 2 % 4);
                s.port = (second.is_multiple_of(2)).then_some(port);
            }
            (13, Some(s)) => {
                let port = self.port + u16::from(second / 2 % 4);
                s.expose = (second.is_multiple_of(2)).then_some(port);
            }
            (9, Some(s)) => s.slot = !s.slot,
            (10, Some(_)) => drop(pick(&services, second).map(|n| self.services.remove(n))),
            (11, _) => {
                let part = agent.and_then(|a| self.agents.get_mut(a))?;
                part.drives = part.sandbox;
            }
            (12, _) if second.is_multiple_of(4) => self.pool = usize::from(first) % POOLS.len(),
            _ => self.add_service(first, second),
        }
        None
    }

    /// Puts agents that have their names from `before` back on drives if they were: a plan that takes them away is refused.
    pub fn keep_drives_of(&mut self, before: &Fleet) {
        let had = |n: &&str| before.agents.get(n).is_some_and(|a| a.drives);
        for (_, part) in self.agents.iter_mut().filter(|(n, _)| had(n)) {
            (part.sandbox, part.drives) = (true, true);
        }
    }

    /// Two agents take each other's settings, if that takes no drives away.
    fn swap(&mut self, one: &'static str, other: &'static str) {
        let (of_one, of_other) = (self.agents[one].clone(), self.agents[other].clone());
        if !of_one.drives && !of_other.drives {
            self.agents.insert(one, of_other);
            self.agents.insert(other, of_one);
        }
    }

    fn add_service(&mut self, first: u8, second: u8) {
        let free = |n: &&str| !self.services.contains_key(n);
        let free: Vec<_> = SERVICES.into_iter().filter(free).collect();
        if let Some(new) = pick(&free, first) {
            let part = ServicePart {
                sandbox: second.is_multiple_of(2),
                enabled: true,
                port: None,
                expose: None,
                slot: second.is_multiple_of(3),
            };
            self.services.insert(new, part);
        }
    }
}
