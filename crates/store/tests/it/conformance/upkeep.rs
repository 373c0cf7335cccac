//! Retention, copies, the clock, counters and subscriptions.

use super::case::cases;
use crate::support::{Bench, Done, START, intake, new_task, slug};
use abbey_model::*;
use abbey_store::*;

cases! {
    retention_forgets_tasks_and_keeps_the_chain checks remove_old_records task verify_audit_log;
    retention_removes_all_that_belongs_to_a_task checks remove_old_records runs budgets;
    backups_are_the_same_state checks backup state_hash format;
    the_hash_of_the_state_leaves_out_credentials checks state_hash add_token;
    the_clock_never_goes_back checks now;
    counters_count_transactions_and_operations checks counters;
    a_topic_is_published_by_the_commit_that_touched_it checks subscribe;
}

fn retention_forgets_tasks_and_keeps_the_chain(bench: &mut Bench) {
    let (task, _) = bench.claimed("agent-a");
    bench.complete(&task, "agent-a", 1).unwrap();
    bench.add("agent-a", None);
    bench.clock.advance(1000);
    assert_eq!(bench.store().remove_old_records(Millis(500)).done(), 1);
    assert!(matches!(
        bench.store().task(task).wait(),
        Err(Error::NotFound { .. })
    ));
    assert!(
        bench
            .store()
            .verify_audit_log(KnownCheckpoints::default())
            .done()
            .ok
    );
}

fn retention_removes_all_that_belongs_to_a_task(bench: &mut Bench) {
    let (task, claimed) = bench.claimed("agent-a");
    let id = bench.reserve("agent-a", claimed.run, 10).unwrap();
    bench.store().settle_call(id, CallUsage::Released).done();
    bench.complete(&task, "agent-a", 1).unwrap();
    assert!(!bench.store().budgets().done().is_empty());
    bench.clock.advance(1000);
    bench.store().remove_old_records(Millis(500)).done();
    assert!(bench.store().runs(claimed.task.id).done().is_empty());
    assert!(bench.store().budgets().done().is_empty());
    assert_eq!(bench.store().remove_old_records(Millis(500)).done(), 0);
}

fn backups_are_the_same_state(bench: &mut Bench) {
    bench.claimed("agent-a");
    let token = |hash: &str, name: Option<Slug>| NewToken {
        hash: hash.into(),
        principal: Principal::Operator,
        grant: CredentialGrant::Operator(AccessScopes::all()),
        name,
        expires_at: None,
        issued_by: Principal::House,
    };
    bench.store().add_token(token("own", None)).done();
    let named = Some(slug("ci"));
    bench.store().add_token(token("named", named)).done();
    let copy = bench.factory.backup_path();
    bench.store().backup(copy.clone()).done();
    let copied = bench
        .factory
        .open_backup(&copy, bench.clock.clone())
        .unwrap();
    assert_eq!(
        copied.state_hash().done(),
        bench.store().state_hash().done()
    );
    assert!(
        copied.tokens().done().is_empty(),
        "a restored house issues its credentials anew"
    );
    assert_eq!(bench.store().tokens().done().len(), 2);
    assert_eq!(bench.store().format().done(), FORMAT);
    assert_eq!(copied.format().done(), FORMAT);
}

fn the_hash_of_the_state_leaves_out_credentials(bench: &mut Bench) {
    let hash = bench.store().state_hash().done();
    let note = NewAuditEntry {
        actor: Principal::House,
        action: "x.y".into(),
        entity: "e".into(),
        detail: serde_json::json!({}),
    };
    bench.store().append_audit_entry(note).done();
    let after = bench.store().state_hash().done();
    assert_ne!(after, hash);
    bench
        .store()
        .add_token(NewToken {
            hash: "h".into(),
            principal: Principal::Operator,
            grant: CredentialGrant::Operator(AccessScopes::all()),
            name: None,
            expires_at: None,
            issued_by: Principal::House,
        })
        .done();
    let with_token = bench.store().state_hash().done();
    assert_ne!(with_token, after, "issuing it is logged");
    bench.reopen();
    assert_eq!(bench.store().state_hash().done(), with_token);
}

fn the_clock_never_goes_back(bench: &mut Bench) {
    assert_eq!(bench.store().now(), START);
    bench.clock.advance(-500);
    assert_eq!(bench.store().now(), START);
    bench.clock.advance(501);
    assert_eq!(bench.store().now(), START + Millis(1));
}

fn counters_count_transactions_and_operations(bench: &mut Bench) {
    let before = bench.store().counters();
    bench.add("agent-a", None);
    bench.store().expire_deadlines().done();
    let after = bench.store().counters();
    assert_eq!(
        (after.0 - before.0, after.1 - before.1),
        (1, 2),
        "a sweep of nothing writes nothing"
    );
}

fn a_topic_is_published_by_the_commit_that_touched_it(bench: &mut Bench) {
    let (work, cells) = (
        bench.store().subscribe(Topic::Work),
        bench.store().subscribe(Topic::Cells),
    );
    assert!(!work.has_changed().unwrap());
    let task = bench.add("agent-a", None);
    assert!(work.has_changed().unwrap() && !cells.has_changed().unwrap());
    let version = *work.borrow();
    assert!(bench.complete(&task, "agent-a", 1).is_err());
    bench.store().admit_task(task, intake(&["agent-a"])).done();
    assert_eq!(
        *work.borrow(),
        version,
        "a refusal and an unchanged task wake nobody"
    );
    bench.store().add_task(new_task("agent-b", "x")).done();
    assert_eq!(*work.borrow(), version + 1);
}
