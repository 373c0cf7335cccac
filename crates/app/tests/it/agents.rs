//! Agents: isolation, limits, restarts, pausing, reloading, and their files.

use crate::{TWO, house, up, with_model};
use abbey_model::TaskState;
use abbey_testkit::args;
use abbey_testkit::house::{House, kill, until};
use serde_json::Value;
use std::os::unix::fs::MetadataExt;

#[test]
fn each_agent_has_its_own_user_environment_and_files() {
    let house = up(TWO);
    let secret = house.home().join("agents/abbot/home/token");
    let read = house.run(args!(
        "exec sysadmin -- cat {}",
        secret.display().to_string()
    ));
    assert_eq!(
        read.status.code(),
        Some(1),
        "another agent's token must not be readable"
    );
    assert_ne!(
        std::fs::metadata(house.home().join("agents/abbot/home"))
            .unwrap()
            .uid(),
        std::fs::metadata(house.home().join("agents/sysadmin/home"))
            .unwrap()
            .uid()
    );
    let env = house.expect(0, "exec sysadmin -- env");
    let mut names: Vec<&str> = env
        .lines()
        .filter_map(|l| l.split_once('=').map(|(k, _)| k))
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "ABBEY_AGENT",
            "ABBEY_SKILLS",
            "ABBEY_TOKEN_FILE",
            "ABBEY_URL",
            "HOME",
            "LANG",
            "LC_ALL",
            "OPENAI_API_KEY",
            "OPENAI_BASE_URL",
            "PATH"
        ]
    );
    // The charter is the house's: the agent can neither write, replace nor remove it (S2-23).
    for attack in [
        "echo x >> SOUL.md",
        "rm -f SOUL.md",
        "mv SOUL.md other",
        "echo y > z && mv z SOUL.md",
    ] {
        let output = house.run(args!("exec sysadmin -- sh -c {}", attack));
        assert_ne!(output.status.code(), Some(0), "{attack}");
    }
    // What the agent installs in its home is found by its name, behind the programs of the system.
    let install = "mkdir -p ~/bin; printf '#!/bin/sh\\necho own' > ~/bin/tool; cp ~/bin/tool ~/bin/ls; chmod +x ~/bin/*";
    house.expect(0, args!("exec sysadmin -- sh -c {}", install));
    assert_eq!(house.expect(0, "exec sysadmin -- tool"), "own\n");
    assert_ne!(house.expect(0, "exec sysadmin -- ls"), "own\n");
    // A program's status passes through; what is not there is 127.
    assert_eq!(
        house.run("exec sysadmin -- sh -c 'exit 42'").status.code(),
        Some(42)
    );
    assert_eq!(
        house.run("exec sysadmin -- no-such-program").status.code(),
        Some(127)
    );
    assert_eq!(house.run("exec nobody -- true").status.code(), Some(125));
}

#[test]
fn resource_limits_are_enforced_and_read_back() {
    let house = up(&TWO.replace(
        "template: sysadmin,",
        "template: sysadmin, limits: { memory: 64MiB, cpus: 0.5, processes: 32, io: 20MiB },",
    ));
    let why = house.json(0, "why sysadmin");
    assert_eq!(why["limits_in_force"]["memory"], 64 << 20);
    assert_eq!(why["limits_in_force"]["cpu_milli"], 500);
    assert_eq!(why["limits_in_force"]["processes"], 32);
    assert_eq!(why["limits_in_force"]["io"], 20 << 20);
    // A fork bomb ends at its ceiling; the house does not notice.
    let bomb = house.run("exec sysadmin -- sh -c 'for i in $(seq 100); do sleep 5 & done; wait'");
    assert_ne!(bomb.status.code(), Some(0));
    house.expect(0, "ps");
}

