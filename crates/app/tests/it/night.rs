//! A night without an operator: a budget that ends before midnight, a provider that is away, a control plane that is
//! killed again and again. In the morning everything is done.

use crate::budgets_and_outages::Model;
use crate::house;
use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use abbey_testkit::turned_clock::{DAY, TurnedClock};
use serde_json::Value;

/// Tasks of the night, and runs that the budget of a day has.
const TASKS: usize = 40;
const RUNS: usize = 25;

fn tasks(house: &House) -> Vec<Value> {
    let tasks = house.json(0, "task list --limit 100")["tasks"].take();
    let tasks = tasks.as_array().unwrap().clone();
    assert_eq!(tasks.len(), TASKS);
    for task in &tasks {
        let ended_badly = ["failed", "timed_out", "unverified", "cancelled"];
        assert!(
            !ended_badly.contains(&task["state"].as_str().unwrap()),
            "{task}"
        );
    }
    tasks
}

fn done(tasks: &[Value]) -> usize {
    tasks.iter().filter(|t| t["state"] == "done").count()
}

/// Waits until at least this many tasks are done; each may take as long as any change may.
fn until_done(house: &House, least: usize) {
    for n in 1..=least {
        until(&format!("{n} tasks are done"), || done(&tasks(house)) >= n);
    }
}

/// Whether every task that is not done is parked for this.
fn rest_waits_for(tasks: &[Value], kind: &str) -> bool {
    let mut rest = tasks.iter().filter(|t| t["state"] != "done");
    rest.all(|t| t["state"] == "parked" && t["waiting_for"]["kind"] == kind)
}

#[test]
fn everything_is_done_after_a_night_of_outages_kills_and_an_empty_budget() {
    let mut house = house();
    let mut clock = TurnedClock::new(&house.path(""));
    house.variables = clock.variables();
    // Half past eleven in the house's time zone.
    clock.turn_to(DAY - 30 * 60);
    // The house gives its ports away from the first one on.
    let port = house.ports.last;
    house.manifest(&format!(
        "house: night\nproviders: {{ scripted: {{ kind: openai, base_url: 'http://127.0.0.1:{port}/v1', output_tokens_max: 200 }} }}\ndefaults: {{ cell: process, model: scripted/scripted-1 }}\nbudget: {{ runs_per_day: {RUNS}, tokens_per_day: 10000000, timezone: Etc/UTC }}\nagents:\n  abbot: {{ template: orchestrator }}\n  a: {{ template: worker, reports_to: abbot }}\n  b: {{ template: worker, reports_to: abbot }}\n"
    ));
    house.expect(0, "up");
    for n in 0..TASKS {
        let agent = ["a", "b"][n % 2];
        house.expect(
            0,
            args!("task add --to {} {}", agent, format!("Think of number {n}")),
        );
    }
    until("all wait for the provider", || {
        rest_waits_for(&tasks(&house), "provider")
    });
    assert_eq!(done(&tasks(&house)), 0);

    // Twenty minutes later the provider is back; the control plane has not seen any of them.
    house.kill_control_plane();
    clock.turn(20 * 60);
    let _model = Model::start(port);
    house.expect(0, "up");
    until_done(&house, RUNS / 2);

    // In the middle of the work.
    house.kill_control_plane();
    house.expect(0, "up");
    // Each agent may have lost a run, which the budget counts.
    until_done(&house, RUNS - 2);
    until("the budget of the day is used up", || {
        rest_waits_for(&tasks(&house), "budget")
    });
    let evening = tasks(&house);
    assert!(done(&evening) <= RUNS, "no more than the budget");

    // Once more just before midnight.
    house.kill_control_plane();
    clock.turn_to(1);
    house.expect(0, "up");
    until_done(&house, TASKS);

    let in_the_evening = |number: &Value| {
        let of_evening = evening.iter().find(|t| t["number"] == *number);
        of_evening.is_some_and(|t| t["state"] == "done")
    };
    for task in tasks(&house) {
        assert_eq!(task["state"], "done", "{task}");
        let number = task["number"].as_str().unwrap();
        let why = house.json(0, args!("task why {}", number));
        let waited: Vec<&str> = why["reasons"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|r| r["code"] == "waited")
            .map(|r| r["text"].as_str().unwrap())
            .collect();
        let says = |part: &str| waited.iter().any(|text| text.contains(part));
        assert!(says("the provider scripted from"), "{why}");
        if !in_the_evening(&task["number"]) {
            assert!(says("the budget of house from"), "{why}");
        }
    }
    // A run that lost the control plane in the middle of a call may have been repeated; nothing ended so.
    for entry in house.audit_entries("task.fail") {
        assert_ne!(entry["detail"]["state"], "failed", "{entry}");
    }
    house.expect(0, "activity verify");
}
