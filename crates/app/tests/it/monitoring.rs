//! The dashboard and the alert rules in `docs/monitoring`: valid, and about metrics that a house exports.

use crate::budgets_and_outages::far_from_midnight;
use crate::{up, with_model};
use abbey_testkit::args;
use abbey_testkit::house::House;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn file(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.join("docs/monitoring").join(name)
}

fn scrape(house: &House) -> String {
    let socket = house.home().join("run/operator.sock");
    let output = Command::new("curl")
        .args(["-fsS", "--unix-socket"])
        .arg(socket)
        .arg("-H")
        .arg(format!("authorization: Bearer {}", house.operator_token()))
        .arg("http://x/metrics")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Samples of a scrape: name and labels, and value.
fn samples(text: &str) -> Vec<(&str, f64)> {
    let lines = text.lines().filter(|l| !l.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series, value.parse().unwrap())
        })
        .collect()
}

fn value(text: &str, series: &str) -> f64 {
    let samples = samples(text);
    let found = samples.iter().find(|(s, _)| *s == series);
    found.unwrap_or_else(|| panic!("{series} in {text}")).1
}

/// Expressions of the panels of the dashboard.
fn expressions(dashboard: &Value) -> Vec<&str> {
    let panels = dashboard["panels"].as_array().unwrap();
    let shown = panels.iter().filter(|p| p["type"] != "row");
    shown
        .flat_map(|panel| {
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{panel}");
            targets.iter().map(|t| t["expr"].as_str().unwrap())
        })
        .collect()
}

/// Names of metrics that a text mentions.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|w| w.starts_with("abbey_"));
    names.map(str::to_owned).collect()
}

#[test]
fn the_dashboard_and_the_rules_are_about_what_a_house_exports() {
    let agents = "  abbot: { template: orchestrator }\n  ops: { template: sysadmin, reports_to: abbot, budget: { minutes_per_day: 60 } }\n";
    let zone = far_from_midnight([("Etc/UTC", 0), ("Etc/GMT-6", 6)]);
    let limits = format!(
        "tokens_per_day: 100000, usd_per_day: 5, runs_per_day: 2, minutes_per_day: 600, timezone: {zone}"
    );
    let house = up(&with_model(agents).replace("tokens_per_day: 100000", &limits));
    house.wait_for_model();
    let before = scrape(&house);
    assert!(value(&before, "abbey_backup_age_seconds").is_nan());
    for _ in 0..2 {
        house.expect(0, "task add think --wait");
    }
    house.expect(8, "task add think --wait --timeout 10m");
    let archive = house.path("house.tar").display().to_string();
    house.expect(0, args!("backup {}", archive));
    let text = scrape(&house);
    let exported: BTreeSet<&str> = samples(&text)
        .iter()
        .map(|(series, _)| series.split('{').next().unwrap())
        .collect();

    let dashboard = std::fs::read_to_string(file("grafana-dashboard.json")).unwrap();
    let rules = std::fs::read_to_string(file("rules.yml")).unwrap();
    let parsed: Value = serde_json::from_str(&dashboard).unwrap();
    let ids: BTreeSet<u64> = parsed["panels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), parsed["panels"].as_array().unwrap().len());
    let shown = expressions(&parsed);
    assert!(shown.len() > 30, "{}", shown.len());
    let mut named = metrics_in(&dashboard);
    named.extend(metrics_in(&rules));
    let missing: Vec<&String> = named
        .iter()
        .filter(|n| !exported.contains(n.as_str()))
        .collect();
    assert!(missing.is_empty(), "{missing:?} in\n{text}");

    // What they count.
    assert_eq!(value(&text, "abbey_tasks_ended_total{state=\"done\"}"), 2.0);
    assert_eq!(value(&text, "abbey_tasks_waiting{reason=\"budget\"}"), 1.0);
    assert_eq!(
        value(&text, "abbey_tasks_waiting{reason=\"approval\"}"),
        0.0
    );
    assert_eq!(
        value(&text, "abbey_provider_up{provider=\"scripted\"}"),
        1.0
    );
    assert_eq!(value(&text, "abbey_service_up{service=\"model\"}"), 1.0);
    let runs = "abbey_budget_spent_runs{scope=\"house\",window=\"day\"}";
    assert_eq!(value(&text, runs), 2.0);
    assert!(value(&text, "abbey_backup_age_seconds") >= 0.0);
    assert!(value(&text, "abbey_state_disk_size_bytes") > 0.0);
    // As many series as the manifest has agents, services and providers, and no series for a task or run.
    assert!(!text.contains("task:") && !text.contains("run:"), "{text}");
    promtool_accepts(&house, &shown);
}

/// Checks with promtool the rules, their tests, and each expression of the dashboard.
fn promtool_accepts(house: &House, expressions: &[&str]) {
    let rule = |(n, expr): (usize, &&str)| serde_json::json!({ "record": format!("panel:{n}"), "expr": expr });
    let recorded: Vec<Value> = expressions.iter().enumerate().map(rule).collect();
    let groups = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": recorded }] });
    let panels = house.path("panels.yml");
    std::fs::write(&panels, groups.to_string()).unwrap();
    for (verb, path) in [
        ("check", file("rules.yml")),
        ("test", file("rules_test.yml")),
        ("check", panels),
    ] {
        let output = Command::new("promtool")
            .args([verb, "rules"])
            .arg(&path)
            .output()
            .expect("promtool of the Debian package `prometheus`; `cargo xtask check` installs it");
        assert!(output.status.success(), "{}: {output:?}", path.display());
    }
}
