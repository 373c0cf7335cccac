//! Secrets of a house: stored ones, files that only root reads, and houses of ordinary users.

use crate::up;
use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

const VALUE: &str = "sk-0123456789abcdef0123";
const ONE: &str = "house: h\nagents:\n  a: { cell: process }\n";

fn with_key(key: &str) -> String {
    format!(
        "{ONE}defaults: {{ model: p/m }}\nproviders:\n  p: {{ kind: openai, base_url: 'http://127.0.0.1:1/v1', key: '{key}' }}\n"
    )
}

fn set(house: &House, name: &str, value: &str) -> Option<i32> {
    let mut child = house.command(args!("secret set {}", name));
    let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(value.as_bytes())
        .unwrap();
    child.wait().unwrap().code()
}

#[test]
fn a_secret_is_stored_for_the_control_plane_alone_listed_by_name_and_removed() {
    let house = up(ONE);
    assert!(
        house
            .expect(0, "secret list")
            .contains("abbey secret set NAME")
    );
    assert_eq!(set(&house, "field", &format!("{VALUE}\n")), Some(0));
    let file = house.home().join("credentials/field");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), VALUE);
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    house.manifest(&with_key("credential:field"));
    house.expect(0, "up");
    let listed = house.json(0, "secret list");
    assert_eq!(listed["secrets"], serde_json::json!(["field"]));
    assert!(!house.expect(0, "secret list").contains(VALUE));
    std::fs::write(house.path("key.txt"), "another\r\n").unwrap();
    house.expect(0, "secret set field --from-file key.txt");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "another");
    // It stays so over a restart of the whole house.
    house.expect(0, "down");
    house.expect(0, "up");
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    for (name, value) in [
        ("field", ""),
        ("../x", VALUE),
        ("a b", VALUE),
        ("x", "a\0b"),
    ] {
        assert_eq!(set(&house, name, value), Some(2), "{name}");
    }
    let refused = house.expect_refusal(4, "secret rm field");
    assert!(refused.contains("in use by provider:"), "{refused}");
    house.expect(0, "secret rm field --force");
    house.expect_refusal(3, "secret rm field");
    let refused = house.expect(4, "plan");
    assert!(refused.contains("abbey secret set"), "{refused}");
}

#[test]
fn a_provider_that_nobody_uses_holds_nobody_up() {
    let house = crate::house();
    house.manifest(&with_key("env:ABBEY_TEST_LATER").replace("defaults: { model: p/m }\n", ""));
    let plan = house.expect(0, "plan");
    assert!(plan.contains("env:ABBEY_TEST_LATER"), "{plan}");
    house.expect(0, "up");
    house.expect(0, "agent new b --template worker");
    // Whoever is to use it needs it.
    let refused = house.expect_refusal(4, "agent new c --template worker --model p/m");
    assert!(refused.contains("env:ABBEY_TEST_LATER"), "{refused}");
}

/// A variable that is set only after the control plane started.
#[test]
fn up_delivers_a_variable_that_was_set_later_to_the_running_control_plane() {
    let house = up(ONE);
    let (serve, agent) = (house.control_plane_pid(), house.agent("a").pid);
    house.manifest(&with_key("env:ABBEY_TEST_LATER"));
    for verb in ["plan", "up"] {
        let refused = house.run(verb);
        let said = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
        assert_eq!(refused.status.code(), Some(4), "{said}");
        for part in ["env:ABBEY_TEST_LATER", "abbey secret set", "abbey up"] {
            assert!(said.contains(part), "{part} in {said}");
        }
    }
    let with = |verb: &str, value: &str| {
        let mut command = house.command(verb);
        command.env("ABBEY_TEST_LATER", value).output().unwrap()
    };
    assert_eq!(with("plan", VALUE).status.code(), Some(0));
    assert_eq!(
        house.run("plan").status.code(),
        Some(4),
        "a plan keeps nothing"
    );
    assert_eq!(with("up", VALUE).status.code(), Some(0));
    // Nothing was restarted for it, and whoever has no such variable can change other things.
    assert_eq!(
        (house.control_plane_pid(), house.agent("a").pid),
        (serve, agent)
    );
    house.expect(0, "up");
    assert!(
        house
            .expect(0, "doctor")
            .contains("1 credentials can be read")
    );
    // Another value takes effect although nothing else changes.
    assert_eq!(with("up", "sk-another-value-0123").status.code(), Some(0));
    let entries = house.audit_entries("secrets.deliver");
    assert_eq!(entries.len(), 2, "{entries:?}");
    // The value is in no file, no log and no argument.
    let found = Command::new("grep")
        .args(["-rlF", "-e", VALUE, "-e", "sk-another-value-0123"])
        .arg(house.home())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    let line = std::fs::read(format!("/proc/{serve}/cmdline")).unwrap();
    assert!(!String::from_utf8_lossy(&line).contains(VALUE));
    // It does not outlast the control plane, which doctor says.
    house.kill_control_plane();
    house.start_control_plane("");
    let said = house.run("doctor");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(
        said.contains("env:ABBEY_TEST_LATER") && said.contains("abbey secret set ABBEY_TEST_LATER"),
        "{said}"
    );
}

