//! Every error that an operator meets early, as it is printed: what failed, on what, why, and what to do next.

use crate::{TWO, house};
use abbey_testkit::house::House;

/// Runs each line and records what it prints on standard error, with its exit code.
fn record(house: &House, lines: &[&str]) -> String {
    let root = house.path("").display().to_string();
    let record = |line: &&str| {
        let output = house.run(*line);
        let text = String::from_utf8_lossy(&output.stderr);
        let text = text.replace(root.trim_end_matches('/'), "DIR");
        let code = output.status.code().unwrap_or(-1);
        format!("$ abbey {line}\n{text}exit code {code}\n\n")
    };
    lines.iter().map(record).collect()
}

#[test]
fn errors_without_a_house_are_as_recorded() {
    let lines = [
        "ps",
        "up",
        "plan -f absent.yaml",
        "init --example none",
        "template show none",
        "skill check absent",
        "run --memory 64 -- true",
        "run --timeout 1 -- true",
        "run --cpus 9999 -- true",
        "run --out ../up -- true",
        "import zope .",
        "tui",
        "nonsense",
        "task add",
    ];
    insta::assert_snapshot!(record(&house(), &lines));
}

#[test]
fn errors_of_a_running_house_are_as_recorded() {
    let house = house();
    house.manifest(TWO);
    house.expect(0, "up");
    let lines = [
        "why nobody",
        "start nobody",
        "agent show nobody",
        "agent restore abbot",
        "task show TASK-99",
        "task add x --to nobody",
        "task add x --priority P9",
        "task list --state none",
        "approvals approve APPR-9",
        "delegate nobody x",
        "document show nothing",
        "workflow run nothing",
        "workflow event nothing --data nonsense",
        "schedule show morning",
        "schedule run abbot/none",
        "skill show none",
        "skill run none port",
        "service restart none",
        "report 'sing a song'",
        "reload abbot --rollback",
    ];
    insta::assert_snapshot!(record(&house, &lines));
}
