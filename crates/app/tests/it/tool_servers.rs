//! Tool servers in their own cells, over the Model Context Protocol: only for the agents that use them, and every call is
//! logged (S3-19).

use crate::house;
use abbey_testkit::args;
use abbey_testkit::crash::arm_crash_point;
use abbey_testkit::house::{House, until};
use abbey_testkit::scripted::tool_call;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;

/// A server as the documentation of the protocol describes it: handshake, list, call, an error, and a request of its own.
const SERVER: &str = r#"#!/usr/bin/python3
import json, sys
def say(m):
    print(json.dumps(m), flush=True)
ready = False
for line in sys.stdin:
    m = json.loads(line)
    method, i = m.get("method"), m.get("id")
    if method == "initialize":
        assert m["params"]["protocolVersion"] == "2025-06-18"
        say({"jsonrpc": "2.0", "id": i, "result": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "tides", "version": "1"}}})
    elif method == "notifications/initialized":
        ready = True
        say({"jsonrpc": "2.0", "id": "q1", "method": "roots/list"})
    elif i is None or method is None:
        continue
    elif method == "tools/list":
        say({"jsonrpc": "2.0", "id": i, "result": {"tools": [
            {"name": "high_water", "description": "When the water is high.", "inputSchema": {"type": "object", "properties": {"port": {"type": "string"}}, "required": ["port"]}},
            {"name": "break", "description": "Ends the server.", "inputSchema": {"type": "object"}}]}})
    elif method == "tools/call":
        name, args = m["params"]["name"], m["params"]["arguments"]
        if name == "break":
            sys.exit(3)
        if name != "high_water":
            say({"jsonrpc": "2.0", "id": i, "error": {"code": -32602, "message": "no such tool"}})
        elif args.get("port") == "nowhere":
            say({"jsonrpc": "2.0", "id": i, "result": {"isError": True, "content": [{"type": "text", "text": "nowhere has no water"}]}})
        else:
            say({"jsonrpc": "2.0", "id": i, "result": {"content": [{"type": "text", "text": "high water at %s: 06:12" % args["port"]}]}})
"#;

fn stand() -> House {
    let house = house();
    furnish(&house);
    house
}