#[test]
fn a_key_file_that_only_root_reads_is_read_by_the_helper_if_root_named_it() {
    let house = up(ONE);
    if !house.runs_as_root() {
        return;
    }
    let key = house.path("p.key");
    std::fs::write(&key, VALUE).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    house.manifest(&with_key("file:p.key"));
    house.expect(0, "plan");
    house.expect(0, "up");
    assert!(
        house
            .expect(0, "doctor")
            .contains("1 credentials can be read")
    );
    // Not over a directory that another user can change.
    std::fs::set_permissions(house.path(""), std::fs::Permissions::from_mode(0o777)).unwrap();
    let refused = house.expect(4, "plan");
    assert!(refused.contains("others than root can change"), "{refused}");
    std::fs::set_permissions(house.path(""), std::fs::Permissions::from_mode(0o711)).unwrap();
    house.expect(0, "plan");
    // What the manifest in force does not name is read no more.
    house.manifest(ONE);
    house.expect(0, "up -y");
    let list = house.home().join("hostd/secret-files.json");
    assert_eq!(std::fs::read_to_string(list).unwrap(), "[]");
}

#[test]
fn an_ordinary_users_first_house_comes_up_and_root_leaves_it_alone() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let house = House::run_by_user(env!("CARGO_BIN_EXE_abbey"), 61_234);
    let port = house.ports.first;
    house.expect(0, "init new");
    let path = house.path("new/abbey.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        format!("{text}\nlisten: {{ address: 127.0.0.1:{port} }}\n"),
    )
    .unwrap();
    house.expect(0, "up -f new/abbey.yaml");
    house.expect(0, "down");
    let owners = || {
        let mut found: Vec<_> = std::fs::read_dir(house.home())
            .unwrap()
            .flatten()
            .map(|e| (e.file_name(), e.metadata().unwrap()))
            .map(|(name, m)| (name, m.uid(), m.mode()))
            .collect();
        found.sort();
        found
    };
    let before = owners();
    let by_root = |verb: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_abbey"))
            .env("ABBEY_HOME", house.home())
            .args(verb)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let file = path.display().to_string();
    for verb in [
        &["up", "-f", &file][..],
        &["plan", "-f", &file],
        &["down"],
        &["secret", "set", "x", "--from-file", &file],
    ] {
        let (code, said) = by_root(verb);
        assert_eq!(code, Some(1), "{verb:?}: {said}");
        assert!(said.contains("belongs to user 61234"), "{said}");
        assert_eq!(owners(), before, "{verb:?}");
    }
    // The house of another is not taken for one whose manifest is gone.
    let gone = house.path("gone.yaml").display().to_string();
    for verb in [
        &["up", "-f", &gone][..],
        &["plan", "-f", &gone],
        &["agent", "rm", "x", "-f", &gone],
    ] {
        let (_, said) = by_root(verb);
        assert!(said.contains("belongs to user 61234"), "{verb:?}: {said}");
        assert!(!said.contains("--in-force"), "{verb:?}: {said}");
    }
    house.expect(0, "up -f new/abbey.yaml");
}

