//! What every storage must do: one suite against the interface, run on each implementation.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test tells by failing, and by what it prints"
)]

mod conformance;
mod support;

use support::{Bench, sqlite};

#[test]
fn sqlite_conforms() {
    conformance::run(&sqlite);
}

#[test]
fn an_idle_day_on_the_turned_clock_writes_nothing() {
    let bench: Bench = sqlite();
    bench
        .store
        .set_budgets(support::limits(1000), "Europe/Ljubljana".into())
        .wait()
        .unwrap();
    let before = bench.store.counters();
    for _ in 0..48 {
        bench.clock.turn(30 * 60 * 1000);
        // What the house's timers do while nothing happens.
        assert_eq!(bench.store.next_deadline().wait().unwrap(), None);
        assert!(bench.store.sweep().wait().unwrap().is_empty());
        assert_eq!(bench.store.wakes().wait().unwrap().len(), 0);
    }
    assert_eq!(
        bench.store.counters().0,
        before.0,
        "no transaction in a day"
    );
}

#[test]
fn a_step_back_of_the_clock_gives_no_lease_twice_and_time_goes_on() {
    let bench = sqlite();
    let task = bench.add("agent-a", None);
    let first = bench.claim(&task, "agent-a").unwrap();
    bench.clock.turn(-3_600_000);
    // Still held: the store's time did not go back.
    assert!(bench.claim(&task, "agent-a").is_err());
    assert!(bench.renew(&task, "agent-a", first.lease.token.0).is_ok());
    bench.clock.turn(3_600_000 + 31_000);
    assert!(bench.renew(&task, "agent-a", first.lease.token.0).is_err());
    assert_eq!(bench.store.sweep().wait().unwrap().len(), 1);
}

#[test]
fn state_and_chain_survive_a_reopening_and_a_newer_format_is_refused() {
    let bench = sqlite();
    let task = bench.add("agent-a", None);
    bench.claim(&task, "agent-a").unwrap();
    let hash = bench.store.state_hash().wait().unwrap();
    let bench = bench.reopen();
    assert_eq!(bench.store.state_hash().wait().unwrap(), hash);
    assert!(bench.store.verify().wait().unwrap().ok);
    let path = bench.close();
    support::set_format(&path.join("abbey.db"), 99);
    assert!(matches!(
        support::try_open(&path),
        Err(abbey_store::Error::Newer { found: 99, .. })
    ));
}

#[test]
fn a_damaged_or_foreign_file_is_never_an_empty_house() {
    for content in [
        &b"not a database at all, but long enough to look at"[..],
        &[0u8; 4096],
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("abbey.db"), content).unwrap();
        assert!(
            support::try_open(dir.path()).is_err(),
            "{} bytes",
            content.len()
        );
    }
}
