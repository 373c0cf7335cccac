//! What holds for the SQLite store beyond the conformance suite: its file, its format, and its clock.

use crate::support::{
    Bench, Done, Factory, SqliteFactory, limits, manual_clock, open_sqlite, slug, sqlite,
};
use abbey_store::{Error, Result, Storage};
use std::path::Path;

#[test]
fn an_idle_day_on_the_turned_clock_writes_nothing() {
    let bench: Bench = sqlite();
    let zone = "Europe/Ljubljana".to_owned();
    bench.store().set_budgets(limits(1000), zone).done();
    let before = bench.store().counters();
    for _ in 0..48 {
        bench.clock.advance(30 * 60 * 1000);
        // What the house's timers do while nothing happens.
        assert_eq!(bench.store().next_deadline().done(), None);
        assert!(bench.store().expire_deadlines().done().is_empty());
        assert_eq!(bench.store().wakes().done().len(), 0);
    }
    assert_eq!(
        bench.store().counters().0,
        before.0,
        "no transaction in a day"
    );
}

#[test]
fn a_step_back_of_the_clock_gives_no_lease_twice_and_time_goes_on() {
    let bench = sqlite();
    let (task, first) = bench.claimed("agent-a");
    bench.clock.advance(-3_600_000);
    // Still held: the store's time did not go back.
    assert!(bench.claim(&task, "agent-a").is_err());
    assert!(bench.renew(&task, "agent-a", first.lease.token.0).is_ok());
    bench.clock.advance(3_600_000 + 31_000);
    assert!(bench.renew(&task, "agent-a", first.lease.token.0).is_err());
    assert_eq!(bench.store().expire_deadlines().done().len(), 1);
}

#[test]
fn a_jump_of_the_clock_extends_the_leases_that_were_held() {
    let bench = sqlite();
    bench.claimed("agent-b");
    bench.clock.advance(31_000);
    let (task, held) = bench.claimed("agent-a");
    let days = 3 * 86_400_000;
    bench.clock.jump(days);
    let expired = bench.store().expire_deadlines().done();
    // The one that was over before.
    let expired: Vec<_> = expired.into_iter().map(|t| t.assignee).collect();
    assert_eq!(expired, [Some(slug("agent-b"))]);
    assert!(bench.renew(&task, "agent-a", held.lease.token.0).is_ok());
    let jumps = || {
        let log = bench.store().audit_entries(0, 100).done().into_iter();
        log.filter(|e| e.action == "clock.jump").collect::<Vec<_>>()
    };
    assert_eq!(jumps().len(), 1);
    assert_eq!(jumps()[0].detail["ms"], days);
    // It is extended once, and ends as any other.
    bench.clock.advance(31_000);
    assert_eq!(bench.store().expire_deadlines().done().len(), 1);
    assert_eq!(jumps().len(), 1);
}

fn try_open(path: &Path) -> Result<Box<dyn Storage>> {
    open_sqlite(path, manual_clock())
}

/// Writes a number of format into the file: `user_version` lies at byte 60 (sqlite.org/fileformat).
fn set_format(path: &Path, format: u32) {
    use std::io::{Seek, SeekFrom, Write};
    let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(60)).unwrap();
    file.write_all(&format.to_be_bytes()).unwrap();
}

#[test]
fn state_and_chain_survive_a_reopening_and_a_newer_format_is_refused() {
    let mut bench = sqlite();
    bench.claimed("agent-a");
    let hash = bench.store().state_hash().done();
    bench.reopen();
    assert_eq!(bench.store().state_hash().done(), hash);
    assert!(
        bench
            .store()
            .verify_audit_log(abbey_store::KnownCheckpoints::default())
            .done()
            .ok
    );

    let factory = SqliteFactory::new();
    drop(factory.open(manual_clock()).unwrap());
    set_format(&factory.path(), 99);
    let refused = try_open(&factory.path());
    assert!(matches!(refused, Err(Error::Newer { found: 99, .. })));
}

#[test]
fn a_damaged_or_foreign_file_is_never_an_empty_house() {
    for content in [
        &b"not a database at all, but long enough to look at"[..],
        &[0u8; 4096],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abbey.db");
        std::fs::write(&path, content).unwrap();
        assert!(try_open(&path).is_err(), "{} bytes", content.len());
    }
}