#[test]
fn a_waiver_of_the_defaults_reaches_services_and_refusals_name_its_place() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let house = House::run_by_user(env!("CARGO_BIN_EXE_abbey"), 61_235);
    let services = "services:\n  s: { cell: process, command: [sleep, '3600'], probe: none }\n";
    house.manifest(&format!("house: h\n{services}agents:\n  a: {{}}\n"));
    let refused = house.expect(4, "plan");
    for place in ["agents.a.waive", "services.s.waive", "defaults.waive"] {
        assert!(refused.contains(place), "{refused}");
    }
    house.manifest(&format!(
        "house: h\ndefaults: {{ waive: [limits] }}\n{services}agents:\n  a: {{}}\n"
    ));
    house.expect(0, "up");
    house.expect(0, "run -- true");
    // What is accepted for an agent and a service alone is not for commands.
    let services = services.replace("probe: none", "probe: none, waive: [limits]");
    house.manifest(&format!(
        "house: h\n{services}agents:\n  a: {{ waive: [limits] }}\n"
    ));
    house.expect(0, "up");
    let refused = house.expect_refusal(125, "run -- true");
    assert!(refused.contains("--waive limits"), "{refused}");
}

/// Who changed which secret is in the audit log, whether the control plane ran or not; the value is nowhere.
#[test]
fn changes_of_secrets_are_in_the_audit_log_also_those_made_while_the_house_was_down() {
    let mut houses = vec![up(ONE)];
    if rustix::process::geteuid().is_root() {
        let house = House::run_by_user(env!("CARGO_BIN_EXE_abbey"), 61_236);
        house.manifest("house: h\nagents:\n  a: { cell: process, waive: [limits] }\n");
        house.expect(0, "up");
        houses.push(house);
    }
    for house in houses {
        assert_eq!(set(&house, "OK_1", VALUE), Some(0));
        house.expect(0, "secret rm OK_1 --force");
        house.expect_refusal(3, "secret rm OK_1");
        // At once, in the list that people read.
        let listed = house.expect(0, "activity -n 500");
        for action in ["secret.set", "secret.remove"] {
            let line = listed.lines().find(|l| l.contains(action));
            let line = line.unwrap_or_else(|| panic!("{action} in {listed}"));
            assert!(
                line.contains("operator") && line.contains("secret-OK_1"),
                "{line}"
            );
        }
        house.expect(0, "down");
        assert_eq!(set(&house, "OK_2", VALUE), Some(0));
        house.expect(0, "up");
        until("the journal is in the log", || {
            house.audit_entries("secret.set").len() == 2
        });
        let entries = house.audit_entries("secret.set");
        assert_eq!(entries[1]["entity"], "secret-OK_2", "{entries:?}");
        assert_eq!(entries[1]["detail"]["outcome"], "done");
        assert!(
            entries[1]["detail"]["caller"]["uid"].is_u64(),
            "{entries:?}"
        );
        assert_eq!(house.audit_entries("secret.remove").len(), 1);
        assert!(!house.expect(0, "activity export").contains(VALUE));
        assert_eq!(house.json(0, "activity verify")["ok"], true);
        // What cannot be recorded is not done.
        house.expect(0, "down");
        let journal = house.home().join("hostd/journal.jsonl");
        std::fs::rename(&journal, house.path("kept")).unwrap();
        std::fs::create_dir(&journal).unwrap();
        let refused = house.expect_refusal(1, "secret rm OK_2 --force");
        assert!(
            refused.contains("could not be recorded for the audit log"),
            "{refused}"
        );
        assert!(house.home().join("credentials/OK_2").exists());
        std::fs::remove_dir(&journal).unwrap();
        std::fs::rename(house.path("kept"), &journal).unwrap();
    }
}

#[test]
fn a_name_that_is_too_long_is_refused_for_that() {
    let house = crate::house();
    let name = "n".repeat(300);
    let refused = house.expect_refusal(2, args!("secret rm {}", name));
    assert!(
        refused.contains("too long") && refused.contains("at most 64"),
        "{refused}"
    );
}
