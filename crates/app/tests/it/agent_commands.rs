//! `abbey-agent`: what programs in an agent's cell do as the agent, and the same by the agent API.

use crate::{TWO, house, up};
use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

/// `a` works by files, which the test never writes for it, and may act by commands beside that; `ops` answers at once.
fn pair(cell: &str) -> String {
    format!(
        "house: commands\ndefaults: {{ cell: {cell} }}\nagents:\n  a: {{ template: worker, files: {{}}, max_concurrent_runs: 16, delegates_to: [ops, watch], asks: [ops], skills: [gate-colour] }}\n  ops: {{ template: worker, reports_to: a, files: {{ command: [sh, -c, 'n=$(basename \"$1\" .active); echo answered > completed/$n.txt', ops] }} }}\n  watch: {{ template: worker, reports_to: a, files: {{}} }}\n  stranger: {{ template: worker, reports_to: a, files: {{}} }}\n"
    )
}

fn write_skill(house: &House) {
    let skills = house.home().join("skills");
    let dir = skills.join("gate-colour");
    std::fs::create_dir_all(dir.join("scripts")).unwrap();
    std::fs::write(
        dir.join("SKILL.md"),
        "---\nname: gate-colour\ndescription: Tells the colour of the gate.\n---\n\nRun scripts/show.sh.\n",
    )
    .unwrap();
    let script = dir.join("scripts/show.sh");
    std::fs::write(
        &script,
        "#!/bin/sh\necho green\nabbey-agent note 'the skill ran'\nexit ${1:-0}\n",
    )
    .unwrap();
    for (path, mode) in [
        (&skills, 0o755),
        (&dir, 0o755),
        (&dir.join("scripts"), 0o755),
        (&dir.join("SKILL.md"), 0o644),
        (&script, 0o755),
    ] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
}

/// A house whose agent `a` works on TASK-1.
fn working(cell: &str) -> House {
    let house = house();
    house.manifest(&pair(cell));
    std::fs::create_dir_all(house.home()).unwrap();
    write_skill(&house);
    // Long, as commands that claim and renew may be slow on a busy host.
    house.start_control_plane("--lease-ms 900000");
    house.expect(0, "up");
    house.expect(0, "task add 'Paint the gate.' --to a");
    until("the worker has the first task", || {
        house.json(0, "task show TASK-1")["task"]["state"] == "running"
    });
    until("its lease is known in the cell", || {
        let read = house.run("exec a -- sh -c 'cat ~/.abbey/leases/TASK-1.json'");
        read.status.success()
    });
    house
}

fn exec(house: &House, code: i32, command: &str) -> String {
    house.expect(code, args!("exec a -- sh -c {}", command))
}

/// JSON document of `abbey-agent` in the cell of `a`.
fn document(house: &House, code: i32, command: &str) -> Value {
    let printed = exec(house, code, &format!("abbey-agent {command} --json"));
    serde_json::from_str(&printed).unwrap_or_else(|e| panic!("{command}: {e}: {printed}"))
}

/// What `abbey-agent` in the cell of `a` writes when it fails.
fn failure(house: &House, code: i32, command: &str) -> String {
    let output = house.run(args!(
        "exec a -- sh -c {}",
        format!("abbey-agent {command}")
    ));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{command}: {text}");
    text
}

