//! Concurrent requests: one idempotency key, one task, one winner; a lease that expired while its holder was stopped.

use crate::{TWO, house, up};
use abbey_testkit::args;
use abbey_testkit::house::until;
use serde_json::json;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

#[test]
fn fifty_adds_with_one_idempotency_key_make_one_task() {
    let house = up(TWO);
    let token = house.operator_token();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let add = || {
            house
                .operator_api("POST", "/api/v1/tasks")
                .token(&token)
                .json(&json!({ "text": "show system stats" }))
                .header("idempotency-key", "k1")
                .send()
        };
        let all: Vec<_> = (0..50).map(|_| scope.spawn(add)).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|a| a.0 == 201).count(), 1);
    assert_eq!(answers.iter().filter(|a| a.0 == 200).count(), 49);
    assert!(
        answers
            .iter()
            .all(|a| a.1["task"]["id"] == answers[0].1["task"]["id"])
    );
    assert_eq!(
        house.json(0, "task list")["tasks"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let other = house
        .operator_api("POST", "/api/v1/tasks")
        .token(&token)
        .json(&json!({ "text": "other" }))
        .header("idempotency-key", "k1")
        .send();
    assert_eq!(other.0, 409, "the same key for something else is a mistake");
}

/// Whoever may only read, and asks for what takes long as often as it can, does not keep others waiting.
#[test]
fn ordinary_calls_do_not_wait_for_expensive_reads() {
    let house = up(TWO);
    let token = house.operator_token();
    let add = |thread: usize| {
        for n in 0..150 {
            let text = format!("line {n} of {thread}");
            let add = house.operator_api("POST", "/api/v1/tasks").token(&token);
            assert_eq!(
                add.json(&json!({ "text": text, "to": "sysadmin" }))
                    .send()
                    .0,
                201
            );
        }
    };
    std::thread::scope(|scope| (0..8).for_each(|n| drop(scope.spawn(move || add(n)))));
    let alone = Instant::now();
    let verify = || {
        let verify = house.operator_api("GET", "/api/v1/activity/verify");
        verify.token(&token).send()
    };
    assert_eq!(verify().1["ok"], true);
    println!("one verification takes {} ms", alone.elapsed().as_millis());
    let expensive = [
        "/api/v1/activity/verify",
        "/api/v1/house?state_hash=true",
        "/api/v1/reports/tests",
        "/api/v1/doctor",
    ];
    let mut worst = Duration::ZERO;
    std::thread::scope(|scope| {
        let mut all = Vec::new();
        for n in 0..40 {
            let (house, token) = (&house, &token);
            all.push(scope.spawn(move || {
                let path = expensive[n % expensive.len()];
                let (status, body) = house.operator_api("GET", path).token(token).send();
                assert_eq!(status, 200, "{path}: {body}");
            }));
        }
        while !all.iter().all(ScopedJoinHandle::is_finished) {
            let begun = Instant::now();
            let list = house.operator_api("GET", "/api/v1/tasks?limit=1");
            assert_eq!(list.token(&token).send().0, 200);
            worst = worst.max(begun.elapsed());
        }
    });
    println!("worst time of an ordinary call: {} ms", worst.as_millis());
    assert!(worst < Duration::from_secs(1), "{worst:?}");
}

#[test]
fn eight_agents_race_for_one_task_and_one_wins() {
    let agents: String = (1..=8)
        .map(|n| format!("  w{n}: {{ template: sysadmin }}\n"))
        .collect();
    let house = up(&format!(
        "house: race\ndefaults: {{ cell: process }}\nagents:\n{agents}"
    ));
    house.expect(0, "stop --all");
    for round in 1..=5 {
        house.expect(0, "task add 'show system stats'");
        let id = house.json(0, args!("task show {}", round.to_string()))["task"]["id"]
            .as_str()
            .unwrap()
            .to_owned();
        let answers: Vec<_> = std::thread::scope(|scope| {
            let house = &house;
            let all: Vec<_> = (1..=8)
                .map(|n| {
                    let token = house.agent_token(&format!("w{n}"));
                    let path = format!("/api/v1/self/tasks/{id}/claim");
                    scope.spawn(move || {
                        (
                            format!("w{n}"),
                            house
                                .agent_api("POST", &path)
                                .token(&token)
                                .json(&json!({}))
                                .send(),
                        )
                    })
                })
                .collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let winners: Vec<&String> = answers
            .iter()
            .filter(|(_, a)| a.0 == 200)
            .map(|(n, _)| n)
            .collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        for (name, (status, told)) in &answers {
            if name != winners[0] {
                assert_eq!(*status, 409);
                let text = told.to_string();
                assert!(!text.contains(winners[0]), "the holder is named: {text}");
            }
        }
        let (_, claim) = answers.iter().find(|(n, _)| n == winners[0]).unwrap();
        let lease = claim.1["lease"]["token"].to_string();
        let body = json!({ "text": "done", "source": "skill" });
        let done = house
            .agent_api("POST", &format!("/api/v1/self/tasks/{id}/complete"))
            .token(&house.agent_token(winners[0]))
            .json(&body)
            .header("abbey-lease", &lease)
            .send();
        assert_eq!(done.0, 200);
    }
}

#[test]
fn an_agent_stopped_past_its_lease_cannot_complete_the_task() {
    let mut house = house();
    house.serve_args = Vec::new();
    house.manifest(&TWO.replace("template: sysadmin,", "template: sysadmin, skills: [slow],"));
    // A skill of this house that takes its time.
    let dir = house.home().join("skills/slow");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("SKILL.md"), "---\nname: slow\ndescription: Waits for a file, for tests.\nmetadata:\n  abbey-match: wait for it\n  abbey-program: wait.sh\n---\n").unwrap();
    std::fs::write(
        dir.join("wait.sh"),
        "#!/bin/sh\nwhile [ ! -e go ]; do sleep 0.05; done\necho went\n",
    )
    .unwrap();
    let mode = |path: &std::path::Path| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap()
    };
    for path in [
        house.home(),
        house.home().join("skills"),
        dir.clone(),
        dir.join("wait.sh"),
    ] {
        mode(&path);
    }
    house.start_control_plane("--lease-ms 1500");
    house.expect(0, "up");
    house.expect(0, "task add 'wait for it'");
    let show = || house.json(0, "task show 1")["task"].clone();
    until("it runs", || show()["state"] == "running");
    let pid = house.json(0, "agent show sysadmin")["pid"]
        .as_i64()
        .unwrap();
    let agent = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(agent, rustix::process::Signal::STOP).unwrap();
    until("the lease ran out", || {
        show()["runs"][0]["state"] == "superseded"
    });
    house.expect(0, "exec sysadmin -- touch go");
    rustix::process::kill_process(agent, rustix::process::Signal::CONT).unwrap();
    // The late holder's work is refused; the task is done by a run of its own.
    until("it is done by another run", || show()["state"] == "done");
    let task = show();
    let states: Vec<&str> = task["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["superseded", "succeeded"]);
    assert_eq!(task["runs"][0]["reason"], "lease_expired");
}
