//! Which skill or agent gets a task: whole requests, guards, skills by name, agents by what they are for; and the explanation.

use crate::{house, up, with_model};
use abbey_testkit::args;
use abbey_testkit::house::House;
use serde_json::{Value, json};

/// Agents with different roles; `boss` is at the top.
const STAFF: &str = "  boss: { template: orchestrator }
  draughts: { template: worker, role: \"CAD drawings and meshing\", reports_to: boss }
  sources: { template: webster, role: \"research: searches the web and brings sources\", reports_to: boss }
  ops: { template: sysadmin, reports_to: boss }
";

fn explain(house: &House, text: &str) -> Value {
    house.json(0, args!("skill explain {}", text))
}

/// Numbers of the tasks of the house.
fn tasks(house: &House) -> usize {
    house.json(0, "task list")["tasks"]
        .as_array()
        .unwrap()
        .len()
}

#[test]
fn a_text_is_explained_before_anything_is_done() {
    let house = up(&with_model(STAFF));
    house.script_model(&json!([]));
    let doc = explain(&house, "Restart the agent ops, please");
    assert_eq!(
        (&doc["routing"], &doc["skill"], &doc["args"], &doc["agents"]),
        (
            &json!("skill"),
            &json!("cell-restart"),
            &json!({ "agent": "ops" }),
            &json!(["ops"])
        )
    );
    assert_eq!(doc["skills"][0]["score"], 1000);
    for (text, guard) in [
        ("Do not restart the agent ops", "negation"),
        ("Starte den Agenten ops nicht neu", "negation"),
        ("restart the agent ops?", "question"),
        ("Zakaj agent ops stoji", "question"),
        (
            "Restart the agent ops and then the agent boss",
            "several_requests",
        ),
        ("如果坏了，重启智能体 ops", "condition"),
        ("Restart the agent ops tomorrow", "another_time"),
        ("Restart \"the agent ops\"", "quotation"),
        ("Restart the agent ops; reboot", "markup"),
    ] {
        let doc = explain(&house, text);
        assert_eq!(
            (&doc["routing"], &doc["skill"]),
            (&json!("model"), &Value::Null),
            "{text}: {doc}"
        );
        let guards = doc["guards"].as_array().unwrap();
        assert!(guards.iter().any(|g| g["guard"] == guard), "{text}: {doc}");
        let printed = house.expect(0, args!("skill explain {}", text));
        assert!(printed.contains(guard), "{printed}");
    }
    let unknown = explain(&house, "Restart the agent smith");
    assert_eq!(unknown["suggested"][0], "cell-restart");
    assert!(
        unknown["reason"]
            .as_str()
            .unwrap()
            .contains("no agent `smith`"),
        "{unknown}"
    );
    assert_eq!(
        explain(&house, "Make a mesh of the CAD drawings")["agents"],
        json!(["draughts"])
    );
    let named = house.json(
        0,
        "skill explain 'Make a mesh of the CAD drawings' --to boss",
    );
    assert_eq!(named["agents"], json!(["boss"]));
    house.expect_refusal(3, "skill explain x --to nobody");
    assert_eq!(tasks(&house), 0);
    // The same words, the same reason, once it is a task.
    let why = |text: &str| {
        let task = house.json(0, args!("task add {}", text))["task"].clone();
        (
            house.expect(0, args!("task why {}", task["number"].as_str().unwrap())),
            task,
        )
    };
    let text = "Do not restart the agent ops";
    let (told, task) = why(text);
    assert!(
        told.contains(explain(&house, text)["reason"].as_str().unwrap()),
        "{told}"
    );
    assert_eq!(
        (&task["assignee"], &task["suggested_skills"][0]),
        (&json!("boss"), &json!("cell-restart"))
    );
    let (told, task) = why("Make a mesh of the CAD drawings");
    assert_eq!(task["assignee"], "draughts");
    assert!(told.contains("the words mesh, cad, drawings"), "{told}");
    let (told, task) = why("Search the web for bell founders");
    assert_eq!(task["assignee"], "sources", "{told}");
    let (told, task) = why("Compose a riddle");
    assert_eq!(task["assignee"], "boss");
    assert!(
        told.contains("no skill matches") && told.contains("top of the organization"),
        "{told}"
    );
}

#[test]
fn a_skill_that_is_named_never_reaches_a_model() {
    let house = up(&with_model(STAFF));
    house.script_model(&json!([]));
    for (command, code, said) in [
        (
            "skill run git-mirror url=http://127.0.0.1:9/x",
            4,
            "no agent has the skill `git-mirror`",
        ),
        ("skill run disk-usage --to boss", 4, "`ops` has it"),
        ("skill run disk-usage depth=3", 2, "it has no arguments"),
        (
            "skill run no-such-skill",
            3,
            "there is no skill `no-such-skill`",
        ),
        (
            "task add 'Run skill no-such-skill'",
            3,
            "there is no skill `no-such-skill`",
        ),
        (
            "task add 'run the skill git-mirror url=http://127.0.0.1:9/x'",
            4,
            "no agent has the skill",
        ),
        (
            "task add 'run skill disk-usage' --to boss",
            4,
            "`ops` has it",
        ),
    ] {
        let out = house.run(command);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{command}: {text}");
        assert!(text.contains(said), "{command}: {text}");
    }
    assert_eq!(tasks(&house), 0);
    for text in ["run skill disk-usage", "disk-usage"] {
        let task = house.json(0, args!("task add {} --wait", text))["task"].clone();
        assert_eq!(
            (&task["state"], &task["skill"]),
            (&json!("done"), &json!("disk-usage")),
            "{task}"
        );
    }
}

#[test]
fn a_line_of_the_work_queue_for_nobody_is_reported() {
    let house = up(&with_model(STAFF));
    house.script_model(&json!([]));
    let file = house.path("QUEUE.md");
    std::fs::write(
        &file,
        "# Work\n\n- [ ] bob: sweep the yard\n- [ ] ops: show system stats\n- [ ] note: bells are loud\n",
    )
    .unwrap();
    let synced = house.run(args!("task sync {}", file.display().to_string()));
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&synced.stdout),
        String::from_utf8_lossy(&synced.stderr)
    );
    assert!(text.contains("there is no agent `bob`"), "{text}");
    let list = house.json(0, "task list");
    let titles = list["tasks"].as_array().unwrap().iter();
    let titles: Vec<(&str, &Value)> = titles
        .map(|t| (t["title"].as_str().unwrap(), &t["assignee"]))
        .collect();
    assert!(
        titles.iter().all(|(title, _)| !title.starts_with("bob")),
        "{titles:?}"
    );
    assert!(
        titles.contains(&("ops: show system stats", &json!("ops"))),
        "{titles:?}"
    );
}

#[test]
fn texts_are_explained_while_the_house_is_down() {
    let house = house();
    let doc = explain(&house, "Back up the database and keep 14");
    assert_eq!(
        (&doc["skill"], &doc["args"]["keep"]),
        (&json!("backup-db"), &json!("14"))
    );
    assert_eq!(
        explain(&house, "Back up the database? No.")["skill"],
        Value::Null
    );
}
