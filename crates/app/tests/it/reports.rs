//! Reports: computed from probes and rows, without a model call (S4-31, S2-30).

use crate::budgets_and_outages::far_from_midnight;
use crate::{TWO, up, with_model};
use abbey_testkit::args;
use abbey_testkit::house::House;
use serde_json::json;

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
    assert!(asked.contains("% free of "), "{asked}");
    assert!(asked.contains("iB\n"), "no amount of bytes: {asked}");
    let document = house.json(0, "report disk");
    let amounts = &document["observed"][0]["amounts"];
    assert!(
        amounts["total_bytes"].as_u64() > Some(1 << 20),
        "{document}"
    );
    assert!(amounts["available_bytes"].is_u64(), "{document}");
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
    // Cells that were stopped on purpose did not restart.
    house.expect(0, "down");
    house.expect(0, "up");
    let state = seen("status", "sysadmin");
    assert!(state.ends_with(", 0 restarts"), "{state}");
}

/// Text of an observation of a report whose label begins so.
fn observation(house: &House, report: &str, label: &str) -> String {
    let doc = house.json(0, args!("report {}", report));
    let all = doc["observed"].as_array().unwrap().clone();
    let found = all
        .iter()
        .find(|o| o["label"].as_str().unwrap().starts_with(label));
    found.unwrap_or_else(|| panic!("{label} in {doc}"))["value"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn the_tokens_of_a_report_are_those_of_the_ledger() {
    let zone = far_from_midnight([("Etc/UTC", 0), ("Etc/GMT-6", 6)]);
    let agents =
        "  abbot: { template: orchestrator }\n  ops: { template: worker, reports_to: abbot }\n";
    let limits = format!("tokens_per_day: 100000, usd_per_day: 5, timezone: {zone}");
    let house = up(&with_model(agents).replace("tokens_per_day: 100000", &limits));
    house.wait_for_model();
    house.script_model(&json!([{ "text": "well", "no_usage": true }]));
    // One of unknown usage, and one of each agent whose usage is known.
    for to in ["abbot", "abbot", "ops"] {
        house.expect(0, args!("task add --wait --to {} think", to));
    }
    let scopes = house.json(0, "budget show")["scopes"].clone();
    let spent = |scope: &str, metric: &str| {
        let scopes = scopes.as_array().unwrap();
        let found = scopes
            .iter()
            .find(|s| s["scope"] == scope && s["metric"] == metric);
        found.unwrap()["spent"].as_u64().unwrap()
    };
    let tokens = |label: &str| observation(&house, "tokens", label);
    let charged = |text: &str| -> u64 {
        let words = text.rsplit_once("charged: ").unwrap().1;
        words.split_once(" tokens").unwrap().0.parse().unwrap()
    };
    let of_abbot = tokens("abbot, ");
    assert!(
        of_abbot.starts_with("2 runs, of unknown usage: 1;"),
        "{of_abbot}"
    );
    assert!(of_abbot.contains("≥ 0.0"), "{of_abbot}");
    assert_eq!(charged(&of_abbot), spent("agent:abbot", "tokens"));
    let of_ops = tokens("ops, ");
    assert!(of_ops.starts_with("1 run: "), "{of_ops}");
    let numbers: Vec<u64> = of_ops
        .split([' ', ':', ','])
        .filter_map(|w| w.parse().ok())
        .collect();
    assert_eq!(
        numbers[1] + numbers[2],
        spent("agent:ops", "tokens"),
        "{of_ops}"
    );
    assert_eq!(charged(&tokens("all")), spent("house", "tokens"));
    // The prices are set; what is unknown is the usage.
    let report = house.expect(0, "report tokens");
    assert!(report.contains("the cost of 1 run is unknown"), "{report}");
    assert!(!report.contains("prices"), "{report}");
    // Money has a unit that people use.
    let money = observation(&house, "budget", "house USD");
    assert!(money.contains(" of 5.000000, "), "{money}");
}
