//! Work that can't be done now waits and goes on by itself: budgets that are used up and providers that are away.

use crate::{house, up, with_model};
use abbey_model::TaskState;
use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use serde_json::json;
use std::path::Path;
use std::process::{Child, Command};

/// A task of a house, as JSON.
fn task(house: &House, number: u64) -> serde_json::Value {
    house.json(0, args!("task show TASK-{}", number))["task"].clone()
}

/// A scripted model outside of the house; ends with the test.
pub(crate) struct Model(Child);

impl Model {
    pub(crate) fn start(port: u16) -> Model {
        let program = Path::new(env!("CARGO_BIN_EXE_abbey")).with_file_name("abbey-scripted-model");
        let mut command = Command::new(program);
        Model(command.args(["--port", &port.to_string()]).spawn().unwrap())
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The task as it is once it is parked for this. The wait may be over at the next look.
fn waiting(house: &House, number: u64, kind: &str) -> serde_json::Value {
    let mut found = json!(null);
    until("it waits", || {
        let task = task(house, number);
        assert_ne!(task["state"], "failed", "{task}");
        let waits = task["state"] == "parked" && task["waiting_for"]["kind"] == kind;
        found = task;
        waits
    });
    found
}

/// Manifest of the scripted model with these limits of the day.
fn limited(limits: &str) -> String {
    with_model("  abbot: { template: orchestrator }\n").replace("tokens_per_day: 100000", limits)
}

#[test]
fn tasks_wait_for_a_provider_that_is_away_and_cost_no_attempt() {
    let house = house();
    // The house gives its ports away from the first one on.
    let port = house.ports.last;
    house.manifest(&format!(
        "house: night\nproviders: {{ scripted: {{ kind: openai, base_url: 'http://127.0.0.1:{}/v1', output_tokens_max: 200 }} }}\ndefaults: {{ cell: process, model: scripted/scripted-1 }}\nbudget: {{ tokens_per_day: 100000 }}\nagents: {{ abbot: {{ template: orchestrator }} }}\n",
        port
    ));
    house.expect(0, "up");
    for text in ["think", "think again"] {
        house.expect(0, args!("task add {}", text));
    }
    for number in [1, 2] {
        let task = waiting(&house, number, "provider");
        assert_eq!(task["attempts"], 0);
        assert_eq!(task["waiting_for"]["name"], "scripted");
        assert!(task["waiting_for"]["until"].is_string(), "{task}");
    }
    until("it is told why", || {
        house.json(0, "task why TASK-1")["reasons"][0]["code"] == "provider"
    });
    let failing = &house.json(0, "ps")["failing_providers"][0];
    assert_eq!(
        (&failing["name"], &failing["failure"]),
        (&json!("scripted"), &json!("unreachable"))
    );
    assert!(
        house
            .expect(0, "ps")
            .contains("provider `scripted` can't be reached")
    );
    assert!(house.expect(0, "report status").contains("scripted"));
    let doctor = house.run("doctor --json");
    let doctor: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let checks = doctor["checks"].as_array().unwrap();
    assert!(
        checks
            .iter()
            .any(|c| c["id"] == "provider.scripted" && c["state"] == "attention")
    );
    // The wait outlives the control plane.
    house.kill_control_plane();
    house.expect(0, "up");
    assert_eq!(
        house.json(0, "ps")["failing_providers"][0]["name"],
        "scripted"
    );
    let _model = Model::start(port);
    for number in [1, 2] {
        house.wait_for_task(&format!("TASK-{number}"), TaskState::Done);
        assert_eq!(task(&house, number)["attempts"], 1);
    }
    assert!(
        house.json(0, "ps")["failing_providers"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    let actions = |action| house.audit_entries(action).len();
    assert_eq!(
        (actions("provider.cool_down"), actions("provider.recover")),
        (1, 1)
    );
    assert_eq!(actions("task.fail"), 0);
    // Runs that only waited count neither as runs nor as failures.
    let report = house.expect(0, "report skills");
    assert!(report.contains("2 runs, 0 failed"), "{report}");
}

#[test]
fn a_run_outlives_a_control_plane_that_is_killed_during_its_model_call() {
    let house = up(&limited("tokens_per_day: 100000"));
    house.wait_for_model();
    house
        .script_model(&json!([{ "delay_ms": 600_000, "text": "too late" }, { "text": "in time" }]));
    house.expect(0, "task add think");
    let calls = || house.model_request("/calls", None);
    until("the call is under way", || calls() == r#"{"calls":1}"#);
    house.kill_control_plane();
    house.expect(0, "up");
    house.wait_for_task("TASK-1", TaskState::Done);
    let task = task(&house, 1);
    assert_eq!(
        (&task["attempts"], task["runs"].as_array().map(Vec::len)),
        (&json!(1), Some(1)),
        "{task}"
    );
    assert!(task.to_string().contains("in time"), "{task}");
}

#[test]
fn waiting_for_a_task_goes_through_short_waits_and_ends_at_long_ones() {
    let zone = far_from_midnight([("Etc/UTC", 0), ("Etc/GMT-6", 6)]);
    let limits = |limits: &str| limited(&format!("{limits}, timezone: {zone}"));
    let house = up(&limits("tokens_per_day: 100000"));
    house.wait_for_model();
    house.script_model(&json!([{ "status": 503 }, { "status": 429 }]));
    let done = house.json(0, "task add think --wait");
    let runs = done["task"]["runs"].as_array().unwrap();
    assert_eq!((runs.len(), &done["task"]["attempts"]), (3, &json!(1)));
    let why = house.json(0, "task why TASK-1");
    let codes: Vec<&str> = why["reasons"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["code"].as_str().unwrap())
        .collect();
    assert_eq!(
        codes,
        [
            "terminal", "routed", "waited", "waited", "attempt", "attempt", "attempt"
        ]
    );
    let text = |n: usize| why["reasons"][n]["text"].as_str().unwrap();
    assert!(text(2).contains("it waited for the provider"), "{why}");
    assert!(text(4).contains("503"), "{why}");
    house.manifest(&limits("tokens_per_day: 100000, runs_per_day: 1"));
    house.expect(0, "up");
    // Long before the time limit of the wait.
    let parked = house.json(8, "task add think --wait --timeout 10m");
    assert_eq!(parked["task"]["waiting_for"]["name"], "house");
    assert!(parked["task"]["waiting_for"]["until"].is_string());
    house.manifest(&limits("tokens_per_day: 100000, runs_per_day: 10"));
    house.expect(0, "up");
    house.wait_for_task("TASK-2", TaskState::Done);
}

#[test]
fn a_provider_that_refuses_its_account_is_waited_for_and_a_bad_request_fails() {
    let house = up(&with_model("  abbot: { template: orchestrator }\n"));
    house.wait_for_model();
    let answered = [
        (401, "credential_refused"),
        (402, "payment_required"),
        (403, "credential_refused"),
        (408, "timed_out"),
    ];
    for (number, (status, failure)) in answered.into_iter().enumerate() {
        house.script_model(&json!([{ "status": status }, { "text": "thought" }]));
        let done = house.json(0, "task add think --wait");
        let runs = done["task"]["runs"].as_array().unwrap();
        assert_eq!(
            (runs.len(), &done["task"]["attempts"]),
            (2, &json!(1)),
            "{done}"
        );
        let why = house.json(0, args!("task why TASK-{}", number + 1));
        assert!(
            why.to_string().contains("it waited for the provider"),
            "{why}"
        );
        let pauses = house.audit_entries("provider.cool_down");
        assert_eq!(pauses.len(), number + 1);
        let of = |entry: &serde_json::Value| entry["detail"]["condition"]["failure"] == failure;
        assert!(pauses.iter().any(of), "{pauses:?}");
    }
    for status in [400, 404, 422] {
        house.script_model(&json!([{ "status": status }]));
        let failed = house.json(1, "task add think --wait");
        assert_eq!(failed["task"]["state"], "failed", "{failed}");
    }
    assert_eq!(house.audit_entries("provider.cool_down").len(), 4);
}

#[test]
fn stops_and_restarts_by_order_cost_no_attempt() {
    let house = house();
    let slow = json!({ "delay_ms": 600_000, "text": "too late" });
    // The agent may call before anybody could script the model of the house that comes up again.
    let script = house.path("slow.json");
    std::fs::write(&script, json!([slow]).to_string()).unwrap();
    let scripted = format!("\"{{port}}\", --script, \"{}\"", script.display());
    let manifest = with_model("  abbot: { template: orchestrator }\n");
    assert!(manifest.contains("\"{port}\""), "{manifest}");
    house.manifest(&manifest.replace("\"{port}\"", &scripted));
    house.expect(0, "up");
    house.wait_for_model();
    house.script_model(&json!([slow, slow, slow, slow]));
    house.expect(0, "task add think");
    let mut before = 0;
    for commands in [
        ["restart abbot", "ps"],
        ["stop abbot", "start abbot"],
        ["down", "up"],
        ["restart abbot", "ps"],
    ] {
        until("it is worked on again", || {
            let task = task(&house, 1);
            assert!(
                task["state"] != "failed" && task["state"] != "done",
                "{commands:?}: {task}"
            );
            let runs = task["runs"].as_array().map_or(0, Vec::len);
            let works = task["state"] == "running" && runs > before;
            before = if works { runs } else { before };
            works
        });
        for command in commands {
            house.expect(0, command);
        }
    }
    house.script_model(&json!([{ "text": "in time" }]));
    house.wait_for_task("TASK-1", TaskState::Done);
    let done = task(&house, 1);
    let reasons: Vec<&serde_json::Value> = done["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["reason"])
        .collect();
    assert_eq!(done["attempts"], 1, "{done}");
    let stopped = reasons.iter().filter(|r| **r == "stopped").count();
    assert!(stopped >= 4, "{reasons:?}");
    let why = house.expect(0, "task why TASK-1");
    assert!(why.contains("stopped or restarted"), "{why}");
}

#[test]
fn the_operator_ends_the_pause_that_a_provider_asked_for() {
    let house = up(&with_model("  abbot: { template: orchestrator }\n"));
    house.wait_for_model();
    let list = house.expect(0, "provider list");
    let words: Vec<&str> = list.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(words[..4], ["scripted", "ok", "-", "abbot"], "{list}");
    house.script_model(&json!([{ "status": 429, "retry_after": "86400" }, { "text": "thought" }]));
    house.expect(0, "task add think");
    waiting(&house, 1, "provider");
    let paused = house.expect(0, "provider list");
    assert!(paused.contains("asks for fewer calls"), "{paused}");
    let doctor = house.run("doctor");
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let command = "abbey provider clear-cooldown scripted";
    assert!(doctor.replace("\n", " ").contains(command), "{doctor}");
    let clear = args!("provider clear-cooldown scripted --note {}", "it was paid");
    house.expect(0, clear);
    house.wait_for_task("TASK-1", TaskState::Done);
    assert_eq!(task(&house, 1)["attempts"], 1);
    // Once more changes nothing, and a name that is none is refused with how to find those that are.
    let again = house.json(0, "provider clear-cooldown scripted");
    assert_eq!(again["cleared"], false, "{again}");
    let said = house.expect_refusal(3, "provider clear-cooldown cloud");
    assert!(said.contains("abbey provider list"), "{said}");
    let resets = house.audit_entries("provider.reset");
    assert_eq!(resets.len(), 1);
    assert_eq!(resets[0]["detail"]["note"], "it was paid");
    assert_eq!(resets[0]["actor"], "operator", "{resets:?}");
}

/// The first of these time zones, by their hours before UTC, in which no midnight is near.
pub(crate) fn far_from_midnight(zones: [(&'static str, u64); 2]) -> &'static str {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let hour = |ahead: u64| (now.as_ref().unwrap().as_secs() / 3600 + ahead) % 24;
    let calm = zones
        .iter()
        .find(|(_, ahead)| !matches!(hour(*ahead), 0 | 23));
    calm.expect("two zones that are hours apart").0
}

#[test]
fn a_reservation_that_does_not_fit_now_waits_for_a_raise() {
    let zone = far_from_midnight([("Etc/UTC", 0), ("Etc/GMT-6", 6)]);
    let limit = |tokens: u64| limited(&format!("tokens_per_day: {tokens}, timezone: {zone}"));
    let house = up(&limit(100_000));
    house.wait_for_model();
    // Whatever a call reserves is what one of unknown usage costs.
    house.script_model(&json!([{ "text": "well", "no_usage": true }]));
    house.expect(0, "task add think --wait");
    let spent = || {
        let scopes = house.json(0, "budget show")["scopes"].clone();
        let scopes = scopes.as_array().unwrap().clone();
        let house = scopes
            .into_iter()
            .find(|s| s["scope"] == "house" && s["metric"] == "tokens");
        house.unwrap()["spent"].as_u64().unwrap()
    };
    let once = spent();
    house.manifest(&limit(once * 3 / 2));
    house.expect(0, "up");
    let parked = house.json(8, "task add think --wait");
    let waiting = &parked["task"]["waiting_for"];
    assert_eq!(
        (&waiting["kind"], &waiting["name"]),
        (&json!("budget"), &json!("house"))
    );
    let text = waiting["text"].as_str().unwrap();
    let left = format!("of {} left", once * 3 / 2);
    assert!(text.contains(&left), "{left} in {text}");
    // As much as the first call, and what the agent is told of it.
    let words = text.split_once(" are needed").unwrap().0;
    let needed = words.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    assert!((once..once * 3 / 2).contains(&needed), "{text}");
    assert_eq!(spent(), once);
    house.manifest(&limit(once * 3));
    house.expect(0, "up");
    house.wait_for_task("TASK-2", TaskState::Done);
    // A changed time zone forgets nothing of it.
    let before = spent();
    let other = far_from_midnight([("Pacific/Kiritimati", 14), ("Pacific/Niue", 13)]);
    let zone = format!("tokens_per_day: {}, timezone: {other}", once * 3);
    house.manifest(&limited(&zone));
    house.expect(0, "up");
    assert_eq!(spent(), before);
    // Nor does the way back.
    house.manifest(&limit(once * 3));
    house.expect(0, "up");
    assert_eq!(spent(), before);
}

#[test]
fn an_operator_changes_a_budget_without_the_manifest() {
    let zone = far_from_midnight([("Etc/UTC", 0), ("Etc/GMT-6", 6)]);
    let stated = limited(&format!(
        "tokens_per_day: 100000, runs_per_day: 1, timezone: {zone}"
    ));
    let house = up(&stated);
    house.wait_for_model();
    house.expect(0, "task add think --wait");
    for number in [2, 3] {
        house.expect(0, "task add think");
        assert_eq!(
            waiting(&house, number, "budget")["waiting_for"]["name"],
            "house"
        );
    }
    // What makes no sense is refused with the reason.
    for (code, command, part) in [
        (2, "budget raise house runs 0", "can't be raised by 0"),
        (
            2,
            "budget raise abbot runs 5",
            "has no limit that could be raised",
        ),
        (
            2,
            "budget raise TASK-1 tokens 2000",
            "the token budget of TASK-1 has no limit that could be raised",
        ),
        (2, "budget set house runs 0", "would stop its work"),
        (2, "budget set house runs 1", "has this limit already"),
        (
            2,
            "budget set house runs manifest",
            "of the manifest already",
        ),
        (2, "budget set house runs many", "`many` is not an amount"),
        (3, "budget set house minutes 5", "time budget"),
        (3, "budget reset nobody tokens", "nobody"),
        (2, "budget set house usd 0.0000000001", "is not an amount"),
    ] {
        let told = house.expect_refusal(code, command);
        assert!(told.contains(part), "{command}: {told}");
    }
    // A raise wakes as many as fit, at once.
    let raised = house.json(
        0,
        args!("budget raise house runs 1 --note {}", "a long night"),
    );
    assert_eq!(
        (&raised["limit"], &raised["changed"]["manifest"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(raised["changed"]["by"], "operator");
    house.wait_for_task("TASK-2", TaskState::Done);
    waiting(&house, 3, "budget");
    // It outlives a restart and an `up` with the same manifest.
    house.kill_control_plane();
    house.expect(0, "up");
    let shown = house.expect(0, "budget show");
    assert!(shown.contains("2 (changed)"), "{shown}");
    let told = house.expect(0, "budget reset house runs");
    assert!(told.contains("runs of house: 0 spent of 2"), "{told}");
    house.wait_for_task("TASK-3", TaskState::Done);
    let told = house.expect(0, "budget set house runs manifest");
    assert!(told.contains("of 1;"), "{told}");
    house.json(0, "budget set house usd 2.50");
    let entries = |action: &str| house.audit_entries(action);
    let raise = &entries("budget.raise")[0];
    assert_eq!(
        (&raise["actor"], &raise["entity"]),
        (&json!("operator"), &json!("house"))
    );
    assert_eq!(raise["detail"]["note"], "a long night");
    assert_eq!(
        (&raise["detail"]["before"], &raise["detail"]["limit"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(entries("budget.reset")[0]["detail"]["spent"], 2);
    assert_eq!(entries("budget.set").len(), 2);
    let told = house.expect(0, "budget set TASK-1 tokens 90000");
    assert!(told.contains("tokens of TASK-1: "), "{told}");
    let report = house.expect(0, "budget report");
    let of_task = |line: &str| line.starts_with("TASK-1 ") && line.contains("90,000");
    assert!(report.lines().any(of_task), "{report}");
    // Another limit in the manifest wins.
    house.expect(0, "budget set house runs 77");
    house.manifest(&stated.replace("runs_per_day: 1", "runs_per_day: 33"));
    house.expect(0, "up");
    let shown = house.expect(0, "budget show");
    assert!(shown.contains("33") && !shown.contains("77"), "{shown}");
}

#[test]
fn a_raise_with_a_key_counts_once_and_a_limit_that_is_not_stated_ends() {
    let stated = limited("runs_per_day: 5, minutes_per_day: 7");
    let house = up(&stated);
    for _ in 0..2 {
        let raised = house.json(0, "budget raise house runs 1 --idempotency-key k");
        assert_eq!(raised["limit"], 6);
    }
    let other = house.expect_refusal(4, "budget raise house runs 2 --idempotency-key k");
    assert!(other.contains("different request"), "{other}");
    let minutes = || {
        let shown = house.json(0, "budget show");
        let scopes = shown["scopes"].as_array().unwrap().clone();
        let mut of_house = scopes.into_iter().filter(|s| s["scope"] == "house");
        of_house.find(|s| s["metric"] == "seconds").unwrap()
    };
    assert_eq!(minutes()["limit"], 420);
    house.manifest(&stated.replace(", minutes_per_day: 7", ""));
    house.expect(0, "up");
    assert!(minutes()["limit"].is_null(), "{}", minutes());
}

#[test]
fn a_task_without_any_tokens_is_refused() {
    let house = up(&limited("tokens_per_day: 100000"));
    let told = house.expect_refusal(2, "task add think --tokens 0");
    assert!(told.contains("a token limit of 0"), "{told}");
    assert!(
        house.json(0, "task list")["tasks"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}
