//! Schedules: part of the manifest, refused by the plan when invalid, fired once also across a kill (S2-16, S2-20, S4-05).

use crate::up;
use abbey_model::TaskState;
use abbey_testkit::args;
use abbey_testkit::house::until;
use serde_json::json;

const HOUSE: &str = "house: times\ndefaults: { cell: process }\nagents:\n  a: { template: sysadmin, schedules: { disks: { every: 2s, overlap: queue, catch_up: '1000', task: 'How much free disk space is there?' }, night: { cron: '30 2 * * *', timezone: Europe/Ljubljana, task: 'show system stats' } } }\n";

#[test]
fn a_due_schedule_fires_once_across_a_kill_and_by_hand() {
    let house = up(HOUSE);
    let show = |name: &str| house.json(0, args!("schedule show {}", name));
    until("it has fired", || {
        show("a/disks")["schedule"]["fired"].as_u64() >= Some(2)
    });
    let night = &show("a/night")["schedule"];
    assert!(
        night["next_at"].as_str().unwrap().ends_with(":30:00.000Z"),
        "{night}"
    );
    assert_eq!(night["fired"], 0);
    house.kill_control_plane();
    house.expect(0, "up");
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
    // People get the newest lines, and how to get the others.
    assert!(house.expect(0, "schedule show").contains("a/night"));
    let newest = house.expect(0, "schedule show a/disks -n 1");
    assert!(newest.contains(" older; `-n "), "{newest}");
    let one = house.json(0, "schedule show a/disks -n 1");
    assert_eq!(one["history"].as_array().unwrap().len(), 1);
    assert!(
        house
            .expect(0, "schedule show a/night")
            .contains("it has not fired yet")
    );
    let ran = house.json(0, "schedule run a/night");
    let number = ran["schedule"]["last_task"].as_str().unwrap().to_owned();
    house.wait_for_task(&number, TaskState::Done);
    let tasks = house.json(0, "task list --limit 1000");
    let tasks = tasks["tasks"].as_array().unwrap();
    assert!(tasks.iter().all(|t| t["author"] == "house"));
    let listed = house.expect(0, "schedule list");
    assert!(
        listed.contains("a/night") && listed.contains("cron 30 2 * * *"),
        "{listed}"
    );
    assert!(
        house
            .expect_refusal(3, "schedule show a/none")
            .contains("no schedule")
    );
    assert!(
        house
            .expect_refusal(2, "schedule show none")
            .contains("AGENT/NAME")
    );
    house.expect(0, "activity verify");
}

