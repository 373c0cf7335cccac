//! The audit log under attack: who changes what, and who finds it. The rows are those of the table in SECURITY.md.

use crate::{TWO, up};
use abbey_testkit::args;
use abbey_testkit::crash::arm_crash_point;
use abbey_testkit::house::{House, until};
use std::process::Command;

/// Runs Python with `c`, a connection to the state of a house that is down, and `rehash()`, which gives every entry the
/// hash that fits it: what somebody can do who writes the database.
fn tamper(house: &House, script: &str) {
    let head = r#"
import hashlib, json, sqlite3, sys
c = sqlite3.connect(sys.argv[1])
def rehash():
    prev = "0" * 64
    for seq, at, actor, action, entity, detail in c.execute("SELECT seq, at, actor, action, entity, detail FROM activity ORDER BY seq").fetchall():
        entry = dict(seq=seq, at=at, actor=actor, action=action, entity=entity, detail=json.loads(detail))
        new = hashlib.sha256((prev + json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)).encode()).hexdigest()
        c.execute("UPDATE activity SET prev = ?, hash = ? WHERE seq = ?", (prev, new, seq))
        prev = new
"#;
    let status = Command::new("python3")
        .args(["-c", &format!("{head}{script}\nc.commit()")])
        .arg(house.home().join("abbey.db"))
        .status()
        .unwrap();
    assert!(status.success());
}

fn stopped_with_history() -> House {
    let house = up(TWO);
    house.expect(0, "task add 'show system stats' --wait");
    assert_eq!(house.json(0, "activity verify")["ok"], true);
    house.expect(0, "down");
    house
}

fn why_wrong(house: &House) -> String {
    house.expect(0, "up");
    let verdict = house.json(1, "activity verify");
    assert_eq!(verdict["ok"], false);
    verdict["why"].as_str().unwrap().to_owned()
}

#[test]
fn a_log_that_was_cut_with_its_checkpoints_is_found() {
    let house = stopped_with_history();
    tamper(
        &house,
        "c.execute('DELETE FROM checkpoints'); c.execute('DELETE FROM activity WHERE seq > 4')",
    );
    // New entries take the numbers of those that are gone, and differ.
    let why = why_wrong(&house);
    assert!(why.contains("cut") || why.contains("rewritten"), "{why}");
}

#[test]
fn a_log_that_was_rewritten_whole_is_found() {
    let house = stopped_with_history();
    tamper(
        &house,
        "c.execute(\"UPDATE activity SET actor = 'agent:nobody' WHERE seq = 2\"); rehash(); c.execute('DELETE FROM checkpoints')",
    );
    let why = why_wrong(&house);
    assert!(why.contains("rewritten"), "{why}");
}

#[test]
fn a_log_that_was_signed_with_another_key_is_found() {
    let house = stopped_with_history();
    tamper(
        &house,
        "rehash(); c.execute('DELETE FROM checkpoints'); c.execute(\"UPDATE meta SET value = ? WHERE key = 'public_key'\", ('ab' * 32,))",
    );
    let why = why_wrong(&house);
    assert!(why.contains("another key"), "{why}");
}

#[test]
fn a_replaced_signing_key_is_found() {
    let house = stopped_with_history();
    std::fs::write(house.home().join("signing.key"), [7; 32]).unwrap();
    let why = why_wrong(&house);
    assert!(why.contains("key"), "{why}");
}

#[test]
fn an_older_state_that_was_put_back_is_found() {
    let house = stopped_with_history();
    let (database, old) = (house.home().join("abbey.db"), house.path("old.db"));
    std::fs::copy(&database, &old).unwrap();
    house.expect(0, "up");
    house.expect(0, "task add 'show system stats' --wait");
    house.expect(0, "down");
    std::fs::copy(&old, &database).unwrap();
    let why = why_wrong(&house);
    assert!(why.contains("cut") || why.contains("rewritten"), "{why}");
}