fn acts_by_commands(cell: &str) {
    let house = working(cell);
    // Who it is.
    let me = document(&house, 0, "self");
    assert_eq!(me["agent"], "a");
    let text = exec(&house, 0, "abbey-agent self");
    assert!(
        text.contains("ops") && text.contains("delegate, ask"),
        "{text}"
    );
    assert_eq!(document(&house, 0, "status")["leases"], json!(["TASK-1"]));
    // On its own initiative, and the result comes back.
    let given = document(
        &house,
        0,
        "delegate ops 'Count the logs.' --wait --timeout 2m",
    );
    assert_eq!(given["task"]["state"], "done", "{given}");
    assert_eq!(given["task"]["result"]["text"], "answered");
    assert_eq!(given["task"]["author"], "agent:a");
    assert_eq!(given["task"]["link"]["parent"], Value::Null);
    assert_eq!(given["task"]["link"]["chain"], json!(["a"]));
    // Within the task that its worker has.
    let part = document(
        &house,
        0,
        "ask ops 'Which colour?' --task TASK-1 --wait --timeout 2m",
    );
    assert_eq!(part["task"]["link"]["parent"], "TASK-1", "{part}");
    assert_eq!(part["task"]["state"], "done");
    // With a key it is one task, however often it is sent.
    let twice = || {
        let sent = document(&house, 0, "delegate ops 'Once.' --idempotency-key once");
        sent["task"]["number"].clone()
    };
    assert_eq!(twice(), twice());
    // The manifest says to whom.
    let refused = failure(&house, 1, "delegate stranger 'Do my work.'");
    assert!(
        refused.contains("a may not delegate to agent stranger"),
        "{refused}"
    );
    let refused = failure(&house, 1, "ask stranger 'Why?'");
    assert!(refused.contains("`asks` of a"), "{refused}");
    assert_eq!(house.audit_entries("task.delegate.refused").len(), 1);
    let refused = failure(&house, 3, "delegate nobody 'Do my work.'");
    assert!(refused.contains("there is no agent `nobody`"), "{refused}");
    // A second task is taken beside the worker's.
    house.expect(0, "task add 'Oil the gate.' --to a");
    until("it is offered", || {
        house
            .run("exec a -- abbey-agent next --wait 20s")
            .status
            .success()
    });
    let offer = document(&house, 0, "next");
    let number = offer["number"].as_str().unwrap().to_owned();
    // By its identifier: later commands know it by its number all the same.
    let claim = format!("abbey-agent claim {}", offer["task"].as_str().unwrap());
    let claimed = exec(&house, 0, &claim);
    assert!(claimed.starts_with(&number), "{claimed}");
    let own = document(&house, 0, &format!("status {number}"));
    assert_eq!(own["task"]["state"], "running", "{own}");
    let ambiguous = failure(&house, 2, "done oiled");
    assert!(
        ambiguous.contains(&format!("TASK-1, {number}")),
        "{ambiguous}"
    );
    exec(&house, 0, &format!("abbey-agent renew {number}"));
    let digits = number.trim_start_matches("TASK-");
    exec(&house, 0, &format!("abbey-agent renew {digits}"));
    let done = format!("echo oiled | abbey-agent done - --task {number} --data '{{\"drops\": 3}}'");
    exec(&house, 0, &done);
    let task = house.json(0, args!("task show {}", number));
    assert_eq!(task["task"]["result"]["data"], json!({ "drops": 3 }));
    failure(&house, 4, &format!("renew {number}"));
    assert_eq!(
        house.run("exec a -- abbey-agent next").status.code(),
        Some(3)
    );
    // Memory and skills; the program of a skill acts as the agent, and its status is that of the command.
    exec(
        &house,
        0,
        "cd / && abbey-agent memory save gate 'The gate is green.'",
    );
    let found = exec(&house, 0, "abbey-agent memory search green");
    assert!(
        found.contains("memory/gate.md: The gate is green."),
        "{found}"
    );
    assert_eq!(exec(&house, 0, "cat memory/gate.md"), "The gate is green.");
    let text = exec(&house, 0, "abbey-agent skills read gate-colour");
    assert!(text.contains("Run scripts/show.sh."), "{text}");
    let ran = exec(
        &house,
        7,
        "abbey-agent skills run gate-colour scripts/show.sh 7",
    );
    assert!(ran.starts_with("green\n"), "{ran}");
    let notes = house.audit_entries("agent.note");
    let noted = notes.iter().map(|e| (&e["actor"], &e["detail"]["text"]));
    assert_eq!(
        noted.collect::<Vec<_>>(),
        [(&json!("agent:a"), &json!("the skill ran"))]
    );
}

#[test]
fn programs_in_a_process_cell_act_as_the_agent() {
    acts_by_commands("process");
}

#[test]
fn programs_in_a_sandbox_act_as_the_agent() {
    acts_by_commands("sandbox");
}

