//! Commands that wait until agents and services are as they were asked to be: one rule and one set of messages for all.

use crate::house;
use abbey_testkit::args;
use abbey_testkit::args::Args;
use abbey_testkit::house::{House, until};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Read;
use std::process::Stdio;

/// Exit code and standard error of a command.
fn said(house: &House, args: impl Into<Args>) -> (i32, String) {
    let out = house.run(args);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    (out.status.code().unwrap(), text)
}

/// A house with a service that fails at once, one that runs without answering, and an agent.
const TROUBLED: &str = "house: troubled\ndefaults: { cell: process, waive: [limits] }\nagents: { a: {} }\nservices:\n  bad: { cell: process, command: [sh, -c, 'exit 3'], probe: none }\n  mute: { cell: process, command: [sleep, '600'], probe: / }\n";

#[test]
fn the_wait_ends_with_the_reason_of_each_that_is_not_ready() {
    let house = house();
    house.manifest(TROUBLED);
    let (code, text) = said(&house, "up --timeout 8s");
    assert_eq!(code, 7, "{text}");
    let line = |name: &str| {
        let found = text.lines().find(|l| l.starts_with(name));
        found.unwrap_or_else(|| panic!("{name} in {text}"))
    };
    let bad = line("service `bad`");
    for part in ["exit status 3", "in a row", "abbey service logs bad"] {
        assert!(bad.contains(part), "{part} in {bad}");
    }
    let mute = line("service `mute`");
    for part in ["after 8 s", "does not answer", "probe: none"] {
        assert!(mute.contains(part), "{part} in {mute}");
    }
    assert!(!text.contains("agent `a` is"), "{text}");
    // Restarting it by name ends in the same way, within its own limit, and says meanwhile what it waits for.
    let (code, text) = said(&house, "service restart mute --timeout 7s");
    assert_eq!(code, 7, "{text}");
    for part in [
        "waiting at most 7 s for mute: it runs and does not answer",
        "service `mute` is worker_only after 7 s: it runs and does not answer",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // Whoever does not wait is told nothing of it.
    let (code, text) = said(&house, "up --no-wait");
    assert_eq!(code, 0, "{text}");
    // A service that failed for good is no reason to wait longer.
    let fixed = TROUBLED.replace("probe: / ", "probe: none ");
    house.manifest(&fixed);
    let (code, text) = said(&house, "up --timeout 500s");
    assert_eq!(code, 7, "{text}");
    assert!(!text.contains("after 500 s"), "{text}");
    // The same for one that is restarted by name.
    let (code, again) = said(&house, "service restart bad");
    assert_eq!(code, 7, "{again}");
    assert!(
        again.contains("service `bad` is") && again.contains("exit status 3"),
        "{again}"
    );
}

/// However long each boot lives, a service that keeps failing is not ready between two failures.
#[test]
fn no_command_calls_a_service_ready_that_keeps_failing() {
    let house = house();
    house.manifest("house: looping\ndefaults: { cell: process, waive: [limits] }\nagents: { a: {} }\nservices:\n  loop: { cell: process, command: [sh, -c, 'sleep 1.5; exit 3'], probe: none }\n");
    house.expect(0, "up --no-wait");
    let service = || house.json(0, "ps")["services"][0].clone();
    until("it failed once", || service()["restarts"] != 0);
    // Each of them tries it again at once.
    for asked in ["up", "service restart loop", "up"] {
        let out = house.run(asked);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(7), "{asked}: {text}");
        assert!(
            text.contains("service `loop` is") && text.contains("exit status 3"),
            "{asked}: {text}"
        );
        let shown = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(!shown.contains("has restarted"), "{shown}");
        assert_ne!(service()["presence"], "ready");
    }
    let why = house.expect(0, "why loop");
    assert!(why.contains("exit status 3"), "{why}");
    let checks = house.json(0, "doctor")["checks"].clone();
    let mut checks = checks.as_array().unwrap().iter();
    let found = checks.find(|c| c["id"] == "service.loop").unwrap();
    assert_eq!(found["state"], "attention", "{found}");
}

#[test]
fn a_command_that_follows_a_start_waits_until_the_agent_runs() {
    let house = house();
    house
        .manifest("house: soon\ndefaults: { cell: process, waive: [limits] }\nagents: { a: {} }\n");
    house.expect(0, "up --no-wait");
    assert_eq!(house.expect(0, "exec a -- echo first"), "first\n");
    for verb in ["restart", "stop", "start"] {
        house.expect(0, args!("{} a --no-wait", verb));
        if verb == "stop" {
            until("it is stopped", || house.agent("a").pid.is_none());
            let refused = house.expect_refusal(125, "exec a -- true");
            assert!(refused.contains("abbey start a"), "{refused}");
        } else {
            assert_eq!(house.expect(0, "exec a -- echo again"), "again\n");
        }
    }
    house.expect(0, "up");
    house.expect(0, "pause a");
    house.expect(0, "resume a");
}

