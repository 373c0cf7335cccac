//! Renaming an agent: it keeps all that it has, and everything that named it follows.

use crate::up;
use abbey_cells::crash::HOLD;
use abbey_cells::hostd::{HostdApi, HostdClient};
use abbey_daemon::{RENAME_POINTS, ensure_home_and_hostd};
use abbey_model::Presence;
use abbey_testkit::args;
use abbey_testkit::args::Args;
use abbey_testkit::crash::{arm_crash_point, let_go, wait_until_held};
use abbey_testkit::house::{House, kill, until};
use serde_json::Value;
use std::process::Stdio;

#[test]
fn no_agent_gets_a_name_that_stands_for_others() {
    let house =
        up("house: words\nagents: { zed: {}, yan: { delegates_to: [zed], asks: [zed] } }\n");
    let before = std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    for word in ["all", "none", "operator", "house", "nobody"] {
        for line in ["agent rename zed", "agent new", "agent clone zed"] {
            let told = house.expect_refusal(4, Args::from(line).with(&[word]));
            assert!(told.contains("means something else"), "{line}: {told}");
        }
    }
    let after = std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    assert_eq!(before, after);
}

const MANIFEST: &str = "house: names
services:
  db: { kind: postgres }
agents:
  # Keeps the books.
  iris: { template: sysadmin, uses: [db], schedules: { early: { cron: \"0 6 * * *\", task: show system stats } } }
  otto: { template: sysadmin, reports_to: iris }
";

fn query(house: &House, agent: &str, sql: &str) -> String {
    let bin = abbey_services::postgres::find_programs(None).expect("PostgreSQL is installed");
    let psql = bin.join("psql").display().to_string();
    house.expect(0, args!("exec {} -- {} -XAtq -c {}", agent, psql, sql))
}

#[test]
fn a_renamed_agent_keeps_its_files_user_address_database_and_history() {
    let house = up(MANIFEST);
    until("it has its database", || {
        house.audit_entries("service.open").len() == 1
    });
    query(&house, "iris", "CREATE TABLE t AS SELECT 7 AS seven");
    house.write_agent_file("iris", "note", "remembered\n");
    house.expect(0, "task add 'show system stats' --to iris --wait");
    house.expect(0, "task add 'show system stats' --to otto --wait");
    let users = |name: &str| house.expect(0, args!("exec {} -- id -u", name));
    let networks = |name: &str| house.agent(name).address;
    let (user, network) = (users("iris"), networks("iris"));
    house.expect(0, "stop otto");

    let done = house.run("agent rename iris ines");
    let err = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{err}");
    let text = std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    assert!(text.contains("  # Keeps the books.\n  ines: {"), "{text}");
    assert!(text.contains("reports_to: ines"), "{text}");
    assert!(!text.contains("iris:"), "{text}");

    assert_eq!(house.expect(0, "exec ines -- cat note"), "remembered\n");
    assert_eq!((users("ines"), networks("ines")), (user, network));
    assert_eq!(query(&house, "ines", "SELECT seven FROM t"), "7\n");
    let tasks = house.json(0, "task list --agent ines");
    assert_eq!(tasks["tasks"][0]["assignee"], "ines", "{tasks}");
    let schedules = house.json(0, "schedule list");
    assert_eq!(
        schedules["schedules"][0]["name"], "ines/early",
        "{schedules}"
    );
    assert_eq!(
        house.audit_entries("agent.rename")[0]["detail"]["from"],
        "iris"
    );
    assert_eq!(house.agent("otto").presence, Presence::Stopped);
    house.expect_refusal(125, "exec iris -- true");
    assert!(!house.home().join("agents/iris").exists());
    house.expect(0, "task add 'show system stats' --to ines --wait");
    // The manifest that was written is the one in force, and nothing of the old name is left over.
    assert!(house.expect(0, "plan").contains("nothing to change"));
    house.expect(0, "doctor");
    assert_eq!(house.json(0, "activity verify")["ok"], true);

    house.expect(0, "agent rename ines iris");
    assert_eq!(query(&house, "iris", "SELECT seven FROM t"), "7\n");
    house.expect(0, "agent rename otto emil");
    assert_eq!(house.agent("emil").presence, Presence::Stopped);
    house.expect(0, "down");
    house.expect(0, "up");
    assert_eq!(house.expect(0, "exec iris -- cat note"), "remembered\n");

    // A removed agent comes back to its data, whatever name that has.
    house.expect(0, "agent rename iris ines");
    house.expect(0, "agent move emil --to operator");
    house.expect(0, "agent rm ines");
    house.expect(0, "agent restore ines");
    assert_eq!(query(&house, "ines", "SELECT seven FROM t"), "7\n");
    assert!(house.expect(0, "plan").contains("nothing to change"));
}

#[test]
fn a_name_that_is_taken_or_nobodys_is_refused() {
    let house = up(MANIFEST);
    let before = std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    let taken = house.expect_refusal(4, "agent rename iris otto");
    assert!(
        taken.contains("agent `otto` already exists in the manifest"),
        "{taken}"
    );
    house.expect_refusal(3, "agent rename nobody ines");
    house.expect_refusal(2, "agent rename iris 'No Name'");
    assert_eq!(
        std::fs::read_to_string(house.path("abbey.yaml")).unwrap(),
        before
    );
    house.wait_until_up("iris");
}

/// What hostd allocated to the agent that is now called `name`: user, subnet, ports.
fn allocation(house: &House, name: &str) -> Value {
    let claims = std::fs::read(house.home().join("hostd/claims.json")).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    claims["owners"][format!("agent-{name}")].clone()
}

/// How many plans were put in force.
fn generations(house: &House) -> usize {
    house.audit_entries("plan.commit").len()
}

/// A house with the agent that is to be renamed, and what must stay the same.
fn before_renaming(place: &str) -> (House, std::path::PathBuf, Value) {
    let (house, armed) = House::with_crash_point(env!("CARGO_BIN_EXE_abbey"), place);
    house.manifest("house: names\ndefaults: { cell: sandbox }\nagents:\n  iris: {}\n  otto: {}\n");
    house.expect(0, "up");
    house.write_agent_file("iris", "note", "remembered\n");
    let before = allocation(&house, "iris");
    assert!(before["uid"].is_number(), "{before}");
    (house, armed, before)
}

/// After one `up` the renamed agent has all that it had, and only its name is new.
fn is_renamed(house: &House, before: &Value, place: &str) {
    assert_eq!(&allocation(house, "ines"), before, "{place}");
    let note = house.expect(0, "exec ines -- cat note");
    assert_eq!(note, "remembered\n", "{place}");
    assert!(allocation(house, "iris").is_null(), "{place}");
    assert!(!house.home().join("agents/iris").exists(), "{place}");
    assert!(!house.home().join("removed").exists(), "{place}");
    assert_eq!(generations(house), 2, "{place}");
    let plan = house.expect(0, "plan");
    assert!(plan.contains("nothing to change"), "{place}: {plan}");
    assert_eq!(house.json(0, "activity verify")["ok"], true, "{place}");
}

/// A crash of the control plane or of one call of hostd at every step leads to one agent with all that it had.
#[test]
fn a_crash_while_renaming_is_recovered() {
    for place in ["plan.committed"].iter().chain(&RENAME_POINTS) {
        let (mut house, armed, before) = before_renaming(place);
        arm_crash_point(&armed);
        let _may_be_cut_off = house.run("agent rename iris ines --now");
        until("the place was passed", || !armed.exists());
        house.crash_at = None;
        house.expect(0, "up");
        is_renamed(&house, &before, place);
    }
}

/// hostd itself is killed at every step: the command fails, and one `up` finishes the renaming.
#[test]
fn a_renaming_is_finished_once_hostd_is_back() {
    let around = ["plan.commit", "plan.committed"];
    for place in around.iter().chain(&RENAME_POINTS) {
        let (mut house, armed, before) = before_renaming(&format!("{place}{HOLD}"));
        let hostd = HostdClient::new(&house.home()).hello().unwrap().pid;
        arm_crash_point(&armed);
        let mut command = house.command("agent rename iris ines --now");
        let renaming = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let held = wait_until_held(&armed);
        kill(hostd);
        match place.starts_with("hostd.") {
            true => kill(held),
            false => let_go(held),
        }
        let ended = renaming.unwrap().wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success(), "{place}: {told}");
        house.crash_at = None;
        if *place == "plan.committed" {
            // Whoever starts hostd alone plans before the renaming goes on.
            let home = house.home();
            ensure_home_and_hostd(home, env!("CARGO_BIN_EXE_abbey").as_ref()).unwrap();
            assert!(allocation(&house, "ines").is_null());
            let plan = house.expect(0, "plan");
            assert!(plan.contains("nothing to change"), "{place}: {plan}");
        }
        house.expect(0, "up");
        is_renamed(&house, &before, place);
    }
}

#[test]
fn a_renamed_agent_keeps_its_uptime_and_budget_rows() {
    let house = up("house: names\nagents:\n  iris: { template: sysadmin }\n  otto: {}\n");
    house.expect(0, "task add 'show system stats' --to iris --wait");
    let rows = |name: &str| {
        let budgets = house.json(0, "budget report");
        let of = |row: &&Value| row["scope"] == format!("agent:{name}");
        let rows = budgets["scopes"].as_array().unwrap().iter().filter(of);
        let amounts = rows.map(|r| (r["metric"].clone(), r["spent"].clone()));
        amounts.collect::<Vec<_>>()
    };
    let before = rows("iris");
    assert!(before.contains(&("runs".into(), 1.into())), "{before:?}");
    house.expect(0, "agent rename iris ines");
    assert_eq!(rows("ines"), before);
    assert_eq!(rows("iris"), []);
    let report = house.expect(0, "report metrics");
    let uptime = report.lines().find(|l| l.contains("ptime of ines"));
    let uptime = uptime.unwrap_or_else(|| panic!("{report}"));
    let percent = uptime.split_whitespace().rev().find_map(|w| w.parse().ok());
    assert!(percent.is_some_and(|p: f64| p > 95.0), "{report}");
    assert!(!report.contains("ptime of iris"), "{report}");
}

/// The manifest file has an edit before the house does; a command that was cut off in between is made up for by the next
/// one.
#[test]
fn the_manifest_follows_the_house_also_when_the_command_is_cut_off() {
    for (place, name) in [("plan.commit", "iris"), ("plan.committed", "ines")] {
        let (mut house, armed) = House::with_crash_point(env!("CARGO_BIN_EXE_abbey"), place);
        let file = house.manifest("house: names\nagents:\n  iris: {}\n  otto: {}\n");
        house.expect(0, "up");
        let before = std::fs::read_to_string(&file).unwrap();
        arm_crash_point(&armed);
        let cut_off = house.run("agent rename iris ines --now");
        assert!(!cut_off.status.success());
        assert!(!armed.exists(), "{place}");
        let edited = std::fs::read_to_string(&file).unwrap();
        assert!(edited.contains("ines"), "{place}: {edited}");
        house.crash_at = None;
        // What is planned is what is done.
        let planned = house.run("plan");
        let told = String::from_utf8_lossy(&planned.stderr).into_owned();
        assert_eq!(
            told.contains("puts the file back as it was"),
            name == "iris",
            "{told}"
        );
        let planned = String::from_utf8_lossy(&planned.stdout).into_owned();
        assert!(planned.contains("nothing to change"), "{planned}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), edited);
        // Without consent to remove anything.
        house.expect(0, "up");
        house.wait_until_up(name);
        let after = std::fs::read_to_string(&file).unwrap();
        assert_eq!(after == before, name == "iris", "{after}");
        assert_eq!(after == edited, name == "ines", "{after}");
        assert!(!house.home().join("removed").exists(), "{place}");
        let entries = std::fs::read_dir(file.parent().unwrap()).unwrap();
        let left = entries
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().contains(".before-"));
        assert_eq!(left.count(), 0, "{place}");
        house.expect(0, "agent rename otto olga --now");
    }
}