#[test]
fn every_verb_of_the_agent_command_has_help() {
    let house = up(TWO);
    let help = house.expect(0, "exec abbot -- abbey-agent --help");
    for verb in [
        "next",
        "claim",
        "renew",
        "done",
        "fail",
        "delegate",
        "ask",
        "cancel",
        "note",
        "memory",
        "skills",
        "approvals",
        "self",
        "status",
    ] {
        assert!(help.contains(&format!("  {verb} ")), "{verb}: {help}");
        house.expect(0, args!("exec abbot -- abbey-agent {} --help", verb));
    }
    let usage = house.run("exec abbot -- abbey-agent dance");
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn files_of_tasks_name_the_evidence_and_the_lease_ends_with_the_run() {
    let house = working("process");
    house.expect(0, "exec a -- sh -c 'echo painted > completed/TASK-1.txt'");
    house.wait_for_task("TASK-1", abbey_model::TaskState::Done);
    until("the lease is forgotten", || {
        document(&house, 0, "status")["leases"] == json!([])
    });
    house.expect(
        0,
        "task add 'Paint it blue.' --to a --evidence file:colours/report.md",
    );
    let text = || house.run("exec a -- sh -c 'cat work/TASK-2.active'").stdout;
    until("the file of the task is there", || !text().is_empty());
    let text = String::from_utf8(text()).unwrap();
    assert!(text.contains("the file `colours/report.md`"), "{text}");
    assert!(text.contains("abbey-agent ask --task TASK-2"), "{text}");
    // It may also be completed by command; evidence is verified all the same.
    let missing = exec(&house, 1, "abbey-agent done painted");
    assert!(missing.contains("colours/report.md"), "{missing}");
    // Its next attempt would keep the worker from the other task.
    house.expect(0, "task cancel TASK-2");
    // What was decided about it is in the file of the run that follows.
    house.expect(0, "task add 'Sell the gate.' --to a");
    let request = r#"abbey-agent approvals request sell --args '{"gate": 2}' --task TASK-3"#;
    until("its run is under way", || {
        let asked = house.run(args!("exec a -- sh -c {}", request));
        asked.status.code() == Some(0)
    });
    house.expect(0, "approvals approve APPR-1 --note fine");
    until("the decision is in the file", || {
        let text = house.run("exec a -- sh -c 'cat work/TASK-3.active'").stdout;
        let text = String::from_utf8_lossy(&text).into_owned();
        text.contains(r#"- APPR-1 (sell {"gate":2}) is approved: fine"#)
    });
}

#[test]
fn the_end_of_a_run_that_its_program_reports_itself_is_shown() {
    let house = working("process");
    let next = |code: i32, title: &str, script: &str| {
        house.expect(0, args!("task add {} --to a", title));
        let command = format!("abbey-agent next --wait 60s -- sh -c '{script}'");
        let output = house.run(args!("exec a -- sh -c {}", command));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (printed, errors) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{printed}{errors}");
        assert!(!errors.contains("refused"), "{errors}");
        printed
    };
    let done = next(0, "Oil the gate.", "abbey-agent done oiled; echo later");
    assert!(done.contains("the run completed: oiled"), "{done}");
    let request = "abbey-agent approvals request sell";
    let waits = next(5, "Sell the gate.", request);
    assert!(waits.contains("the run waits: "), "{waits}");
    assert!(waits.contains("APPR-1"), "{waits}");
    // By the agent API as well, and another task's program has nothing to do with it.
    let url = "$ABBEY_URL/api/v1/self/tasks/$ABBEY_TASK/complete";
    let lease =
        "sed -n \"s/.*token.:\\([0-9]*\\).*/Abbey-Lease: \\1/p\" ~/.abbey/leases/TASK-4.json";
    let token = "printf \"Authorization: Bearer %s\" \"$(cat $ABBEY_TOKEN_FILE)\"";
    let body = "{\"text\":\"by request\",\"source\":\"command\"}";
    let request = format!(
        "printf %s \"$BODY\" | curl -sS --fail -H \"$({token})\" -H \"$({lease})\" -H \"Content-Type: application/json\" -d @- {url}"
    );
    let script = format!("BODY=$(cat <<END\n{body}\nEND\n); {request}");
    let done = next(0, "Wash the gate.", &script);
    assert!(done.contains("the run completed: by request"), "{done}");
    let failed = next(1, "Lift the gate.", "abbey-agent fail heavy; exit 0");
    assert!(failed.contains("the run failed: "), "{failed}");
    assert!(failed.contains("heavy"), "{failed}");
}

#[test]
fn own_initiative_stays_within_the_bounds_of_delegation() {
    let manifest = pair("process").replace(
        "  ops: { template: worker, reports_to: a, files: { command: [sh, -c, 'n=$(basename \"$1\" .active); echo answered > completed/$n.txt', ops] } }",
        "  ops: { template: worker, reports_to: a, files: {}, delegates_to: [a] }",
    );
    let house = house();
    house.manifest(&format!(
        "{manifest}delegation: {{ fan_out: 2 }}\nbudget: {{ usd_per_day: 2.5 }}\n"
    ));
    std::fs::create_dir_all(house.home()).unwrap();
    write_skill(&house);
    house.expect(0, "up");
    let first = document(&house, 0, "delegate ops 'Watch the gate.'");
    document(&house, 0, "delegate ops 'Watch the wall.'");
    let third = failure(&house, 1, "delegate ops 'Watch the tower.'");
    assert!(
        third.contains("2 tasks that agent:a gave on its own initiative"),
        "{third}"
    );
    // The limit is reached by tasks that the agent can find and cancel.
    let status = exec(&house, 0, "abbey-agent status");
    for text in [
        "Watch the gate.",
        "Watch the wall.",
        "`abbey-agent cancel TASK`",
        "money",
        "$2.50",
    ] {
        assert!(status.contains(text), "{text}: {status}");
    }
    assert!(!status.contains("nano_usd"), "{status}");
    // What the other one works on came from here, so it can't go back, whether it names that or not.
    let number = first["task"]["number"].as_str().unwrap();
    until("the other one works on it", || {
        house.json(0, args!("task show {}", number))["task"]["state"] == "running"
    });
    let back = house.run("exec ops -- abbey-agent delegate a 'Watch it yourself.'");
    let text = String::from_utf8_lossy(&back.stderr);
    assert_eq!(back.status.code(), Some(1), "{text}");
    assert!(text.contains("part of this delegation chain"), "{text}");
    // Once one is over there is room again.
    exec(&house, 0, &format!("abbey-agent cancel {number}"));
    let open = document(&house, 0, "status")["delegated"].clone();
    let titles: Vec<&str> = open
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["title"].as_str().unwrap())
        .collect();
    assert_eq!(titles, ["Watch the wall."]);
    document(&house, 0, "delegate ops 'Watch the tower.'");
}

#[test]
fn who_waits_for_a_delegated_task_hears_at_once_that_nobody_works_on_it() {
    let house = house();
    house.manifest(&pair("process"));
    std::fs::create_dir_all(house.home()).unwrap();
    write_skill(&house);
    house.expect(0, "up");
    house.expect(0, "stop ops");
    let given = document(
        &house,
        8,
        "delegate ops 'Count the logs.' --wait --timeout 10m",
    );
    let task = &given["task"];
    assert_eq!(task["state"], "ready", "{given}");
    assert_eq!(task["waiting_for"]["stopped_agents"], json!(["ops"]));
    let number = task["number"].as_str().unwrap().to_owned();
    let waited = failure(&house, 8, &format!("status {number} --wait 10m"));
    assert!(waited.contains(&format!("{number} waits for ")), "{waited}");
    let listed = house.expect(0, "ps");
    let line = "1 task waits for ops, which was stopped or paused";
    assert!(listed.contains(line), "{listed}");
    house.expect(0, "start ops");
    let done = document(&house, 0, &format!("status {number} --wait 2m"));
    assert_eq!(done["task"]["state"], "done", "{done}");
}

#[test]
fn others_and_hostile_input_get_nothing_by_the_agent_command() {
    let house = working("process");
    let given = document(&house, 0, "delegate ops 'Mine.'");
    let number = given["task"]["number"].as_str().unwrap();
    // Another agent's credential is another agent: it owns neither the result nor the lease.
    let other = house.run(args!("exec stranger -- abbey-agent status {}", number));
    assert_eq!(other.status.code(), Some(3));
    let lease: Value =
        serde_json::from_str(&exec(&house, 0, "cat ~/.abbey/leases/TASK-1.json")).unwrap();
    let forged = format!(
        "mkdir -p ~/.abbey/leases; echo '{lease}' > ~/.abbey/leases/TASK-1.json; abbey-agent done mine --task TASK-1"
    );
    let stolen = house.run(args!("exec stranger -- sh -c {}", forged));
    assert!(!stolen.status.success());
    assert_eq!(
        house.json(0, "task show TASK-1")["task"]["state"],
        "running"
    );
    // The leases of an agent are its own.
    let peek = format!(
        "cat {}",
        house
            .home()
            .join("agents/a/home/.abbey/leases/TASK-1.json")
            .display()
    );
    let peek = house.run(args!("exec stranger -- sh -c {}", peek));
    assert!(!peek.status.success());
    // No credential, a wrong one, no cell.
    let none = house.run("exec a -- env -u ABBEY_TOKEN_FILE abbey-agent status");
    assert_eq!(none.status.code(), Some(1));
    let none = String::from_utf8_lossy(&none.stderr);
    assert!(
        none.contains("ABBEY_TOKEN_FILE") && none.contains("abbey exec"),
        "{none}"
    );
    exec(&house, 0, "echo abbey_agent_wrong > wrong");
    let wrong = "env ABBEY_TOKEN_FILE=$PWD/wrong abbey-agent status";
    let wrong = house.run(args!("exec a -- sh -c {}", wrong));
    assert_eq!(wrong.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&wrong.stderr).contains("Authorization: Bearer"),
        "{wrong:?}"
    );
    // What controls a terminal is shown, and not sent to it; a name is never a path of the API.
    let hostile = "abbey-agent delegate ops \"$(printf 'a\\033[2Jb\\nforged line')\"";
    let printed = exec(&house, 0, hostile);
    assert!(
        !printed.contains('\u{1b}') && !printed.contains("\nforged line"),
        "{printed}"
    );
    failure(&house, 2, "status ../tasks/TASK-1");
    failure(&house, 2, "skills read ../../../etc");
    let json = failure(&house, 2, "status 'x/y' --json");
    assert_eq!(
        serde_json::from_str::<Value>(&json).unwrap()["error"]["code"],
        2
    );
    // Too much is refused, here or by the house.
    let mut long = house.command("exec -i a -- abbey-agent note -");
    long.stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut long = long.spawn().unwrap();
    let mut stdin = long.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        let _refused_before_the_end = stdin.write_all(&vec![b'x'; 2 << 20]);
    });
    let output = long.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let middle = "head -c 100000 /dev/zero | tr '\\0' x | abbey-agent delegate ops -";
    let middle = house.run(args!("exec a -- sh -c {}", middle));
    assert_eq!(middle.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&middle.stderr).contains("65536 bytes"));
}

