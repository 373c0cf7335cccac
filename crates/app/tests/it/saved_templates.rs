//! Templates that operators save from their agents, and agents made from them (S5-15).

use crate::house;
use abbey_testkit::args;
use abbey_testkit::crash::arm_crash_point;
use abbey_testkit::house::{House, until};
use serde_json::Value;

const SANDBOX: &str = "house: templates
budget: { tokens_per_day: 1000 }
defaults: { cell: sandbox }
agents:
  abbot: { template: orchestrator }
  iris:
    name: Iris of the north
    role: builder
    skills: [disk-usage]
    charter: iris.md
    reports_to: abbot
    limits: { memory: 200MiB }
    budget: { share: 60% }
    schedules:
      early: { cron: \"0 6 * * *\", task: show system stats }
";

const CHARTER: &str = "# Builder\n\nBuilds what it is asked for.\n";

fn stand(text: &str) -> House {
    let house = house();
    std::fs::write(house.path("iris.md"), CHARTER).unwrap();
    house.manifest(text);
    house.expect(0, "up");
    house
}

fn sh(house: &House, agent: &str, script: &str) -> String {
    house.expect(0, args!("exec {} -- sh -c {}", agent, script))
}

/// Installs a tool, and leaves what no other agent may get.
fn equip(house: &House) {
    let script = "mkdir -p ~/bin ~/.ssh && printf '#!/bin/sh\\necho tooled\\n' > ~/bin/tool && chmod 755 ~/bin/tool \
        && ln -s bin/tool ~/short && mkdir src && echo code > src/main.txt \
        && echo key > ~/.ssh/id && echo 'password: sk-ant-0123456789abcdef0123' > ~/notes.txt \
        && echo 'The pump is in the cellar.' >> MEMORY.md && echo x > memory/2026-11-28.md && echo x > ~/session-9.jsonl";
    sh(house, "iris", script);
}

/// What an agent from the template has of the first: tools and work; and what it has not.
fn check_equipped(house: &House, agent: &str) {
    let script = "~/bin/tool; ~/short; cat src/main.txt; stat -c %a ~/bin/tool; cat SOUL.md";
    let expected = format!("tooled\ntooled\ncode\n755\n{CHARTER}");
    assert_eq!(sh(house, agent, script), expected);
    let script = "for f in ~/.ssh ~/notes.txt ~/session-9.jsonl memory/2026-11-28.md; do test -e $f && echo $f; done; grep -c pump MEMORY.md; touch ~/own src/own && echo writable";
    assert_eq!(sh(house, agent, script), "0\nwritable\n");
    let token = |agent: &str| sh(house, agent, "cat ~/token");
    assert_ne!(token(agent), token("iris"));
}

fn stderr(house: &House, args: &str) -> String {
    let output = house.run(args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args}: {text}");
    text
}

fn templates(house: &House) -> Vec<Value> {
    let list = house.json(0, "template list");
    let rows = list["templates"].as_array().unwrap().iter();
    rows.filter(|t| t["agent"].is_string()).cloned().collect()
}

#[test]
fn an_agent_is_saved_as_a_template_and_others_are_made_from_it() {
    let house = stand(SANDBOX);
    equip(&house);
    let told = stderr(&house, "template save iris tooled");
    assert!(
        told.contains("not saved: home/.ssh: a program's logins"),
        "{told}"
    );
    assert!(
        told.contains("not saved: home/notes.txt: text that looks like a credential"),
        "{told}"
    );
    let [saved] = &templates(&house)[..] else {
        panic!("one template")
    };
    assert_eq!(
        (saved["name"].as_str(), saved["cell"].as_str()),
        (Some("tooled"), Some("sandbox"))
    );
    assert!(
        house
            .expect(0, "template show tooled")
            .contains("Builds what it is asked for.")
    );

    // It is not lost by a second save, and names are names.
    let text = house.expect_refusal(4, "template save iris tooled");
    assert!(
        text.contains("exists already") && text.contains("--replace"),
        "{text}"
    );
    house.expect_refusal(4, "template save iris worker");
    house.expect_refusal(2, "template save iris ../tooled");
    house.expect_refusal(3, "template save nobody other");
    house.expect_refusal(3, "agent new rosa --template untooled");
    house.expect(0, "template save iris tooled --replace");
    assert_eq!(templates(&house).len(), 1);
    assert_eq!(house.audit_entries("template.save").len(), 2);

    // A manifest names built-in templates: it means the same in another house.
    let manifest = std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    let named = format!("{manifest}  rosa: {{ template: tooled }}\n");
    std::fs::write(house.path("abbey.yaml"), named).unwrap();
    let text = house.expect_refusal(2, "plan");
    assert!(
        text.contains("`abbey agent new rosa --template tooled`"),
        "{text}"
    );
    std::fs::write(house.path("abbey.yaml"), manifest).unwrap();

    // A plan that is refused gives nobody files.
    house.expect_refusal(4, "agent new rosa --template tooled --model nowhere/x");
    assert!(!house.home().join("agents/rosa").exists());
    std::fs::write(house.path("rosa.md"), "# Another\n").unwrap();
    let text = house.expect_refusal(4, "agent new rosa --template tooled");
    assert!(text.contains("is not the charter of template"), "{text}");
    std::fs::remove_file(house.path("rosa.md")).unwrap();

    house.expect(0, "agent new rosa --template tooled --reports-to abbot");
    check_equipped(&house, "rosa");
    let rosa = house.json(0, "agent show rosa");
    assert_eq!(
        (rosa["role"].as_str(), rosa["cell"].as_str()),
        (Some("builder"), Some("sandbox"))
    );
    assert_eq!(rosa["reports_to"], "abbot");
    let manifest = std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    let (_, entry) = manifest.split_once("  rosa:\n").unwrap();
    for key in ["schedules", "budget", "name:", "iris.md"] {
        assert!(!entry.contains(key), "{key}: {entry}");
    }
    for key in [
        "limits: { memory: 200MiB }",
        "skills: [disk-usage]",
        "charter: rosa.md",
    ] {
        assert!(entry.contains(key), "{key}: {entry}");
    }
    // What the first did since is not in it; what others do is their own.
    sh(&house, "iris", "rm ~/bin/tool");
    house.expect(0, "agent new vera --template tooled");
    check_equipped(&house, "vera");

    // It goes, and who was made from it stays.
    house.expect(0, "template rm tooled");
    house.expect_refusal(3, "template rm tooled");
    house.expect_refusal(4, "template rm worker");
    assert!(templates(&house).is_empty());
    check_equipped(&house, "rosa");
    house.expect(0, "down");
    house.expect(0, "up");
    check_equipped(&house, "rosa");
}

/// A crash while an agent is made from a template: it has all of the files once its plan is committed, and before that
/// nobody has them, also not the next agent of that name.
#[test]
fn a_crash_while_an_agent_is_filled_leaves_all_of_it_or_nothing() {
    for place in [
        "plan.commit",
        "plan.committed",
        "agent.create.clear.end",
        "hostd.filled",
        "agent.create.fill.end",
        "agent.create.home.end",
        "agent.create.credential.end",
    ] {
        let (mut house, armed) = House::with_crash_point(env!("CARGO_BIN_EXE_abbey"), place);
        std::fs::write(house.path("iris.md"), CHARTER).unwrap();
        house.manifest(SANDBOX);
        house.expect(0, "up");
        equip(&house);
        house.expect(0, "template save iris tooled");
        arm_crash_point(&armed);
        let _may_be_cut_off = house.run("agent new rosa --template tooled");
        until("the place was passed", || !armed.exists());
        house.crash_at = None;
        until("the house is up", || house.run("up").status.success());
        if place == "plan.commit" {
            assert!(!house.home().join("agents/rosa").exists());
            house.expect(0, "agent new rosa --template sysadmin");
            let found = sh(&house, "rosa", "test -e ~/bin/tool || echo nothing");
            assert_eq!(found, "nothing\n");
        } else {
            house.wait_until_up("rosa");
            check_equipped(&house, "rosa");
        }
        let removed = std::fs::read_dir(house.home().join("removed"));
        assert_eq!(removed.into_iter().flatten().count(), 0, "{place}");
        assert_eq!(house.json(0, "activity verify")["ok"], true, "{place}");
    }
}

/// With drives, files are on file systems of their own.
#[test]
fn templates_carry_over_drives_and_backups() {
    let house = stand(
        "house: drives\nagents:\n  iris: { charter: iris.md, cell: sandbox, drives: { state: 16MiB, workspace: 32MiB } }\n",
    );
    equip(&house);
    house.expect(0, "template save iris tooled");
    house.expect(0, "backup whole.tar");
    house.expect(0, "down");
    let other = crate::house();
    let archive = house.path("whole.tar").display().to_string();
    other.expect(0, args!("restore {}", archive));
    let restored = templates(&other);
    assert_eq!(restored[0]["name"], "tooled");
    // The restored house works with it as the first does.
    let manifest = other
        .home()
        .join("manifest/abbey.yaml")
        .display()
        .to_string();
    other.expect(0, args!("up -f {}", manifest));
    other.expect(0, args!("agent new rosa --template tooled -f {}", manifest));
    check_equipped(&other, "rosa");
    other.expect(0, args!("down"));
}

/// The disk of a microVM: what was installed in it while it ran, and while it did not.
#[test]
fn a_microvm_is_saved_while_it_runs_and_while_it_is_stopped() {
    let house = house();
    house.install_default_image();
    std::fs::write(house.path("iris.md"), CHARTER).unwrap();
    house.manifest("house: microvms\ndefaults: { drives: { state: 16MiB, workspace: 32MiB, scratch: 64MiB } }\nagents:\n  iris: { charter: iris.md, role: builder, cell: microvm, limits: { memory: 256MiB } }\n");
    house.expect(0, "up");
    equip(&house);
    house.expect(0, "template save iris running");
    let plan = house.expect(0, "agent new rosa --template running");
    assert!(plan.contains("no interface but loopback"), "{plan}");
    check_equipped(&house, "rosa");
    assert_ne!(sh(&house, "rosa", "uname -r"), host_release());
    let rosa = house.json(0, "agent show rosa");
    assert_eq!(
        (rosa["role"].as_str(), rosa["cell"].as_str()),
        (Some("builder"), Some("microvm"))
    );
    let manifest = std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    assert!(manifest.contains("image: base"), "{manifest}");
    // What an agent from a template removes does not come back with a template that is saved from it.
    sh(
        &house,
        "rosa",
        "rm ~/short && echo second > ~/second && sync",
    );
    house.expect(0, "down");
    house.expect(0, "up --no-wait");
    house.expect(0, "stop rosa");
    house.expect(0, "template save rosa stopped");
    house.expect(0, "agent new vera --template stopped");
    let seen = sh(
        &house,
        "vera",
        "cat ~/second; test -e ~/short || echo removed; ~/bin/tool",
    );
    assert_eq!(seen, "second\nremoved\ntooled\n");
    house.expect(0, "down");
}

fn host_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap()
}
