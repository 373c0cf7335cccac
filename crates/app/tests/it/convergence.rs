//! From any manifest to any other: after each `up` the house is what the manifest says, and nothing else is left.

use crate::{TWO, house, up};
use abbey_api::{FleetDoc, ServicesDoc};
use abbey_cells::hostd::{HostdApi, HostdClient};
use abbey_model::Presence;
use abbey_testkit::house::{House, kill, until};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

#[test]
fn one_agent_in_place_of_another_comes_up_and_so_does_the_way_back() {
    let house = up("house: h\nagents: { old: {} }\n");
    for name in ["new", "old", "new"] {
        house.manifest(&format!("house: h\nagents: {{ {name}: {{}} }}\n"));
        house.expect(0, "up --yes");
        let fleet: FleetDoc = house.document(0, "ps");
        let names: Vec<_> = fleet.agents.iter().map(|a| a.name.as_str()).collect();
        assert_eq!(names, [name]);
    }
}

#[test]
fn a_removal_needs_consent_and_disturbs_nobody_without_it() {
    let house = up(TWO);
    let one = "house: two\ndefaults: { cell: process }\nbudget: { tokens_per_day: 1000 }\nagents:\n  abbot: { template: orchestrator, budget: { share: 50% } }\n";
    house.manifest(one);
    let planned = house.expect(0, "plan");
    assert!(
        planned.contains("requires consent: agent `sysadmin`"),
        "{planned}"
    );
    let refusal = house.expect_refusal(4, "up");
    assert!(
        refusal.contains("agent `sysadmin` is removed") && refusal.contains("--yes"),
        "{refusal}"
    );
    assert_eq!(house.agent("sysadmin").presence, Presence::Ready);
    house.expect(0, "up --yes");
    let fleet: FleetDoc = house.document(0, "ps");
    assert_eq!(fleet.agents.len(), 1);
}

#[test]
fn the_manifest_of_another_house_is_refused_by_plan_and_up() {
    let house = up(TWO);
    house.manifest(&TWO.replace("house: two", "house: three"));
    house.expect(4, "plan");
    let refusal = house.expect_refusal(4, "up --yes");
    assert!(refusal.contains("this is house `two`"), "{refusal}");
}

#[test]
fn a_house_remembers_its_manifest_for_commands_elsewhere() {
    let house = up(TWO);
    std::fs::create_dir(house.path("elsewhere")).unwrap();
    for words in [&["up"][..], &["plan"], &["reload", "--all"]] {
        let mut command = house.command(words);
        let output = command.current_dir(house.path("elsewhere")).output();
        assert!(output.unwrap().status.success(), "{words:?}");
    }
}

#[test]
fn a_service_that_was_disabled_or_removed_comes_back_with_its_files() {
    let program = "echo boot >> ~/boots; wc -l < ~/boots; exec python3 -m http.server \"$0\"";
    let service = |more: &str| {
        format!(
            "house: h\nservices:\n  web: {{ command: [sh, -c, '{program}', \"{{port}}\"]{more} }}\nagents: {{ a: {{ cell: process }} }}\n"
        )
    };
    let house = up(&service(""));
    let without = "house: h\nagents: { a: { cell: process } }\n".to_owned();
    for (n, away) in [(2, service(", enabled: false")), (3, without)] {
        house.manifest(&away);
        house.expect(0, "up --yes");
        house.manifest(&service(""));
        house.expect(0, "up");
        until("the service counts its boots", || {
            let log = house.expect(0, "service logs web");
            log.lines().any(|l| l.trim_end().ends_with(&n.to_string()))
        });
    }
}

#[test]
fn the_address_of_a_house_that_is_down_can_change() {
    let house = house();
    let manifest = |port: u16| {
        let path = house.manifest(TWO);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(
            &path,
            text.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")),
        )
        .unwrap();
    };
    let first = house.ports.last;
    manifest(first);
    house.expect(0, "up");
    house.expect(0, "down");
    let _taken = std::net::TcpListener::bind(("127.0.0.1", first)).unwrap();
    let refusal = house.expect_refusal(4, "up");
    assert!(refusal.contains(&format!("127.0.0.1:{first}")), "{refusal}");
    manifest(0);
    house.expect(0, "up");
    house.expect(0, "down");
}