/// Whoever took over the control plane can add lines, and change none.
#[test]
fn the_user_of_the_control_plane_cannot_change_kept_checkpoints() {
    let house = stopped_with_history();
    if !house.runs_as_root() {
        return;
    }
    let kept = house.home().join("hostd/checkpoints.jsonl");
    let before = std::fs::read(&kept).unwrap();
    assert!(!before.is_empty());
    let text = std::fs::read(house.home().join("hostd/claims.json")).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let user = claims["uid_first"].as_u64().unwrap();
    let as_user = |script: &str| {
        let status = Command::new("setpriv")
            .args([format!("--reuid={user}"), format!("--regid={user}")])
            .args(["--clear-groups", "sh", "-c", script])
            .arg(&kept)
            .output()
            .unwrap();
        status.status.success()
    };
    assert!(as_user("cat \"$0\" > /dev/null"), "it verifies the log");
    for change in [
        ": > \"$0\"",
        "echo x >> \"$0\"",
        "rm \"$0\"",
        "mv \"$0\" \"$0.old\"",
    ] {
        assert!(!as_user(change), "{change}");
    }
    assert_eq!(std::fs::read(&kept).unwrap(), before);
}

#[test]
fn an_export_verifies_without_a_house() {
    let house = stopped_with_history();
    house.expect(0, "up");
    let text = house.expect(0, "activity export");
    let key = house.json(0, "activity verify")["key"]
        .as_str()
        .unwrap()
        .to_owned();
    let kept = house.home().join("hostd/checkpoints.jsonl");
    let kept = std::fs::read_to_string(kept).unwrap();
    let elsewhere = crate::house();
    let verify = |code: i32, text: &str, more: &str| {
        let file = elsewhere.path("log.jsonl");
        std::fs::write(&file, text).unwrap();
        elsewhere.json(
            code,
            format!("activity verify {} {more}", file.display()).as_str(),
        )
    };
    let good = verify(0, &text, &format!("--key {key}"));
    assert!(good["checkpoints"].as_u64().unwrap() > 0);
    let other = verify(1, &text, &format!("--key {}", "ab".repeat(32)));
    assert!(other["why"].as_str().unwrap().contains(&key));
    let changed = text.replacen("\"operator\"", "\"agent:nobody\"", 1);
    assert_eq!(verify(1, &changed, "")["ok"], false);
    // The last lines are gone, and with them the newest entry that was signed.
    let lines: Vec<&str> = text.lines().collect();
    let cut = lines[..lines.len() - 2].join("\n");
    assert!(verify(1, &cut, "")["why"].as_str().unwrap().contains("cut"));
    // Another copy of the signed heads knows more than an export whose own were taken out.
    let without: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|l| !l.contains("\"kind\":\"checkpoint\""))
        .collect();
    assert_eq!(verify(1, &without.join("\n"), "")["ok"], false);
    let file = elsewhere.path("kept.jsonl");
    std::fs::write(&file, kept).unwrap();
    let known = format!("--checkpoints {}", file.display());
    assert_eq!(verify(0, &without.join("\n"), &known)["ok"], true);
    let refused = elsewhere.path("log.jsonl");
    std::fs::write(&refused, "{\"a\":1}\n").unwrap();
    let told = elsewhere.expect_refusal(
        2,
        args!("activity verify {}", refused.display().to_string()),
    );
    assert!(told.contains("is not an export"), "{told}");
}

/// The log verifies over rotations, also on another machine and with the key that was pinned at first; the earlier key is
/// gone and no longer accepted.
#[test]
fn keys_are_rotated_without_a_restore() {
    let house = up(TWO);
    let first = house.json(0, "activity verify")["key"].clone();
    let key_file = house.home().join("signing.key");
    let old = std::fs::read(&key_file).unwrap();
    let mut before = first.clone();
    for _ in 0..2 {
        let rotated = house.json(0, "activity rotate-key");
        assert_eq!(rotated["previous_key"], before);
        assert_ne!(rotated["key"], before);
        before = rotated["key"].clone();
        house.expect(0, "task add 'show system stats' --wait");
        assert_eq!(house.json(0, "activity verify")["key"], before);
    }
    house.expect(0, "down");
    house.expect(0, "up");
    let verdict = house.json(0, "activity verify");
    assert_eq!(verdict["key"], before);
    let notes = verdict["notes"].as_array().unwrap();
    assert!(
        notes.len() == 2
            && notes[1]
                .as_str()
                .unwrap()
                .contains("the earlier key confirmed")
    );
    let entry = house.audit_entries("audit.key_rotated").remove(0);
    assert_eq!(entry["actor"], "operator");
    let export = house.path("log.jsonl");
    std::fs::write(&export, house.expect(0, "activity export")).unwrap();
    let (file, pinned) = (export.display().to_string(), first.as_str().unwrap());
    crate::house().expect(0, args!("activity verify {} --key {}", file, pinned));
    house.expect(0, "doctor");

    assert_ne!(std::fs::read(&key_file).unwrap(), old);
    house.expect(0, "down");
    std::fs::write(&key_file, old).unwrap();
    let why = why_wrong(&house);
    assert!(why.contains("key"), "{why}");
}

