//! The audit log and the journal of hostd.

use super::case::cases;
use crate::support::{Bench, Done, claim, limits, new_task, outcome};
use abbey_model::*;
use abbey_store::*;
use serde_json::{Value, json};

cases! {
    many_at_once_keep_the_chain_whole checks append_audit_entry checkpoint verify_audit_log audit_entries tasks;
    entries_are_read_in_order checks append_audit_entry append_essential_audit_entry audit_entries audit_head;
    changes_of_access_are_found checks append_audit_entry service_access_entries;
    a_restore_is_logged_with_the_key_that_signs_from_then_on checks record_restore stated_key first_key signed_heads;
    keys_of_the_audit_log_are_rotated checks rotate_audit_key stated_key signed_heads verify_audit_log;
    the_journal_is_imported_once checks import_journal journal_offset;
    a_failed_operation_leaves_no_entry checks audit_head audit_entries;
}

fn changes_of_access_are_found(bench: &mut Bench) {
    for action in [
        "service.open",
        "task.add",
        "service.close",
        "service.restart",
        "service.drop",
    ] {
        bench.store().append_audit_entry(note(action)).done();
    }
    bench.reopen();
    let found = bench.store().service_access_entries().done();
    let found: Vec<(u64, &str)> = found.iter().map(|e| (e.seq, e.action.as_str())).collect();
    assert_eq!(
        found,
        [
            (1, "service.open"),
            (3, "service.close"),
            (5, "service.drop")
        ]
    );
}

fn note(action: &str) -> NewAuditEntry {
    NewAuditEntry {
        actor: Principal::House,
        action: action.into(),
        entity: "e".into(),
        detail: json!({}),
    }
}

/// 1, 16 and 256 workers: no busy error, no token granted twice, a whole chain with signatures.
fn many_at_once_keep_the_chain_whole(bench: &mut Bench) {
    let store = bench.store();
    store.set_budgets(limits(1_000_000), "UTC".into()).done();
    let complete = |task: TaskRef| {
        let proof = bench.proof("agent-a", 1);
        let result = (outcome(Value::Null), EvidenceCheck::NotRun);
        (task, proof, result, RunFacts::default())
    };
    let work = |(task, proof, result, facts): (
        TaskRef,
        LeaseProof,
        (Outcome, EvidenceCheck),
        RunFacts,
    )| { store.complete(task, proof, result, facts).wait() };
    for workers in [1, 16, 256] {
        let calls: Vec<_> = (0..workers)
            .map(|_| {
                let added = store.add_task(new_task("agent-a", "do it")).done();
                let task = TaskRef::Id(added.task.id);
                (claim(&task, "agent-a"), complete(task), complete(task))
            })
            .collect();
        std::thread::scope(|scope| {
            for (claim, first, second) in calls {
                scope.spawn(move || {
                    let claimed = store.claim(claim).done();
                    assert_eq!(claimed.lease.token.0, 1);
                    assert!(work(first).is_ok());
                    assert!(work(second).is_err());
                });
            }
        });
    }
    let done = TaskFilter {
        states: vec![TaskState::Done],
        limit: 10_000,
        ..TaskFilter::default()
    };
    assert_eq!(store.tasks(done).done().len(), 273);
    for _ in 0..300 {
        let detail = json!({ "key": format!("sk-abbey-{}", "A1b2".repeat(8)) });
        store
            .append_audit_entry(NewAuditEntry {
                detail,
                ..note("x.y")
            })
            .done();
    }
    store.checkpoint().done();
    assert_eq!(store.checkpoint().done(), None, "signed once");
    let verdict = store.verify_audit_log(KnownCheckpoints::default()).done();
    assert!(verdict.ok && verdict.checkpoints >= 2, "{verdict:?}");
    let newest = store.audit_entries(verdict.entries - 1, 1).done();
    assert_eq!(newest[0].detail["key"], "[redacted]");
    assert_eq!(bench.reserved(), 0);
}

