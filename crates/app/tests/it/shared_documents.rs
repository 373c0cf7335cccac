//! Shared documents: one writer each, append-only logs, and a status that only its gatekeeper writes (S3-17, S3-26, S3-41).

use crate::{house, with_model};
use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;

const DOCUMENTS: &str = "documents:
  cluster: {}
  status: { writer: a }
  diary: { kind: log, readers: [a], writers: [a, b] }
  live: { report: status, readers: [a] }
";

fn up() -> House {
    let house = house();
    house.manifest(&with_model(&format!(
        "  a: {{ template: orchestrator }}\n  b: {{ template: orchestrator, reports_to: a }}\n  c: {{ template: sysadmin, reports_to: a }}\n{DOCUMENTS}"
    )));
    house.expect(0, "up");
    house
}

fn put(house: &House, who: &str, name: &str, body: Value) -> (u16, Value) {
    let path = format!("/api/v1/self/documents/{name}");
    house
        .agent_api("POST", &path)
        .token(&house.agent_token(who))
        .json(&body)
        .send()
}

fn get(house: &House, who: &str, name: &str) -> (u16, Value) {
    let path = format!("/api/v1/self/documents/{name}");
    house
        .agent_api("GET", &path)
        .token(&house.agent_token(who))
        .send()
}

#[test]
fn a_document_has_one_writer_and_refuses_stale_writes() {
    let house = up();
    let (status, doc) = put(
        &house,
        "a",
        "status",
        json!({ "text": "all is well", "seen": 0 }),
    );
    assert_eq!(
        (status, &doc["document"]["newest"]),
        (200, &json!(1)),
        "{doc}"
    );
    let (status, told) = put(&house, "a", "status", json!({ "text": "again", "seen": 0 }));
    assert_eq!(status, 409, "{told}");
    assert!(
        told["detail"]
            .as_str()
            .unwrap()
            .contains("the current version is 1")
    );
    for who in ["b", "c"] {
        let (status, told) = put(&house, who, "status", json!({ "text": "mine", "seen": 1 }));
        assert_eq!(status, 403, "{told}");
        assert_eq!(get(&house, who, "status").1["text"], "all is well");
    }
    // Not even the operator: the gatekeeper alone.
    let token = house.operator_token();
    let body = json!({ "text": "mine", "seen": 1 });
    let written = house
        .operator_api("POST", "/api/v1/documents/status")
        .token(&token)
        .json(&body)
        .send();
    assert_eq!(written.0, 403);
    let (status, _) = put(&house, "a", "status", json!({ "text": "no version" }));
    assert_eq!(status, 422);
    let (status, _) = put(
        &house,
        "a",
        "status",
        json!({ "text": "x".repeat(33 << 10), "seen": 1 }),
    );
    assert_eq!(status, 422);
    // Two at once: one of them.
    let outcomes: Vec<u16> = std::thread::scope(|scope| {
        let write = |text: &'static str| {
            let house = &house;
            scope.spawn(move || put(house, "a", "status", json!({ "text": text, "seen": 1 })).0)
        };
        let both = [write("one"), write("two")];
        both.map(|w| w.join().unwrap()).to_vec()
    });
    assert!(
        outcomes == [200, 409] || outcomes == [409, 200],
        "{outcomes:?}"
    );
    let old = house.json(0, "document show status --version 1");
    assert_eq!(old["text"], "all is well");
    house.expect_refusal(3, "document show status --version 9");
    assert!(house.expect(0, "document list").contains("status"));
}

