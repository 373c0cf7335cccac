//! Commands that are interrupted, or refused: the house is as it was, or as they left it to be.

use crate::{TWO, up};
use std::process::Stdio;
use std::time::Duration;

#[test]
fn an_interrupted_up_never_prevents_the_next() {
    let house = up(TWO);
    let other = TWO.replace("agents:", "agents:\n  third: { template: worker }");
    // The manifest is applied for some tens of milliseconds, and each round interrupts another part of that.
    for round in 0..16 {
        house.manifest(if round % 2 == 0 { &other } else { TWO });
        let mut command = house.command("up --yes");
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut interrupted = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(15 + 12 * round));
        interrupted.kill().unwrap();
        interrupted.wait().unwrap();
        house.manifest(if round % 2 == 0 { TWO } else { &other });
        house.expect(0, "up --yes --no-wait");
        let plan = house.expect(0, "plan");
        assert!(plan.contains("nothing to change"), "round {round}: {plan}");
    }
    house.expect(0, "up");
}

#[test]
fn a_refused_up_leaves_a_house_down_that_was_down() {
    let house = up(TWO);
    house.expect(0, "down");
    house.manifest(&format!(
        "{TWO}services:\n  s: {{ cell: process, command: [no-such-program] }}\n"
    ));
    let told = house.expect_refusal(4, "up");
    assert!(told.contains("nothing was changed"), "{told}");
    house.expect_refusal(6, "ps");
    // And one that is up goes on.
    house.manifest(TWO);
    house.expect(0, "up");
    house.manifest(&format!(
        "{TWO}services:\n  s: {{ cell: process, command: [no-such-program] }}\n"
    ));
    house.expect_refusal(4, "up");
    house.expect(0, "ps");
}
