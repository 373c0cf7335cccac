//! `kill -9` at every named step of the sagas of the control plane, of the calls of hostd, and of shims. Whatever was
//! interrupted is resumed or undone, and nothing is left over (hazards 3 to 13).

use abbey_testkit::crash::arm_crash_point;
use abbey_testkit::house::{House, WITHIN, own_network, until};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

const ONE: &str = "house: crash
services:
  s: { cell: process, command: [sleep, '3600'], probe: none }
defaults: { cell: sandbox }
agents:
  a: { template: orchestrator }
";
const TWO: &str = "  b: { template: sysadmin, reports_to: a }\n";

/// Runs a command that a crash may interrupt; then runs `up` as an operator would, and the command again.
fn insist(house: &House, args: &[&str], armed: &Path) {
    let mut last: Option<Output> = None;
    for _ in 0..4 {
        let output = house.run(args);
        if output.status.success() {
            return;
        }
        last = Some(output);
        assert!(
            !armed.exists(),
            "{args:?} failed before the crash: {last:?}"
        );
        let _may_meet_what_is_left = house.run("up --yes");
    }
    panic!("{args:?}: {last:?}\n{}", house.control_plane_log());
}

/// Names of everything on the host that belongs to the house.
fn inventory(house: &House) -> Vec<String> {
    let mut all = Vec::new();
    let mut list = |dir: &str, prefix: &str| {
        let entries = std::fs::read_dir(house.home().join(dir))
            .into_iter()
            .flatten();
        let names = entries
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned());
        all.extend(
            names
                .filter(|n| n.starts_with(prefix))
                .map(|n| format!("{dir}/{n}")),
        );
    };
    list("run/cells", "");
    list("runs", "");
    list("agents", "");
    list("services", "");
    let claims: Value = std::fs::read(house.home().join("hostd/claims.json"))
        .ok()
        .and_then(|b| serde_json::from_slice(&b).ok())
        .unwrap_or_default();
    let owners = claims["owners"].as_object();
    all.extend(
        owners
            .into_iter()
            .flat_map(|o| o.keys())
            .map(|o| format!("claim {o}")),
    );
    let group = abbey_daemon::Home::new(house.home()).cgroup_name();
    for base in ["memory", "pids", "cpu", "cpu,cpuacct", "unified", ""] {
        let dir = Path::new("/sys/fs/cgroup").join(base).join(&group);
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let cells = entries.filter(|e| e.path().is_dir());
        all.extend(cells.map(|e| format!("group {base}/{}", e.file_name().to_string_lossy())));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let home = house.home().display().to_string();
    all.extend(
        mounts
            .lines()
            .filter(|m| m.contains(&home))
            .map(|m| format!("mount {m}")),
    );
    let dev = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let interfaces = dev.lines().filter(|l| l.trim().starts_with("ab")).count();
    all.push(format!("{interfaces} interfaces"));
    let rules = std::process::Command::new("/usr/sbin/nft")
        .args(["list", "ruleset"])
        .output();
    let rules = String::from_utf8(rules.unwrap().stdout).unwrap();
    all.push(format!(
        "{} sources in the rules",
        rules.matches(" . 02:ab:").count()
    ));
    let devices = std::process::Command::new("losetup")
        .arg("-a")
        .output()
        .unwrap();
    let devices = String::from_utf8_lossy(&devices.stdout).into_owned();
    all.extend(
        devices
            .lines()
            .filter(|l| l.contains(&home))
            .map(str::to_owned),
    );
    all.extend(processes(&home));
    all.sort();
    all
}

/// Roles of every process of this home.
fn processes(home: &str) -> Vec<String> {
    let mut roles = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(environ) = std::fs::read(entry.path().join("environ")) else {
            continue;
        };
        let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let (environ, cmdline) = (
            String::from_utf8_lossy(&environ),
            String::from_utf8_lossy(&cmdline),
        );
        if environ.contains(home) || cmdline.contains(home) {
            let words: Vec<&str> = cmdline
                .split(['\0', ' '])
                .filter(|w| !w.is_empty())
                .collect();
            let role = words
                .iter()
                .position(|w| *w == "role")
                .and_then(|n| words.get(n + 1));
            if let Some(role) = role {
                roles.push(format!("process {role}"));
            }
        }
    }
    roles
}

fn all_ready(house: &House, agents: usize) -> bool {
    let output = house.run("ps --json");
    let fleet: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let rows = fleet["agents"].as_array().cloned().unwrap_or_default();
    rows.len() == agents && rows.iter().all(|a| a["presence"] == "ready")
}

