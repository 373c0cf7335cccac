//! Approvals: one approval for one exact action, once and in time; the agent that asks does not poll (S4-18).

use crate::{house, up, with_model};
use abbey_model::TaskState;
use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use abbey_testkit::scripted::tool_call;
use abbey_testkit::turned_clock::{DAY, TurnedClock};
use serde_json::{Value, json};

fn stand() -> House {
    let house = up(&with_model("  a: { template: orchestrator }\n"));
    house.wait_for_model();
    house
}

fn ask(within_s: u64) -> Value {
    tool_call(
        "approval",
        json!({ "action": "deploy", "args": { "site": "docs", "version": 3 }, "why": "it is reviewed", "within_s": within_s }),
    )
}

/// Adds a task and waits until it needs a decision (exit code 5); gives the numbers of task and approval.
fn waits(house: &House, text: &str) -> (String, String) {
    let doc = house.json(5, args!("task add {} --wait", text));
    assert_eq!(doc["task"]["state"], "awaiting_approval");
    let waiting = doc["task"]["waiting_for"]["text"].as_str().unwrap();
    let approval = waiting.split(' ').find(|w| w.starts_with("APPR-")).unwrap();
    let number = doc["task"]["number"].as_str().unwrap().to_owned();
    (number, approval.trim_end_matches(',').to_owned())
}

#[test]
fn an_approval_is_used_once_for_the_exact_action_and_survives_a_kill() {
    let house = stand();
    house.script_model(&json!([ask(3600)]));
    let (task, approval) = waits(&house, "Publish the manual");
    let calls = house.model_request("/calls", None);
    let inbox = house.expect(0, "approvals");
    for part in [
        approval.as_str(),
        "requests `deploy`",
        "\"version\":3",
        "it is reviewed",
        "denied at",
    ] {
        assert!(inbox.contains(part), "{part}: {inbox}");
    }
    // Whoever asked holds nothing and asks nobody until there is an answer, whatever dies meanwhile.
    house.kill_control_plane();
    house.expect(0, "up");
    house.wait_for_model();
    assert_eq!(house.model_request("/calls", None), calls);
    let use_it = |version: u64| {
        tool_call(
            "approval",
            json!({ "use": approval, "action": "deploy", "args": { "version": version, "site": "docs" } }),
        )
    };
    house.script_model(&json!([
        use_it(4),
        use_it(3),
        use_it(3),
        tool_call("finish", json!({ "result": "published" }))
    ]));
    let yes = house.json(0, args!("approvals approve {} --note 'go ahead'", approval));
    assert_eq!(
        (yes["state"].as_str(), yes["decided_by"].as_str()),
        (Some("approved"), Some("operator"))
    );
    house.wait_for_task(&task, TaskState::Done);
    let all = house.json(0, "approvals --all");
    assert_eq!(all["approvals"][0]["state"], "used");
    // Other arguments and a second time were refused, and the log says what happened, in order.
    let entries = house.expect(0, "activity --json -n 1000");
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
    let told = house.expect_refusal(4, args!("approvals deny {}", approval));
    assert!(told.contains("is used"), "{told}");
    house.expect_refusal(3, "approvals approve APPR-99");
    house.expect(0, "activity verify");
}

#[test]
fn denial_revision_and_timeout_decide_an_approval() {
    let house = stand();
    house.script_model(&json!([ask(3600)]));
    let (task, approval) = waits(&house, "Try this");
    house.expect(
        0,
        args!("approvals deny {} --note 'not on a Friday'", approval),
    );
    let doc = house.json(0, args!("task show {}", task));
    assert_eq!(doc["task"]["state"], "failed");
    assert!(
        doc["task"]["failure"]
            .as_str()
            .unwrap()
            .contains("not on a Friday")
    );
    // Asked for differently, in a run of its own.
    house.script_model(&json!([
        ask(3600),
        ask(3600),
        tool_call("finish", json!({ "result": "enough" }))
    ]));
    let (task, first) = waits(&house, "Try that");
    house.expect(
        0,
        args!("approvals revise {} --note 'only the draft'", first),
    );
    until("it asks again", || {
        let pending = house.json(0, "approvals");
        pending["approvals"]
            .as_array()
            .unwrap()
            .iter()
            .any(|a| a["id"] != first.as_str())
    });
    let second = house.json(0, "approvals")["approvals"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    house.expect(0, args!("approvals approve {}", second));
    house.wait_for_task(&task, TaskState::Done);
    // Nobody answers.
    house.script_model(&json!([ask(1)]));
    let (task, approval) = waits(&house, "Try in vain");
    house.wait_for_task(&task, TaskState::Failed);
    let all = house.json(0, "approvals --all");
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
            .expect_refusal(4, args!("approvals approve {}", approval))
            .contains("denied")
    );
    // Cancelled while it waits: nothing is left to decide.
    house.script_model(&json!([ask(3600)]));
    let (task, approval) = waits(&house, "Never mind");
    house.expect(0, args!("task cancel {}", task));
    assert!(
        !house
            .expect_refusal(4, args!("approvals approve {}", approval))
            .is_empty()
    );
    assert_eq!(house.json(0, "approvals")["approvals"], json!([]));
    let all = house.json(0, "approvals --all");
    let newest = &all["approvals"][0];
    assert_eq!(
        (newest["id"].as_str(), newest["state"].as_str()),
        (Some(approval.as_str()), Some("lapsed"))
    );
}

