//! From any manifest to any other: after each `up` the house is what the manifest says, and nothing else is left.

use crate::{TWO, house, up};
use abbey_api::{FleetDoc, ServicesDoc};
use abbey_cells::hostd::{HostdApi, HostdClient};
use abbey_model::Presence;
use abbey_testkit::fleet::{AGENTS, Change, Fleet};
use abbey_testkit::house::{House, kill, until};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

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

/// Fails unless the house is what the manifest says.
fn require_fleet(fleet: &Fleet, house: &House, walked: &str) {
    let shown: FleetDoc = house.document(0, "ps");
    let of = |sandbox| if sandbox { "sandbox" } else { "process" }.to_owned();
    let is: Vec<_> = shown
        .agents
        .iter()
        .map(|a| (a.name.clone(), a.cell.to_string(), a.presence))
        .collect();
    let says: Vec<_> = fleet
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
    let enabled = fleet.services.iter().filter(|(_, s)| s.enabled);
    let says: Vec<_> = enabled
        .map(|(n, s)| ((*n).to_owned(), of(s.sandbox), Presence::Ready))
        .collect();
    assert_eq!(is, says, "{walked}");
    for (name, service) in fleet.services.iter().filter(|(_, s)| s.enabled) {
        let shown = doc.services.iter().find(|s| s.name == *name);
        let port = shown.and_then(|s| s.port);
        assert!(
            service.port.is_none() || port == service.port,
            "{name}: {walked}"
        );
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

/// What each service of a walk runs.
const PROGRAM: &str = "[python3, -m, http.server, \"{port}\"]";

/// One step of a walk: a change, perhaps a second one, and what is killed before it is applied.
type Step = (Change, Option<Change>, u8);

fn walk(steps: &[Step]) {
    let house = house();
    let mut fleet = Fleet::new(house.ports.first);
    house.manifest(&fleet.manifest(PROGRAM));
    house.expect(0, "up");
    for (n, (first, second, chance)) in steps.iter().enumerate() {
        let before = fleet.clone();
        let renamed = fleet.change(*first);
        if let Some(second) = second {
            fleet.change(*second);
        }
        fleet.keep_drives_of(&before);
        house.manifest(&fleet.manifest(PROGRAM));
        // Services that are to have one port: the house stays as it is.
        if house.run("plan").status.code() == Some(4) {
            fleet = before;
            continue;
        }
        house.manifest(&before.manifest(PROGRAM));
        kill_something(&house, *chance);
        // Every other new name is a rename, the others put one agent in the place of another.
        if let (Some((old, new)), None, 0) = (renamed, second, chance % 2) {
            house.expect(0, "up");
            house.expect(0, &["agent", "rename", old, new]);
        }
        house.manifest(&fleet.manifest(PROGRAM));
        house.expect(0, "up --yes");
        let walked = format!("step {n}: {}", fleet.manifest(PROGRAM));
        require_fleet(&fleet, &house, &walked);
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
