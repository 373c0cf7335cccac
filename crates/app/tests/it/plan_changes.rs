//! Changed manifests: a plan names what changes, and applying it does that and no more.

use crate::{house, up};
use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

const SANDBOXES: &str = "house: changing\nbudget: { tokens_per_day: 12345 }\nagents:\n  ada: { role: gardener, limits: { memory: 192MiB } }\n  bob: {}\n";

/// The step of an agent, service or, with an empty name, the house.
fn step(plan: &Value, name: &str) -> Value {
    let steps = plan["steps"].as_array().unwrap();
    let step = steps.iter().find(|s| s["agent"] == name);
    step.unwrap_or_else(|| panic!("no step of `{name}` in {plan}"))
        .clone()
}

fn change(step: &Value, key: &str) -> Value {
    let changes = step["changes"].as_array().unwrap();
    let change = changes.iter().find(|c| c["key"] == key);
    change
        .unwrap_or_else(|| panic!("no change of `{key}` in {step}"))
        .clone()
}

fn boots(house: &House) -> Vec<(String, u64)> {
    let fleet = house.json(0, "ps");
    let agents = fleet["agents"].as_array().unwrap();
    let boot = |a: &Value| (a["name"].to_string(), a["generation"].as_u64().unwrap());
    agents.iter().map(boot).collect()
}

#[test]
fn a_plan_names_the_changed_keys_with_old_and_new_value_and_effect() {
    let house = up(SANDBOXES);
    house.manifest(
        &SANDBOXES
            .replace("12345", "54321")
            .replace("gardener", "forester")
            .replace("192MiB", "320MiB")
            .replace("bob: {}", "bob: { image: other }"),
    );
    let plan = house.json(0, "plan");
    assert_eq!(
        change(&step(&plan, ""), "budget.tokens_per_day"),
        json!({ "key": "budget.tokens_per_day", "old": "12345", "new": "54321", "effect": "live" })
    );
    let ada = step(&plan, "ada");
    assert_eq!(ada["action"], "restart");
    assert_eq!(change(&ada, "role")["new"], "forester");
    assert_eq!(
        change(&ada, "limits.memory"),
        json!({ "key": "limits.memory", "old": "192MiB", "new": "320MiB", "effect": "restart" })
    );
    // A sandbox boots from no image: it is recorded, and nothing restarts.
    let bob = step(&plan, "bob");
    assert_eq!(bob["action"], "update");
    assert_eq!(
        change(&bob, "image"),
        json!({ "key": "image", "old": "base", "new": "other", "effect": "none" })
    );
    let shown = house.expect(0, "plan");
    assert!(shown.contains("limits.memory: 192MiB → 320MiB"), "{shown}");
    let before = boots(&house);
    house.expect(0, "up");
    until("ada restarted, and bob did not", || {
        let now = boots(&house);
        now[0].1 > before[0].1 && now[1] == before[1]
    });
    assert_eq!(house.json(0, "plan")["steps"], json!([]));
}