#[test]
fn an_invalid_schedule_is_refused_with_its_line() {
    let house = crate::house();
    let wrong = |schedule: &str| {
        house.manifest(&format!("house: times\ndefaults: {{ cell: process }}\nagents:\n  a: {{ template: sysadmin, schedules: {{ s: {{ task: x, {schedule} }} }} }}\n"));
        let output = house.run("up");
        assert!(!output.status.success(), "{schedule}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for (schedule, told) in [
        ("overlap: skip", "one of `cron`, `every` and `at`"),
        (
            "every: 1h, cron: '* * * * *'",
            "one of `cron`, `every` and `at`",
        ),
        ("cron: '* * * *'", "does not have the five fields"),
        ("cron: '61 2 * * *'", "is no cron pattern of five fields"),
        ("cron: '0 2 * * *', timezone: Mars/Base", "time zone"),
        ("at: tomorrow", "schedule `s`"),
        ("every: 1h, catch_up: some", "a number up to 1000"),
        ("every: 1h, overlap: both", "overlap"),
    ] {
        let said = wrong(schedule);
        assert!(said.contains(told), "{schedule}: {said}");
    }
    house.manifest("house: times\ndefaults: { cell: process }\nagents:\n  a: { template: sysadmin, schedules: { s: { task: x, cron: '0 2 30 2 *' } } }\n");
    let planned = house.expect(0, "plan");
    assert!(
        planned.contains("never starts: no day fits `0 2 30 2 *`"),
        "{planned}"
    );
}

/// Scheduled jobs: a checkpoint that can be restored and a report in a shared log, without a model call (S2-18, S2-19).
#[test]
fn checkpoints_omit_secrets_restore_whole_and_are_pruned() {
    let house = up(
        "house: jobs\ndefaults: { cell: process }\nagents:\n  a:\n    template: worker\n    schedules:\n      hourly: { every: 1h, skill: checkpoint, with: { keep: 2 } }\n      half: { every: 30m, skill: report, with: { name: progress, document: diary } }\n  b: { template: worker, reports_to: a, skills: [checkpoint-restore] }\ndocuments: { diary: { kind: log } }\n",
    );
    let sh = |script: &str| house.expect(0, args!("exec a -- sh -c {}", script));
    let tasks = || {
        let doc = house.json(0, "task list");
        doc["tasks"].as_array().unwrap().clone()
    };
    let fire = |name: &str| {
        let before = tasks().len();
        house.expect(0, args!("schedule run {}", name));
        until("it is over", || {
            let all = tasks();
            all.len() > before
                && all
                    .iter()
                    .all(|t| t["state"] == "done" || t["state"] == "failed")
        });
        tasks()[0].clone()
    };
    sh(
        "mkdir -p notes .git && echo one > notes/a.txt && printf '#!/bin/sh\\n' > run.sh && chmod 700 run.sh && echo x > .git/config && echo s > .env && echo k > site.pem && printf 'SQLite format 3\\0...' > data && cp \"$ABBEY_TOKEN_FILE\" copied && ln -s /etc/hostname link && mkdir pg && echo 15 > pg/PG_VERSION && echo t > pg/table && echo 'two words' > 'a b.txt'",
    );
    let made = fire("a/hourly");
    assert_eq!(
        (&made["state"], &made["verified"]),
        (&json!("done"), &json!("skill")),
        "{made}"
    );
    let data = &made["result"]["data"];
    assert_eq!(data["made"], true);
    // One that was killed in the middle leaves nothing for long, and is in nobody's way.
    sh("touch $HOME/checkpoints.git/index-999999");
    let first = data["checkpoint"].as_str().unwrap().to_owned();
    let out = &data["left_out"];
    for (name, why) in [
        (".env", "may be a secret"),
        ("site.pem", "may be a secret"),
        ("data", "is a database"),
        ("pg", "is a database"),
        ("copied", "holds a credential of this agent"),
        ("link", "is a link"),
    ] {
        assert_eq!(out[name], why, "{out}");
    }
    // Nothing changed: nothing to keep, and no failure.
    let again = fire("a/hourly");
    sh("! ls $HOME/checkpoints.git | grep index");
    assert_eq!(again["result"]["data"]["made"], false, "{again}");
    sh("echo two > notes/a.txt && rm run.sh");
    let second = fire("a/hourly")["result"]["data"]["checkpoint"]
        .as_str()
        .unwrap()
        .to_owned();
    sh("echo three > notes/a.txt");
    let third = fire("a/hourly");
    assert_eq!(third["result"]["data"]["kept"], 2, "{third}");
    // What was kept comes back byte by byte, beside what is there; the first one went.
    let restored = house.json(
        1,
        args!(
            "skill run checkpoint-restore {} into=back --to b",
            format!("checkpoint={second}")
        ),
    );
    assert_eq!(
        restored["task"]["state"], "failed",
        "another agent has checkpoints of its own"
    );
    let file = house.path("abbey.yaml");
    let manifest = std::fs::read_to_string(&file).unwrap();
    let manifest = manifest.replace(
        "    template: worker\n    schedules",
        "    template: worker\n    skills: [checkpoint-restore]\n    schedules",
    );
    std::fs::write(&file, manifest).unwrap();
    house.expect(0, "up");
    let restore = |args: &[&str], code: i32| {
        let mut all = vec!["skill", "run", "checkpoint-restore", "--to", "a"];
        all.extend(args);
        house.json(code, &all)["task"].clone()
    };
    let named = format!("checkpoint={second}");
    restore(&[&named, "into=back"], 0);
    assert_eq!(
        sh("cat back/notes/a.txt 'back/a b.txt'; cat notes/a.txt; ls back | grep -v '[A-Z]'"),
        "two\ntwo words\nthree\na b.txt\nnotes\n"
    );
    let told = restore(&[&named, "into=back"], 1);
    assert!(
        told["failure"]
            .as_str()
            .unwrap()
            .contains("could not make `back`"),
        "nothing is overwritten: {told}"
    );
    let gone = restore(&[&format!("checkpoint={first}")], 1);
    assert!(
        gone["failure"].as_str().unwrap().contains(&second),
        "{gone}"
    );
    // A report by schedule, in a log that others read.
    let report = fire("a/half");
    assert_eq!(report["state"], "done", "{report}");
    let diary = house.expect(0, "document show diary");
    assert!(
        diary.contains("# progress") && diary.contains("Observed"),
        "{diary}"
    );
    // What a skill does not take is told before anything runs.
    let wrong = std::fs::read_to_string(&file)
        .unwrap()
        .replace("keep: 2", "keep: many");
    std::fs::write(&file, wrong).unwrap();
    let told = house.expect_refusal(4, "up");
    assert!(
        told.contains("its schedule `hourly`: skill `checkpoint`"),
        "{told}"
    );
}

/// The verbs edit the manifest and keep its comments; an invalid edit changes nothing (S2-20).
#[test]
fn schedule_add_and_rm_and_agent_move_edit_the_manifest() {
    let house = up(
        "house: verbs\ndefaults: { cell: process }\nagents:\n  top: { template: orchestrator }\n  a: { template: sysadmin, reports_to: top } # the one\n  b: { template: sysadmin, reports_to: a }\nservices:\n  idle: { cell: process, command: [sleep, '1000'], probe: none }\n",
    );
    let text = || std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    let task = "Say: \"hello, {you}\" & $(id)";
    house.expect(
        0,
        args!(
            "schedule add a/nightly --cron '30 2 * * *' --timezone Europe/Ljubljana --task {}",
            task
        ),
    );
    house.expect(
        0,
        "schedule add a/keep --every 1h --skill checkpoint --with keep=3",
    );
    assert!(text().contains("# the one"));
    let list = house.json(0, "schedule list");
    let names: Vec<&str> = list["schedules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["a/keep", "a/nightly"]);
    assert_eq!(
        house.json(0, "schedule show a/nightly")["schedule"]["task"],
        task
    );
    let before = text();
    assert!(
        house
            .expect_refusal(4, "schedule add a/keep --every 1h --task x")
            .contains("already")
    );
    house.expect_refusal(3, "schedule add nobody/x --every 1h --task x");
    house.expect_refusal(2, "schedule add a/x --every 1h");
    house.expect_refusal(2, "schedule add a/x --cron '61 * * *' --task x");
    house.expect_refusal(
        4,
        "schedule add a/x --every 1h --skill checkpoint --with keep=many",
    );
    assert_eq!(text(), before, "what is wrong changes nothing");
    house.expect(0, "schedule rm a/nightly");
    house.expect(0, "schedule rm a/keep");
    assert_eq!(house.json(0, "schedule list")["schedules"], json!([]));
    house.expect_refusal(3, "schedule rm a/keep");
    // In the org chart: below another, to the top, and never below oneself.
    house.expect(0, "agent move b --to top");
    let above = |agent: &str| {
        let doc = house.json(0, "org");
        let rows = doc["agents"].as_array().unwrap();
        rows.iter().find(|r| r["name"] == agent).unwrap()["reports_to"].clone()
    };
    assert_eq!(above("b"), "top");
    let told = house.expect_refusal(2, "agent move top --to b");
    assert!(told.contains("circle") || told.contains("cycle"), "{told}");
    house.expect(0, "agent move b --to operator");
    assert_eq!(above("b"), serde_json::Value::Null);
    // A service boots anew.
    let pid = || house.json(0, "service list")["services"][0]["pid"].clone();
    let first = pid();
    house.expect(0, "service restart idle");
    until("it is another process", || {
        pid() != first && !pid().is_null()
    });
    house.expect_refusal(3, "service restart none");
}
