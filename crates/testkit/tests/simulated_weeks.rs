//! Faults that are planted into simulated weeks are found, and the same seed shows the same again.

#![expect(clippy::print_stdout, reason = "the report shows what was simulated")]

use abbey_testkit::simulate::{Fault, Options, Report, simulate, simulate_full_disk};

/// Fails unless a fault is found in the week of a seed by a violation of this kind, twice in the same way.
fn require_found(seed: u64, fault: Fault, violation: &str) {
    let week = || -> Report {
        let options = Options {
            seed,
            days: 7,
            fault: Some(fault),
        };
        simulate(options).expect("a simulation")
    };
    let report = week();
    println!("{report}");
    let first = report.violations.first().expect("the fault is found");
    assert!(first.contains(violation), "{:#?}", report.violations);
    assert_eq!(report, week());
}

#[test]
fn a_missing_wakeup_is_found_in_a_week() {
    require_found(1, Fault::MissingWakeup, "its instant was");
}

#[test]
fn a_lost_release_is_found_in_a_week() {
    let violation = "are reserved while no call is under way";
    require_found(1, Fault::LostRelease, violation);
}

#[test]
fn a_full_disk_delays_work_and_keeps_no_reservation() {
    let report = simulate_full_disk(1).expect("a simulation");
    println!("{report}");
    assert_eq!(report.violations, [""; 0], "{}", report.last.join("\n"));
    assert_eq!((report.done, report.not_done), (5, 0), "{report}");
}
