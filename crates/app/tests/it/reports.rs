//! Reports: computed from probes and rows, without a model call (S4-31, S2-30).

use crate::{TWO, up};
use abbey_testkit::args;

#[test]
fn every_report_has_three_parts_and_exact_figures() {
    let house = up(TWO);
    let doc = house.json(0, "report");
    let names: Vec<&str> = doc["reports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["label"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "status", "disk", "budget", "tokens", "policy", "tests", "progress", "skills",
            "metrics"
        ]
    );
    house.expect(0, "task add 'show system stats' --wait");
    let gone = house.json(0, "task add 'write a poem'");
    house.expect(
        0,
        args!("task cancel {}", gone["task"]["number"].as_str().unwrap()),
    );
    house.expect(8, "task add 'write another' --wait");
    for name in &names {
        let doc = house.json(0, args!("report {}", name));
        assert!(!doc["observed"].as_array().unwrap().is_empty(), "{doc}");
        assert!(
            !doc["interpretation"].as_array().unwrap().is_empty(),
            "{doc}"
        );
        for note in doc["notes"].as_array().unwrap() {
            let text = note["text"].as_str().unwrap();
            assert!(note["kind"] == "note" || text.starts_with("if "), "{text}");
        }
        let text = house.expect(0, args!("report {}", name));
        assert!(
            text.contains("Observed") && text.contains("Interpretation"),
            "{text}"
        );
    }
    let seen = |name: &str, label: &str| {
        let doc = house.json(0, args!("report {}", name));
        let all = doc["observed"].as_array().unwrap().clone();
        let found = all
            .iter()
            .find(|o| o["label"].as_str().unwrap().starts_with(label));
        found.unwrap_or_else(|| panic!("{label} in {doc}"))["value"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(seen("status", "tasks parked"), "1");
    assert_eq!(seen("metrics", "completion"), "50.0 % (1 of 2)");
    assert!(
        seen("skills", "system-stats").starts_with("1 run, 0 failed; tokens 0, most 0; seconds ")
    );
    assert_eq!(seen("tokens", "all"), "no model calls");
    assert_eq!(seen("tests", "results that are skill"), "1");
    assert!(seen("tests", "audit log").ends_with("entries, verified"));
    assert!(seen("policy", "sysadmin").starts_with("cell process, egress none, tools "));
    // Words find the report that answers them.
    let asked = house.expect(0, "report 'how full are the disks?'");
    assert!(asked.starts_with("# disk, "), "{asked}");
    let told = house.expect_refusal(3, "report 'sing a song'");
    assert!(told.contains("no report matches `sing a song`"), "{told}");
    assert_eq!(seen("metrics", "port conflicts"), "0");
    assert_eq!(seen("metrics", "agents that share a user"), "0");
    assert_eq!(seen("metrics", "uptime of sysadmin"), "100.0 %");
    assert_eq!(seen("metrics", "interventions"), "1");
    assert!(
        house
            .expect_refusal(3, "report weather")
            .contains("use one of the reports status, disk")
    );
    // No model was asked for any of it.
    let metrics = house.json(0, "budget show");
    assert!(
        metrics["scopes"]
            .as_array()
            .unwrap()
            .iter()
            .all(|s| s["metric"] != "tokens" || s["spent"] == 0)
    );
}
