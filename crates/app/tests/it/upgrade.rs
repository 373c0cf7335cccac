//! Upgrades: a home of the release before opens with this binary, with everything in it (`tests/fixtures/home-4e628c9`),
//! and another binary takes over agents that run.

use crate::{house, with_model};
use abbey_cells::hostd::{HostdApi, HostdClient};
use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use abbey_testkit::scripted::tool_call;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// States that only a person or an agent changes: they must be there unchanged after the upgrade.
const STILL: [&str; 8] = [
    "done",
    "unverified",
    "failed",
    "timed_out",
    "cancelled",
    "parked",
    "blocked",
    "awaiting_approval",
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/home-4e628c9")
        .join(name)
}

fn contents() -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture("contents.json")).unwrap()).unwrap()
}

/// The old home, unpacked where this house expects its own.
fn old_home() -> House {
    let house = house();
    let unpacked = Command::new("tar")
        .args(["--numeric-owner", "-xzpf"])
        .arg(fixture("home.tar.gz"))
        .arg("-C")
        .arg(house.home().parent().unwrap())
        .status();
    assert!(unpacked.unwrap().success());
    std::fs::copy(fixture("abbey.yaml"), house.path("abbey.yaml")).unwrap();
    house
}

#[test]
fn home_of_the_previous_release_opens_with_everything_in_it() {
    let house = old_home();
    if !house.runs_as_root() {
        println!("skipped: the home in the fixture belongs to root and users of its own");
        return;
    }
    let expected = contents();
    // Opens the store, applies migrations, and recovers: no manifest is applied yet.
    house.start_control_plane("");
    let states = expected["states"].as_object().unwrap();
    for (number, state) in states {
        let task = house.json(0, args!("task show {}", number))["task"].clone();
        if STILL.contains(&state.as_str().unwrap()) {
            assert_eq!(&task["state"], state, "{number}");
        }
    }
    let verified = house.json(0, "activity verify");
    assert_eq!(verified["ok"], true, "{verified}");
    let (seq, hash) = (&expected["head"][0], &expected["head"][1]);
    let log = house.expect(0, "activity export");
    let head = log
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap())
        .find(|e| &e["seq"] == seq);
    assert_eq!(
        &head.unwrap()["hash"],
        hash,
        "entries are kept as they were"
    );
    // The house starts a survey that it missed since, with an approval of its own: the first of
    // them fell due on the Monday after the home was made.
    let approvals = house.json(0, "approvals --all");
    for (id, state) in expected["approvals"].as_object().unwrap() {
        let of_id = |a: &&Value| a["id"] == id.as_str();
        let found = approvals["approvals"]
            .as_array()
            .unwrap()
            .iter()
            .find(of_id);
        assert_eq!(found.map(|a| &a["state"]), Some(state), "{id}");
    }
    let count = |command: &str, key: &str| house.json(0, command)[key].as_array().unwrap().len();
    assert_eq!(count("schedule list", "schedules"), 3);
    let surveys = count("workflow list", "runs");
    assert!((2..=3).contains(&surveys), "{surveys}");
    let plan = house.json(0, "document show plan");
    assert!(
        plan.to_string().contains("Build a second bridge."),
        "{plan}"
    );
    // Spend of an agent's run, in tokens and money.
    let runs = house.json(0, "task show TASK-3")["task"]["runs"].clone();
    assert!(runs[0]["usage"]["input"].as_u64() > Some(0), "{runs}");
    assert!(runs[0]["cost_nano_usd"].as_u64() > Some(0), "{runs}");
    // The same manifest, and the house goes on with its work.
    house.expect(0, "up");
    for agent in ["lead", "builder", "ops", "hands", "spare"] {
        house.wait_until_up(agent);
    }
    let note = house.expect(0, "exec builder -- cat memory/bridge.md notes/bridge.md");
    assert!(note.contains("12 m"), "{note}");
    let number = |state: &str| expected["tasks"][state].as_str().unwrap().to_owned();
    for state in ["pending", "ready", "running"] {
        let task = number(state);
        until("unfinished work goes on", || {
            let state = house.json(0, args!("task show {}", task))["task"]["state"].clone();
            // The run of the task that was running is long over its wall time.
            ["running", "ready", "done", "timed_out"].contains(&state.as_str().unwrap())
        });
    }
    house.expect(0, "task add 'show system stats' --wait");
    house.expect(0, "approvals approve APPR-3");
    let waiting = number("awaiting_approval");
    until("the approved task ends", || {
        house.json(0, args!("task show {}", waiting))["task"]["state"] == "done"
    });
    assert_eq!(house.json(0, "activity verify")["ok"], true);
}

