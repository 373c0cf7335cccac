//! `abbey doctor` finds what is wrong with a house, names the remedy, and fixes what can be fixed without losing data
//! (S2-26 to S2-29).

use crate::{TWO, house, up, with_model};
use abbey_testkit::house::{House, own_network, until};
use serde_json::Value;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

fn check(house: &House, args: &[&str], code: i32, id: &str) -> Value {
    let mut all = vec!["doctor"];
    all.extend(args);
    let doc = house.json(code, &all);
    let checks = doc["checks"].as_array().unwrap();
    let found = checks.iter().find(|c| c["id"] == id);
    found.unwrap_or_else(|| panic!("{id} in {doc}")).clone()
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn doctor_probes_isolation_and_fix_closes_a_hole() {
    let house = house();
    house.manifest(TWO);
    house.expect(0, "up");
    let good = check(&house, &[], 0, "isolation.abbot");
    assert_eq!(good["state"], "ok", "{good}");
    // A careless hand opens what is another agent's, and the operator's credential.
    let theirs = house.home().join("agents/sysadmin/home");
    mode(&theirs, 0o755);
    mode(&theirs.join("token"), 0o644);
    mode(&house.home().join("operator.token"), 0o644);
    let bad = check(&house, &[], 7, "isolation.abbot");
    assert_eq!(bad["state"], "failed");
    let text = bad["text"].as_str().unwrap();
    assert!(
        text.contains("abbot can read") && text.contains("sysadmin/home/token"),
        "{text}"
    );
    assert!(bad["remedy"].is_string());
    let doc = house.json(0, "doctor --fix");
    let fixed: Vec<&str> = doc["fixed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f.as_str().unwrap())
        .collect();
    assert_eq!(
        fixed,
        [
            "operator_credential",
            "isolation.abbot",
            "isolation.sysadmin"
        ],
        "{doc}"
    );
    assert_eq!(check(&house, &[], 0, "isolation.abbot")["state"], "ok");
    assert!(house.expect(0, "activity -n 50").contains("house.fix"));
    // A second `--fix` finds nothing left to fix.
    assert_eq!(
        house.json(0, "doctor --fix")["fixed"],
        serde_json::json!([])
    );
}

#[test]
fn doctor_names_the_process_that_holds_a_port() {
    own_network();
    let house = house();
    std::fs::write(house.path("hook.key"), "a secret of some length").unwrap();
    house.manifest(&format!(
        "{TWO}hooks:\n  told: {{ kind: gitea, secret: \"file:hook.key\", event: news }}\n"
    ));
    house.expect(0, "up");
    assert_eq!(check(&house, &[], 0, "ports")["state"], "ok");
    assert_eq!(
        check(&house, &[], 0, "credentials")["text"],
        "1 credentials can be read"
    );
    assert_eq!(check(&house, &[], 0, "clock")["state"], "ok");
    assert_eq!(check(&house, &[], 0, "schedules")["state"], "ok");
    house.expect(0, "stop sysadmin");
    let port = house.ports.first + 1;
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let taken = check(&house, &[], 7, "ports");
    let text = taken["text"].as_str().unwrap();
    assert!(
        text.contains(&format!(
            "port {port} of agent-sysadmin is in use by pid {}",
            std::process::id()
        )),
        "{text}"
    );
    std::fs::remove_file(house.path("hook.key")).unwrap();
    let missing = check(&house, &[], 7, "credentials");
    let text = missing["text"].as_str().unwrap();
    assert!(
        text.contains("hook:told") && text.contains("hook.key"),
        "{text}"
    );
}

#[test]
fn doctor_reports_a_missing_model_with_the_available_ones() {
    let house = up(&with_model(
        "  a: { template: orchestrator }\n  b: { template: worker, model: scripted/absent-1 }\n",
    ));
    until("the model server answers", || {
        house.json(0, "service list")["services"][0]["healthy"] == true
    });
    let told = check(&house, &[], 0, "models.scripted");
    assert_eq!(told["state"], "attention");
    assert_eq!(
        told["text"],
        "model server `model` does not have the models absent-1; it has scripted-1"
    );
    house.manifest(&with_model("  a: { template: orchestrator }\n"));
    house.expect(0, "up --yes");
    assert_eq!(check(&house, &[], 0, "models.scripted")["state"], "ok");
}

/// Whose number is in the files of the control plane's user is no reason to end a process.
#[test]
fn only_who_holds_the_lock_is_named_and_killed() {
    let house = up(TWO);
    let pid = house.control_plane_pid();
    let serve = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(serve, rustix::process::Signal::STOP).unwrap();
    std::fs::write(house.home().join("run/serve.lock"), "1").unwrap();
    let output = house.run("doctor");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&format!("(process {pid})")), "{text}");
    assert!(!text.contains("process 1)"), "{text}");
    // The one that holds the lock is killed, and nothing else.
    let down = house.run("down");
    let text = String::from_utf8_lossy(&down.stderr);
    assert!(down.status.success(), "{text}");
    assert!(text.contains(&format!("(process {pid})")), "{text}");
    assert!(!house.home().join("run/cells").exists());
}

