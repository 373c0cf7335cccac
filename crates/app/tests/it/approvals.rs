//! Approvals at the door: one yes for one exact action, once and in time; whoever asks does not poll (S4-18).

use crate::{up, with_model};
use abbey_testkit::house::{House, until};
use serde_json::{Value, json};

fn stand() -> House {
    let house = up(&with_model("  a: { template: orchestrator }\n"));
    until("the model answers", || {
        house.json(0, &["service", "list"])["services"][0]["healthy"] == true
    });
    house
}

pub(crate) fn curl(house: &House, path: &str, body: Option<&Value>) -> String {
    let services = house.json(0, &["service", "list"]);
    let port = services["services"][0]["port"].as_u64().unwrap();
    let mut command = std::process::Command::new("curl");
    command.arg("-fsS");
    if let Some(body) = body {
        command.args([
            "-H",
            "content-type: application/json",
            "-d",
            &body.to_string(),
        ]);
    }
    let done = command
        .arg(format!("http://127.0.0.1:{port}{path}"))
        .output()
        .unwrap();
    assert!(done.status.success());
    String::from_utf8(done.stdout).unwrap()
}

pub(crate) fn script(house: &House, turns: Value) {
    curl(house, "/script", Some(&turns));
}

fn call(name: &str, arguments: Value) -> Value {
    json!({ "tool_calls": [{ "name": name, "arguments": arguments }] })
}

fn ask(within_s: u64) -> Value {
    call(
        "approval",
        json!({ "action": "deploy", "args": { "site": "docs", "version": 3 }, "why": "it is reviewed", "within_s": within_s }),
    )
}

/// Adds a task and waits until it stands still; 5 means that somebody must act.
fn waits(house: &House, text: &str) -> (String, String) {
    let doc = house.json(5, &["task", "add", text, "--wait"]);
    assert_eq!(doc["task"]["state"], "awaiting_approval");
    let waiting = doc["task"]["waiting_for"].as_str().unwrap();
    let approval = waiting.split(' ').find(|w| w.starts_with("APPR-")).unwrap();
    let number = doc["task"]["number"].as_str().unwrap().to_owned();
    (number, approval.trim_end_matches(',').to_owned())
}

#[test]
fn an_approval_is_used_once_for_the_exact_action_and_survives_a_kill() {
    let house = stand();
    script(&house, json!([ask(3600)]));
    let (task, approval) = waits(&house, "Publish the manual");
    let calls = curl(&house, "/calls", None);
    let inbox = house.expect(0, &["approvals"]);
    for part in [
        approval.as_str(),
        "wants to do `deploy`",
        "\"version\":3",
        "it is reviewed",
        "denied at",
    ] {
        assert!(inbox.contains(part), "{part}: {inbox}");
    }
    // Whoever asked holds nothing and asks nobody until there is an answer, whatever dies meanwhile.
    house.kill_serve();
    house.expect(0, &["up"]);
    until("the model answers", || {
        house.json(0, &["service", "list"])["services"][0]["healthy"] == true
    });
    assert_eq!(curl(&house, "/calls", None), calls);
    let use_it = |version: u64| {
        call(
            "approval",
            json!({ "use": approval, "action": "deploy", "args": { "version": version, "site": "docs" } }),
        )
    };
    script(
        &house,
        json!([
            use_it(4),
            use_it(3),
            use_it(3),
            call("finish", json!({ "result": "published" }))
        ]),
    );
    let yes = house.json(
        0,
        &["approvals", "approve", &approval, "--note", "go ahead"],
    );
    assert_eq!(
        (yes["state"].as_str(), yes["decided_by"].as_str()),
        (Some("approved"), Some("operator"))
    );
    until("it is done", || {
        house.json(0, &["task", "show", &task])["task"]["state"] == "done"
    });
    let all = house.json(0, &["approvals", "--all"]);
    assert_eq!(all["approvals"][0]["state"], "used");
    // Other arguments and a second time were refused, and the log says what happened, in order.
    let entries = house.expect(0, &["activity", "--json", "-n", "1000"]);
    let actions: Vec<String> = entries
        .lines()
        .map(|l| {
            serde_json::from_str::<Value>(l).unwrap()["action"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .filter(|a| a.starts_with("approval."))
        .collect();
    assert_eq!(actions, ["approval.ask", "approval.decide", "approval.use"]);
    let told = house.refused(4, &["approvals", "deny", &approval]);
    assert!(told.contains("is used"), "{told}");
    house.refused(3, &["approvals", "approve", "APPR-99"]);
    house.expect(0, &["activity", "verify"]);
}

#[test]
fn denial_revision_and_timeout_decide_an_approval() {
    let house = stand();
    script(&house, json!([ask(3600)]));
    let (task, approval) = waits(&house, "Try this");
    house.expect(
        0,
        &["approvals", "deny", &approval, "--note", "not on a Friday"],
    );
    let doc = house.json(0, &["task", "show", &task]);
    assert_eq!(doc["task"]["state"], "failed");
    assert!(
        doc["task"]["failure"]
            .as_str()
            .unwrap()
            .contains("not on a Friday")
    );
    // Asked for differently, in a run of its own.
    script(
        &house,
        json!([
            ask(3600),
            ask(3600),
            call("finish", json!({ "result": "enough" }))
        ]),
    );
    let (task, first) = waits(&house, "Try that");
    house.expect(
        0,
        &["approvals", "revise", &first, "--note", "only the draft"],
    );
    until("it asks again", || {
        let pending = house.json(0, &["approvals"]);
        pending["approvals"]
            .as_array()
            .unwrap()
            .iter()
            .any(|a| a["id"] != first.as_str())
    });
    let second = house.json(0, &["approvals"])["approvals"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    house.expect(0, &["approvals", "approve", &second]);
    until("it is done", || {
        house.json(0, &["task", "show", &task])["task"]["state"] == "done"
    });
    // Nobody answers.
    script(&house, json!([ask(1)]));
    let (task, approval) = waits(&house, "Try in vain");
    until("silence was the answer", || {
        house.json(0, &["task", "show", &task])["task"]["state"] == "failed"
    });
    let all = house.json(0, &["approvals", "--all"]);
    let silent = all["approvals"]
        .as_array()
        .unwrap()
        .iter()
        .find(|a| a["id"] == approval.as_str())
        .unwrap();
    assert_eq!(
        (silent["state"].as_str(), silent["decided_by"].as_str()),
        (Some("denied"), Some("house"))
    );
    assert!(
        house
            .refused(4, &["approvals", "approve", &approval])
            .contains("denied")
    );
    // Called off while it waits: nothing is left to answer.
    script(&house, json!([ask(3600)]));
    let (task, approval) = waits(&house, "Never mind");
    house.expect(0, &["task", "cancel", &task]);
    assert!(
        !house
            .refused(4, &["approvals", "approve", &approval])
            .is_empty()
    );
    assert_eq!(house.json(0, &["approvals"])["approvals"], json!([]));
    let all = house.json(0, &["approvals", "--all"]);
    let newest = &all["approvals"][0];
    assert_eq!(
        (newest["id"].as_str(), newest["state"].as_str()),
        (Some(approval.as_str()), Some("lapsed"))
    );
}