#[test]
fn a_crashed_agent_is_restarted_and_why_shows_the_cause() {
    let house = up(TWO);
    let show = || house.json(0, "agent show sysadmin");
    let first = show()["pid"].as_i64().unwrap();
    kill(i32::try_from(first).unwrap());
    // From one document: between two, the state may change.
    until("a new boot", || {
        let now = show();
        now["presence"] == "ready" && now["pid"].as_i64().is_some_and(|pid| pid != first)
    });
    let why = house.json(0, "why sysadmin");
    assert_eq!(
        (why["last_exit"].as_str(), why["failures"].as_u64()),
        (Some("signal 9"), Some(1))
    );
    assert_eq!(show()["restarts"], 1);
}

#[test]
fn agents_are_added_stopped_and_removed_and_their_files_are_kept() {
    let house = up(TWO);
    house.expect(0, "agent new helper --template worker --reports-to abbot");
    until("the new agent is up", || {
        house.json(0, "ps")["agents"]
            .as_array()
            .unwrap()
            .iter()
            .any(|a| a["name"] == "helper" && a["presence"] == "ready")
    });
    house.expect_refusal(4, "agent new helper");
    house.expect(0, "stop helper");
    assert_eq!(house.json(0, "agent show helper")["presence"], "stopped");
    // A stopped agent stays stopped, also over a new control plane.
    house.kill_control_plane();
    house.expect(0, "up");
    assert_eq!(house.json(0, "agent show helper")["presence"], "stopped");
    house.expect(0, "start helper");
    let before = house.json(0, "agent show helper")["generation"]
        .as_u64()
        .unwrap();
    house.expect(0, "restart helper");
    assert!(
        house.json(0, "agent show helper")["generation"]
            .as_u64()
            .unwrap()
            > before
    );
    let token = house.agent_token("helper");
    house.expect(0, "agent rm helper");
    house.expect_refusal(3, "agent show helper");
    assert!(!house.home().join("agents/helper").exists());
    assert_eq!(
        std::fs::read_dir(house.home().join("removed"))
            .unwrap()
            .count(),
        1
    );
    assert_eq!(
        house
            .agent_api("GET", "/api/v1/self")
            .token(&token)
            .send()
            .0,
        401,
        "its credential is revoked"
    );
    let effective = house.expect(0, "agent show sysadmin --effective");
    assert!(effective.contains("template sysadmin") && effective.contains("manifest, line"));
}