/// Only the log says which key is in force, so a crash leaves one of the two, and never none.
#[test]
fn a_crash_while_the_key_is_rotated_is_recovered() {
    for (place, rotations) in [("audit.key_staged", 0), ("audit.key_logged", 1)] {
        let (mut house, armed) = House::with_crash_point(env!("CARGO_BIN_EXE_abbey"), place);
        house.manifest(TWO);
        house.expect(0, "up");
        arm_crash_point(&armed);
        let _cut_off = house.run("activity rotate-key");
        until("the place was passed", || !armed.exists());
        house.crash_at = None;
        until("the house is up", || house.run("up").status.success());
        assert!(!house.home().join("signing.key.next").exists(), "{place}");
        let verdict = house.json(0, "activity verify");
        assert_eq!(
            verdict["notes"].as_array().unwrap().len(),
            rotations,
            "{place}"
        );
        house.expect(0, "activity rotate-key");
        let verdict = house.json(0, "activity verify");
        assert_eq!(
            verdict["notes"].as_array().unwrap().len(),
            rotations + 1,
            "{place}"
        );
    }
}

/// `backup`, `backup verify`, `restore` and `up` say the same of a house whose log does not verify.
#[test]
fn a_backup_of_a_damaged_log_says_so_and_is_whole() {
    let house = stopped_with_history();
    tamper(
        &house,
        "c.execute('UPDATE activity SET detail = ? WHERE seq = 3', ['{\"x\":1}'])",
    );
    let up = house.run("up");
    assert_eq!(up.status.code(), Some(0));
    let warned = String::from_utf8_lossy(&up.stderr).into_owned();
    let lines: Vec<&str> = warned
        .lines()
        .filter(|l| l.contains("does not verify"))
        .collect();
    assert_eq!(lines.len(), 1, "{warned}");
    assert!(lines[0].contains("entry 3"), "{warned}");
    let archive = house.path("b.tar").display().to_string();
    let doc = house.json(0, args!("backup {}", archive.clone()));
    let note = doc["notes"][0].as_str().unwrap();
    assert!(
        note.contains("does not verify: entry 3") && note.contains("the archive is whole"),
        "{note}"
    );
    let warns = |house: &House, args: args::Args| {
        let output = house.run(args);
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8_lossy(&output.stderr).replace('\n', " ")
    };
    let second = house.path("c.tar").display().to_string();
    let warned = warns(&house, args!("backup {}", second));
    assert!(
        warned.contains("warning: the audit log of the house does not verify"),
        "{warned}"
    );
    let checked = house.json(0, args!("backup verify {}", archive.clone()));
    assert_eq!(checked["notes"][0], note);
    house.expect(0, "down");
    let target = crate::house();
    let restored = target.json(0, args!("restore {}", archive));
    assert_eq!(restored["notes"][0], note);
    // A house whose log verifies has nothing to say.
    let good = up_quietly();
    let archive = good.path("b.tar").display().to_string();
    let doc = good.json(0, args!("backup {}", archive));
    assert_eq!(doc["notes"], serde_json::json!([]));
}

fn up_quietly() -> House {
    let house = crate::house();
    house.manifest(TWO);
    let output = house.run("up");
    assert_eq!(output.status.code(), Some(0));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("does not verify"));
    house
}
