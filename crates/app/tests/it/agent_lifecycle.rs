//! Cloning, removing, restoring and exporting agents; identity travels without credentials (S1-24, S2-24).

use crate::{house, up, with_model};
use abbey_model::TaskState;
use abbey_testkit::args;
use abbey_testkit::crash::arm_crash_point;
use abbey_testkit::house::{House, until};
use serde_json::{Value, json};

const HOUSE: &str = "house: lives
budget: { tokens_per_day: 1000 }
agents:
  abbot: { template: orchestrator }
  # The one that others are made like.
  iris:
    name: Iris of the north
    template: sysadmin
    charter: charters/iris.md
    reports_to: abbot
    budget: { share: 60% }
    schedules:
      early: { cron: \"0 6 * * *\", task: show system stats }
";

fn stand() -> House {
    let house = house();
    people(&house);
    house
}

fn people(house: &House) {
    std::fs::create_dir(house.path("charters")).unwrap();
    std::fs::write(
        house.path("charters/iris.md"),
        "# Iris\n\nWatches the north.\n",
    )
    .unwrap();
    house.manifest(HOUSE);
    house.expect(0, "up");
    house.write_agent_file("iris", "MEMORY.md", "The pump is in the cellar.\n");
    house.write_agent_file(
        "iris",
        "memory/2026-11-26.md",
        "Looked at the pump. Key: sk-ant-0123456789abcdef0123\n",
    );
    house.write_agent_file("iris", "notes.txt", "hers alone\n");
}

fn read(house: &House, agent: &str, path: &str) -> String {
    house.expect(0, args!("exec {} -- cat {}", agent, path))
}

fn manifest(house: &House) -> String {
    std::fs::read_to_string(house.path("abbey.yaml")).unwrap()
}

#[test]
fn clone_copies_identity_but_no_credentials_or_schedules() {
    let house = stand();
    house.expect(0, "agent clone iris rosa");
    house.wait_until_up("rosa");
    assert_eq!(
        read(&house, "rosa", "SOUL.md"),
        "# Iris\n\nWatches the north.\n"
    );
    assert_eq!(
        read(&house, "rosa", "MEMORY.md"),
        "The pump is in the cellar.\n"
    );
    // What looks like a credential stays behind, and so does everything that is no part of who one is.
    assert_eq!(
        read(&house, "rosa", "memory/2026-11-26.md"),
        "Looked at the pump. Key: [redacted]\n"
    );
    house.expect(1, "exec rosa -- cat notes.txt");
    assert_ne!(house.agent_token("rosa"), house.agent_token("iris"));
    let text = manifest(&house);
    let (_, rosa) = text.split_once("  rosa:\n").unwrap();
    for key in ["schedules", "budget", "name"] {
        assert!(!rosa.contains(key), "{key}: {rosa}");
    }
    assert!(rosa.contains("charter: charters/iris.md") && rosa.contains("reports_to: abbot"));
    assert!(text.contains("# The one that others are made like."));
    assert!(
        house
            .expect_refusal(4, "agent clone iris rosa")
            .contains("already exists in the manifest")
    );
    assert!(
        house
            .expect_refusal(3, "agent clone nobody other")
            .contains("nobody")
    );
}

/// A clone that is cut off is whole or absent.
#[test]
fn clone_survives_a_crash_with_its_identity() {
    for place in [
        "plan.commit",
        "agent.create.home.end",
        "agent.create.files.begin",
        "agent.create.files.end",
        "agent.create.credential.end",
    ] {
        let (mut house, armed) = House::with_crash_point(env!("CARGO_BIN_EXE_abbey"), place);
        people(&house);
        arm_crash_point(&armed);
        let _may_be_cut_off = house.run("agent clone iris rosa");
        until("the place was passed", || !armed.exists());
        house.crash_at = None;
        until("the house is up", || house.run("up").status.success());
        let committed = manifest(&house).contains("  rosa:");
        assert_eq!(committed, place != "plan.commit", "{place}");
        if !committed {
            assert!(!house.home().join("agents/rosa").exists(), "{place}");
            continue;
        }
        house.wait_until_up("rosa");
        let memory = read(&house, "rosa", "MEMORY.md");
        assert_eq!(memory, "The pump is in the cellar.\n", "{place}");
        let day = read(&house, "rosa", "memory/2026-11-26.md");
        assert_eq!(day, "Looked at the pump. Key: [redacted]\n", "{place}");
        // What it makes of that is its own, also after another start of the house.
        house.write_agent_file("rosa", "MEMORY.md", "Rosa.\n");
        house.expect(0, "down");
        house.expect(0, "up");
        assert_eq!(read(&house, "rosa", "MEMORY.md"), "Rosa.\n", "{place}");
    }
}

#[test]
fn restore_brings_a_removed_agent_back_with_new_credentials() {
    let house = stand();
    let (token, uid) = (
        house.agent_token("iris"),
        read(&house, "iris", "/proc/self/uid_map"),
    );
    let gone = house.run("agent rm iris");
    let told = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert!(gone.status.success(), "{told}");
    assert!(
        told.contains("`abbey agent restore iris` restores the agent"),
        "{told}"
    );
    assert!(!told.contains("left over"), "{told}");
    assert!(!manifest(&house).contains("iris:"));
    assert!(
        house
            .expect_refusal(3, "agent restore stranger")
            .contains("no earlier manifest declared one")
    );
    // Its charter went from beside the manifest as well; the house knows it.
    std::fs::remove_file(house.path("charters/iris.md")).unwrap();
    let kept = house.expect_refusal(3, "agent restore iris --at 2026-11-26T00-00-00-000Z");
    assert!(
        kept.contains("no files of agent `iris` have the time stamp 2026-11-26T00-00-00-000Z")
            && kept.contains("those of 20"),
        "{kept}"
    );
    assert!(!house.home().join("agents/iris").exists());
    house.expect(0, "agent restore iris");
    house.wait_until_up("iris");
    assert_eq!(read(&house, "iris", "notes.txt"), "hers alone\n");
    assert_eq!(
        read(&house, "iris", "SOUL.md"),
        "# Iris\n\nWatches the north.\n"
    );
    house.write_agent_file("iris", "notes.txt", "and still hers to write\n");
    assert_ne!(house.agent_token("iris"), token);
    if house.runs_as_root() {
        assert_ne!(
            read(&house, "iris", "/proc/self/uid_map"),
            uid,
            "a user is never given twice"
        );
    }
    assert!(manifest(&house).contains("early: { cron: \"0 6 * * *\", task: show system stats }"));
    let done = house.json(0, "task add 'show system stats' --to iris --wait");
    assert_eq!(done["task"]["state"], "done");
    assert!(
        house
            .expect_refusal(4, "agent restore iris")
            .contains("only a removed agent can be restored")
    );
    assert_eq!(house.json(0, "activity verify")["ok"], true);
}

#[test]
fn the_files_of_an_earlier_removal_come_back_with_the_entry_of_then() {
    let house = stand();
    let removed = || {
        let entries = std::fs::read_dir(house.home().join("removed")).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut stamps: Vec<String> = names
            .filter_map(|name| Some(name.strip_prefix("iris-")?.to_owned()))
            .collect();
        stamps.sort();
        stamps
    };
    house.expect(0, "agent rm iris");
    let first = removed();
    assert_eq!(first.len(), 1);
    house.expect(0, "agent new iris --template worker");
    house.wait_until_up("iris");
    house.expect(0, "agent rm iris");
    assert_eq!(removed().len(), 2);
    house.expect(0, args!("agent restore iris --at {}", first[0]));
    house.wait_until_up("iris");
    assert_eq!(read(&house, "iris", "notes.txt"), "hers alone\n");
    assert!(manifest(&house).contains("early: { cron: \"0 6 * * *\", task: show system stats }"));
    assert_eq!(
        read(&house, "iris", "SOUL.md"),
        "# Iris\n\nWatches the north.\n"
    );
}

/// A crash at any place of a restore ends with all the files in one place: with the agent if its plan was committed, and
/// otherwise where they were kept. Restored files change their owner directory by directory.
/// Logs go with the files of a removed agent and come back with them; what it spent stays in the sums.
#[test]
fn removal_takes_the_logs_along_and_the_agent_out_of_the_budgets() {
    let house = stand();
    house.json(0, "task add 'show system stats' --to iris --wait");
    let logs = house.home().join("logs/agent-iris");
    let before = std::fs::read_dir(&logs).unwrap().count();
    assert!(before > 0);
    let scopes = |line: &str| -> Vec<Value> {
        let doc = house.json(0, line);
        doc["scopes"].as_array().unwrap().clone()
    };
    let of = |scopes: &[Value], scope: &str| -> Vec<Value> {
        let found = scopes.iter().filter(|s| s["scope"] == scope);
        found
            .map(|s| json!([s["metric"], s["spent"], s["removed"]]))
            .collect()
    };
    let full = scopes("budget show");
    assert!(!of(&full, "agent:iris").is_empty());
    let gone = house.json(0, "agent rm iris");
    assert!(!logs.exists());
    let kept = std::path::Path::new(gone["files"]["path"].as_str().unwrap()).join("logs");
    assert_eq!(std::fs::read_dir(&kept).unwrap().count(), before);
    let left = scopes("budget show");
    assert_eq!(of(&left, "agent:iris"), [] as [Value; 0]);
    assert_eq!(of(&left, "house"), of(&full, "house"));
    assert!(!house.expect(0, "budget show").contains("agent:iris"));
    for line in ["budget show --all", "budget report"] {
        let removed = of(&scopes(line), "agent:iris");
        assert!(!removed.is_empty() && removed.iter().all(|s| s[2] == true));
        assert!(house.expect(0, line).contains("agent:iris"));
    }
    house.expect(0, "agent restore iris");
    house.wait_until_up("iris");
    assert!(std::fs::read_dir(&logs).unwrap().count() >= before);
    assert!(!house.home().join("agents/iris/logs").exists());
    assert!(!of(&scopes("budget show"), "agent:iris").is_empty());
}

#[test]
fn restore_survives_a_crash_with_all_files() {
    for place in [
        "plan.commit",
        "plan.committed",
        "agent.create.fill.begin",
        "hostd.restore",
        "hostd.restored",
        "agent.create.fill.end",
        "hostd.adopted",
        "agent.create.credential.end",
    ] {
        let (mut house, armed) = House::with_crash_point(env!("CARGO_BIN_EXE_abbey"), place);
        people(&house);
        house.write_agent_file("iris", "memory/old.md", "kept\n");
        let gone = house.json(0, "agent rm iris");
        let files = gone["files"]["path"].as_str().unwrap();
        assert!(std::path::Path::new(files).exists(), "{gone}");
        assert!(files.ends_with(gone["files"]["stamp"].as_str().unwrap()));
        arm_crash_point(&armed);
        let _may_be_cut_off = house.run("agent restore iris");
        until("the place was passed", || !armed.exists());
        house.crash_at = None;
        until("the house is up", || house.run("up").status.success());
        let archives = || {
            let entries = std::fs::read_dir(house.home().join("removed")).unwrap();
            entries.flatten().count()
        };
        let committed = place != "plan.commit";
        assert_eq!(manifest(&house).contains("iris:"), committed, "{place}");
        if !committed {
            assert!(!house.home().join("agents/iris").exists(), "{place}");
            assert_eq!(archives(), 1, "{place}");
            house.expect(0, "agent restore iris");
        }
        house.wait_until_up("iris");
        assert_eq!(read(&house, "iris", "notes.txt"), "hers alone\n", "{place}");
        house.write_agent_file("iris", "notes.txt", "and still hers to write\n");
        house.write_agent_file("iris", "memory/old.md", "and this\n");
        assert_eq!(archives(), 0, "{place}");
        assert_eq!(house.json(0, "activity verify")["ok"], true, "{place}");
    }
}

/// Files at the place of a new agent that were put there for nobody: it does not inherit them, and they are not lost.
/// What its programs did to its own files costs an agent no more than a restart.
#[test]
fn a_restart_puts_back_the_credential_and_the_session_of_an_agent() {
    let house = up("house: h\nagents: { cir: { template: sysadmin } }\n");
    let broken = "cd /agent/home && rm -f token session.jsonl && mkdir session.jsonl";
    house.expect(0, args!("exec cir -- sh -c {}", broken));
    house.expect(0, "restart cir");
    house.expect(0, "task add 'show system stats' --to cir --wait");
    let kept = house.expect(0, "exec cir -- sh -c 'cd /agent/home && ls -d session*'");
    assert_eq!(kept, "session.jsonl\nsession.moved-1\n");
}

#[test]
fn a_new_agent_inherits_no_files_that_lie_at_its_place() {
    let house = stand();
    let place = house.home().join("agents/ghost/workspace");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("MEMORY.md"), "The key is under the mat.\n").unwrap();
    house.expect(0, "agent new ghost --template sysadmin");
    house.wait_until_up("ghost");
    assert_eq!(read(&house, "ghost", "MEMORY.md"), "");
    let removed = std::fs::read_dir(house.home().join("removed")).unwrap();
    let kept = removed
        .flatten()
        .map(|e| e.path().join("workspace/MEMORY.md"));
    let kept: Vec<String> = kept.flat_map(std::fs::read_to_string).collect();
    assert_eq!(kept, ["The key is under the mat.\n"]);
}