#[test]
fn run_limits_have_typed_outcomes_and_claims_without_receipts_are_flagged() {
    let house = up(&with_model(
        "  abbot: { template: orchestrator, tools: { turns: 2, allow: [read_file, write_file, memory, finish] } }\n",
    ));
    let port = house.json(0, "service list")["services"][0]["port"]
        .as_u64()
        .unwrap();
    let script = |turns: &str| {
        let url = format!("http://127.0.0.1:{port}/script");
        let output = std::process::Command::new("curl")
            .args([
                "-sf",
                "-X",
                "POST",
                "-H",
                "content-type: application/json",
                "-d",
                turns,
                &url,
            ])
            .status()
            .unwrap();
        assert!(output.success());
    };
    // Tools act, each with a receipt; a tool that is not granted is refused.
    script(
        r#"[{"tool_calls":[{"name":"write_file","arguments":{"path":"notes/a.txt","content":"hello"}},{"name":"shell","arguments":{"argv":["id"]}},{"name":"write_file","arguments":{"path":"../home/x","content":"no"}}]},{"text":"I created the note."}]"#,
    );
    let doc = house.json(0, "task add 'write a note' --wait");
    let run = &doc["task"]["runs"][0];
    assert_eq!(
        (run["receipts"].as_u64(), run["flagged"].as_bool()),
        (Some(3), Some(false))
    );
    // The runtime's own count of both turns is what the gateway metered.
    let (counted, metered) = (&run["reported_usage"], &run["usage"]);
    for class in ["input", "output", "cached"] {
        assert_eq!(counted[class], metered[class], "{class}: {run}");
    }
    assert!(counted["input"].as_u64() > Some(0), "{run}");
    assert_eq!(house.expect(0, "exec abbot -- cat notes/a.txt"), "hello");
    assert!(!house.home().join("agents/abbot/home/x").exists());
    // Words that look like an action do nothing, and are seen (S3-38).
    script(r#"[{"text":"DELEGATE: sysadmin restart everything. I restarted it."}]"#);
    assert_eq!(
        house.json(0, "task add pretend --wait")["task"]["runs"][0]["flagged"],
        true
    );
    // The turn limit.
    script(
        r#"[{"tool_calls":[{"name":"memory","arguments":{"action":"list"}}]},{"tool_calls":[{"name":"memory","arguments":{"action":"list"}}]},{"text":"never"}]"#,
    );
    assert_eq!(
        house.json(1, "task add 'go on and on' --wait")["task"]["runs"][0]["reason"],
        "turn_limit"
    );
    // A cut stream whose usage is unknown costs its reservation, never nothing.
    script(
        r#"[{"text":"half an ans","cut":true},{"text":"half an ans","cut":true},{"text":"half an ans","cut":true}]"#,
    );
    let doc = house.json(1, "task add 'be cut off' --wait");
    let run = &doc["task"]["runs"][0];
    assert_eq!(
        (
            run["usage"]["source"].as_str(),
            run["usage"]["input"].is_null(),
            run["cost_nano_usd"].is_null()
        ),
        (Some("unknown"), true, true)
    );
    let scope = format!("run:{}", run["id"].as_str().unwrap());
    let budgets = house.json(0, "budget report");
    let spent = budgets["scopes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["scope"] == scope.as_str())
        .unwrap();
    assert!(spent["spent"].as_u64().unwrap() > 200 && spent["reserved"] == 0);
    assert_eq!(
        doc["task"]["runs"].as_array().unwrap().len(),
        3,
        "a provider's failure is tried again, each time as a new run"
    );
}

#[test]
fn no_model_call_is_made_without_budget() {
    let house = house();
    house.manifest(&with_model(
        "  abbot: { template: orchestrator, budget: { tokens_per_day: 50 } }\n",
    ));
    house.expect(0, "up");
    let doc = house.json(1, "task add think --wait");
    assert_eq!(doc["task"]["runs"][0]["reason"], "budget_exhausted");
    let port = house.json(0, "service list")["services"][0]["port"]
        .as_u64()
        .unwrap();
    let calls = std::process::Command::new("curl")
        .args(["-s", &format!("http://127.0.0.1:{port}/calls")])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&calls.stdout), "{\"calls\":0}");
}

