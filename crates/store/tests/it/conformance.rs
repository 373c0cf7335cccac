//! The suite. A second implementation calls [`run`] with its own way to open a bench.

use crate::support::{Bench, limits};
use abbey_model::*;
use abbey_store::*;
use serde_json::json;

pub(crate) fn run(open: &dyn Fn() -> Bench) {
    one_claim_wins_and_late_holders_are_fenced_off(open());
    one_key_adds_one_task(open());
    reservations_hold_on_every_level_or_on_none(open());
    thirty_two_calls_against_room_for_ten(open());
    a_crash_charges_what_was_forwarded(open());
    a_new_day_starts_with_nothing_spent(open());
    generations_are_compared_and_allocations_kept(open());
    sagas_are_replayed_from_their_log(open());
    many_at_once_keep_the_chain_whole(open());
    retention_forgets_tasks_and_keeps_the_chain(open());
    backups_are_the_same_state(open());
}

fn one_claim_wins_and_late_holders_are_fenced_off(bench: Bench) {
    let task = bench.add("agent-a", None);
    let claimed = bench.claim(&task, "agent-a").unwrap();
    assert!(matches!(bench.claim(&task, "agent-a"), Err(Error::Task(_))));
    bench.clock.turn(30_000);
    assert!(
        bench
            .complete(&task, "agent-a", claimed.lease.token.0)
            .is_err(),
        "over at its instant"
    );
    assert_eq!(
        bench.store.sweep().wait().unwrap()[0].state(),
        TaskState::Pending
    );
    bench.clock.turn(10_000);
    let due = bench.store.sweep().wait().unwrap();
    assert_eq!(due.len(), 1, "its pause is over");
    let runs = bench.store.runs(due[0].id).wait().unwrap();
    assert_eq!(
        (runs.len(), runs[0].state, runs[0].reason),
        (1, RunState::Superseded, Some(EndReason::LeaseExpired))
    );
}

fn one_key_adds_one_task(bench: Bench) {
    let first = bench.add("agent-a", Some("k"));
    assert_eq!(bench.add("agent-a", Some("k")), first);
    assert!(matches!(
        bench.try_add("agent-a", Some("k"), "other"),
        Err(Error::KeyReused(_))
    ));
}

fn reservations_hold_on_every_level_or_on_none(bench: Bench) {
    bench
        .store
        .set_budgets(limits(1000), "UTC".into())
        .wait()
        .unwrap();
    let task = bench.add("agent-a", None);
    let run = bench.claim(&task, "agent-a").unwrap().run;
    // The agent's half is the tighter one: refused there, nothing is held anywhere.
    let before = bench.reserved();
    assert!(matches!(
        bench.reserve("agent-a", run, 501),
        Err(Error::Budget(_))
    ));
    assert_eq!(bench.reserved(), before);
    let id = bench.reserve("agent-a", run, 400).unwrap();
    for scope in ["house", "agent:agent-a", &format!("run:{run}")] {
        assert_eq!(
            bench.account(scope, Metric::Tokens).reserved,
            400,
            "{scope}"
        );
    }
    let used = CallUse::Known {
        input: 100,
        output: 450,
        cached: 0,
        cost: Some(5),
        model: Some("m".into()),
    };
    bench.store.settle(id, used.clone()).wait().unwrap();
    // Spend above its reservation is recorded; settling twice is refused.
    assert_eq!(bench.account("house", Metric::Tokens).spent, 550);
    assert!(bench.store.settle(id, used).wait().is_err());
    // Applying limits again never resets spend.
    bench
        .store
        .set_budgets(limits(2000), "UTC".into())
        .wait()
        .unwrap();
    assert_eq!(bench.account("house", Metric::Tokens).spent, 550);
    bench.complete(&task, "agent-a", 1).unwrap();
    assert_eq!(bench.reserved(), 0);
    assert!(
        matches!(bench.reserve("agent-a", run, 1), Err(Error::NoLease(_))),
        "no lease, no call"
    );
}

fn thirty_two_calls_against_room_for_ten(bench: Bench) {
    bench
        .store
        .set_budgets(limits(2000), "UTC".into())
        .wait()
        .unwrap();
    let task = bench.add("agent-a", None);
    let run = bench.claim(&task, "agent-a").unwrap().run;
    let granted = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..32)
            .map(|_| scope.spawn(|| bench.reserve("agent-a", run, 100).is_ok()))
            .collect();
        calls
            .into_iter()
            .map(|c| c.join().unwrap())
            .filter(|ok| *ok)
            .count()
    });
    assert_eq!(granted, 10);
}

fn a_crash_charges_what_was_forwarded(bench: Bench) {
    bench
        .store
        .set_budgets(limits(1000), "UTC".into())
        .wait()
        .unwrap();
    let task = bench.add("agent-a", None);
    let run = bench.claim(&task, "agent-a").unwrap().run;
    bench.reserve("agent-a", run, 300).unwrap();
    let bench = bench.reopen();
    assert_eq!(bench.store.charge_lost().wait().unwrap(), 1);
    let account = bench.account("house", Metric::Tokens);
    assert_eq!((account.spent, account.reserved), (300, 0));
    assert_eq!(bench.store.run(run).wait().unwrap().usage_source, "unknown");
}