#[test]
fn ports_outside_a_changed_range_move_into_it() {
    let house = up(SANDBOXES);
    let path = house.path("abbey.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let range = text.split("ports: ").nth(1).unwrap();
    let range = range.split([' ', ',', '}']).next().unwrap().to_owned();
    let (first, last) = range.split_once('-').unwrap();
    let first: u16 = first.parse().unwrap();
    // The first port of the range is in use by now.
    let narrower = format!("{}-{last}", first + 1);
    std::fs::write(&path, text.replace(&range, &narrower)).unwrap();
    let plan = house.json(0, "plan");
    assert_eq!(
        change(&step(&plan, ""), "network.ports"),
        json!({ "key": "network.ports", "old": range, "new": narrower, "effect": "live" })
    );
    let ada = step(&plan, "ada");
    assert_eq!(
        change(&ada, "allocated.agent_api_port")["old"],
        first.to_string(),
        "{ada}"
    );
    house.expect(0, "up");
    house.wait_until_up("ada");
    until("nobody has the old port", || {
        let fleet = house.json(0, "ps");
        let agents = fleet["agents"].as_array().unwrap();
        agents.iter().all(|a| {
            a["presence"] == "ready" && !a["ports"].as_array().unwrap().contains(&json!(first))
        })
    });
}

#[test]
fn plan_and_up_accept_and_refuse_the_same_manifests() {
    // A time zone that does not exist.
    let zone = house();
    zone.manifest(
        "house: zone\nbudget: { tokens_per_day: 1, timezone: Mars/Base }\nagents: { ada: {} }\n",
    );
    assert!(zone.expect_refusal(2, "plan").contains("Mars/Base"));
    zone.expect_refusal(2, "up");

    // A secret that only root can read, in a house whose control plane is another user.
    let secret = house();
    let key = secret.path("p.key");
    std::fs::write(&key, "sk-0123456789abcdef\n").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    secret.manifest("house: secret\nproviders: { p: { kind: openai, base_url: 'http://127.0.0.1:1/v1', key: 'file:p.key' } }\nagents: { ada: { cell: process } }\n");
    let planned = secret.run("plan").status.code();
    assert_eq!(secret.run("up").status.code(), planned);

    // A skill that is new, and assigned in the same go.
    let skill = up("house: skill\nagents: { ada: {} }\n");
    let dir = skill.home().join("skills/hello");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let text = "---\nname: hello\ndescription: Says hello to whoever asks.\n---\nSay hello.\n";
    std::fs::write(dir.join("SKILL.md"), text).unwrap();
    skill.manifest("house: skill\nagents: { ada: { skills: [hello] } }\n");
    skill.expect(0, "plan");
    skill.expect(0, "up");
}

/// Answers each connection with its own name, on a port that the host picks.
fn answer(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _request = stream.read(&mut [0; 1024]);
            let _gone = write!(
                stream,
                "HTTP/1.0 200 OK\r\ncontent-length: {}\r\n\r\n{name}",
                name.len()
            );
        }
    });
    port
}

#[test]
fn an_external_service_that_moves_restarts_nobody_and_is_reached_at_its_new_address() {
    let manifest = |port: u16| {
        format!(
            "house: outside\nservices: {{ models: {{ at: '127.0.0.1:{port}', slot: models }} }}\nagents: {{ ada: {{}}, bob: {{}} }}\n"
        )
    };
    // The house first: it gives the test a network of its own.
    let house = house();
    house.manifest(&manifest(answer("first")));
    house.expect(0, "up");
    house.wait_until_up("ada");
    let ask = || {
        let command = "curl -s --noproxy '*' http://$ABBEY_SERVICE_MODELS/";
        house.expect(0, args!("exec ada -- sh -c {}", command))
    };
    assert!(ask().contains("first"));
    let before = boots(&house);
    house.manifest(&manifest(answer("second")));
    let plan = house.json(0, "plan");
    assert_eq!(plan["steps"].as_array().unwrap().len(), 1, "{plan}");
    assert_eq!(change(&step(&plan, "models"), "at")["effect"], "live");
    house.expect(0, "up");
    assert!(ask().contains("second"));
    assert_eq!(boots(&house), before);
}

#[test]
fn a_service_is_disabled_and_enabled_by_name() {
    let web = "web: { cell: process, command: [sleep, '3600'], probe: none } # kept";
    let text = format!(
        "house: h\nservices:\n  # The site.\n  {web}\nagents:\n  a: {{ template: worker, cell: process }}\n"
    );
    let house = up(&text);
    let written = || std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    let before = written();
    house.expect(0, "service disable web");
    assert_eq!(
        written(),
        before.replace("web: { cell", "web: { enabled: false, cell")
    );
    let list = house.json(0, "service list");
    assert_eq!(list["services"], json!([]), "{list}");
    assert_eq!(list["disabled"], json!(["web"]), "{list}");
    assert!(house.expect(0, "plan").contains("nothing to change"));
    house.expect(0, "service enable web");
    assert_eq!(
        written(),
        before.replace("web: { cell", "web: { enabled: true, cell")
    );
    assert_eq!(house.json(0, "service list")["services"][0]["name"], "web");

    house.expect_refusal(3, "service disable other");
    let used = text.replace("template: worker", "template: worker, uses: [web]");
    house.manifest(&used);
    house.expect(0, "up");
    let before = written();
    let said = house.expect_refusal(2, "service disable web");
    assert!(said.contains("uses the service `web`"), "{said}");
    assert_eq!(written(), before);
    // An agent has no such key; what people look for is named.
    let said = house.expect_refusal(2, "agent disable a");
    assert!(said.contains("`abbey stop`"), "{said}");
}