/// Blocks of shell commands of the page about these commands.
fn blocks() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/agent-commands.md");
    let page = std::fs::read_to_string(page).unwrap();
    let parts = page.split("```sh\n").skip(1);
    parts
        .map(|part| part.split("```").next().unwrap().to_owned())
        .collect()
}

fn runs_the_page(cell: &str) {
    let house = working(cell);
    for _ in 2..=8 {
        house.expect(0, "task add 'Oil the gate.' --to a");
    }
    let all = blocks();
    let (function, examples) = all.split_first().unwrap();
    let curls = examples.iter().flat_map(|b| b.lines());
    assert!(curls.filter(|l| l.contains("house \"")).count() > 20);
    for block in examples {
        if block.contains("approvals use") {
            for number in ["APPR-1", "APPR-2"] {
                house.expect(0, args!("approvals approve {}", number));
            }
            until("the tasks are offered again", || {
                ["TASK-7", "TASK-8"].iter().all(|number| {
                    let task = house.json(0, args!("task show {}", number));
                    task["task"]["state"] == "ready"
                })
            });
        }
        // Pipelines that begin with a failed command fail, too.
        let script = format!("set -e\n{function}\n{block}");
        let output = house.run(args!("exec a -- bash -o pipefail -c {}", script));
        assert_eq!(
            output.status.code(),
            Some(0),
            "{block}\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let state = |number: &str| {
        let task = house.json(0, args!("task show {}", number));
        task["task"]["state"].as_str().unwrap().to_owned()
    };
    for number in ["TASK-2", "TASK-3", "TASK-4"] {
        assert_eq!(state(number), "done", "{number}");
    }
    for number in ["TASK-7", "TASK-8"] {
        assert_eq!(state(number), "running", "{number}");
    }
    assert_eq!(house.audit_entries("approval.use").len(), 2);
    assert_eq!(house.audit_entries("agent.note").len(), 3);
}

#[test]
fn the_page_about_commands_for_agents_works_in_a_process_cell() {
    runs_the_page("process");
}

#[test]
fn the_page_about_commands_for_agents_works_in_a_sandbox() {
    runs_the_page("sandbox");
}