/// A home that a newer release has opened is refused, with what to do, and stays as it is.
#[test]
fn a_home_of_a_newer_release_is_refused() {
    let house = crate::up(crate::TWO);
    house.expect(0, "down");
    let database = house.home().join("abbey.db");
    let upgraded = Command::new("python3")
        .arg("-c")
        .arg("import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1])\ndb.execute('PRAGMA user_version = 999')\ndb.close()")
        .arg(&database)
        .status();
    assert!(upgraded.unwrap().success());
    let before = std::fs::read(&database).unwrap();
    for verb in ["plan", "up"] {
        let refused = house.run(verb);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success(), "{verb}");
        assert!(
            told.contains("has format 999") && told.contains("install a newer version"),
            "{verb}: {told}"
        );
    }
    assert!(!house.home().join("run/serve.json").exists());
    let hostd = HostdClient::new(&house.home());
    assert!(hostd.hello().is_err(), "a failed start leaves no helper");
    assert_eq!(std::fs::read(&database).unwrap(), before);
}

/// Runs a statement on the database of a house.
fn change_database(house: &House, sql: &str) {
    let script = "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1])\ndb.execute(sys.argv[2])\ndb.commit()\ndb.close()";
    let changed = Command::new("python3")
        .args(["-c", script])
        .arg(house.home().join("abbey.db"))
        .arg(sql)
        .status();
    assert!(changed.unwrap().success());
}