#[test]
fn a_damaged_database_is_named_by_its_own_path() {
    let house = up(TWO);
    house.expect(0, "down");
    let database = house.home().join("abbey.db");
    std::fs::write(&database, "no database").unwrap();
    for command in ["doctor", "plan"] {
        let said = house.expect_refusal(1, command);
        let named = format!("`{}` is damaged", database.display());
        assert!(said.contains(&named), "{said}");
    }
}

/// Owners and modes of the house's own files are checked, named and repaired, by `--fix` and by `up`.
#[test]
fn files_of_the_house_that_others_can_write_are_named_and_closed() {
    let house = up(TWO);
    assert_eq!(check(&house, &[], 0, "files")["state"], "ok");
    let home = house.home();
    let at = |path: &str| match path {
        "" => home.clone(),
        path => home.join(path),
    };
    let modes = || {
        [
            "",
            "agents",
            "credentials",
            "hostd",
            "abbey.db",
            "hostd/checkpoints.jsonl",
        ]
        .map(|path| (path, std::fs::metadata(at(path)).unwrap().mode() & 0o7777))
    };
    let before = modes();
    let open_all = || {
        for (path, was) in before {
            mode(&at(path), if was & 0o111 == 0 { 0o666 } else { 0o777 });
        }
    };
    open_all();
    let bad = check(&house, &[], 7, "files");
    let text = bad["text"].as_str().unwrap();
    let home_shown = home.display().to_string();
    for (path, was) in before {
        let name = if path.is_empty() { &home_shown } else { path };
        assert!(
            text.contains(&format!("`{name}` has mode 0")),
            "{name} in {text}"
        );
        assert!(
            text.contains(&format!("in place of {was:04o}")),
            "{was:o} in {text}"
        );
    }
    let doc = house.json(0, "doctor --fix");
    assert!(
        doc["fixed"].as_array().unwrap().contains(&"files".into()),
        "{doc}"
    );
    assert_eq!(modes(), before);
    // `up` repairs as well, whether the house runs or not.
    for down in [false, true] {
        if down {
            house.expect(0, "down");
        }
        open_all();
        if down {
            assert_eq!(check(&house, &[], 7, "files")["state"], "failed");
        }
        house.expect(0, "up");
        assert_eq!(modes(), before);
    }
    if !house.runs_as_root() {
        return;
    }
    // Another owner; and what somebody put there in place of a file is not followed.
    let journal = at("hostd/journal.jsonl");
    std::os::unix::fs::chown(&journal, Some(12_345), Some(12_345)).unwrap();
    let bad = check(&house, &[], 7, "files");
    assert!(
        bad["text"]
            .as_str()
            .unwrap()
            .contains("belongs to user 12345"),
        "{bad}"
    );
    house.expect(0, "doctor --fix");
    assert_eq!(std::fs::metadata(&journal).unwrap().uid(), 0);
    let victim = house.path("victim");
    std::fs::write(&victim, "").unwrap();
    mode(&victim, 0o600);
    let staged = at("signing.key.next");
    std::os::unix::fs::symlink(&victim, &staged).unwrap();
    let bad = check(&house, &["--fix"], 7, "files");
    assert!(
        bad["text"].as_str().unwrap().contains("is no regular file"),
        "{bad}"
    );
    assert_eq!(std::fs::metadata(&victim).unwrap().uid(), 0);
    std::fs::remove_file(&staged).unwrap();
}

#[test]
fn a_paused_agent_is_no_failed_check_of_isolation() {
    let house = up(TWO);
    house.expect(0, "pause sysadmin");
    let skipped = check(&house, &[], 0, "isolation.sysadmin");
    assert_eq!(skipped["state"], "ok", "{skipped}");
    assert_eq!(skipped["text"], "skipped: agent sysadmin is paused");
    assert_eq!(check(&house, &[], 0, "isolation.abbot")["state"], "ok");
}

