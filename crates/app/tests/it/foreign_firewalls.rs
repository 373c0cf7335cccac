//! Firewalls of other programs on the host, as Docker sets them, and houses beside each other.

use crate::house;
use crate::network::{HOSTS, OUTSIDE, nft, reach, stand};
use abbey_testkit::house::{House, own_network};
use serde_json::Value;
use std::process::Command;

/// The check `forwarding` of a doctor that ends with this code.
fn check(house: &House, code: i32) -> Value {
    let doc = house.json(code, "doctor");
    let mut checks = doc["checks"].as_array().unwrap().iter();
    checks.find(|c| c["id"] == "forwarding").unwrap().clone()
}

/// Prefix of the house's interfaces that the text of the check names.
fn named_prefix(text: &str) -> &str {
    let (_, rest) = text.split_once("begin with `").unwrap();
    rest.split_once('`').unwrap().0
}

/// Only packets of the house's interfaces are judged; another program's policy that drops them is reported; the last
/// house that leaves disables the forwarding that the first enabled.
#[test]
fn forwarding_is_shared_with_other_programs_and_houses() {
    let forwarding = || {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
        text.trim().to_owned()
    };
    own_network();
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    let manifest = "house: first\nagents: { b: { egress: full } }\n";
    let (_outside, first, _) = stand(manifest);
    assert_eq!(forwarding(), "1");
    let rules = nft(&["list", "ruleset"]);
    let chain = rules
        .split_once("chain through")
        .unwrap()
        .1
        .split_once('}')
        .unwrap()
        .0;
    let judged = chain.lines().filter(|l| l.contains("drop"));
    assert!(judged.clone().count() > 0);
    assert!(judged.clone().all(|l| !l.contains("!= \"ab")), "{chain}");
    let mut second = house();
    second.hosts = Some(HOSTS.to_owned());
    second.manifest(manifest);
    second.expect(0, "up");
    let out = format!("{OUTSIDE}:80");
    assert_eq!(reach(&second, "b", &out), "ok");
    // As Docker does when it starts.
    nft(&["add", "table", "ip", "filter"]);
    nft(&[
        "add",
        "chain",
        "ip",
        "filter",
        "FORWARD",
        "{ type filter hook forward priority 0; policy drop; }",
    ]);
    let text = check(&first, 7)["text"].as_str().unwrap().to_owned();
    assert!(text.contains("`FORWARD` of table `ip filter`"), "{text}");
    let prefix = named_prefix(&text);
    let ours = format!("\"{prefix}*\"");
    nft(&[
        "add", "rule", "ip", "filter", "FORWARD", "iifname", &ours, "accept",
    ]);
    nft(&[
        "add", "rule", "ip", "filter", "FORWARD", "oifname", &ours, "accept",
    ]);
    assert_eq!(check(&first, 0)["state"], "ok");
    assert_eq!(reach(&first, "b", &out), "ok");
    first.expect(0, "down");
    assert_eq!(forwarding(), "1", "the other house needs it");
    second.expect(0, "down");
    assert_eq!(forwarding(), "0");
}

fn iptables_legacy(args: &[&str]) {
    let done = Command::new("iptables-legacy").args(args).output();
    let done = done.expect("iptables-legacy is installed");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{args:?}: {said}");
}

/// Docker with the older `iptables`: nftables does not list its rules, and they drop all the same.
#[test]
fn rules_of_iptables_legacy_that_drop_are_reported_with_the_remedy() {
    own_network();
    let (_outside, house, _) = stand("house: first\nagents: { b: { egress: full } }\n");
    let out = format!("{OUTSIDE}:80");
    assert_eq!(reach(&house, "b", &out), "ok");
    assert_eq!(check(&house, 0)["state"], "ok");
    iptables_legacy(&["-P", "FORWARD", "DROP"]);
    assert_ne!(reach(&house, "b", &out), "ok");
    let found = check(&house, 7);
    let text = found["text"].as_str().unwrap();
    assert!(text.contains("`FORWARD` of `iptables-legacy`"), "{text}");
    let remedy = found["remedy"].as_str().unwrap();
    assert!(remedy.contains("`iptables-legacy -I FORWARD`"), "{remedy}");
    let ours = format!("{}+", named_prefix(text));
    for direction in ["-i", "-o"] {
        iptables_legacy(&["-I", "FORWARD", direction, &ours, "-j", "ACCEPT"]);
    }
    assert_eq!(check(&house, 0)["state"], "ok");
    assert_eq!(reach(&house, "b", &out), "ok");
    house.expect(0, "down");
}
