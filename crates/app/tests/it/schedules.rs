//! Schedules at the door: written with their agents, told by the plan when wrong, fired once also through a kill
//! (S2-16, S2-20, S4-05).

use crate::up;
use abbey_testkit::house::until;

const HOUSE: &str = "house: times\ndefaults: { cell: process }\nagents:\n  a: { template: sysadmin, schedules: { disks: { every: 2s, overlap: queue, catch_up: '1000', task: 'How much free disk space is there?' }, night: { cron: '30 2 * * *', timezone: Europe/Ljubljana, task: 'show system stats' } } }\n";

#[test]
fn what_is_due_fires_once_through_a_kill_and_by_hand() {
    let house = up(HOUSE);
    let show = |name: &str| house.json(0, &["schedule", "show", name]);
    until("it has fired", || {
        show("a/disks")["schedule"]["fired"].as_u64() >= Some(2)
    });
    let night = &show("a/night")["schedule"];
    assert!(
        night["next_at"].as_str().unwrap().ends_with(":30:00.000Z"),
        "{night}"
    );
    assert_eq!(night["fired"], 0);
    house.kill_serve();
    house.expect(0, &["up"]);
    until("it goes on", || {
        show("a/disks")["schedule"]["fired"].as_u64() >= Some(4)
    });
    let doc = show("a/disks");
    let lines = doc["history"].as_array().unwrap();
    let mut instants: Vec<&str> = lines
        .iter()
        .map(|l| l["instant"].as_str().unwrap())
        .collect();
    let all = instants.len();
    instants.dedup();
    assert_eq!(instants.len(), all, "each instant once");
    let ran = house.json(0, &["schedule", "run", "a/night"]);
    let number = ran["schedule"]["last_task"].as_str().unwrap().to_owned();
    until("it is done", || {
        house.json(0, &["task", "show", &number])["task"]["state"] == "done"
    });
    let tasks = house.json(0, &["task", "list", "--limit", "1000"]);
    let tasks = tasks["tasks"].as_array().unwrap();
    assert!(tasks.iter().all(|t| t["author"] == "house"));
    let listed = house.expect(0, &["schedule", "list"]);
    assert!(
        listed.contains("a/night") && listed.contains("cron 30 2 * * *"),
        "{listed}"
    );
    assert!(
        house
            .refused(3, &["schedule", "show", "a/none"])
            .contains("no schedule")
    );
    assert!(
        house
            .refused(2, &["schedule", "show", "none"])
            .contains("AGENT/NAME")
    );
    house.expect(0, &["activity", "verify"]);
}

#[test]
fn a_wrong_schedule_is_told_with_its_place() {
    let house = crate::house();
    let wrong = |schedule: &str| {
        house.manifest(&format!("house: times\ndefaults: {{ cell: process }}\nagents:\n  a: {{ template: sysadmin, schedules: {{ s: {{ task: x, {schedule} }} }} }}\n"));
        let output = house.run(&["up"]);
        assert!(!output.status.success(), "{schedule}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for (schedule, told) in [
        ("overlap: skip", "one of `cron`, `every` and `at`"),
        (
            "every: 1h, cron: '* * * * *'",
            "one of `cron`, `every` and `at`",
        ),
        ("cron: '* * * *'", "has not the five fields"),
        ("cron: '61 2 * * *'", "is no cron pattern of five fields"),
        ("cron: '0 2 * * *', timezone: Mars/Base", "time zone"),
        ("at: tomorrow", "schedule `s`"),
        ("every: 1h, catch_up: some", "a number up to 1000"),
        ("every: 1h, overlap: both", "overlap"),
    ] {
        let said = wrong(schedule);
        assert!(said.contains(told), "{schedule}: {said}");
    }
}
