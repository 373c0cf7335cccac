//! What every store must do: one suite against [`Storage`](abbey_store::Storage), run on each implementation.
//!
//! A case names the operations whose behaviour it checks. The suite fails when an operation of the interface has no
//! case, and when a case does not call an operation that it names.

mod approvals;
mod audit_log;
mod case;
mod cells;
mod delegation;
mod documents;
mod escalations;
mod generations;
mod leases;
mod ledger;
mod sagas;
mod schedules;
mod tasks;
mod upkeep;
mod waiting;
mod waits_for_tasks;
mod workflows;

use crate::support::{Bench, Factory};
use abbey_store::OPERATIONS;
use case::Case;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

const GROUPS: &[&[Case]] = &[
    tasks::CASES,
    leases::CASES,
    delegation::CASES,
    ledger::CASES,
    approvals::CASES,
    workflows::CASES,
    documents::CASES,
    schedules::CASES,
    escalations::CASES,
    generations::CASES,
    cells::CASES,
    sagas::CASES,
    audit_log::CASES,
    upkeep::CASES,
    waiting::CASES,
    waits_for_tasks::CASES,
];

/// Cases that run at the same time; each waits for its disk most of the time.
const AT_ONCE: usize = 8;

/// Runs every case on a store of its own, and prints one line for each operation with its cases.
pub(crate) fn run(factory: &(dyn Fn() -> Box<dyn Factory> + Sync)) {
    let cases: Vec<&Case> = GROUPS.iter().copied().flatten().collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    run_case(case, factory());
                }
            });
        }
    });
    let mut cases_of: BTreeMap<&str, Vec<&str>> =
        OPERATIONS.iter().map(|name| (*name, Vec::new())).collect();
    for case in &cases {
        for operation in case.operations {
            cases_of.entry(operation).or_default().push(case.name);
        }
    }
    for operation in OPERATIONS {
        let cases = &cases_of[operation];
        println!("{operation:<20} {:>2}  {}", cases.len(), cases.join(", "));
    }
    println!("{} operations, {} cases", OPERATIONS.len(), cases.len());
    let missing: Vec<&str> = cases_of
        .iter()
        .filter(|(_, cases)| cases.is_empty())
        .map(|(operation, _)| *operation)
        .collect();
    assert!(missing.is_empty(), "operations without a case: {missing:?}");
}

/// Runs one case, and checks that it calls the operations that it names.
fn run_case(case: &Case, factory: Box<dyn Factory>) {
    let name = case.name;
    println!("{name}");
    let mut bench = Bench::new(factory);
    (case.run)(&mut bench);
    let calls = bench.calls();
    for operation in case.operations {
        let called = calls.get(operation).copied();
        assert!(called.is_some(), "{name}: no operation `{operation}`");
        assert!(called > Some(0), "{name} does not call `{operation}`");
    }
}
