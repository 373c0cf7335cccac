//! JSON documents keep the keys of their contract; refusals have exit codes and hints.

use crate::{TWO, house, up};
use abbey_testkit::args;
use serde_json::Value;

fn keys(value: &Value, wanted: &[&str]) {
    for key in wanted {
        assert!(value.get(key).is_some(), "`{key}` is missing in {value}");
    }
}

#[test]
fn json_documents_have_every_key_of_the_contract() {
    let house = up(TWO);
    let task = house.json(0, "task add 'show system stats' --wait");
    assert_eq!(task["version"], 1);
    keys(
        &task["task"],
        &[
            "id",
            "title",
            "state",
            "assignee",
            "priority",
            "author",
            "attempts",
            "verified",
            "waiting_for",
            "result",
            "runs",
        ],
    );
    keys(&task["task"]["result"], &["text", "source"]);
    keys(
        &task["task"]["runs"][0],
        &[
            "id",
            "state",
            "reason",
            "configured_model",
            "effective_model",
            "actual_model",
            "usage",
            "cost_nano_usd",
            "started_at",
            "ended_at",
        ],
    );
    keys(
        &task["task"]["runs"][0]["usage"],
        &["input", "output", "cached", "source"],
    );
    let ps = house.json(0, "ps");
    keys(
        &ps["agents"][0],
        &[
            "name",
            "role",
            "presence",
            "runtime",
            "cell",
            "generation",
            "pid",
            "address",
            "ports",
            "uptime_s",
            "restarts",
            "model",
            "task",
            "budget",
            "memory_bytes",
        ],
    );
    keys(&ps["agents"][0]["budget"], &["limit", "spent", "reserved"]);
    let why = house.json(0, "task why TASK-1");
    keys(&why, &["version", "state", "reasons"]);
    keys(&why["reasons"][0], &["code", "text"]);
    let plan = house.json(0, "plan");
    keys(&plan, &["version", "generation", "steps", "notes"]);
    keys(
        &house.json(0, "activity verify"),
        &["ok", "entries", "head", "first_bad"],
    );
    keys(
        &house.json(0, "budget show")["scopes"][0],
        &[
            "scope",
            "metric",
            "window",
            "limit",
            "spent",
            "reserved",
            "state",
            "resets_at",
        ],
    );
    keys(
        &house.json(0, "doctor")["checks"][0],
        &["id", "severity", "state", "text", "remedy"],
    );
    let lines = house.expect(0, "activity export");
    let mut lines = lines
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap());
    keys(&lines.next().unwrap(), &["kind", "version", "key"]);
    // The signed heads come before the entries.
    let first = lines.find(|l| l.get("kind").is_none()).unwrap();
    keys(
        &first,
        &[
            "seq", "at", "actor", "action", "entity", "detail", "prev", "hash",
        ],
    );
    assert_eq!(first["prev"].as_str().unwrap(), "0".repeat(64));
}

#[test]
fn refusals_have_exit_codes_and_hints() {
    let house = house();
    assert!(house.expect_refusal(6, "ps").contains("abbey up"));
    assert!(house.expect_refusal(2, "up").contains("abbey init"));
    house.manifest(&TWO.replace("template: sysadmin", "template: sysadmni"));
    let told = house.expect_refusal(2, "up");
    assert!(
        told.contains("line 9") && told.contains("did you mean `sysadmin`"),
        "{told}"
    );
    assert!(
        !house.home().join("run/serve.json").exists(),
        "a wrong manifest starts nothing"
    );
    house.manifest(TWO);
    house.expect(0, "up");
    assert!(
        house
            .expect_refusal(3, "task add x --to nobody")
            .contains("no agent `nobody`")
    );
    house.expect_refusal(3, "task show TASK-99");
    house.expect_refusal(3, "why nobody");
    house.expect_refusal(2, "task add x --priority P9");
    house.expect_refusal(2, "nonsense");
    for verb in [&["tui"][..], &["policy"]] {
        assert!(
            house.expect_refusal(2, verb).contains("not built yet"),
            "{verb:?}"
        );
    }
    // Parked work says why, by code 8, and by `why`.
    let parked = house.json(8, "task add 'write a poem' --wait");
    assert_eq!(parked["task"]["state"], "parked");
    assert_eq!(
        house.json(0, "task why 1")["reasons"][0]["code"],
        "no_model"
    );
    house.expect(0, "task cancel 1");
    house.expect_refusal(4, "task cancel 1");
    house.json(0, "task retry 1");
}

#[test]
fn plan_without_a_house_changes_nothing() {
    let house = house();
    house.manifest(TWO);
    let plan = house.json(0, "plan");
    assert_eq!(plan["generation"], 1);
    assert!(!house.home().exists());
    let schema = house.json(0, "plan --schema");
    assert_eq!(schema["title"], "abbey.yaml");
}

#[test]
fn help_man_page_and_completions_list_every_command() {
    let house = house();
    let help = house.expect(0, "--help");
    for verb in [
        "init",
        "up",
        "plan",
        "down",
        "ps",
        "start",
        "stop",
        "restart",
        "why",
        "logs",
        "exec",
        "agent",
        "template",
        "task",
        "budget",
        "skill",
        "activity",
        "doctor",
        "service",
        "backup",
        "restore",
        "completions",
        "man",
    ] {
        assert!(help.contains(verb), "{verb}");
    }
    assert!(house.expect(0, "man").contains(".TH"));
    assert!(house.expect(0, "completions bash").contains("_abbey"));
}

#[test]
fn importing_exported_tasks_twice_adds_them_once() {
    let house = up(TWO);
    let file = house.path("tasks.jsonl");
    std::fs::write(&file, "{\"text\":\"show system stats\",\"to\":\"sysadmin\",\"priority\":\"P1\"}\n{\"text\":\"show agent status\"}\n").unwrap();
    let path = file.display().to_string();
    house.expect(0, args!("task import {}", path));
    house.expect(0, args!("task import {}", path));
    let exported = house.expect(0, "task export");
    let lines: Vec<Value> = exported
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "{exported}");
    assert_eq!(
        (lines[0]["number"].as_str(), lines[0]["priority"].as_str()),
        (Some("TASK-1"), Some("P1"))
    );
    std::fs::write(&file, "{\"text\":\"x\"}\nnonsense\n").unwrap();
    assert!(
        house
            .expect_refusal(2, args!("task import {}", path))
            .contains("tasks.jsonl:2")
    );
    assert_eq!(
        house.expect(0, "task export").lines().count(),
        2,
        "nothing of a wrong file is added"
    );
}

/// Every example manifest can be planned, and the plan reports what is missing.
#[test]
fn init_writes_each_example_manifest() {
    let house = house();
    let told = house.expect_refusal(3, "init --example none");
    assert!(
        told.contains("clawdie, wizards, harbour, atomizer"),
        "{told}"
    );
    for name in ["clawdie", "wizards", "harbour", "atomizer"] {
        house.expect(0, args!("init {} --example {}", name, name));
        let file = format!("{name}/abbey.yaml");
        house.expect_refusal(4, args!("init {} --example {}", name, name));
        // The scripted model lies beside this binary, and the secret of a hook is not made by us.
        let code = if name == "atomizer" { 4 } else { 0 };
        let plan = house.json(code, args!("plan -f {}", file));
        let fatal = |n: &&Value| n["severity"] == "fatal" && n["subject"] != "hook:issues";
        let notes = plan["notes"].as_array().unwrap();
        assert!(!notes.iter().any(|n| fatal(&n)), "{name}: {notes:?}");
    }
}
