//! An idle house writes nothing and calls no model.

use crate::{up, with_model};
use abbey_testkit::args;
use abbey_testkit::house::until;
use std::process::Command;

fn metric(house: &abbey_testkit::house::House, name: &str) -> u64 {
    let token = house.operator_token();
    let output = Command::new("curl")
        .args([
            "-s",
            "--unix-socket",
            &house.home().join("run/operator.sock").display().to_string(),
            "-H",
            &format!("authorization: Bearer {token}"),
            "http://x/metrics",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .find_map(|l| {
            l.strip_prefix(&format!("abbey_{name} "))?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or_else(|| panic!("{name} in {text}"))
}

#[test]
fn an_idle_house_writes_nothing_and_calls_no_model() {
    let house = up(&with_model(
        "  abbot: { template: orchestrator }\n  sysadmin: { template: sysadmin, reports_to: abbot, wake: { every: 30s } }\n",
    ));
    // What it took to start is in the chain before the silence begins.
    until("hostd's starts are in the chain", || {
        let entries = house.expect(0, "activity --json -n 200");
        entries.matches("\"hostd.start\"").count() == 3
    });
    let before = (
        metric(&house, "store_transactions_total"),
        metric(&house, "activity_head"),
    );
    // A wake comes due in here and finds an empty HEARTBEAT.md. This waits for real time to pass,
    // which is what the test is about; the turned clock has a test of its own.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    assert_eq!(
        (
            metric(&house, "store_transactions_total"),
            metric(&house, "activity_head")
        ),
        before
    );
    assert_eq!(metric(&house, "model_calls_total"), 0);
    assert!(metric(&house, "wakes_skipped_total") >= 1);
}

#[test]
fn a_heartbeat_with_content_becomes_a_task() {
    let house = up(&with_model(
        "  abbot: { template: orchestrator }\n  sysadmin: { template: sysadmin, reports_to: abbot, wake: { every: 30s } }\n",
    ));
    house.expect(
        0,
        args!(
            "exec sysadmin -- sh -c {}",
            "echo 'How much free disk space is there?' > HEARTBEAT.md"
        ),
    );
    until("the wake became a task that a skill answered", || {
        let tasks = house.json(0, "task list");
        tasks["tasks"]
            .as_array()
            .unwrap()
            .iter()
            .any(|t| t["author"] == "house" && t["state"] == "done" && t["skill"] == "disk-usage")
    });
    assert_eq!(metric(&house, "model_calls_total"), 0);
}