#[test]
fn readers_get_a_read_only_copy_of_a_document() {
    let house = up();
    std::fs::write(house.path("cluster.md"), "# How we work\n").unwrap();
    let file = house.path("cluster.md").display().to_string();
    house.expect(0, args!("document write cluster -f {}", file));
    put(&house, "b", "diary", json!({ "text": "b was here" }));
    put(&house, "a", "diary", json!({ "text": "two\nlines" }));
    let place = |agent: &str, name: &str| {
        let dir = house.home().join("agents").join(agent);
        dir.join("workspace/shared").join(format!("{name}.md"))
    };
    for agent in ["a", "b", "c"] {
        until("it is there", || {
            std::fs::read_to_string(place(agent, "cluster")).is_ok_and(|t| t == "# How we work\n")
        });
        let meta = std::fs::metadata(place(agent, "cluster")).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o777), (0, 0o444));
        let write = "cd shared && { echo x > cluster.md || rm -f cluster.md || mv cluster.md y || touch z; } 2>/dev/null";
        house.expect(1, args!("exec {} -- sh -c {}", agent, write));
    }
    // Acknowledged, and the house dies before it brought it anywhere: the next one does.
    let body = json!({ "text": "all is well", "seen": 0 });
    assert_eq!(put(&house, "a", "status", body).0, 200);
    house.kill_control_plane();
    house.expect(0, "up");
    until("it came with the next control plane", || {
        std::fs::read_to_string(place("c", "status")).is_ok_and(|t| t == "all is well")
    });
    until("the log is there", || {
        std::fs::read_to_string(place("a", "diary")).is_ok_and(|t| t.contains("two\n  lines"))
    });
    // A writer reads what it adds to; the third one does not know of it.
    assert!(place("b", "diary").exists());
    assert!(!place("c", "diary").exists());
    assert_eq!(get(&house, "c", "diary").0, 404);
    assert_eq!(
        put(&house, "c", "diary", json!({ "text": "me too" })).0,
        404
    );
    // Entries are never replaced, and both are in order.
    let (_, diary) = get(&house, "a", "diary");
    let text = diary["text"].as_str().unwrap();
    assert!(text.find("b was here") < text.find("two"), "{text}");
    assert_eq!(
        put(&house, "a", "diary", json!({ "text": "x", "seen": 2 })).0,
        422
    );
    // The status is made from the state as it is now.
    let (_, live) = get(&house, "a", "live");
    assert!(
        live["text"].as_str().unwrap().contains("## Observed"),
        "{live}"
    );
    house.expect(0, "pause c");
    assert_ne!(get(&house, "a", "live").1["text"], live["text"]);
    assert_eq!(
        put(&house, "a", "live", json!({ "text": "x", "seen": 0 })).0,
        403
    );
    assert_eq!(get(&house, "b", "live").0, 404);
    // What is not declared any more is taken away; what was written is kept.
    let manifest = std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    let without = manifest.replace("  cluster: {}\n", "");
    std::fs::write(house.path("abbey.yaml"), without).unwrap();
    house.expect(0, "up");
    until("it is gone", || !place("b", "cluster").exists());
    std::fs::write(house.path("abbey.yaml"), manifest).unwrap();
    house.expect(0, "up");
    until("it is back", || place("b", "cluster").exists());
    assert!(house.expect(0, "activity verify").contains("ok"));
}

#[test]
fn a_model_reads_and_writes_documents_with_its_tool() {
    let house = up();
    house.wait_for_model();
    let call = |args: Value| json!({ "tool_calls": [{ "name": "document", "arguments": args }] });
    let turns = json!([
        call(json!({ "action": "list" })),
        call(json!({ "action": "write", "name": "status", "text": "written by a model", "seen": 0 })),
        call(json!({ "action": "append", "name": "diary", "text": "so I did" })),
        call(json!({ "action": "read", "name": "status" })),
        { "text": "done with it" },
    ]);
    house.script_model(&turns);
    let doc = house.json(0, "task add 'Write the status.' --to a --wait");
    assert_eq!(doc["task"]["runs"][0]["receipts"], 4, "{doc}");
    assert_eq!(get(&house, "b", "status").1["text"], "written by a model");
    assert_eq!(
        get(&house, "b", "status").1["document"]["author"],
        "agent:a"
    );
    let text = house.expect(0, "document show diary");
    assert!(text.contains("agent:a: so I did"), "{text}");
}
