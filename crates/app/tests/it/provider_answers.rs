//! What providers send, and what may come of it: an answer, or a reason; never a lost answer, a wrong bill or a lost house.

use crate::{up, with_model};
use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use serde_json::{Value, json};

/// A house with an agent of this name and tools whose model is scripted.
fn with_agent() -> House {
    let house = up(&with_model("  abbot: { template: worker }\n"));
    house.wait_for_model();
    house
}

fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

fn part(delta: &Value, finish: Option<&str>) -> String {
    event(
        &json!({ "id": "c1", "model": "scripted-1", "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] }),
    )
}

fn usage() -> String {
    event(
        &json!({ "model": "scripted-1", "choices": [], "usage": { "prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120 } }),
    )
}

/// An answer without its end marker.
fn answer() -> String {
    part(&json!({ "content": "all is well" }), None) + &part(&json!({}), Some("stop")) + &usage()
}

fn spent(house: &House) -> u64 {
    let budgets = house.json(0, "budget show");
    let scopes = budgets["scopes"].as_array().unwrap();
    let of_house = |s: &&Value| s["scope"] == "house" && s["metric"] == "tokens";
    let found = scopes.iter().find(of_house).unwrap();
    found["spent"].as_u64().unwrap()
}

#[test]
fn a_complete_answer_is_taken_once_and_charged_as_reported() {
    let house = with_agent();
    let done = "data: [DONE]\n\n";
    let message = json!({ "role": "assistant", "content": "all is well" });
    let whole = json!({ "model": "scripted-1", "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }], "usage": { "prompt_tokens": 100, "completion_tokens": 20 } });
    let halves = part(&json!({ "content": "all is well" }), None)
        + "data: {\"choices\":[{\"delta\":{\"content\":\"\\ud83d\"}}]}\n\n"
        + &part(&json!({}), Some("stop"))
        + &usage()
        + done;
    for (name, raw, kind) in [
        (
            "byte-order mark",
            format!("\u{feff}{}{done}", answer()),
            None,
        ),
        ("no marker", answer(), None),
        ("small marker", answer() + "data: [done]\n\n", None),
        ("marker without end", answer() + "data: [DONE]", None),
        (
            "empty events",
            format!("data:\n\n{}data: \n\n{done}", answer()),
            None,
        ),
        ("half a character", halves, None),
        ("in one piece", whole.to_string(), Some("application/json")),
    ] {
        let before = spent(&house);
        let turn = json!({ "raw": raw, "content_type": kind });
        house.script_model(&json!([turn]));
        let ended = house.json(0, "task add think --wait");
        let task = &ended["task"];
        let text = task["result"]["text"].as_str().unwrap();
        assert!(text.starts_with("all is well"), "{name}: {ended}");
        assert_eq!(task["runs"].as_array().unwrap().len(), 1, "{name}: {ended}");
        assert_eq!(spent(&house) - before, 120, "{name}");
    }
}

#[test]
fn calls_of_tools_are_carried_out_however_they_are_streamed() {
    let house = with_agent();
    let call = |id: Option<&str>, index: Option<u64>, arguments: Value| {
        let mut call = json!({ "type": "function", "function": { "name": "write_file", "arguments": arguments } });
        if let Some(id) = id {
            call["id"] = json!(id);
        }
        if let Some(index) = index {
            call["index"] = json!(index);
        }
        part(&json!({ "tool_calls": [call] }), None)
    };
    let (north, south) = (
        json!({ "path": "north.txt", "content": "wind" }),
        json!({ "path": "south.txt", "content": "sun" }),
    );
    let text = |value: &Value| json!(value.to_string());
    let ways = [
        [
            (Some("x"), None, text(&north)),
            (Some("y"), None, text(&south)),
        ],
        [
            (Some("x"), Some(0), text(&north)),
            (Some("y"), Some(0), text(&south)),
        ],
        [(None, None, text(&north)), (None, None, text(&south))],
        [
            (Some("x"), Some(0), north.clone()),
            (Some("y"), Some(1), south.clone()),
        ],
    ];
    for way in ways {
        let calls: String = way
            .iter()
            .cloned()
            .map(|(id, index, a)| call(id, index, a))
            .collect();
        let raw = calls + &part(&json!({}), Some("tool_calls")) + &usage() + "data: [DONE]\n\n";
        house.script_model(&json!([{ "raw": raw }, { "text": "both are written" }]));
        let ended = house.json(0, "task add think --wait");
        assert_eq!(ended["task"]["runs"][0]["receipts"], 2, "{way:?}: {ended}");
        let files = "exec abbot -- sh -c 'cat north.txt south.txt && rm north.txt south.txt'";
        assert_eq!(house.expect(0, files), "windsun", "{way:?}");
    }
    // What can't be told apart is carried out by nobody, and the next answer counts.
    let begun = call(None, None, json!("{\"path\": \"north"));
    let other = part(
        &json!({ "tool_calls": [{ "function": { "name": "note", "arguments": "{}" } }] }),
        None,
    );
    let raw = begun + &other + &part(&json!({}), Some("tool_calls")) + "data: [DONE]\n\n";
    house.script_model(&json!([{ "raw": raw }, { "text": "thought again" }]));
    let ended = house.json(0, "task add think --wait");
    let runs = ended["task"]["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2, "{ended}");
    let number = ended["task"]["number"].as_str().unwrap();
    let why = house.expect(0, args!("task why {}", number));
    assert!(why.contains("can't be understood"), "{why}");
}

#[test]
fn the_words_of_a_provider_are_told_with_its_name_and_drive_no_terminal() {
    let house = with_agent();
    let refused = |status: u16, body: &str| {
        let turn = json!({ "status": status, "raw": body, "content_type": "application/json" });
        house.script_model(&json!([turn]));
    };
    for (status, body) in [
        (404, "{\"error\":\"mulberry-7b not found, pull it first\"}"),
        (
            404,
            "{\"object\":\"error\",\"message\":\"mulberry-7b does not exist\"}",
        ),
        (
            422,
            "{\"detail\":[{\"loc\":[\"body\"],\"msg\":\"mulberry-7b is not permitted\"}]}",
        ),
        (400, "mulberry-7b\u{1b}[2J\u{1b}]0;owned\u{7} is bad"),
    ] {
        refused(status, body);
        let ended = house.json(1, "task add think --wait");
        let failure = ended["task"]["failure"].as_str().unwrap();
        let told = failure.contains("provider `scripted`") && failure.contains("mulberry-7b");
        assert!(told && !failure.contains('\u{1b}'), "{failure}");
        if status == 404 {
            assert!(failure.contains("providers.scripted.base_url"), "{failure}");
        }
    }
    // In the middle of an answer.
    let raw = part(&json!({ "content": "all" }), None)
        + &event(&json!({ "error": "mulberry-7b has stopped" }));
    house.script_model(&json!([{ "raw": raw }, { "text": "thought again" }]));
    let ended = house.json(0, "task add think --wait");
    let number = ended["task"]["number"].as_str().unwrap();
    let why = house.expect(0, args!("task why {}", number));
    assert!(why.contains("mulberry-7b has stopped"), "{why}");
    // While a task waits for it.
    let key = json!({ "error": { "message": "Incorrect key for mulberry-7b" } }).to_string();
    let turn = json!({ "status": 401, "raw": key, "content_type": "application/json", "retry_after": "600" });
    house.script_model(&json!([turn]));
    let parked = house.json(8, "task add think --wait");
    let number = parked["task"]["number"].as_str().unwrap();
    let why = house.expect(0, args!("task why {}", number));
    assert!(why.contains("Incorrect key for mulberry-7b"), "{why}");
    let list = house.expect(0, "provider list");
    assert!(list.contains("Incorrect key for mulberry-7b"), "{list}");
}

#[test]
fn a_key_that_a_model_refuses_is_left_out_over_a_restart_until_its_provider_changes() {
    let house = with_agent();
    let refusal = json!({ "error": { "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", "param": "max_tokens", "code": "unsupported_parameter" } });
    let refusal =
        json!({ "status": 400, "raw": refusal.to_string(), "content_type": "application/json" });
    house.script_model(&json!([refusal, { "text": "thought" }]));
    let ended = house.json(0, "task add think --wait");
    assert_eq!(
        ended["task"]["runs"].as_array().unwrap().len(),
        1,
        "{ended}"
    );
    let newest =
        || -> Value { serde_json::from_str(&house.model_request("/newest", None)).unwrap() };
    let has = |key: &str| newest().get(key).is_some();
    assert!(has("max_completion_tokens") && !has("max_tokens"));
    assert_eq!(house.audit_entries("provider.learn").len(), 1);
    house.kill_control_plane();
    house.expect(0, "up");
    house.wait_for_model();
    house.expect(0, "task add think --wait");
    assert!(has("max_completion_tokens") && !has("max_tokens"));
    let manifest = with_model("  abbot: { template: worker }\n");
    house.manifest(&manifest.replace("output_tokens_max: 200", "output_tokens_max: 201"));
    house.expect(0, "up");
    house.expect(0, "task add think --wait");
    until("the provider is asked as at first", || has("max_tokens"));
}

#[test]
fn another_model_than_asked_is_told() {
    let house = with_agent();
    house.script_model(&json!([{ "text": "thought", "model": "tiny-thrifty-9" }]));
    house.expect(0, "task add think --wait");
    let report = house.expect(0, "report policy");
    assert!(report.contains("tiny-thrifty-9"), "{report}");
    house.script_model(&json!([{ "text": "thought", "model": "maker/Scripted-1-2026" }]));
    house.expect(0, "task add think --wait");
    let report = house.expect(0, "report policy");
    assert!(!report.contains("maker/"), "{report}");
}
