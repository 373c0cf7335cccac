//! One long run through `kill -9` at random moments: schedules, a workflow with parallel steps, an approval and an event,
//! a queue that people edit, work through files, reports in a shared log. The outcome is the same as without kills: no step
//! and no instant twice, nothing missing.
//!
//! 20 points here; `ABBEY_STORY_KILLS=200` for the long run, `ABBEY_STORY_SEED` repeats the moments.

use crate::up;
use abbey_testkit::args;
use abbey_testkit::house::{House, kill, until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const STORY: &str = "house: story
defaults: { cell: process }
agents:
  a: { template: sysadmin, schedules: { tick: { every: 1s, skill: system-stats, overlap: queue, catch_up: '1000' } } }
  b: { template: sysadmin, reports_to: a, schedules: { progress: { every: 3s, skill: report, catch_up: '1000', overlap: queue, with: { name: budget, document: diary } } } }
  c: { template: worker, reports_to: a, files: { command: [sh, -c, 'n=$(basename \"$1\" .active); sed -n 2p \"$1\" > completed/$n.new && mv completed/$n.new completed/$n.txt', c] } }
documents: { diary: { kind: log } }
workflows:
  study:
    input: { n: { type: number }, q: { type: list, default: [x, y] } }
    steps:
      disks: { skill: disk-usage, agent: a }
      stats: { skill: system-stats, agent: b }
      each: { skill: log-search, agent: a, each: $input.q, with: { query: $item } }
      made: { task: Make a loaf., agent: c }
      gate: { approval: Go on?, needs: [disks, stats, each, made], with: { n: $input.n }, within: 1h }
      heard: { event: go, needs: [gate], within: 1h }
      last: { skill: disk-usage, agent: b, needs: [heard] }
    output: { loaf: $steps.made.text, note: $steps.gate.note }
";

/// Number of runs of the workflow.
const RUNS: u64 = 5;

/// Runs a command while the house may be down.
fn attempt(house: &House, args: &[&str]) -> Option<Value> {
    let mut all = args.to_vec();
    all.push("--json");
    let output = house.run(&all);
    output
        .status
        .success()
        .then(|| serde_json::from_slice(&output.stdout).ok())?
}

/// The next step of the operator; every step is idempotent.
fn operate(house: &House, turn: u64) {
    let n = turn % RUNS;
    let (key, input) = (format!("story-{n}"), format!("n={n}"));
    attempt(
        house,
        &[
            "workflow",
            "run",
            "study",
            &input,
            "--idempotency-key",
            &key,
        ],
    );
    let inbox = attempt(house, &["approvals"]).unwrap_or_default();
    for asked in inbox["approvals"].as_array().into_iter().flatten() {
        let id = asked["id"].as_str().unwrap();
        attempt(house, &["approvals", "approve", id, "--note", "yes"]);
    }
    // A run that waits for it hears of it once; the others are told again.
    attempt(house, &["workflow", "event", "go"]);
    let queue = house.path("Q.md");
    if turn < 10 {
        let text = std::fs::read_to_string(&queue).unwrap_or_default();
        std::fs::write(&queue, format!("{text}- [ ] (P1, c) line {turn}\n")).unwrap();
    }
    attempt(house, &["task", "sync", "Q.md"]);
}

#[test]
fn a_long_run_through_kills_has_the_same_outcome() {
    let number = |name: &str, usual: u64| {
        let given = std::env::var(name).ok().and_then(|v| v.parse().ok());
        given.unwrap_or(usual)
    };
    let kills = number("ABBEY_STORY_KILLS", 20);
    let mut seed = number("ABBEY_STORY_SEED", u64::from(std::process::id()) | 1);
    println!("seed {seed}");
    let house = up(STORY);
    for turn in 0..kills.max(10) {
        operate(&house, turn);
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        if turn < kills {
            // The moment is what this is about.
            std::thread::sleep(Duration::from_millis(seed % 350));
            kill(house.control_plane_pid());
            house.expect(0, "up --no-wait");
        }
    }
    let mut turn = 10;
    until("every run is done", || {
        operate(&house, turn);
        turn += 1;
        let runs = house.json(0, "workflow list");
        let runs = runs["runs"].as_array().unwrap();
        runs.len() as u64 == RUNS && runs.iter().all(|r| r["state"] == "done")
    });
    house.expect(0, "stop b");
    house.expect(0, "start b");

    // Every step of every run began one task, and the results are those of a quiet day.
    let tasks = all_tasks(&house);
    let mut steps: BTreeMap<String, u32> = BTreeMap::new();
    for task in &tasks {
        if let Some(step) = task["link"]["step"].as_str() {
            *steps.entry(step.to_owned()).or_default() += 1;
        }
    }
    for run in house.json(0, "workflow list")["runs"].as_array().unwrap() {
        let id = run["id"].as_str().unwrap();
        assert_eq!(
            run["output"],
            json!({ "loaf": "Make a loaf.", "note": "yes" })
        );
        for (step, count) in [
            ("disks", 1),
            ("stats", 1),
            ("each", 2),
            ("made", 1),
            ("last", 1),
        ] {
            assert_eq!(
                steps.get(&format!("{id}/{step}")),
                Some(&count),
                "{id}/{step}"
            );
        }
    }
    // What people wrote is there once each.
    for turn in 0..10 {
        let text = format!("line {turn}");
        let count = tasks.iter().filter(|t| t["title"] == text.as_str()).count();
        assert_eq!(count, 1, "{text}");
    }
    // Every instant of a schedule fired once: as many tasks as instants, none twice.
    for name in ["a/tick", "b/progress"] {
        let shown = house.json(0, args!("schedule show {}", name));
        let lines = shown["history"].as_array().unwrap();
        let mut instants: Vec<&str> = lines
            .iter()
            .map(|l| l["instant"].as_str().unwrap())
            .collect();
        let count = instants.len();
        instants.dedup();
        assert_eq!(instants.len(), count, "{name}");
        assert_eq!(
            shown["schedule"]["missed"], 0,
            "{name}: what was slept through was made up for"
        );
        let mut made: Vec<&str> = lines.iter().filter_map(|l| l["task"].as_str()).collect();
        made.sort_unstable();
        let all = made.len();
        made.dedup();
        assert_eq!(
            made.len(),
            all,
            "{name}: a task of its own for each instant"
        );
    }
    // Whatever began has come to its end, and the log holds.
    until("nothing is left to do", || {
        all_tasks(&house)
            .iter()
            .filter(|t| t["author"] != "house")
            .all(|t| t["state"] == "done")
    });
    assert!(house.expect(0, "activity verify").contains("ok"));
}

fn all_tasks(house: &House) -> Vec<Value> {
    let lines = house.expect(0, "task list --limit 1000 --json");
    let doc: Value = serde_json::from_str(&lines).unwrap();
    doc["tasks"].as_array().unwrap().clone()
}

/// Many tasks that are due at once run once each, and do not delay others.
#[test]
fn a_flood_of_tasks_runs_once_each_and_schedules_stay_on_time() {
    let house = up("house: flood
defaults: { cell: process }
agents:
  w1: { template: sysadmin }
  w2: { template: sysadmin, reports_to: w1 }
  other: { template: worker, reports_to: w1, schedules: { tick: { every: 2s, skill: system-stats } } }
");
    let many = 600u32;
    house.expect(0, "stop w1 w2");
    let line = |n: u32| {
        json!({ "text": "How much free disk space is there?", "to": format!("w{}", n % 2 + 1) })
            .to_string()
    };
    let lines: Vec<String> = (0..many).map(line).collect();
    std::fs::write(house.path("tasks.jsonl"), lines.join("\n")).unwrap();
    house.expect(0, "task import tasks.jsonl");
    house.expect(0, "start w1 w2");
    let flood = || {
        let all = all_tasks(&house);
        all.into_iter()
            .filter(|t| t["title"] != "other/tick: system-stats")
            .collect::<Vec<_>>()
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(240);
    while !flood().iter().all(|t| t["state"] == "done") {
        assert!(
            std::time::Instant::now() < deadline,
            "the flood does not end"
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    let done = flood();
    assert_eq!(done.len(), many as usize);
    assert!(done.iter().all(|t| t["attempts"] == 1), "each had one run");
    let tick = house.json(0, "schedule show other/tick");
    assert_eq!(
        (&tick["schedule"]["missed"], &tick["schedule"]["skipped"]),
        (&json!(0), &json!(0)),
        "{tick}"
    );
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", house.control_plane_pid())).unwrap();
    let peak = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    assert!(peak < 256 << 10, "{peak} KiB");
}
