//! Every error that an operator meets early, as it is printed: what failed, on what, why, and what to do next.

use crate::{TWO, house};
use abbey_testkit::house::House;

/// Runs each line and records what it prints on standard error, with its exit code.
fn record(house: &House, lines: &[&str]) -> String {
    let root = house.path("").display().to_string();
    let record = |line: &&str| {
        let output = house.run(*line);
        let text = String::from_utf8_lossy(&output.stderr);
        let text = text.replace(root.trim_end_matches('/'), "DIR");
        let code = output.status.code().unwrap_or(-1);
        format!("$ abbey {line}\n{text}exit code {code}\n\n")
    };
    lines.iter().map(record).collect()
}

#[test]
fn errors_without_a_house_are_as_recorded() {
    let lines = [
        "ps",
        "up",
        "plan -f absent.yaml",
        "init --example none",
        "template show none",
        "skill check absent",
        "run --memory 64 -- true",
        "run --timeout soon -- true",
        "run --cpus 9999 -- true",
        "run --out ../up -- true",
        "import zope .",
        "tui",
        "nonsense",
        "task add",
    ];
    insta::assert_snapshot!(record(&house(), &lines));
}

#[test]
fn errors_of_a_running_house_are_as_recorded() {
    let house = house();
    house.manifest(TWO);
    house.expect(0, "up");
    let lines = [
        "why nobody",
        "start nobody",
        "agent show nobody",
        "agent restore abbot",
        "task show TASK-99",
        "task add x --to nobody",
        "task add x --priority P9",
        "task list --state none",
        "approvals approve APPR-9",
        "delegate nobody x",
        "document show nothing",
        "workflow run nothing",
        "workflow event nothing --data nonsense",
        "schedule show morning",
        "schedule run abbot/none",
        "skill show none",
        "skill run none port",
        "service restart none",
        "report 'sing a song'",
        "reload abbot --rollback",
        "why TASK-1",
        "task show nothing",
        "task list --agent nobody",
        "agent rm nobody",
        "agent rename abbot sysadmin",
        "agent rename nobody other",
        "schedule add abbot/x --at yesterday --task x",
        "schedule add abbot/x --at 2020-01-01T00:00:00Z --task x",
        "schedule add abbot/x --every 1x --task x",
        "approvals --all",
    ];
    insta::assert_snapshot!(record(&house, &lines));
}

/// Mistakes of a manifest that people make on their first day, and what the message must say instead of the name of a type.
#[test]
fn mistakes_of_a_manifest_are_told_with_what_is_right() {
    let text = house();
    std::fs::write(text.path("abbey.yaml"), "just text").unwrap();
    let refused = text.expect_refusal(2, "plan");
    assert!(
        refused.contains("the manifest must be a mapping"),
        "{refused}"
    );
    for (manifest, told) in [
        (
            "agents: { a: { limits: { memory: 64Q } } }",
            &["64Q", "MiB"][..],
        ),
        (
            "agents: { a: { wake: { every: 90 } } }",
            &["no unit", "`90s`"],
        ),
        (
            "agents: { a: { budget: { share: 120% } } }",
            &["at most 100%"],
        ),
        (
            "services: { s: { command: python3 agent.py } }\nagents: { a: {} }",
            &["must be a list", "`[python3, agent.py]`"],
        ),
        (
            "agents: { a: { schedules: { s: { at: tomorrow, task: x } } } }",
            &["no instant", "`2026-12-01T10:00:00Z`"],
        ),
        (
            "agents: { a: { reports_to: b } }",
            &["agents.a.reports_to", "no agent `b`"],
        ),
        ("agents: { a: { rolle: cook } }", &["rolle", "role"]),
    ] {
        let house = house();
        house.manifest(&format!("house: h\n{manifest}\n"));
        let refused = house.expect_refusal(2, "plan");
        for part in told {
            assert!(refused.contains(part), "{manifest}: {refused}");
        }
        assert!(refused.contains("line "), "{refused}");
    }
    let house = house();
    std::fs::write(house.path("abbey.yaml"), "house: h\nagents: { a: {} }\n").unwrap();
    assert!(
        house
            .expect_refusal(2, "plan")
            .contains("`version: 1` is missing")
    );
    house.manifest("house: h\nagents: { a: { limits: { memory: 64M } } }\n");
    house.expect(0, "plan");
    for (line, told) in [
        ("run --memory 64 -- true", "write `64MiB`"),
        ("run --timeout soon -- true", "like `90s`"),
    ] {
        assert!(house.expect_refusal(2, line).contains(told), "{line}");
    }
}

/// Messages about what runs name what an operator knows: agents, services and providers, with the command that helps.
#[test]
fn messages_about_what_runs_name_it_and_the_next_command() {
    let house = house();
    house.manifest("house: h\nproviders: { dead: { kind: openai, base_url: 'http://127.0.0.1:1/v1' } }\ndefaults: { cell: process, model: dead/x }\nbudget: { tokens_per_day: 1000000 }\nservices: { s: { cell: process, command: [sleep, '3600'], probe: none } }\nagents: { a: {}, b: {} }\n");
    house.expect(0, "up");
    house.expect(0, "stop b");
    let refused = house.expect_refusal(125, "exec b -- true");
    assert!(
        refused.contains("agent `b` is not running") && refused.contains("abbey why b"),
        "{refused}"
    );
    house.expect(
        0,
        &["task", "add", "Write a poem about the sea.", "--to", "a"],
    );
    let mut shown = String::new();
    abbey_testkit::house::until("the provider is named", || {
        shown = house.expect(0, "task why 1");
        shown.contains("dead")
    });
    assert!(shown.contains("provider `dead`"), "{shown}");
    assert!(house.expect(0, "task show 1").contains("no model used"));
    assert!(house.expect(0, "doctor").contains("no schedules"));
    let second = house.run("role serve");
    let told = String::from_utf8_lossy(&second.stdout).into_owned();
    let pid = house.control_plane_pid();
    assert!(
        told.contains(&format!("is already running (pid {pid})")),
        "{told}"
    );
}
