//! Work for people and for agents that know only files: evidence is looked at by the house, results count wherever
//! they were left (S2-10 to S2-15).

use crate::approvals::script;
use crate::{house, up, with_model};
use abbey_testkit::house::{House, until};
use serde_json::{Value, json};
use std::path::PathBuf;

/// An agent that somebody works for by hand.
const BY_HAND: &str = "house: hands\ndefaults: { cell: process }\nagents:\n  a: { template: orchestrator, files: {} }\n  b: { template: sysadmin, reports_to: a }\n";

fn workspace(house: &House, agent: &str) -> PathBuf {
    house.home().join("agents").join(agent).join("workspace")
}

fn task(house: &House, number: &str) -> Value {
    house.json(0, &["task", "show", number])["task"].clone()
}

#[test]
fn a_result_in_a_file_ends_the_task_whoever_removed_what() {
    let house = up(BY_HAND);
    let sh = |script: &str| house.expect(0, &["exec", "a", "--", "sh", "-c", script]);
    house.expect(0, &["task", "add", "Bake bread.", "--to", "a"]);
    let active = workspace(&house, "a").join("work/TASK-1.active");
    until("the work lies there", || active.exists());
    let text = std::fs::read_to_string(&active).unwrap();
    assert!(
        text.contains("Bake bread.") && text.contains("completed/TASK-1.txt"),
        "{text}"
    );
    // As the original did: the one who works removes the file itself, before anybody saw the result.
    sh(
        "rm work/TASK-1.active; echo 'two loaves' > completed/new; mv completed/new completed/TASK-1.txt",
    );
    until("it is done", || task(&house, "TASK-1")["state"] == "done");
    let done = task(&house, "TASK-1");
    assert_eq!(
        done["result"],
        json!({ "text": "two loaves", "source": "command", "data": null })
    );
    assert_eq!(done["verified"], "none");
    until("the result is put aside", || {
        !workspace(&house, "a").join("completed/TASK-1.txt").exists()
    });
    // Once more is another piece of work: the old result does not count for it.
    house.expect(0, &["task", "add", "Bake more.", "--to", "a"]);
    until("the next lies there", || {
        workspace(&house, "a").join("work/TASK-2.active").exists()
    });
    // A result that was left while nobody looked is taken by the next boot.
    house.expect(0, &["stop", "a"]);
    let left = workspace(&house, "a").join("completed/TASK-2.txt");
    std::fs::write(&left, "three loaves\n").unwrap();
    house.expect(0, &["start", "a"]);
    until("it is done", || task(&house, "TASK-2")["state"] == "done");
    assert_eq!(task(&house, "TASK-2")["result"]["text"], "three loaves");
    assert!(!active.exists());
    // A link out of the cell is no result.
    house.expect(0, &["task", "add", "Steal bread.", "--to", "a"]);
    until("it lies there", || {
        workspace(&house, "a").join("work/TASK-3.active").exists()
    });
    sh("ln -s /etc/hostname completed/TASK-3.txt; echo x > completed/y");
    until("it has failed", || {
        task(&house, "TASK-3")["state"] == "failed"
    });
}

#[test]
fn a_program_works_by_files_and_its_failure_is_told() {
    let house = house();
    let program = house.path("baker");
    std::fs::write(
        &program,
        "#!/bin/sh\nn=$(basename \"$1\" .active)\ngrep -q stone \"$1\" && exit 3\nsed -n 2p \"$1\" > completed/$n.txt\n",
    )
    .unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    house.manifest(&BY_HAND.replace(
        "files: {}",
        &format!("files: {{ command: [{}] }}", program.display()),
    ));
    house.expect(0, &["up"]);
    let done = house.json(0, &["task", "add", "Bake bread.", "--to", "a", "--wait"]);
    assert_eq!(done["task"]["result"]["text"], "Bake bread.");
    let failed = house.json(1, &["task", "add", "Bake a stone.", "--to", "a", "--wait"]);
    assert!(
        failed["task"]["failure"]
            .as_str()
            .unwrap()
            .contains("ended (exit status: 3)")
    );
}

#[test]
fn done_means_that_the_evidence_was_looked_at() {
    let house = up(BY_HAND);
    let add = |evidence: &[&str], code: i32| {
        let mut args = vec![
            "task",
            "add",
            "Bake bread.",
            "--to",
            "a",
            "--wait",
            "--timeout",
            "60",
        ];
        evidence.iter().for_each(|e| args.extend(["--evidence", e]));
        house.json(code, &args)["task"].clone()
    };
    let sh = |script: &str| house.expect(0, &["exec", "a", "--", "sh", "-c", script]);
    let left = |n: u32| {
        sh(&format!(
            "mkdir -p completed; echo done > completed/TASK-{n}.txt"
        ))
    };
    sh("echo rye > bread");
    left(1);
    let good = add(
        &["file:bread", "command:[\"grep\",\"-q\",\"rye\",\"bread\"]"],
        0,
    );
    assert_eq!(
        (&good["state"], &good["verified"]),
        (&json!("done"), &json!("evidence"))
    );
    // What cannot be tried is neither yes nor no.
    left(2);
    let unknown = add(&["command:[\"no-such-program\"]"], 1);
    assert_eq!(unknown["state"], "unverified");
    for wrong in ["file:/etc/passwd", "file:../x", "command:[]"] {
        house.refused(2, &["task", "add", "x", "--evidence", wrong]);
    }
    house.refused(2, &["task", "add", "x", "--evidence", "trust me"]);
}

#[test]
fn a_claim_without_its_evidence_is_sent_back_with_the_reason() {
    let house = up(&with_model("  a: { template: orchestrator }\n"));
    until("the model answers", || {
        house.json(0, &["service", "list"])["services"][0]["healthy"] == true
    });
    let write = json!({ "tool_calls": [{ "name": "write_file", "arguments": { "path": "report.md", "content": "all of it" } }] });
    script(
        &house,
        json!([{ "text": "It is finished." }, write, { "text": "Now it is." }]),
    );
    let doc = house.json(
        0,
        &[
            "task",
            "add",
            "Write the report.",
            "--to",
            "a",
            "--evidence",
            "file:report.md",
            "--wait",
        ],
    );
    let runs = doc["task"]["runs"].as_array().unwrap();
    let reasons: Vec<&Value> = runs.iter().map(|r| &r["reason"]).collect();
    assert_eq!(reasons, ["evidence_failed", "completed"]);
    assert_eq!(doc["task"]["verified"], "evidence");
    // One that never comes ends in a failure that says what is lacking.
    script(
        &house,
        json!([{ "text": "Done." }, { "text": "Done." }, { "text": "Done." }]),
    );
    let doc = house.json(
        1,
        &[
            "task",
            "add",
            "Write another.",
            "--to",
            "a",
            "--evidence",
            "file:other.md",
            "--wait",
        ],
    );
    assert_eq!(doc["task"]["state"], "failed");
    assert!(
        doc["task"]["failure"]
            .as_str()
            .unwrap()
            .contains("the file `other.md` is not there")
    );
}
