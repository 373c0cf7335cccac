//! Simulated weeks of a house: from each seed all that can go wrong, and nothing that may.

use abbey_testkit::simulate::{Fault, Options, Report, simulate, simulate_night};

/// Simulates a week, or fewer days.
fn week(seed: u64, days: u32, fault: Option<Fault>) -> Report {
    simulate(Options { seed, days, fault }).expect("a simulation")
}

fn require(report: &Report) {
    println!("{report}");
    assert!(
        report.violations.is_empty(),
        "seed {}: {:#?}\n{}\n`cargo xtask simulate --seed {} --days {}` shows it again",
        report.seed,
        report.violations,
        report.last.join("\n"),
        report.seed,
        report.days
    );
}

/// `ABBEY_SIMULATED_WEEKS` says how many; `./check --long` simulates 1,000.
fn weeks() -> u64 {
    let asked = std::env::var("ABBEY_SIMULATED_WEEKS").ok();
    asked.and_then(|w| w.parse().ok()).unwrap_or(20)
}

/// Every fourth week, so that processors share them.
fn quarter(first: u64) {
    for seed in (first..=weeks()).step_by(4) {
        let report = week(seed, 7, None);
        require(&report);
        assert!(report.events > 50 && report.done > 20, "{report}");
    }
}

#[test]
fn weeks_of_everything_going_wrong_violate_nothing_in_the_first_quarter() {
    quarter(1);
}

#[test]
fn weeks_of_everything_going_wrong_violate_nothing_in_the_second_quarter() {
    quarter(2);
}

#[test]
fn weeks_of_everything_going_wrong_violate_nothing_in_the_third_quarter() {
    quarter(3);
}

#[test]
fn weeks_of_everything_going_wrong_violate_nothing_in_the_last_quarter() {
    quarter(4);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let (first, second) = (week(3, 2, None), week(3, 2, None));
    assert_eq!(first, second);
    assert_ne!(first.trace, week(4, 2, None).trace);
}

/// First of these seeds with which a planted fault is found, and what it violates.
fn found(fault: Fault) -> (u64, String) {
    let found = (1..=10).find_map(|seed| {
        let report = week(seed, 7, Some(fault));
        let what = report.violations.first().cloned()?;
        println!("{fault:?} is found with seed {seed}: {what}");
        Some((seed, what))
    });
    found.unwrap_or_else(|| panic!("{fault:?} is not found with the seeds 1 to 10"))
}

#[test]
fn a_missing_wakeup_is_found() {
    let (_, what) = found(Fault::MissingWakeup);
    assert!(what.contains("its instant was"), "{what}");
}

#[test]
fn a_lost_release_is_found() {
    let (_, what) = found(Fault::LostRelease);
    assert!(
        what.contains("are reserved while no call is under way"),
        "{what}"
    );
}

#[test]
fn a_midnight_that_comes_too_early_is_found() {
    let (_, what) = found(Fault::EarlyMidnight);
    assert!(what.contains("runs of a day that has"), "{what}");
}

#[test]
fn forty_tasks_get_through_a_night_with_an_outage_and_two_kills() {
    let report = simulate_night(1).expect("a simulation");
    require(&report);
    assert_eq!(
        (report.done, report.not_done, report.waited),
        (40, 0, 40),
        "{report}"
    );
}