#[test]
fn too_low_a_limit_of_open_files_is_named_with_what_to_set() {
    let house = house();
    house.manifest("house: low\ndefaults: { cell: process, waive: [limits] }\nagents: { a: {} }\n");
    let abbey = env!("CARGO_BIN_EXE_abbey");
    let limited = |files: u32| {
        let mut command = std::process::Command::new("sh");
        let script = format!("ulimit -n {files}; exec {abbey} \"$@\"");
        let manifest = house.path("abbey.yaml");
        command.args(["-c", &script, "sh", "--home"]);
        command.arg(house.home()).args(["up", "-f"]).arg(manifest);
        let out = command.output().unwrap();
        (
            out.status.code().unwrap(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    };
    let (code, text) = limited(64);
    assert_ne!(code, 0);
    for part in ["only 64 files", "ulimit -n 4096", "LimitNOFILE="] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let (code, text) = limited(512);
    assert_eq!(code, 0, "{text}");
    let checks = house.json(0, "doctor")["checks"].to_string();
    assert!(
        checks.contains("\"open_files\"") && checks.contains("512"),
        "{checks}"
    );
}

#[test]
fn an_interrupted_wait_says_that_the_work_goes_on() {
    let house = house();
    house.manifest(TROUBLED);
    let mut up = house.command("up");
    up.stderr(Stdio::piped()).stdout(Stdio::null());
    let mut up = up.spawn().unwrap();
    until("it waits", || {
        house.run("agent show a").status.success() && house.agent("a").pid.is_some()
    });
    kill_process(
        Pid::from_raw(i32::try_from(up.id()).unwrap()).unwrap(),
        Signal::INT,
    )
    .unwrap();
    let mut text = String::new();
    up.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(up.wait().unwrap().code(), Some(130), "{text}");
    assert!(
        text.contains("goes on in the background") && text.contains("abbey ps"),
        "{text}"
    );
    house.wait_until_up("a");
}

/// A house that is asked to come up while it goes down ends first and is started again.
#[test]
fn up_during_down_starts_the_house_again() {
    let house = house();
    let stubborn = "trap 'sleep 3; exit' TERM; while :; do sleep 0.1; done";
    let manifest = format!(
        "house: h\ndefaults: {{ cell: process, waive: [limits] }}\nagents:\n  a: {{ template: sysadmin }}\nservices:\n  s: {{ cell: process, command: [sh, -c, \"{stubborn}\"], probe: none }}\n"
    );
    house.manifest(&manifest);
    house.expect(0, "up");
    let mut down = house.command("down").spawn().unwrap();
    until("it goes down", || {
        house
            .expect(0, "activity export")
            .contains("\"house.down\"")
    });
    house.expect(0, "up");
    assert!(down.wait().unwrap().success());
    house.expect(0, "exec a -- true");
    house.kill_control_plane();
    let doctor = house.run("doctor");
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains("gone without `abbey down`"), "{doctor}");
    house.expect(0, "down");
}

#[test]
fn work_for_an_agent_that_is_stopped_says_so_instead_of_waiting_for_it() {
    let house = house();
    house.manifest("house: still\ndefaults: { cell: process, waive: [limits] }\nagents: { a: { template: worker, skills: [disk-usage] } }\nworkflows:\n  w: { within: 1s, steps: { s: { skill: disk-usage, agent: a } } }\n");
    house.expect(0, "up");
    house.expect(0, "stop a");
    let (code, text) = said(&house, "skill run disk-usage --to a");
    assert_eq!(code, 8, "{text}");
    assert!(
        text.contains("TASK-1 waits for") && text.contains("a is stopped by the operator"),
        "{text}"
    );
    let list = house.expect(0, "task list");
    assert!(
        list.contains("WAITS FOR") && list.contains("a claim by a"),
        "{list}"
    );
    // Why a step of a workflow ended is told of its task as well.
    house.expect(1, "workflow run w --wait --timeout 600");
    let why = house.json(0, "task why TASK-2");
    assert!(
        why.to_string().contains("it took longer than its time"),
        "{why}"
    );
}
