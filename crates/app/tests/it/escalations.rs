//! Tasks without an eligible agent go to the receiver that the manifest names, and end at a deadline (S4-24).

use crate::{house, up, with_model};
use abbey_model::TaskState;
use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use serde_json::json;

const AGENTS: &str = "  abbot: { template: orchestrator, model: scripted/scripted-1 }
  ops: { template: sysadmin, reports_to: abbot }
";

fn manifest(escalation: &str) -> String {
    // Nobody thinks but the one who decides.
    let text = with_model(AGENTS).replace(
        "defaults: { cell: process, model: scripted/scripted-1 }",
        "defaults: { cell: process }",
    );
    format!("{text}escalation: {{ {escalation} }}\n")
}

fn stand(escalation: &str) -> House {
    let house = up(&manifest(escalation));
    house.wait_for_model();
    house
}

#[test]
fn escalated_work_is_decided_once_by_the_named_receiver() {
    let house = stand("to: abbot, within: 1h");
    house.script_model(&json!([{ "text": "it is done by hand" }]));
    // Given to one who cannot think about it, and has no skill for it.
    let task = house.json(0, "task add 'write a poem about the sea' --to ops");
    let number = task["task"]["number"].as_str().unwrap();
    house.wait_for_task(number, TaskState::Done);
    let done = house.json(0, args!("task show {}", number));
    assert_eq!(
        (&done["task"]["assignee"], &done["task"]["result"]["text"]),
        (&json!("abbot"), &json!("it is done by hand"))
    );
    let given = house.audit_entries("task.escalate");
    assert_eq!(given.len(), 1);
    assert_eq!(given[0]["detail"]["to"], "abbot");
    assert!(
        given[0]["detail"]["why"]
            .as_str()
            .unwrap()
            .contains("no model is configured")
    );
    // What a skill does needs nobody's decision.
    house.expect(0, "task add 'show system stats' --wait");
    assert_eq!(house.audit_entries("task.escalate").len(), 1);
}

#[test]
fn undecided_escalation_takes_the_declared_outcome_at_its_deadline() {
    let house = stand("to: operator, within: 100ms, then: cancel");
    let task = house.json(0, "task add 'write a poem about the sea' --to ops");
    let number = task["task"]["number"].as_str().unwrap().to_owned();
    house.wait_for_task(&number, TaskState::Cancelled);
    let over = house.audit_entries("task.escalation_over");
    assert_eq!(
        (over.len(), &over[0]["detail"]["then"]),
        (1, &json!("cancel"))
    );
    // The other outcome: it stays, and is not asked about again, whatever dies meanwhile.
    house.manifest(&manifest("to: operator, within: 100ms"));
    house.expect(0, "up");
    let task = house.json(0, "task add 'write another poem' --to ops");
    let number = task["task"]["number"].as_str().unwrap().to_owned();
    until("its time is over", || {
        house.audit_entries("task.escalation_over").len() == 2
    });
    house.kill_control_plane();
    house.expect(0, "up");
    house.expect(0, "task add 'show system stats' --wait");
    assert_eq!(
        house.json(0, args!("task show {}", number))["task"]["state"],
        "parked"
    );
    assert_eq!(house.audit_entries("task.escalate").len(), 2);
    assert_eq!(house.json(0, "activity verify")["ok"], true);
}

#[test]
fn an_invalid_escalation_receiver_is_refused() {
    for (escalation, told) in [
        ("to: nobody", "no agent `nobody`"),
        (
            "to: ops",
            "`ops` has no model, so it cannot decide about anything",
        ),
        ("to: abbot, then: cancel", "`then: cancel` needs `within`"),
    ] {
        let house = house();
        house.manifest(&manifest(escalation));
        let said = house.expect_refusal(2, "plan");
        assert!(said.contains(told), "{said}");
    }
}