/// A copy with hard links (`cp -al`) gives files of the home a second name. What is right stays as it is; what would have to
/// be changed could be another's file.
#[test]
fn files_with_a_second_name_stop_only_a_repair_that_they_need() {
    let house = up(TWO);
    let database = house.home().join("abbey.db");
    let other = house.path("second-name");
    std::fs::hard_link(&database, &other).unwrap();
    for round in ["up", "down"] {
        house.expect(0, round);
        house.expect(0, "up");
    }
    mode(&other, 0o644);
    let told = house.expect_refusal(1, "up");
    assert!(told.contains("abbey.db"), "{told}");
    mode(&other, 0o600);
    house.expect(0, "up");
    // The credential is not read: it could be another's file. The way out is printed.
    let token = house.home().join("operator.token");
    std::fs::hard_link(&token, house.path("token-too")).unwrap();
    let told = house.expect_refusal(1, "ps");
    let (_, way) = told.split_once("hint: `").unwrap();
    let (way, _) = way.split_once("` makes it").unwrap();
    let done = std::process::Command::new("sh").args(["-c", way]).status();
    assert!(done.unwrap().success(), "{told}");
    house.expect(0, "ps");
}

/// A hint is for whom it is safe: in the home of another user that user can replace each entry at any time.
#[test]
fn an_unreadable_credential_has_a_remedy_that_writes_to_no_file_of_others() {
    let house = up(TWO);
    let token = house.home().join("operator.token");
    std::fs::hard_link(&token, house.path("token-too")).unwrap();
    // A name that somebody guesses leads elsewhere.
    let victim = house.path("victim");
    std::fs::write(&victim, "kept").unwrap();
    std::os::unix::fs::symlink(&victim, house.home().join("operator.token.one")).unwrap();
    let told = house.expect_refusal(1, "ps");
    let (_, way) = told.split_once("hint: `").unwrap();
    let (way, _) = way.split_once("` makes it").unwrap();
    let done = std::process::Command::new("sh").args(["-c", way]).status();
    assert!(done.unwrap().success(), "{told}");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "kept");
    house.expect(0, "ps");
    house.expect(0, "down");
    let text = std::fs::read(&token).unwrap();
    std::fs::remove_file(&token).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&token).status();
    assert!(made.unwrap().success());
    let told = house.expect_refusal(1, "ps");
    assert!(
        told.contains("hint: it is not a plain file: `rm "),
        "{told}"
    );
    std::fs::remove_file(&token).unwrap();
    std::fs::write(&token, text).unwrap();
    if !rustix::process::geteuid().is_root() {
        return;
    }
    std::fs::remove_file(house.path("token-too")).unwrap();
    std::fs::hard_link(&token, house.path("token-too")).unwrap();
    std::os::unix::fs::chown(house.home(), Some(61_237), Some(61_237)).unwrap();
    let told = house.expect_refusal(1, "ps");
    assert!(told.contains("hint: run it as that user"), "{told}");
    assert!(!told.contains("mktemp"), "{told}");
}

/// After a failed write the kernel takes no more of them, until the drive is mounted anew.
#[test]
fn doctor_names_drives_that_became_read_only() {
    let house = house();
    house.manifest("house: sized\ndefaults: { cell: sandbox }\nagents:\n  c: { template: sysadmin, drives: { state: 16MiB, workspace: 32MiB } }\n");
    house.expect(0, "up");
    assert_eq!(check(&house, &[], 0, "drives.c")["state"], "ok");
    let record = std::fs::read_to_string(house.home().join("run/cells/agent-c/shim.json"));
    let record: Value = serde_json::from_str(&record.unwrap()).unwrap();
    let mounts = format!("--mount=/proc/{}/ns/mnt", record["shim"]["pid"]);
    let done = std::process::Command::new("nsenter")
        .args([&mounts, "mount", "-o", "remount,ro"])
        .arg(house.home().join("agents/c/workspace"))
        .status();
    assert!(done.unwrap().success());
    let bad = check(&house, &[], 7, "drives.c");
    let text = bad["text"].as_str().unwrap();
    assert!(
        text.contains("the drive of its workspace is read-only"),
        "{bad}"
    );
    let remedy = bad["remedy"].as_str().unwrap();
    assert!(remedy.contains("`abbey restart c`"), "{bad}");
    let why = house.expect(0, "why c");
    assert!(
        why.contains("read-only") && why.contains("abbey restart c"),
        "{why}"
    );
    house.expect(0, "restart c");
    assert_eq!(check(&house, &[], 0, "drives.c")["state"], "ok");
}