/// A key that a release has taken out is in the manifest that the release before put in force.
#[test]
fn a_stored_manifest_never_keeps_the_house_from_starting() {
    let house = house();
    let manifest = "house: old\nagents:\n  a:\n    cell: sandbox\n    profile: strict\n    template: sysadmin\n";
    house.manifest(manifest);
    house.expect(0, "up");
    house.expect(0, "down");
    change_database(
        &house,
        "UPDATE generations SET manifest = replace(manifest, 'strict', 'nested')",
    );
    house.start_control_plane("");
    house.wait_until_up("a");
    house.expect(0, "exec a -- true");
    let checks = house.json(0, "doctor")["checks"].clone();
    let checks = checks.as_array().unwrap();
    let check = checks.iter().find(|c| c["id"] == "manifest").unwrap();
    let text = check["text"].as_str().unwrap();
    for part in ["profile", "line "] {
        assert!(text.contains(part), "{text}");
    }
    // The same lines are refused in the file, and its owner changes them.
    let file = house.path("abbey.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("strict", "nested")).unwrap();
    let refused = house.expect_refusal(2, "up");
    assert!(refused.contains("profile"), "{refused}");
    std::fs::write(&file, text.replace("strict", "jit")).unwrap();
    house.expect(0, "up");
    let checks = house.json(0, "doctor")["checks"].to_string();
    assert!(!checks.contains("\"manifest\""), "{checks}");
    assert_eq!(house.json(0, "activity verify")["ok"], true);
}

/// `up` of an older release ends nothing that it could not start again.
#[test]
fn an_older_binary_leaves_a_newer_control_plane_alone() {
    let bin = InstalledBinary::new(Path::new(env!("CARGO_BIN_EXE_abbey")));
    let house = House::new(&bin.0.join("abbey").display().to_string());
    house.manifest("house: newer\nagents: { a: { template: sysadmin } }\n");
    house.expect(0, "up");
    let serve = house.control_plane_pid();
    bin.replace();
    change_database(&house, "PRAGMA user_version = 999");
    let refused = house.expect_refusal(4, "up");
    assert!(
        refused.contains("format 999") && refused.contains("newer version"),
        "{refused}"
    );
    assert_eq!(house.control_plane_pid(), serve);
    house.expect(0, "exec a -- true");
}

/// Another file takes the place of the binary while an agent works: `up` replaces the control plane and its helper, and
/// nothing of the agents ends.
#[test]
fn a_new_binary_takes_over_running_agents() {
    let built = Path::new(env!("CARGO_BIN_EXE_abbey"));
    let bin = InstalledBinary::new(built);
    let house = House::new(&bin.0.join("abbey").display().to_string());
    house.manifest(&with_model(
        "  busy: { template: worker, tools: { allow: [shell, finish] } }\n  walled: { cell: sandbox, template: sysadmin }\n",
    ));
    house.expect(0, "up");
    house.wait_for_model();
    house.script_model(&json!([
        tool_call("shell", json!({ "argv": ["sh", "-c", "echo begun >> $HOME/marks; until [ -e $HOME/go ]; do sleep 0.1; done; echo ended >> $HOME/marks"] })),
        { "text": "worked" },
    ]));
    house.expect(0, "task add 'wait for it' --to busy");
    let marks = || {
        let output = house.run("exec busy -- sh -c 'cat $HOME/marks'");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    until("the agent works", || marks() == "begun\n");
    let cells = || {
        let fleet = house.json(0, "ps");
        let cells = fleet["agents"].as_array().unwrap().iter();
        let cells = cells.map(|a| (a["pid"].clone(), a["generation"].clone()));
        cells.collect::<Vec<_>>()
    };
    let helper = || abbey_cells::hostd::listening_process(&house.home()).unwrap();
    let runs_installed = |pid: i32| abbey_cells::runs_program(pid, &bin.0.join("abbey"));
    let (before, served, helped) = (cells(), house.control_plane_pid(), helper());
    house.expect(0, "up");
    assert_eq!((house.control_plane_pid(), helper()), (served, helped));

    bin.replace();
    assert_eq!(runs_installed(served), Some(false));
    let told = house.run("ps");
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(
        told.contains("another build of abbey") && told.contains("`abbey up`"),
        "{told}"
    );
    let checks = house.json(0, "doctor")["checks"].clone();
    let ids: Vec<&str> = checks
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|c| c["id"].as_str())
        .collect();
    assert!(ids.contains(&"program"), "{ids:?}");

    house.expect(0, "up");
    let (serving, helping) = (house.control_plane_pid(), helper());
    assert_ne!((serving, helping), (served, helped));
    assert_eq!(
        (runs_installed(serving), runs_installed(helping)),
        (Some(true), Some(true))
    );
    assert_eq!(cells(), before, "the same processes of the same boots");
    assert!(house.audit_entries("cell.exit").is_empty());
    house.expect(0, "exec busy -- sh -c 'touch $HOME/go'");
    until("the task is done", || {
        house.json(0, "task show TASK-1")["task"]["state"] == "done"
    });
    assert_eq!(marks(), "begun\nended\n");
    assert_eq!(
        house.json(0, "task show TASK-1")["task"]["runs"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let checks = house.json(0, "doctor")["checks"].clone();
    assert!(!checks.to_string().contains("\"program\""), "{checks}");
    assert_eq!(house.json(0, "activity verify")["ok"], true);
    house.expect(0, "restart walled");
    house.expect(0, "up");
    assert_eq!((house.control_plane_pid(), helper()), (serving, helping));
}

/// A cell that starts between the exchange of the file and `up` runs what its helper runs.
#[test]
fn agents_start_while_the_binary_is_exchanged() {
    let bin = InstalledBinary::new(Path::new(env!("CARGO_BIN_EXE_abbey")));
    let house = House::new(&bin.0.join("abbey").display().to_string());
    house.manifest("house: exchange\nagents:\n  walled: { cell: sandbox, template: sysadmin }\n  plain: { cell: process, template: sysadmin }\n");
    house.expect(0, "up");
    bin.replace();
    house.expect(0, "restart walled plain");
    house.expect(0, "task add 'show system stats' --to walled --wait");
    house.expect(0, "up");
    house.expect(0, "task add 'show system stats' --to plain --wait");
}

/// A directory with a copy of the binary, beside it the scripted model.
struct InstalledBinary(PathBuf);

impl InstalledBinary {
    fn new(built: &Path) -> InstalledBinary {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "abbey-bin-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::copy(built, dir.join("abbey")).unwrap();
        let model = "abbey-scripted-model";
        std::os::unix::fs::symlink(built.with_file_name(model), dir.join(model)).unwrap();
        InstalledBinary(dir)
    }

    /// Puts another build in the place of the binary, as package managers do.
    fn replace(&self) {
        let (now, next) = (self.0.join("abbey"), self.0.join("abbey.new"));
        std::fs::copy(&now, &next).unwrap();
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(&next)
            .unwrap();
        file.write_all(b"another build").unwrap();
        drop(file);
        std::fs::rename(next, now).unwrap();
    }
}

impl Drop for InstalledBinary {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}