fn furnish(house: &House) {
    let server = house.path("tides");
    std::fs::write(&server, SERVER).unwrap();
    std::fs::set_permissions(&server, std::fs::Permissions::from_mode(0o755)).unwrap();
    house.manifest(&format!(
        "house: harbour
services:
  model: {{ cell: process, command: [abbey-scripted-model, --port, \"{{port}}\"], probe: /v1/models }}
  tides: {{ kind: tools, command: [{}] }}
providers:
  scripted: {{ kind: openai, service: model, output_tokens_max: 200 }}
defaults: {{ model: scripted/scripted-1 }}
budget: {{ tokens_per_day: 100000 }}
agents:
  pilot: {{ template: orchestrator, uses: [tides] }}
  cook: {{ template: worker, reports_to: pilot }}
",
        server.display()
    ));
    house.expect(0, "up");
    until("everything answers", || {
        let list = house.json(0, "service list");
        list["services"]
            .as_array()
            .unwrap()
            .iter()
            .all(|s| s["healthy"] == true)
    });
}

#[test]
fn tools_are_called_only_by_their_users_and_each_call_is_logged() {
    let house = stand();
    house.script_model(&json!([
        tool_call("tides__high_water", json!({ "port": "nowhere" })),
        tool_call("tides__high_water", json!({ "port": "Koper" })),
        { "text": "it is at 06:12" }
    ]));
    let done = house.json(0, "task add 'When is high water?' --to pilot --wait");
    assert_eq!(done["task"]["result"]["text"], "it is at 06:12");
    let made = house.audit_entries("tool.call");
    assert_eq!(made.len(), 2);
    assert_eq!(
        (
            &made[0]["actor"],
            &made[0]["detail"]["tool"],
            &made[0]["detail"]["ok"]
        ),
        (&json!("agent:pilot"), &json!("high_water"), &json!(false))
    );
    assert_eq!(
        (&made[1]["detail"]["ok"], &made[1]["detail"]["task"]),
        (&json!(true), &json!("TASK-1"))
    );
    // Nobody else is shown them, or gets through to them.
    house.script_model(
        &json!([tool_call("tides__high_water", json!({ "port": "Koper" })), { "text": "no" }]),
    );
    house.expect(0, "task add 'When is high water?' --to cook --wait");
    let curl = |agent: &str| {
        house.expect(0, args!("exec {} -- sh -c {}", agent, "curl -s -X POST -H \"Authorization: Bearer $(cat $ABBEY_TOKEN_FILE)\" -H 'content-type: application/json' -d '{}' $ABBEY_URL/api/v1/self/tools/tides/high_water"))
    };
    assert!(curl("cook").contains("does not use the tool server `tides`"));
    assert!(curl("pilot").contains("has no running task, so it may not call a tool"));
    assert_eq!(house.audit_entries("tool.call").len(), 2);
    // There is no other way to it than the one that enters each call.
    let env = house.expect(0, "exec pilot -- env");
    assert!(!env.contains("TIDES"), "{env}");
}

#[test]
fn a_tool_server_added_to_an_agent_is_usable_without_a_restart() {
    let house = stand();
    let boot = |house: &House| {
        let fleet = house.json(0, "ps");
        let agents = fleet["agents"].as_array().unwrap().clone();
        let cook = agents.into_iter().find(|a| a["name"] == "cook").unwrap();
        cook["generation"].clone()
    };
    house.wait_until_up("cook");
    let before = boot(&house);
    let path = house.path("abbey.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("reports_to: pilot", "reports_to: pilot, uses: [tides]");
    std::fs::write(&path, text).unwrap();
    let plan = house.json(0, "plan");
    assert_eq!(
        (&plan["steps"][0]["action"], &plan["steps"][0]["changes"]),
        (
            &json!("update"),
            &json!([{ "key": "uses", "old": null, "new": "tides", "effect": "live" }])
        ),
        "{plan}"
    );
    house.expect(0, "up");
    house.script_model(&json!([
        tool_call("tides__high_water", json!({ "port": "Koper" })),
        { "text": "it is at 06:12" }
    ]));
    house.expect(0, "task add 'High water?' --to cook --wait");
    let made = house.audit_entries("tool.call");
    assert_eq!(
        (made.len(), &made[0]["actor"], &made[0]["detail"]["ok"]),
        (1, &json!("agent:cook"), &json!(true))
    );
    assert_eq!(boot(&house), before);
}

#[test]
fn a_tool_server_that_exits_is_reported_and_restarted() {
    let house = stand();
    house.script_model(&json!([tool_call("tides__break", json!({})), { "text": "it broke" }]));
    house.expect(0, "task add 'Break it' --to pilot --wait");
    assert_eq!(house.audit_entries("tool.call")[0]["detail"]["ok"], false);
    until("it is back", || {
        let list = house.json(0, "service list");
        let tides = list["services"]
            .as_array()
            .unwrap()
            .iter()
            .find(|s| s["name"] == "tides")
            .cloned()
            .unwrap();
        tides["healthy"] == true && tides["generation"] == 2
    });
    let log = house.expect(0, "service logs tides");
    assert!(
        log.contains("the tool server ended: exit status: 3"),
        "{log}"
    );
    house.script_model(
        &json!([tool_call("tides__high_water", json!({ "port": "Koper" })), { "text": "fine" }]),
    );
    house.expect(0, "task add 'And now?' --to pilot --wait");
    assert_eq!(house.audit_entries("tool.call")[1]["detail"]["ok"], true);
}

/// A crash between a call and its answer: the call is in the log.
#[test]
fn every_tool_call_is_logged_before_it_is_made() {
    let (mut house, armed) = House::with_crash_point(env!("CARGO_BIN_EXE_abbey"), "tool.called");
    furnish(&house);
    house.script_model(&json!([tool_call("tides__high_water", json!({ "port": "Koper" })), { "text": "at 06:12" }]));
    arm_crash_point(&armed);
    let _may_be_cut_off = house.run("task add 'When is it?' --to pilot");
    until("the place was passed", || !armed.exists());
    house.crash_at = None;
    until("it is up again", || house.run("up").status.success());
    // It may be called again, and that is entered too.
    let called = house.audit_entries("tool.call");
    let asked = house.audit_entries("tool.ask");
    assert!(asked.len() > called.len(), "{asked:?} {called:?}");
    assert_eq!(asked[0]["detail"]["tool"], "high_water");
    assert_eq!(house.json(0, "activity verify")["ok"], true);
}

/// A program that speaks no such protocol is nobody's loss while no agent uses it, and is once one does.
#[test]
fn a_tool_server_that_fails_matters_to_the_agents_that_use_it() {
    let house = house();
    let manifest = |uses: &str| {
        house.manifest(&format!(
            "house: harbour\nservices:\n  calc: {{ kind: tools, cell: process, command: [cat] }}\nagents:\n  a: {{ cell: process, waive: [limits], {uses} }}\n"
        ));
    };
    manifest("role: worker");
    let up = house.run("up");
    let said = String::from_utf8_lossy(&up.stderr);
    assert_eq!(up.status.code(), Some(0), "{said}");
    assert!(
        said.contains("service `calc`: no agent uses it, and it failed: "),
        "{said}"
    );
    manifest("uses: [calc]");
    let said = house.expect_refusal(7, "up");
    assert!(said.contains("service `calc` is degraded: "), "{said}");
}
