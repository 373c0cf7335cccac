//! The manifest at its door: what an operator writes and what they are told.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test tells by failing, and by what it prints"
)]

mod data_owners;
mod keys;
mod refusals;

use abbey_plan::{Action, CurrentHouse, HostFacts, House, Inventory, Plan, Severity, parse, plan};

const HOUSE: &str = r#"
version: 1
house: demo
providers:
  local: { kind: openai, base_url: http://127.0.0.1:1/v1 }
defaults: { cell: process, model: local/small }
budget: { tokens_per_day: 100000 }
agents:
  abbot: { template: orchestrator, budget: { share: 80% } }
  sysadmin: { template: sysadmin, reports_to: abbot, wake: { every: 24h, jitter: 5m }, budget: { share: 10% } }
"#;

fn inventory() -> Inventory {
    Inventory {
        host: HostFacts {
            uid_first: Some(700_000),
            ..HostFacts::default()
        },
        ..Inventory::default()
    }
}

/// The inventory once a plan was carried out.
fn after(house: &House, plan: &Plan) -> Inventory {
    Inventory {
        generation: plan.generation,
        applied: plan.applied.clone(),
        registry: plan.registry.clone(),
        current: Some(CurrentHouse {
            house: house.clone(),
            charters: Default::default(),
        }),
        ..inventory()
    }
}

#[test]
fn every_mistake_is_reported_in_one_go_with_its_place() {
    let text = "version: 2\nhouse: Demo\nagnets: {}\nagents:\n  a b: {}\n  one:\n    cell: process\n    rol: x\n    limits: { memory: 512 }\n    reports_to: twoo\n    channels: [irc]\n  two: { runtime: openclaw, model: nowhere/x, budget: { share: 180% } }\n  two: {}\n";
    let mistakes = parse(text).unwrap_err();
    insta::assert_snapshot!(mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"), @"line 13, column 3: the key `two` is a duplicate; the first is on line 12");
    let mistakes = parse(&text.replace("  two: {}\n", "")).unwrap_err();
    insta::assert_snapshot!(
        mistakes
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    );
}

#[test]
fn a_pasted_secret_is_refused_and_not_repeated() {
    let text = HOUSE.replace(
        "base_url:",
        &format!("key: sk-ant-{}, base_url:", "VERY-SECRET".repeat(3)),
    );
    let told = parse(&text).unwrap_err()[0].to_string();
    assert!(
        told.contains("by reference") && !told.contains("VERY-SECRET"),
        "{told}"
    );
}

#[test]
fn circles_and_sums_are_seen() {
    let text = HOUSE
        .replace(
            "template: orchestrator,",
            "template: orchestrator, reports_to: sysadmin,",
        )
        .replace("80%", "95%");
    let told: Vec<String> = parse(&text)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(told.iter().any(|t| t.contains("in a circle")), "{told:?}");
    assert!(told.iter().any(|t| t.contains("105%")), "{told:?}");
}

#[test]
fn off_loopback_needs_tls() {
    let text = format!("{HOUSE}\nlisten: {{ address: 0.0.0.0:3100 }}\n");
    assert!(
        parse(&text).unwrap_err()[0]
            .text
            .contains("TLS is required")
    );
}

#[test]
fn hostile_texts_end_in_an_error_not_a_panic() {
    for text in [
        "",
        "[",
        "a: &a [*a]",
        "version: 1\nhouse: {}",
        "- 1",
        "{",
        "\u{0}",
        "a: b: c",
        "? [x]\n: y",
    ] {
        assert!(parse(text).is_err(), "{text:?}");
    }
    let deep = format!("{}1", "- ".repeat(200));
    assert!(parse(&deep).is_err());
}

#[test]
fn a_plan_is_numbered_and_the_second_one_is_empty() {
    let house = parse(HOUSE).unwrap();
    let first = plan(&house, &inventory());
    assert_eq!(first.generation.0, 1);
    assert!(
        first.notes.iter().all(|n| n.severity == Severity::Info),
        "{:?}",
        first.notes
    );
    let steps: Vec<String> = first
        .steps
        .iter()
        .map(|s| {
            format!(
                "{} {} {} {}: {}",
                s.id,
                s.action.name(),
                s.resource,
                s.agent,
                s.detail
            )
        })
        .collect();
    insta::assert_snapshot!(steps.join("\n"));
    let then = after(&house, &first);
    let second = plan(&house, &then);
    assert!(
        second.is_empty() && second.generation == first.generation,
        "{:?}",
        second.steps
    );
    assert_eq!(second.registry, first.registry);
    // The same input gives the same bytes.
    assert_eq!(
        serde_json::to_string(&plan(&house, &inventory())).unwrap(),
        serde_json::to_string(&first).unwrap()
    );
}

#[test]
fn a_change_restarts_only_what_needs_it_and_removal_frees_everything() {
    let house = parse(HOUSE).unwrap();
    let first = plan(&house, &inventory());
    let then = after(&house, &first);
    let changed = parse(&HOUSE.replace(
        "reports_to: abbot,",
        "reports_to: abbot, limits: { memory: 64MiB }, name: \"Robert'); DROP\",",
    ))
    .unwrap();
    let second = plan(&changed, &then);
    assert_eq!(second.generation.0, 2);
    assert_eq!(second.steps.len(), 1);
    assert_eq!(
        (second.steps[0].action, second.steps[0].agent.as_str()),
        (Action::Restart, "sysadmin")
    );
    let fewer: String = HOUSE
        .lines()
        .filter(|l| !l.contains("sysadmin"))
        .map(|l| format!("{l}\n"))
        .collect();
    let third = plan(&parse(&fewer).unwrap(), &then);
    assert_eq!(third.steps[0].action, Action::Remove);
    assert!(third.registry.rows().all(|r| r.owner != "agent:sysadmin"));
}

#[test]
fn digests_of_an_earlier_release_restart_nothing_and_are_carried_on() {
    let text = format!("{HOUSE}services: {{ web: {{ command: [cat] }} }}\n");
    let house = parse(&text).unwrap();
    let first = plan(&house, &inventory());
    let mut then = after(&house, &first);
    let slug = "sysadmin".parse().unwrap();
    let old = ("boot of 0.1".to_owned(), "rest of 0.1".to_owned());
    then.applied.agents.insert(slug, old);
    then.applied.house = "house of 0.1".to_owned();
    for digest in then.applied.services.values_mut() {
        *digest = "service of 0.1".to_owned();
    }
    let second = plan(&house, &then);
    assert!(second.is_empty(), "{:?}", second.steps);
    assert_eq!(second.applied, then.applied);
    // What changes gets a digest of this release, and nothing else does.
    let louder = text.replace("reports_to: abbot,", "reports_to: abbot, role: watch,");
    let third = plan(&parse(&louder).unwrap(), &then);
    assert_eq!(third.steps.len(), 1, "{:?}", third.steps);
    let (boot, rest) = &third.applied.agents[&"sysadmin".parse().unwrap()];
    assert_eq!(boot, "boot of 0.1");
    assert_eq!(rest.len(), 64);
    assert_eq!(third.applied.services, then.applied.services);
}

#[test]
fn a_host_without_cgroups_is_refused_unless_waived() {
    let mut bare = inventory();
    bare.host.no_limits = Some("no cgroup is writable".into());
    assert!(plan(&parse(HOUSE).unwrap(), &bare).is_fatal());
    let waived = HOUSE.replace("defaults: {", "defaults: { waive: [limits],");
    assert!(!plan(&parse(&waived).unwrap(), &bare).is_fatal());
}

#[test]
fn a_kernel_without_landlock_is_refused_unless_waived() {
    let mut bare = inventory();
    bare.host.no_landlock = Some("this kernel has no Landlock".into());
    let isolated = HOUSE.replace("cell: process", "cell: sandbox");
    let refused = plan(&parse(&isolated).unwrap(), &bare);
    assert!(refused.is_fatal());
    let waived = isolated.replace("defaults: {", "defaults: { waive: [landlock],");
    assert!(!plan(&parse(&waived).unwrap(), &bare).is_fatal());
}

#[test]
fn the_schema_knows_every_key() {
    let schema = abbey_plan::json_schema();
    assert_eq!(
        schema["properties"]["agents"]["additionalProperties"]["properties"]["wake"]["required"][0],
        "every"
    );
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn the_reference_of_the_manifest_is_current() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/reference/manifest.md"
    );
    if std::env::var_os("MANIFEST_REFERENCE").is_some_and(|v| v == "write") {
        std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
        std::fs::write(path, abbey_plan::reference()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == abbey_plan::reference(),
        "{path} is not current; run MANIFEST_REFERENCE=write cargo test -p abbey-plan"
    );
}

#[test]
fn effective_values_carry_their_origin() {
    let house = parse(HOUSE).unwrap();
    let rows: Vec<String> = house.agents[&"sysadmin".parse().unwrap()]
        .effective()
        .into_iter()
        .map(|(k, v, o)| format!("{k} = {v} ({o})"))
        .collect();
    insta::assert_snapshot!(rows.join("\n"));
}

/// S1-08: two on one slot have ports of their own, or only one of them is part of the house.
#[test]
fn two_services_share_a_slot_as_alternatives_or_on_ports_of_their_own() {
    let house = |first: &str, second: &str| {
        parse(&format!(
            "{HOUSE}services:\n  ollama: {{ command: [ollama, serve], slot: models, {first} }}\n  llama-cpp: {{ command: [llama-server], slot: models, {second} }}\n"
        ))
    };
    let told = house("port: 11434", "port: 11434").unwrap_err()[0].to_string();
    assert!(
        told.contains("already used by service `ollama`") && told.contains("enabled: false"),
        "{told}"
    );
    assert_eq!(
        house("port: 11434", "port: 8080").unwrap().services.len(),
        2
    );
    let one = house("port: 11434, enabled: false", "port: 11434").unwrap();
    assert_eq!(one.services.len(), 1);
    assert!(one.services.keys().all(|s| s.as_str() == "llama-cpp"));
    // A place outside the subnet is none.
    let told = parse(&format!("{HOUSE}network: {{ slots: {{ db: 300 }} }}\n")).unwrap_err();
    assert!(told[0].to_string().contains("300"), "{}", told[0]);
}

#[test]
fn a_program_of_the_host_is_in_the_way_only_of_what_shares_its_network() {
    let text = |cell: &str| {
        format!(
            "version: 1\nhouse: h\nservices:\n  s: {{ command: [x], port: 9999, cell: {cell} }}\nagents: {{ a: {{}} }}\n"
        )
    };
    let mut inventory = inventory();
    inventory
        .host
        .ports
        .insert(9999, "pid 1 (nginx)".to_owned());
    let fatal = |cell: &str, inventory: &Inventory| {
        let plan = plan(&parse(&text(cell)).unwrap(), inventory);
        let notes = plan.notes.iter().filter(|n| n.severity == Severity::Fatal);
        notes.filter(|n| n.text.contains("9999")).count()
    };
    assert_eq!(fatal("process", &inventory), 1);
    assert_eq!(fatal("sandbox", &inventory), 0);
    inventory.host.no_network = Some("not root".to_owned());
    assert_eq!(fatal("sandbox", &inventory), 1);
}

#[test]
fn amounts_and_times_say_which_unit_is_missing_and_a_disabled_service_is_no_unknown_one() {
    let mistake = |agent: &str, service: &str| {
        let text = format!(
            "version: 1\nhouse: h\nservices: {{ s: {{ command: [x]{service} }} }}\nagents: {{ a: {{ {agent} }} }}\n"
        );
        parse(&text).map_or_else(|m| m[0].to_string(), |_| String::new())
    };
    assert_eq!(mistake("limits: { memory: 64M }", ""), "");
    assert!(mistake("limits: { memory: 64 }", "").contains("`64` has no unit; write `64MiB`"));
    assert!(mistake("wake: { every: 90 }", "").contains("`90` has no unit; write `90s`"));
    assert!(mistake("uses: [s]", ", enabled: false").contains("which is disabled"));
    assert!(mistake("uses: [z]", "").contains("which is not declared"));
}

#[test]
fn networks_of_another_house_are_one_warning() {
    let house = parse(HOUSE).unwrap();
    let net = house.network.pool.octets();
    let at = |n: u8| std::net::Ipv4Addr::new(net[0], net[1], 1, n * 8);
    let of_house = (0..5).map(|n| (at(n), 29, "house in /srv/other".to_owned()));
    let routes = (0..5).map(|n| (at(n), 29, format!("route by ab1-{n}")));
    let others = (20..23).map(|n| (at(n), 29, format!("route by tun{n}")));
    let mut inventory = inventory();
    inventory.host.subnets = routes.chain(of_house).chain(others).collect();
    let made = plan(&house, &inventory);
    let notes = made.notes.iter().map(|n| n.text.as_str());
    let notes: Vec<&str> = notes.filter(|text| text.contains("overlaps")).collect();
    assert_eq!(notes.len(), 2, "{notes:#?}");
    let (first, tun) = (at(0), at(20));
    for part in [
        format!(
            "5 networks of another house on this host (house in /srv/other), the first {first}/29"
        ),
        format!("3 networks of this host, the first {tun}/29 (route by tun20)"),
    ] {
        assert!(
            notes.iter().any(|note| note.contains(&part)),
            "{part} in {notes:#?}"
        );
    }
}
