//! A simulated night of a house: all that must hold, holds, and planted faults are found.

#![expect(clippy::print_stdout, reason = "the report shows what was simulated")]

use abbey_testkit::simulate::{Fault, Report, simulate_night};

fn night(seed: u64, fault: Option<Fault>) -> Report {
    let report = simulate_night(seed, fault).expect("a simulation");
    println!("{report}");
    report
}

#[test]
fn forty_tasks_get_through_a_night_with_an_outage_and_two_kills() {
    let report = night(1, None);
    let again = "`cargo xtask simulate --night --seed 1` shows it again";
    assert_eq!(
        report.violations,
        [""; 0],
        "{}\n{again}",
        report.last.join("\n")
    );
    let ends = (report.done, report.not_done, report.waited);
    assert_eq!(ends, (40, 0, 40), "{report}");
    // The same seed gives the same trace, and another seed another one.
    assert_eq!(report, night(1, None));
    assert_ne!(report.trace, night(2, None).trace);
}

/// Fails unless a planted fault is found with seed 1, by a violation of this kind.
fn require_found(fault: Fault, violation: &str) {
    let report = night(1, Some(fault));
    let first = report.violations.first().expect("the fault is found");
    assert!(first.contains(violation), "{:#?}", report.violations);
}

#[test]
fn a_missing_wakeup_is_found() {
    require_found(Fault::MissingWakeup, "its instant was");
}

#[test]
fn a_lost_release_is_found() {
    require_found(
        Fault::LostRelease,
        "are reserved while no call is under way",
    );
}

#[test]
fn a_midnight_that_comes_too_early_is_found() {
    require_found(Fault::EarlyMidnight, "runs of a day that has");
}