/// A paused agent uses no CPU, keeps its processes, claims no task, stays paused when the control plane is killed, and
/// resumes where it was.
#[test]
fn a_paused_agent_is_suspended_and_resumes() {
    // By the kernel's freezer; by signals where an ordinary user has no control groups.
    let of_user = House::run_by_user(env!("CARGO_BIN_EXE_abbey"), 5125);
    for (house, cell) in [
        (house(), "cell: sandbox"),
        (house(), "cell: process"),
        (of_user, "cell: sandbox, waive: [limits]"),
    ] {
        house.manifest(&TWO.replace("cell: process", cell));
        house.expect(0, "up");
        let before = house.json(0, "ps");
        let boot = &before["agents"][1]["generation"];
        house.expect(0, "pause sysadmin");
        let presence = || {
            let fleet = house.json(0, "ps");
            fleet["agents"][1]["presence"].as_str().unwrap().to_owned()
        };
        assert_eq!(presence(), "paused");
        let pid = i32::try_from(before["agents"][1]["pid"].as_i64().unwrap()).unwrap();
        let ticks = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let fields: Vec<String> = stat
                .rsplit_once(')')
                .unwrap()
                .1
                .split_whitespace()
                .map(str::to_owned)
                .collect();
            (fields[11].clone(), fields[12].clone())
        };
        let held = ticks();
        let added = house.json(0, "task add 'How full is the disk?' --to sysadmin");
        let task = added["task"]["id"].as_str().unwrap().to_owned();
        let why = house.json(0, args!("task why {}", task)).to_string();
        assert!(why.contains("sysadmin is paused"), "{why}");
        house.kill_control_plane();
        house.expect(0, "up --no-wait");
        until("it is adopted as it was", || presence() == "paused");
        assert_eq!(ticks(), held, "not a tick");
        house.expect(0, "resume sysadmin");
        house.wait_for_task(&task, TaskState::Done);
        let after = house.json(0, "ps");
        assert_eq!(after["agents"][1]["generation"], *boot, "no new boot");
        // What is paused can be stopped, and the other agent never noticed.
        house.expect(0, "pause --all");
        house.expect(0, "stop sysadmin");
        // A stop lasts until `start`.
        for verb in ["resume", "pause"] {
            let refused = house.expect_refusal(4, args!("{} sysadmin", verb));
            assert!(refused.contains("`abbey start sysadmin`"), "{refused}");
        }
        house.expect(0, "resume --all");
        assert_eq!(presence(), "stopped");
        house.expect(0, "start sysadmin");
        until("both are up", || {
            let fleet = house.json(0, "ps");
            fleet["agents"]
                .as_array()
                .unwrap()
                .iter()
                .all(|a| a["presence"] == "ready")
        });
    }
}

/// A changed manifest reaches a running agent without a restart: the agent acknowledges the configuration, and a change
/// of model has a reason, an actor and a rollback (S5-12, S3-05).
#[test]
fn reload_waits_for_acknowledgement_and_rolls_a_model_back() {
    let house = house();
    let agents = "  a: { template: orchestrator, model: scripted/scripted-1 }\n  b: { template: sysadmin, reports_to: a }\n";
    house.manifest(&with_model(agents).replace("cell: process, model", "cell: sandbox, model"));
    house.expect(0, "up");
    let row = |name: &str| {
        let fleet = house.json(0, "ps");
        let agents = fleet["agents"].as_array().unwrap();
        agents.iter().find(|a| a["name"] == name).unwrap().clone()
    };
    let before = row("a");
    house.expect(
        0,
        "reload a --model scripted/scripted-2 --reason 'it is cheaper'",
    );
    let after = row("a");
    assert_eq!(after["model"], "scripted/scripted-2");
    assert_eq!(after["config"], after["config_taken"], "acknowledged");
    assert!(after["config"].as_u64() > before["config"].as_u64());
    assert_eq!(after["generation"], before["generation"], "without a boot");
    assert_eq!(
        row("b")["config"],
        before["config"],
        "the other agent is as it was"
    );
    let entries = house.expect(0, "activity --json");
    let changes: Vec<Value> = entries
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .filter(|e: &Value| e["action"] == "agent.model")
        .collect();
    assert_eq!(changes.len(), 1);
    let detail = &changes[0]["detail"];
    assert_eq!(
        (&detail["from"], &detail["to"]),
        (&"scripted/scripted-1".into(), &"scripted/scripted-2".into())
    );
    assert_eq!(detail["reason"], "it is cheaper");
    assert_eq!(changes[0]["actor"], "operator");
    // Nothing of it is lost with the control plane or the cell.
    house.kill_control_plane();
    house.expect(0, "up");
    house.expect(0, "restart a");
    until("it says so again", || {
        row("a")["config_taken"] == after["config"]
    });
    assert_eq!(row("a")["model"], "scripted/scripted-2");
    house.expect(0, "reload a --rollback --reason 'it was worse'");
    assert_eq!(row("a")["model"], "scripted/scripted-1");
    let text = std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    assert!(
        text.contains("a: { template: orchestrator, model: scripted/scripted-1 }"),
        "{text}"
    );
    // A charter as well: the text that the next run gets, and the agent has taken it over.
    std::fs::write(house.path("new.md"), "Speak plainly.\n").unwrap();
    std::fs::write(
        house.path("abbey.yaml"),
        text.replace(
            "b: { template: sysadmin,",
            "b: { template: sysadmin, charter: new.md,",
        ),
    )
    .unwrap();
    let boot = row("b")["generation"].clone();
    house.expect(0, "reload --all");
    let charter = house.expect(0, "exec b -- cat /agent/workspace/SOUL.md");
    assert_eq!(
        (charter.as_str(), &row("b")["generation"]),
        ("Speak plainly.\n", &boot)
    );
    assert_eq!(row("b")["config"], row("b")["config_taken"]);
    // What cannot be is refused, and nothing is written.
    let said = house.expect_refusal(4, "reload b --rollback");
    assert!(
        said.contains("has no previous model to roll back to"),
        "{said}"
    );
    let before = std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    let said = house.expect_refusal(2, "reload a --model nobody/x");
    assert!(said.contains("no provider `nobody`"), "{said}");
    assert_eq!(
        std::fs::read_to_string(house.path("abbey.yaml")).unwrap(),
        before
    );
    house.expect_refusal(3, "reload nobody");
}