#[test]
fn export_contains_identity_files_without_credentials() {
    let house = stand();
    let to = house.path("bundle").display().to_string();
    house.expect(0, args!("export iris {}", to));
    let file = |name: &str| std::fs::read_to_string(house.path("bundle").join(name)).unwrap();
    assert!(file("agent.yaml").starts_with("iris:\n  name: Iris of the north\n"));
    assert_eq!(file("SOUL.md"), "# Iris\n\nWatches the north.\n");
    assert_eq!(file("MEMORY.md"), "The pump is in the cellar.\n");
    assert!(file("memory/2026-11-26.md").contains("[redacted]"));
    let mut names: Vec<String> = std::fs::read_dir(house.path("bundle"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["AGENTS.md", "MEMORY.md", "SOUL.md", "agent.yaml", "memory"]
    );
    assert!(
        house
            .expect_refusal(4, args!("export iris {}", to))
            .contains("exists; choose a new directory")
    );
}

#[test]
fn what_cannot_be_removed_or_renamed_is_refused_before_the_agent_drains() {
    let house = up(
        "house: h\ndefaults: { cell: process }\nagents:\n  a: { delegates_to: [b] }\n  b: { reports_to: a }\n  c: { reports_to: b, delegates_to: [-b, all] }\ndocuments:\n  notes: { writer: a, readers: [b] }\n",
    );
    let refused = house.expect_refusal(2, "agent rm b");
    let named = "agent `b` cannot be removed: `agents.a.delegates_to` names it, `agents.c.reports_to` names it, `agents.c.delegates_to` names it, `documents.notes.readers` names it";
    assert!(refused.contains(named), "{refused}");
    assert!(
        refused.contains("take `b` out of those keys in "),
        "{refused}"
    );
    house.expect_refusal(4, "agent rename b c");
    let log = house.expect(0, "activity --json -n 1000");
    assert!(!log.contains("drain"), "{log}");
    // What names it goes, and so does the agent.
    let text = manifest(&house)
        .replace(" delegates_to: [b] ", "")
        .replace(" reports_to: b, delegates_to: [-b, all] ", "")
        .replace(", readers: [b] ", "");
    std::fs::write(house.path("abbey.yaml"), text).unwrap();
    house.expect(0, "agent rm b --yes");
    let log = house.expect(0, "activity --json -n 1000");
    assert!(log.contains("drain"), "{log}");
}

#[test]
fn removal_drains_the_agent_before_it_stops() {
    let house = up(&with_model(
        "  a: { template: orchestrator }\n  b: { template: worker, reports_to: a }\n",
    ));
    house.wait_for_model();
    house.script_model(&json!([{ "text": "well done", "delay_ms": 5000 }]));
    let state =
        |number: &str| house.json(0, args!("task show {}", number))["task"]["state"].clone();
    let add = |text: &str| -> String {
        let task = house.json(0, args!("task add {} --to b", text));
        task["task"]["number"].as_str().unwrap().to_owned()
    };
    let first = add("think for a while");
    until("it works", || state(&first) == "running");
    let second = add("think again");
    let gone = house.run("agent rm b");
    let told = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert!(gone.status.success(), "{told}");
    assert_eq!(state(&first), Value::from("done"));
    assert_ne!(state(&second), Value::from("done"));
    assert!(
        told.contains(&format!("no agent works on {second} any more")),
        "{told}"
    );
}

/// A removal was started and abandoned: `why` shows that the agent is draining, and `start` ends that.
#[test]
fn a_draining_agent_resumes_work_after_start() {
    let house = up("house: d\ndefaults: { cell: process }\nagents:\n  a: { template: sysadmin }\n");
    let operator = house.operator_token();
    let drained = house
        .operator_api("POST", "/api/v1/agents/a/drain")
        .token(&operator)
        .json(&json!({}))
        .send();
    assert_eq!(drained.0, 200);
    let told = house.expect(0, "why a");
    assert!(told.contains("`abbey start a` ends that"), "{told}");
    let task = house.json(0, "task add 'show system stats' --to a");
    let number = task["task"]["number"].as_str().unwrap();
    house.expect(0, "start a");
    house.wait_for_task(number, TaskState::Done);
}

/// The commands that a refused change of `cell` names keep the files of home and workspace when they are followed as they
/// are written.
#[test]
fn the_remedy_for_a_refused_change_of_cell_keeps_all_files() {
    let house = house();
    let manifest = |agents: &str| house.manifest(&format!("house: h\nagents: {{ {agents} }}\n"));
    manifest(
        "w3: { template: sysadmin, cell: sandbox, drives: { state: 32MiB, workspace: 32MiB } }",
    );
    house.expect(0, "up");
    house.expect(
        0,
        args!(
            "exec w3 -- sh -c {}",
            "echo one > work.txt; mkdir -p ~/.x; echo two > ~/.x/home.txt"
        ),
    );
    manifest("w3: { template: sysadmin, cell: process }");
    let refused = house.expect_refusal(4, "up --yes");
    let commands: Vec<&str> = refused
        .split('`')
        .filter(|part| part.starts_with("abbey exec"))
        .collect();
    let [save, restore] = commands[..] else {
        panic!("two commands: {refused}");
    };
    let follow = |command: &str| {
        let status = std::process::Command::new("sh")
            .arg("-c")
            .arg(command.replacen("abbey", env!("CARGO_BIN_EXE_abbey"), 1))
            .env("ABBEY_HOME", house.home())
            .current_dir(house.path(""))
            .status();
        assert!(status.unwrap().success(), "{command}");
    };
    follow(save);
    manifest("");
    house.expect(0, "up --yes");
    manifest("w3: { template: sysadmin, cell: process }");
    house.expect(0, "up --yes");
    follow(restore);
    let kept = house.expect(
        0,
        args!("exec w3 -- sh -c {}", "cat work.txt ~/.x/home.txt"),
    );
    assert_eq!(kept, "one\ntwo\n");
    house.expect(0, "restart w3");
    house.wait_until_up("w3");
    house.expect(0, "down");
}