fn entries_are_read_in_order(bench: &mut Bench) {
    assert_eq!(bench.store().audit_head(), 0);
    for (n, action) in ["a.b", "c.d", "e.f"].into_iter().enumerate() {
        assert_eq!(
            bench.store().append_audit_entry(note(action)).done(),
            n as u64 + 1
        );
    }
    assert_eq!(bench.store().audit_head(), 3);
    assert_eq!(bench.logged_after(1), ["c.d", "e.f"]);
    let entries = bench.store().audit_entries(0, 2).done();
    assert_eq!(entries[0].prev, GENESIS);
    assert_eq!(entries[1].prev, entries[0].hash);
    bench.reopen();
    assert_eq!(bench.store().audit_head(), 3);
    let essential = bench.store().append_essential_audit_entry(note("g.h"));
    assert_eq!(essential.done(), 4);
    assert!(
        bench
            .store()
            .verify_audit_log(KnownCheckpoints::default())
            .done()
            .ok
    );
}

fn a_restore_is_logged_with_the_key_that_signs_from_then_on(bench: &mut Bench) {
    let store = bench.store();
    store.append_audit_entry(note("a.b")).done();
    assert_eq!(store.signed_heads(0).done(), []);
    store.checkpoint().done();
    assert_eq!(store.signed_heads(0).done().len(), 1);
    assert_eq!(store.signed_heads(1).done(), []);
    let key = store.first_key().done();
    assert!(key.is_some());
    assert_eq!(store.record_restore(None, "digest".into()).done(), 2);
    assert_eq!(store.stated_key().done(), key);
    store.checkpoint().done();
    let verdict = store.verify_audit_log(KnownCheckpoints::default()).done();
    assert!(verdict.ok && verdict.notes.len() == 1, "{verdict:?}");
    let beyond = KnownCheckpoints {
        head: 3,
        ..KnownCheckpoints::default()
    };
    assert_eq!(store.verify_audit_log(beyond).done().first_bad, Some(3));
    let other = KnownCheckpoints {
        key: Some("ab".repeat(32)),
        ..KnownCheckpoints::default()
    };
    assert!(!store.verify_audit_log(other).done().ok);
}

fn the_journal_is_imported_once(bench: &mut Bench) {
    assert_eq!(bench.store().journal_offset().done(), 0);
    let lines = || vec![note("hostd.a"), note("hostd.b")];
    assert!(bench.store().import_journal(0, 40, lines()).done());
    assert!(
        !bench.store().import_journal(0, 40, lines()).done(),
        "another caller was first"
    );
    assert_eq!(bench.store().journal_offset().done(), 40);
    assert!(
        bench
            .store()
            .import_journal(40, 50, vec![note("hostd.c")])
            .done()
    );
    assert_eq!(bench.logged_after(0), ["hostd.a", "hostd.b", "hostd.c"]);
}

fn a_failed_operation_leaves_no_entry(bench: &mut Bench) {
    let task = bench.add("agent-a", None);
    let head = bench.store().audit_head();
    assert!(bench.complete(&task, "agent-a", 1).is_err());
    assert_eq!(bench.store().audit_head(), head);
    assert!(bench.logged_after(head).is_empty());
    assert!(
        bench
            .store()
            .verify_audit_log(KnownCheckpoints::default())
            .done()
            .ok
    );
}

fn keys_of_the_audit_log_are_rotated(bench: &mut Bench) {
    let store = bench.store();
    store.append_audit_entry(note("a.b")).done();
    let first = store.first_key().done().unwrap();
    for (key, entry) in [([1; 32], 2), ([2; 32], 3)] {
        let rotated = store.rotate_audit_key(Principal::Operator, key);
        assert_eq!(rotated.done(), entry);
        let stated = store.stated_key().done();
        assert_eq!(stated, Some(public_key(&key)));
    }
    store.append_audit_entry(note("a.b")).done();
    store.checkpoint().done();
    let heads = store.signed_heads(0).done();
    let keys: Vec<(u64, &str)> = heads.iter().map(|h| (h.seq, h.key.as_str())).collect();
    let (second, third) = (public_key(&[1; 32]), public_key(&[2; 32]));
    assert_eq!(
        keys,
        [
            (1, first.as_str()),
            (2, second.as_str()),
            (4, third.as_str())
        ]
    );
    let known = |key: &str| KnownCheckpoints {
        key: Some(key.to_owned()),
        ..KnownCheckpoints::default()
    };
    let verdict = store.verify_audit_log(known(&third)).done();
    assert!(verdict.ok, "{verdict:?}");
    assert_eq!((verdict.checkpoints, verdict.notes.len()), (3, 2));
    // Whoever keeps using the earlier key is found.
    let verdict = store.verify_audit_log(known(&second)).done();
    assert!(!verdict.ok && verdict.why.unwrap().contains("another key"));
}