fn a_new_day_starts_with_nothing_spent(bench: Bench) {
    bench
        .store
        .set_budgets(limits(1000), "Europe/Ljubljana".into())
        .wait()
        .unwrap();
    let task = bench.add("agent-a", None);
    let run = bench.claim(&task, "agent-a").unwrap().run;
    let id = bench.reserve("agent-a", run, 300).unwrap();
    bench
        .store
        .settle(id, CallUse::Unknown { model: None })
        .wait()
        .unwrap();
    let reset = bench.account("house", Metric::Tokens).resets_at.unwrap();
    let left = reset.since(bench.store.now()).0;
    bench.clock.turn(left - 1);
    assert_eq!(bench.account("house", Metric::Tokens).spent, 300);
    bench.clock.turn(1);
    assert_eq!(bench.account("house", Metric::Tokens).spent, 0);
}

fn generations_are_compared_and_allocations_kept(bench: Bench) {
    let commit = |generation, based_on| Commit {
        generation,
        based_on,
        actor: Principal::Operator,
        manifest: "m".into(),
        base_dir: "/".into(),
        applied: json!({}),
        charters: json!({}),
        steps: json!([]),
        allocations: vec![allocation::Allocation {
            kind: "port".into(),
            value: "1".into(),
            owner: "o".into(),
            purpose: "p".into(),
        }],
        newest_uid: 5,
        budgets: limits(10),
        timezone: "UTC".into(),
    };
    bench.store.commit_generation(commit(1, 0)).wait().unwrap();
    assert!(matches!(
        bench.store.commit_generation(commit(2, 0)).wait(),
        Err(Error::Stale { current: 1, .. })
    ));
    let row = bench.store.current().wait().unwrap().unwrap();
    assert_eq!(
        (row.generation, row.allocations.len(), row.newest_uid),
        (1, 1, 5)
    );
}

fn sagas_are_replayed_from_their_log(bench: Bench) {
    use abbey_engine::saga::{Event, State};
    let id = Id::v7(1, 1);
    bench
        .store
        .saga_begin(id, "k".into(), "s".into(), vec!["a".into(), "b".into()])
        .wait()
        .unwrap();
    bench
        .store
        .saga_event(id, Event::StepDone(0))
        .wait()
        .unwrap();
    let bench = bench.reopen();
    assert_eq!(
        bench.store.open_sagas().wait().unwrap()[0].state,
        State::Doing(1)
    );
    assert!(
        bench
            .store
            .saga_event(id, Event::StepDone(0))
            .wait()
            .is_err(),
        "a step is done once"
    );
    assert_eq!(
        bench
            .store
            .saga_event(id, Event::StepFailed(1))
            .wait()
            .unwrap(),
        State::Undoing(1)
    );
}

/// 1, 16 and 256 workers: no busy error, no token granted twice, a whole chain with signatures.
fn many_at_once_keep_the_chain_whole(bench: Bench) {
    bench
        .store
        .set_budgets(limits(1_000_000), "UTC".into())
        .wait()
        .unwrap();
    for workers in [1, 16, 256] {
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    let task = bench.add("agent-a", None);
                    let claimed = bench.claim(&task, "agent-a").unwrap();
                    assert_eq!(claimed.lease.token.0, 1);
                    bench.complete(&task, "agent-a", 1).unwrap();
                    assert!(bench.complete(&task, "agent-a", 1).is_err());
                });
            }
        });
    }
    let tasks = bench
        .store
        .tasks(TaskFilter {
            states: vec![TaskState::Done],
            limit: 10_000,
            ..TaskFilter::default()
        })
        .wait()
        .unwrap();
    assert_eq!(tasks.len(), 273);
    for _ in 0..300 {
        bench
            .store
            .append(Note {
                actor: Principal::House,
                action: "x.y".into(),
                entity: "e".into(),
                detail: json!({ "key": format!("sk-abbey-{}", "A1b2".repeat(8)) }),
            })
            .wait()
            .unwrap();
    }
    bench.store.checkpoint().wait().unwrap();
    assert_eq!(
        bench.store.checkpoint().wait().unwrap(),
        None,
        "signed once"
    );
    let verdict = bench.store.verify().wait().unwrap();
    assert!(verdict.ok && verdict.checkpoints >= 2, "{verdict:?}");
    let newest = bench.store.activity(verdict.entries - 1, 1).wait().unwrap();
    assert_eq!(newest[0].detail["key"], "[redacted]");
    assert_eq!(bench.reserved(), 0);
}

fn retention_forgets_tasks_and_keeps_the_chain(bench: Bench) {
    let task = bench.add("agent-a", None);
    bench.claim(&task, "agent-a").unwrap();
    bench.complete(&task, "agent-a", 1).unwrap();
    bench.add("agent-a", None);
    bench.clock.turn(1000);
    assert_eq!(bench.store.retain(Millis(500)).wait().unwrap(), 1);
    assert!(matches!(
        bench.store.task(task).wait(),
        Err(Error::NotFound { .. })
    ));
    assert!(bench.store.verify().wait().unwrap().ok);
}

fn backups_are_the_same_state(bench: Bench) {
    let task = bench.add("agent-a", None);
    bench.claim(&task, "agent-a").unwrap();
    let dir = tempfile::tempdir().unwrap();
    bench
        .store
        .backup(dir.path().join("abbey.db"))
        .wait()
        .unwrap();
    let copy = crate::support::try_open(dir.path()).unwrap();
    assert_eq!(
        copy.state_hash().wait().unwrap(),
        bench.store.state_hash().wait().unwrap()
    );
}
