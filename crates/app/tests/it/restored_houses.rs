//! Houses that were restored from an archive: what they may use of this host, and that they run alone.

use crate::backups::restored;
use crate::{TWO, house, up};
use abbey_testkit::args;
use serde_json::Value;
use std::fs;

/// The archive may be anybody's, and what its manifest reads goes to the providers that it names.
#[test]
fn a_restored_house_uses_nothing_of_its_host_before_somebody_agrees() {
    let first = house();
    let secret = first.path("provider.key");
    fs::write(&secret, "sk-of-this-host\n").unwrap();
    first.manifest(&format!(
        "house: two\nproviders:\n  cloud: {{ kind: openai, base_url: \"http://127.0.0.1:1/v1\", key: \"file:{}\" }}\nagents:\n  ada: {{ template: sysadmin, cell: process }}\n",
        secret.display()
    ));
    first.expect(0, "up");
    let archive = first.path("a.tar").display().to_string();
    first.expect(0, args!("backup {}", archive));
    first.expect(0, "down");

    let (second, told) = restored(&archive, "");
    let reads = format!("provider:cloud reads the secret in {}", secret.display());
    assert!(told.contains(&reads), "{told}");
    let manifest = second.home().join("manifest/abbey.yaml");
    let up = format!("up -f {}", manifest.display());
    let told = second.expect_refusal(4, up.as_str());
    assert!(told.contains(&reads) && told.contains("--yes"), "{told}");
    // No other way leads around it, and nothing runs.
    let home = second.home().display().to_string();
    let served = second.run(args!("role serve --home {}", home));
    let told = String::from_utf8_lossy(&served.stderr).into_owned();
    assert!(
        !served.status.success() && told.contains("nobody has agreed"),
        "{told}"
    );
    second.expect_refusal(6, "ps");
    second.expect(0, format!("{up} --yes").as_str());
    second.expect(0, "down");
    // Who agreed once is not asked again.
    second.expect(0, up.as_str());
    second.expect(0, "down");
}

#[test]
fn who_asked_for_json_gets_nothing_else() {
    let house = house();
    house.manifest(
        "house: two\nagents:\n  ada: { template: sysadmin, cell: process, skills: [nosuch] }\n",
    );
    let output = house.run("--json up");
    assert_eq!(output.status.code(), Some(4));
    let told: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(told["error"]["text"].is_string(), "{told}");
}

/// Both have the same users, interfaces and firewall table, so one of them runs at a time.
#[test]
fn a_restored_house_does_not_run_beside_its_original() {
    let first = up(TWO);
    if !first.runs_as_root() {
        return;
    }
    let archive = first.path("a.tar").display().to_string();
    first.expect(0, args!("backup {}", archive));
    let (second, _) = restored(&archive, "");
    let manifest = second.home().join("manifest/abbey.yaml");
    let up = args!("up -f {}", manifest.display().to_string());
    // `plan` says beforehand what `up` would.
    let planned = second.expect(4, args!("plan -f {}", manifest.display().to_string()));
    assert!(planned.contains("restored from a backup"), "{planned}");
    let told = second.expect_refusal(4, up);
    let home = first.home().display().to_string();
    assert!(
        told.contains("restored from a backup") && told.contains(&home),
        "{told}"
    );
    first.expect(0, "ps");
    first.expect(0, "down");
    second.expect(0, args!("up -f {}", manifest.display().to_string()));
    first.expect_refusal(4, "up");
    second.expect(0, "down");
    first.expect(0, "up");
}