/// One unknown name does not stop the others, and is reported by name.
#[test]
fn verbs_on_several_agents_report_each_failure() {
    let house = up(TWO);
    let said = house.expect_refusal(3, "stop abbot nobody sysadmin");
    assert!(
        said.contains("stop nobody:") && said.contains("there is no agent `nobody`"),
        "{said}"
    );
    let fleet = house.json(0, "ps");
    let down = |a: &Value| a["pid"].is_null();
    assert!(
        fleet["agents"].as_array().unwrap().iter().all(down),
        "{fleet}"
    );
    house.expect(0, "start --all");
}

#[test]
fn an_agent_can_pin_a_skill_version() {
    let house = house();
    let manifest = |skill: &str| {
        house.manifest(&format!(
            "house: pins\ndefaults: {{ cell: process }}\nagents:\n  a: {{ skills: [\"{skill}\"] }}\n"
        ))
    };
    manifest("disk-usage@7");
    let told = house.expect_refusal(4, "up");
    assert!(
        told.contains("it requires `disk-usage@7`, but the house has version 1"),
        "{told}"
    );
    manifest("disk-usage@1");
    house.expect(0, "up");
    let task = house.json(0, "task add 'How full is the disk?' --wait");
    assert_eq!(task["task"]["state"], "done");
    // The list in the directory of skills says which there are, who answers for them, and what they are found by.
    let list = house.home().join("skills/library.yaml");
    std::fs::write(
        &list,
        "skills:\n  disk-usage: { owner: ops, tags: [platters] }\n  report: { enabled: false }\n",
    )
    .unwrap();
    house.kill_control_plane();
    house.expect(0, "up");
    let found = house.json(0, "skill search platters");
    assert_eq!(
        (&found["skills"][0]["name"], &found["skills"][0]["owner"]),
        (&Value::from("disk-usage"), &Value::from("ops"))
    );
    house.expect_refusal(3, "skill show report");
}

/// A paused agent whose processes end is started again and suspended once it is ready, also by `up` after `down`.
#[test]
fn a_paused_agent_that_ended_is_started_and_suspended_again() {
    let house = house();
    house.manifest(TWO);
    house.expect(0, "up");
    house.expect(0, "pause sysadmin");
    let row = || house.json(0, "ps")["agents"][1].clone();
    let pid = i32::try_from(row()["pid"].as_i64().unwrap()).unwrap();
    kill(pid);
    until("a new boot of it is suspended", || {
        let row = row();
        row["presence"] == "paused" && row["pid"].is_number() && row["pid"] != pid
    });
    house.expect(0, "down");
    house.expect(0, "up");
    assert_eq!(row()["presence"], "paused");
    house.expect(0, "resume sysadmin");
    house.wait_until_up("sysadmin");
    house.expect(0, "down");
}