/// Names that agents and services of a walk can have.
const AGENTS: [&str; 6] = ["ada", "bob", "cyd", "dan", "eve", "fay"];
const SERVICES: [&str; 4] = ["calc", "pad", "site", "wiki"];
const SLOTS: [&str; 4] = ["models", "db", "cms", "git"];

#[derive(Debug, Clone, Default)]
struct AgentPart {
    sandbox: bool,
    uses: BTreeSet<&'static str>,
}

#[derive(Debug, Clone)]
struct ServicePart {
    sandbox: bool,
    enabled: bool,
    port: Option<u16>,
    slot: bool,
}

/// The manifest of a walk.
#[derive(Debug, Clone)]
struct Fleet {
    agents: BTreeMap<&'static str, AgentPart>,
    services: BTreeMap<&'static str, ServicePart>,
    port: u16,
}

impl Fleet {
    fn new(first_port: u16) -> Fleet {
        let ada = AgentPart {
            sandbox: true,
            uses: BTreeSet::new(),
        };
        Fleet {
            agents: [("ada", ada), ("bob", AgentPart::default())].into(),
            services: BTreeMap::new(),
            port: first_port,
        }
    }

    fn text(&self) -> String {
        let cell = |sandbox: bool| if sandbox { "sandbox" } else { "process" };
        let mut text = "house: walk\n".to_owned();
        if !self.services.is_empty() {
            text.push_str("services:\n");
        }
        for (name, s) in &self.services {
            let _infallible = write!(
                text,
                "  {name}: {{ command: [python3, -m, http.server, \"{{port}}\"], cell: {}, enabled: {}",
                cell(s.sandbox),
                s.enabled
            );
            if let Some(port) = s.port {
                let _infallible = write!(text, ", port: {port}");
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
            let _infallible = writeln!(
                text,
                "  {name}: {{ cell: {}, uses: [{}] }}",
                cell(a.sandbox),
                uses.join(", ")
            );
        }
        text
    }

    /// Changes one thing; which one, three numbers by chance say.
    fn change(&mut self, (what, first, second): (u8, u8, u8)) {
        fn pick<T: Copy>(from: &[T], n: u8) -> Option<T> {
            from.get(usize::from(n) % from.len().max(1)).copied()
        }
        let agents: Vec<_> = self.agents.keys().copied().collect();
        let services: Vec<_> = self.services.keys().copied().collect();
        let free_agents: Vec<_> = AGENTS.into_iter().filter(|n| !agents.contains(n)).collect();
        let free_services: Vec<_> = SERVICES
            .into_iter()
            .filter(|n| !services.contains(n))
            .collect();
        let (agent, other) = (pick(&agents, first), pick(&agents, second));
        let service = pick(&services, first).and_then(|n| self.services.get_mut(n));
        match (what % 11, service) {
            (0, _) => {
                if let Some(new) = pick(&free_agents, first) {
                    let sandbox = second % 2 == 0;
                    let uses = BTreeSet::new();
                    self.agents.insert(new, AgentPart { sandbox, uses });
                }
            }
            (1, _) if agents.len() > 1 => drop(agent.map(|a| self.agents.remove(a))),
            (2, _) => {
                let part = agent.and_then(|a| self.agents.remove(a));
                let new = pick(&free_agents, second).or(agent);
                drop(new.zip(part).map(|(n, p)| self.agents.insert(n, p)));
            }
            (3, _) => {
                if let (Some(a), Some(b)) = (agent, other) {
                    let (of_a, of_b) = (self.agents[a].clone(), self.agents[b].clone());
                    self.agents.insert(a, of_b);
                    self.agents.insert(b, of_a);
                }
            }
            (4, _) => {
                if let Some(part) = agent.and_then(|a| self.agents.get_mut(a)) {
                    part.sandbox = !part.sandbox;
                }
            }
            (5, _) => {
                if let Some(part) = agent.and_then(|a| self.agents.get_mut(a)) {
                    part.uses = services
                        .into_iter()
                        .filter(|s| s.len() as u8 % 3 != second % 3)
                        .collect();
                }
            }
            (6, Some(s)) => s.enabled = !s.enabled,
            (7, Some(s)) => s.sandbox = !s.sandbox,
            (8, Some(s)) => {
                self.port += 1;
                s.port = (second % 2 == 0).then_some(self.port);
            }
            (9, Some(s)) => s.slot = !s.slot,
            (10, Some(_)) => drop(pick(&services, second).map(|n| self.services.remove(n))),
            _ => {
                if let Some(new) = pick(&free_services, first) {
                    let part = ServicePart {
                        sandbox: second % 2 == 0,
                        enabled: true,
                        port: None,
                        slot: second % 3 == 0,
                    };
                    self.services.insert(new, part);
                }
            }
        }
    }

    /// Fails unless the house is what the manifest says.
    fn require(&self, house: &House, walked: &str) {
        let fleet: FleetDoc = house.document(0, "ps");
        let of = |sandbox| if sandbox { "sandbox" } else { "process" }.to_owned();
        let is: Vec<_> = fleet
            .agents
            .iter()
            .map(|a| (a.name.clone(), a.cell.to_string(), a.presence))
            .collect();
        let says: Vec<_> = self
            .agents
            .iter()
            .map(|(n, a)| ((*n).to_owned(), of(a.sandbox), Presence::Ready))
            .collect();
        assert_eq!(is, says, "{walked}");
        let doc: ServicesDoc = house.document(0, "service list");
        let is: Vec<_> = doc
            .services
            .iter()
            .map(|s| (s.name.clone(), s.cell.clone(), s.presence))
            .collect();
        let enabled = self.services.iter().filter(|(_, s)| s.enabled);
        let says: Vec<_> = enabled
            .map(|(n, s)| ((*n).to_owned(), of(s.sandbox), Presence::Ready))
            .collect();
        assert_eq!(is, says, "{walked}");
        for (name, service) in self.services.iter().filter(|(_, s)| s.enabled) {
            let shown = doc.services.iter().find(|s| s.name == *name);
            let port = shown.and_then(|s| s.port);
            assert!(
                service.port.is_none() || port == service.port,
                "{name}: {walked}"
            );
        }
    }
}

/// Ends, by chance, one of the house's own processes.
fn kill_something(house: &House, chance: u8) {
    match chance % 6 {
        0 => house.kill_control_plane(),
        1 => {
            let fleet: FleetDoc = house.document(0, "ps");
            fleet
                .agents
                .iter()
                .filter_map(|a| a.pid)
                .take(1)
                .for_each(kill);
        }
        2 => kill(HostdClient::new(&house.home()).hello().unwrap().pid),
        3 => {
            let cells = house.home().join("run/cells");
            let of = |name| std::fs::read(cells.join(format!("agent-{name}")).join("shim.json"));
            let record = AGENTS.iter().find_map(|name| of(name).ok());
            let record: serde_json::Value =
                serde_json::from_slice(&record.unwrap_or_default()).unwrap_or_default();
            let shim = record["shim"]["pid"].as_i64();
            let shim = shim.and_then(|pid| i32::try_from(pid).ok());
            shim.into_iter().for_each(kill);
        }
        _ => {}
    }
}

/// One step of a walk: a change, perhaps a second one, and what is killed before it is applied.
type Step = ((u8, u8, u8), Option<(u8, u8, u8)>, u8);

fn walk(steps: &[Step]) {
    let house = house();
    let mut fleet = Fleet::new(house.ports.first + 20);
    house.manifest(&fleet.text());
    house.expect(0, "up");
    for (n, (first, second, chance)) in steps.iter().enumerate() {
        fleet.change(*first);
        if let Some(second) = second {
            fleet.change(*second);
        }
        kill_something(&house, *chance);
        house.manifest(&fleet.text());
        house.expect(0, "up --yes");
        fleet.require(&house, &format!("step {n}: {}", fleet.text()));
    }
    house.expect(0, "doctor");
    house.expect(0, "down");
}

/// Walks of twelve manifests, each from a seed: `ABBEY_WALKS` of them.
#[test]
fn any_manifest_is_reached_from_any_other() {
    let walks = std::env::var("ABBEY_WALKS")
        .ok()
        .and_then(|n| n.parse().ok());
    let change = || (any::<u8>(), any::<u8>(), any::<u8>());
    let step = (
        change(),
        proptest::option::weighted(0.25, change()),
        any::<u8>(),
    );
    let steps = proptest::collection::vec(step, 12);
    for seed in 1..=walks.unwrap_or(3u8) {
        println!("seed {seed}");
        let config = Config {
            cases: 1,
            max_shrink_iters: 0,
            failure_persistence: None,
            ..Config::default()
        };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
        let outcome = TestRunner::new_with_rng(config, rng).run(&steps, |steps| {
            walk(&steps);
            Ok(())
        });
        outcome.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}