#[test]
fn an_approval_that_is_not_used_within_a_day_expires() {
    let mut house = house();
    let mut clock = TurnedClock::new(&house.path(""));
    house.variables = clock.variables();
    house.manifest(&with_model("  a: { template: orchestrator }\n"));
    house.expect(0, "up");
    house.wait_for_model();
    house.script_model(&json!([ask(3600)]));
    let (task, approval) = waits(&house, "Publish the manual");
    // Nobody is there who could use it.
    house.expect(0, "pause a");
    let given = house.json(
        0,
        args!("approvals approve {} --note 'today only'", approval),
    );
    assert_eq!(given["state"], "approved");
    assert_ne!(given["expires_at"], given["created_at"]);
    house.kill_control_plane();
    clock.turn(DAY + 60);
    house.expect(0, "up");
    let shown = || house.json(0, "approvals --all")["approvals"][0].clone();
    until("it expires", || shown()["state"] == "expired");
    let note = shown()["note"].as_str().unwrap().to_owned();
    assert_eq!(
        note,
        "today only; it was not used within 24 hours after it was approved"
    );
    assert!(
        house
            .expect(0, "approvals --all")
            .contains("APPR-1 expired")
    );
    let entry = &house.audit_entries("approval.expire")[0];
    assert_eq!(
        (&entry["actor"], &entry["entity"]),
        (&json!("house"), &json!(approval))
    );
    assert_eq!(entry["detail"]["task"], json!(task));
    let told = house.expect_refusal(4, args!("approvals approve {}", approval));
    assert!(told.contains("is expired"), "{told}");
}

/// An agent reads its own requests page by page, however many others there are.
#[test]
fn an_agent_lists_its_own_requests_page_by_page() {
    let house = up(&with_model(
        "  a: { template: worker }\n  b: { template: worker }\n",
    ));
    let request = |agent: &str| {
        let call = |method: &str, path: &str, body: &Value, lease: &str| {
            let token = house.agent_token(agent);
            let headers = [("abbey-lease", lease)];
            let request = house.agent_api(method, path).token(&token).json(body);
            let (status, doc) = match lease.is_empty() {
                true => request.send(),
                false => request.headers(&headers).send(),
            };
            assert_eq!(status, 200, "{doc}");
            doc
        };
        let task = house.json(0, args!("task add 'Deploy it' --to {}", agent));
        let task = task["task"]["number"].as_str().unwrap().to_owned();
        let path = format!("/api/v1/self/tasks/{task}/claim");
        let lease = call("POST", &path, &json!({}), "")["lease"]["token"].to_string();
        let body = json!({ "task": task, "action": "deploy", "args": {}, "why": "it is time" });
        let asked = call("POST", "/api/v1/self/approvals", &body, &lease);
        asked["id"].as_str().unwrap().to_owned()
    };
    for agent in ["a", "b"] {
        house.expect(0, args!("stop {}", agent));
    }
    let all = ["a", "b", "b", "a"].map(request);
    let token = house.agent_token("a");
    let page = |cursor: &str| {
        let path = format!("/api/v1/self/approvals?limit=1{cursor}");
        let (status, doc) = house.agent_api("GET", &path).token(&token).send();
        assert_eq!(status, 200, "{doc}");
        doc
    };
    let first = page("");
    assert_eq!(first["approvals"][0]["id"], all[3].as_str());
    let cursor = first["cursor"].as_str().unwrap();
    let second = page(&format!("&cursor={cursor}"));
    assert_eq!(second["approvals"][0]["id"], all[0].as_str());
    assert_eq!(second["approvals"].as_array().unwrap().len(), 1);
    assert!(second["cursor"].is_null(), "the last page: {second}");
}

#[test]
fn a_run_of_a_skill_stays_one_when_its_target_or_its_agent_is_gone() {
    let boss = "  boss: { template: orchestrator }\n";
    let ops = "  ops: { template: worker, skills: [cell-restart], reports_to: boss }\n";
    let pb = "  pb: { template: worker, reports_to: boss }\n";
    let house = up(&with_model(&format!("{boss}{ops}{pb}")));
    house.wait_for_model();
    let (task, approval) = waits(&house, "Restart the cell of pb");
    // No model asked, so nobody could ask for something else.
    let refused = house.expect_refusal(
        4,
        args!("approvals revise {} --note 'another cell'", approval),
    );
    assert!(refused.contains("nobody would change them"), "{refused}");
    house.expect(0, "agent rm pb");
    // The person who decides is told, and nothing is decided.
    let refused = house.expect_refusal(4, args!("approvals approve {}", approval));
    assert!(refused.contains("there is no agent `pb`"), "{refused}");
    assert_eq!(house.task(&task).state, TaskState::AwaitingApproval);
    house.expect(0, args!("approvals deny {}", approval));
    house.wait_for_task(&task, TaskState::Failed);
    // Its text matches no skill any more, and it is no work for a model all the same.
    house.expect(0, args!("task retry {}", task));
    house.wait_for_task(&task, TaskState::Failed);
    let failed = house.json(0, args!("task show {}", task))["task"].clone();
    assert_eq!(failed["skill"], "cell-restart", "{failed}");
    assert!(
        failed["failure"].as_str().unwrap().contains("`pb`"),
        "{failed}"
    );
    house.expect(0, "agent rm ops");
    house.expect(0, args!("task retry {}", task));
    let parked = house.json(0, args!("task show {}", task))["task"].clone();
    assert_eq!(parked["state"], "parked", "{parked}");
    let why = house.json(0, args!("task why {}", task));
    assert!(
        why.to_string()
            .contains("no agent has the skill `cell-restart`"),
        "{why}"
    );
}