/// A scenario with a crash at `place`: agents are added, restarted, stopped, changed and removed. In the end the house is
/// as it was before the second agent was added.
fn live_through(place: &str) {
    let (house, armed) = House::with_crash_point(env!("CARGO_BIN_EXE_abbey"), place);
    house.manifest(ONE);
    house.expect(0, "up");
    until("the first agent is up", || all_ready(&house, 1));
    let before = inventory(&house);
    arm_crash_point(&armed);
    house.manifest(&format!("{ONE}{TWO}"));
    insist(&house, &["up", "--yes"], &armed);
    insist(&house, &["restart", "b"], &armed);
    insist(&house, &["stop", "b"], &armed);
    insist(&house, &["start", "b"], &armed);
    house.manifest(&format!("{ONE}{}", TWO.replace("sysadmin", "git-admin")));
    insist(&house, &["up", "--yes"], &armed);
    insist(&house, &["reload", "--all"], &armed);
    house.manifest(ONE);
    insist(&house, &["up", "--yes"], &armed);
    assert!(!armed.exists(), "nobody came by {place}");
    insist(&house, &["up", "--yes"], &armed);
    until("one agent is up", || all_ready(&house, 1));
    let end = std::time::Instant::now() + WITHIN;
    while inventory(&house) != before {
        let late = std::time::Instant::now() > end;
        let now = if late { inventory(&house) } else { Vec::new() };
        let more: Vec<&String> = now.iter().filter(|i| !before.contains(i)).collect();
        let less: Vec<&String> = before.iter().filter(|i| !now.contains(i)).collect();
        assert!(
            !late,
            "{place}: left {more:?}, lost {less:?}\n{}",
            house.control_plane_log()
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    house.expect(0, "activity verify");
    house.expect(0, "down");
    let left = inventory(&house);
    let stays = |i: &String| {
        ["agents/", "services/", "claim "]
            .iter()
            .any(|p| i.starts_with(p))
            || i.starts_with("0 ")
    };
    let left: Vec<&String> = left.iter().filter(|i| !stays(i)).collect();
    assert!(left.is_empty(), "{place}: {left:?}");
}

/// Runs the scenario at every fourth crash point, beginning with the `first`.
fn some(first: usize) {
    own_network();
    let places: Vec<String> = abbey_daemon::crash_points()
        .into_iter()
        .chain(abbey_cells::crash::POINTS.map(str::to_owned))
        .collect();
    let mine: Vec<&String> = places.iter().skip(first).step_by(4).collect();
    for place in &mine {
        live_through(place);
    }
    println!("{} of {} places: {mine:?}", mine.len(), places.len());
}

#[test]
fn a_crash_at_every_step_leaves_nothing_first_quarter() {
    some(0);
}
#[test]
fn a_crash_at_every_step_leaves_nothing_second_quarter() {
    some(1);
}
#[test]
fn a_crash_at_every_step_leaves_nothing_third_quarter() {
    some(2);
}
#[test]
fn a_crash_at_every_step_leaves_nothing_fourth_quarter() {
    some(3);
}

/// A scenario with a microVM: added with its agent, used, stopped, removed.
fn lives_on_drives_through(cell: &str, place: &str) {
    let (mut house, armed) = House::with_crash_point(env!("CARGO_BIN_EXE_abbey"), place);
    house.install_default_image();
    let drives =
        "limits: { memory: 192MiB }, drives: { state: 16MiB, workspace: 16MiB, scratch: 16MiB }";
    let machine = format!("  b: {{ template: sysadmin, reports_to: a, cell: {cell}, {drives} }}\n");
    house.manifest(ONE);
    house.expect(0, "up");
    until("the first agent is up", || all_ready(&house, 1));
    let before = inventory(&house);
    let moves = cell == "sandbox";
    if moves {
        // What it has is moved onto the file systems, whole and once.
        house.manifest(&format!(
            "{ONE}{}",
            machine.replace(drives, "limits: { memory: 192MiB }")
        ));
        house.expect(0, "up");
        let write = ["exec", "b", "--", "sh", "-c", "echo kept > $HOME/kept"];
        house.expect(0, &write);
    }
    arm_crash_point(&armed);
    house.manifest(&format!("{ONE}{machine}"));
    insist(&house, &["up", "--yes"], &armed);
    if moves {
        until("it is up again", || all_ready(&house, 2));
        let read = ["exec", "b", "--", "sh", "-c", "cat $HOME/kept"];
        assert_eq!(house.expect(0, &read), "kept\n", "{place}");
        let below = house.home().join("agents/b/home");
        let below = std::fs::read_dir(below).into_iter().flatten().count();
        assert_eq!(below, 0, "{place}: a second copy stays below");
    }
    insist(&house, &["stop", "b"], &armed);
    house.manifest(ONE);
    insist(&house, &["up", "--yes"], &armed);
    assert!(!armed.exists(), "nobody came by {place}");
    house.crash_at = None;
    until("everything of it is gone", || inventory(&house) == before);
    house.expect(0, "activity verify");
    house.expect(0, "down");
}

/// Commands in microVMs: the first one boots, later ones start from the template.
fn commands_live_through(place: &str) {
    let (house, armed) = House::with_crash_point(env!("CARGO_BIN_EXE_abbey"), place);
    house.install_default_image();
    house.manifest("house: crash\nagents: {}\n");
    house.expect(0, "up");
    let before = inventory(&house);
    arm_crash_point(&armed);
    let run = || {
        let args = [
            "run", "--cell", "microvm", "--memory", "192MiB", "--", "true",
        ];
        house.run(&args).status.success()
    };
    until("somebody came by", || {
        let _may_meet_the_crash = run();
        !armed.exists()
    });
    assert!(run(), "{place}: a command gets a machine all the same");
    // The next control plane knows none of what this one kept.
    house.kill_control_plane();
    house.expect(0, "up");
    until("everything of it is gone", || inventory(&house) == before);
    house.expect(0, "down");
}

#[test]
fn a_crash_at_every_microvm_step_leaves_nothing() {
    own_network();
    let points = abbey_cells::crash::MACHINE_POINTS;
    // Those of a machine of its own, and some that every cell comes by.
    let more = ["shim.running", "shim.ended", "hostd.sweep"];
    for place in points[..3].iter().chain(&more) {
        lives_on_drives_through("microvm", place);
    }
}

#[test]
fn a_crash_while_creating_a_disk_leaves_nothing() {
    own_network();
    for place in abbey_cells::crash::DISK_POINTS {
        lives_on_drives_through("sandbox", place);
    }
}

#[test]
fn a_crash_while_creating_a_template_leaves_nothing() {
    own_network();
    for place in &abbey_cells::crash::MACHINE_POINTS[3..] {
        commands_live_through(place);
    }
}
