//! Generations and their allocations.

use super::case::cases;
use crate::support::{Bench, Done, limits, slug};
use abbey_model::*;
use abbey_store::*;
use serde_json::json;

cases! {
    generations_are_compared_and_allocations_kept checks commit_generation current_generation;
    a_commit_replaces_allocations_and_sets_budgets checks commit_generation current_generation budgets;
    a_refused_commit_changes_nothing checks commit_generation current_generation;
    the_last_manifest_with_an_agent_is_found checks last_manifest_with_agent;
    first_files_are_pending_until_the_agent_has_them_or_goes checks commit_generation pending_first_files finish_first_files;
    a_hook_that_was_removed_and_made_again_is_a_new_one checks commit_generation hook_since;
    a_limit_that_the_manifest_no_longer_states_ends checks commit_generation budgets;
    a_renamed_agent_keeps_its_work_and_its_spend checks commit_generation pending_renames finish_rename;
}

fn commit(generation: u64, based_on: u64) -> NewGeneration {
    NewGeneration {
        generation,
        based_on,
        actor: Principal::Operator,
        manifest: format!("m{generation}"),
        base_dir: "/".into(),
        applied: json!({ "a": generation }),
        charters: json!({}),
        steps: json!([]),
        allocations: vec![allocation::Allocation {
            kind: "port".into(),
            value: generation.to_string(),
            owner: "o".into(),
            purpose: "p".into(),
        }],
        newest_uid: 5,
        budgets: limits(10),
        timezone: "UTC".into(),
        renamed: Vec::new(),
        first_files: Vec::new(),
        hooks: Vec::new(),
    }
}

fn generations_are_compared_and_allocations_kept(bench: &mut Bench) {
    assert!(bench.store().current_generation().done().is_none());
    bench.store().commit_generation(commit(1, 0)).done();
    let refused = bench.store().commit_generation(commit(2, 0)).wait();
    assert!(matches!(refused, Err(Error::Stale { current: 1, .. })));
    let row = bench.store().current_generation().done().unwrap();
    assert_eq!(
        (row.generation, row.allocations.len(), row.newest_uid),
        (1, 1, 5)
    );
}

fn a_commit_replaces_allocations_and_sets_budgets(bench: &mut Bench) {
    bench.store().commit_generation(commit(1, 0)).done();
    bench.clock.advance(5);
    bench.store().commit_generation(commit(2, 1)).done();
    let row = bench.store().current_generation().done().unwrap();
    assert_eq!(
        (row.manifest.as_str(), row.applied["a"].as_u64()),
        ("m2", Some(2))
    );
    assert_eq!(
        (row.allocations.len(), row.allocations[0].value.as_str()),
        (1, "2")
    );
    assert_eq!(row.at, bench.store().now());
    assert_eq!(bench.account("house", Metric::Tokens).limit, Some(10));
}

fn a_refused_commit_changes_nothing(bench: &mut Bench) {
    bench.store().commit_generation(commit(1, 0)).done();
    let hash = bench.store().state_hash().done();
    let wrong = NewGeneration {
        timezone: "Mars/Base".into(),
        ..commit(2, 1)
    };
    assert!(bench.store().commit_generation(wrong).wait().is_err());
    assert_eq!(bench.store().state_hash().done(), hash);
    assert_eq!(
        bench
            .store()
            .current_generation()
            .done()
            .unwrap()
            .generation,
        1
    );
}

fn the_last_manifest_with_an_agent_is_found(bench: &mut Bench) {
    let with = |generation, based_on, charters| NewGeneration {
        charters,
        ..commit(generation, based_on)
    };
    bench
        .store()
        .commit_generation(with(1, 0, json!({ "atlas": "old" })))
        .done();
    bench
        .store()
        .commit_generation(with(2, 1, json!({ "atlas": "new", "abbot": "x" })))
        .done();
    bench
        .store()
        .commit_generation(with(3, 2, json!({ "abbot": "x" })))
        .done();
    let third = bench.store().current_generation().done().map(|g| g.at);
    bench.clock.advance(1_000);
    bench
        .store()
        .commit_generation(with(4, 3, json!({ "atlas": "newest", "abbot": "x" })))
        .done();
    let last = |until| {
        let found = bench.store().last_manifest_with_agent(slug("atlas"), until);
        found.done()
    };
    assert_eq!(last(None), Some((4, "m4".into(), "newest".into())));
    assert_eq!(last(third), Some((2, "m2".into(), "new".into())));
    assert_eq!(last(Some(Timestamp(-1))), None);
    assert_eq!(
        bench
            .store()
            .last_manifest_with_agent(slug("abbot"), None)
            .done()
            .map(|f| f.0),
        Some(4)
    );
    assert_eq!(
        bench
            .store()
            .last_manifest_with_agent(slug("nobody"), None)
            .done(),
        None
    );
}

fn first_files_are_pending_until_the_agent_has_them_or_goes(bench: &mut Bench) {
    let (a, b) = (slug("agent-a"), slug("agent-b"));
    let saved = FirstFiles::Template(slug("tooled"));
    let removed = FirstFiles::Archive("2026-11-26T00-00-00-000Z".into());
    let first = NewGeneration {
        first_files: vec![(a.clone(), saved), (b.clone(), removed.clone())],
        charters: json!({ "agent-a": "", "agent-b": "" }),
        ..commit(1, 0)
    };
    // A plan that is refused asks for nobody's files.
    let late = NewGeneration {
        based_on: 7,
        ..first.clone()
    };
    assert!(bench.store().commit_generation(late).wait().is_err());
    assert!(bench.store().pending_first_files().done().is_empty());
    let head = bench.store().audit_head();
    bench.store().commit_generation(first).done();
    let logged = bench.logged_after(head);
    assert_eq!(logged, ["agent.fill", "agent.restore", "plan.commit"]);
    bench.store().finish_first_files(a.clone()).done();
    let pending = bench.store().pending_first_files().done();
    assert_eq!(pending, [(b, removed)]);
    // An agent of the same name that comes later is another one.
    let without = NewGeneration {
        charters: json!({ "agent-a": "" }),
        ..commit(2, 1)
    };
    bench.store().commit_generation(without).done();
    assert!(bench.store().pending_first_files().done().is_empty());
}

fn a_renamed_agent_keeps_its_work_and_its_spend(bench: &mut Bench) {
    let mut first = commit(1, 0);
    first.budgets.push(BudgetLimit {
        scope: Scope::Agent(slug("agent-a")),
        metric: Metric::Runs,
        window: Window::Day,
        limit: None,
        warn_percent: 80,
    });
    bench.store().commit_generation(first).done();
    let (task, claimed) = bench.claimed("agent-a");
    bench.add("agent-a", None);
    bench.add("agent-b", None);
    for (name, agent) in [("agent-a/daily", "agent-a"), ("agent-c/daily", "agent-c")] {
        bench
            .store()
            .register_schedule(name.into(), "d1".into())
            .done();
        bench.store().record_wake(slug(agent), 3).done();
    }
    let before = bench.account("agent:agent-a", Metric::Runs);
    assert!(before.spent + before.reserved > 0, "{before:?}");
    let head = bench.store().audit_head();
    let renaming = NewGeneration {
        renamed: vec![(slug("agent-a"), slug("agent-c"))],
        budgets: Vec::new(),
        ..commit(2, 1)
    };
    bench.store().commit_generation(renaming).done();
    assert_eq!(bench.logged_after(head), ["agent.rename", "plan.commit"]);
    assert_eq!(bench.store().offers(slug("agent-c"), 10).done().len(), 1);
    assert_eq!(bench.store().offers(slug("agent-a"), 10).done().len(), 0);
    assert_eq!(bench.store().offers(slug("agent-b"), 10).done().len(), 1);
    let account = bench.account("agent:agent-c", Metric::Runs);
    assert_eq!(
        (account.spent, account.reserved),
        (before.spent, before.reserved)
    );
    let accounts = bench.store().budgets().done();
    let left = accounts.iter().filter(|a| a.scope == before.scope);
    assert_eq!(left.count(), 0, "{accounts:?}");
    let wakes: Vec<Slug> = bench.store().wakes().done().into_keys().collect();
    let schedules: Vec<String> = bench.store().schedules().done().into_keys().collect();
    assert_eq!(
        (wakes, schedules),
        (vec![slug("agent-c")], vec!["agent-c/daily".to_owned()])
    );
    bench
        .complete(&task, "agent-c", claimed.lease.token.0)
        .unwrap();
    let pending = bench.store().pending_renames().done();
    assert_eq!(
        pending,
        [RenamedAgent {
            seq: 1,
            old: slug("agent-a"),
            new: slug("agent-c")
        }]
    );
    bench.store().finish_rename(1).done();
    assert!(bench.store().pending_renames().done().is_empty());
}

fn a_hook_that_was_removed_and_made_again_is_a_new_one(bench: &mut Bench) {
    let with = |generation, hooks: &[&str]| NewGeneration {
        hooks: hooks.iter().map(|h| slug(h)).collect(),
        ..commit(generation, generation - 1)
    };
    let since = |bench: &Bench, hook: &str| bench.store().hook_since(slug(hook)).done();
    let commit = |bench: &Bench, new| bench.store().commit_generation(new).done();
    commit(bench, with(1, &["forge", "chat"]));
    assert_eq!(since(bench, "forge"), Timestamp(0), "older than records");
    bench.clock.advance(1000);
    commit(bench, with(2, &["chat"]));
    bench.clock.advance(1000);
    commit(bench, with(3, &["forge", "chat", "new"]));
    let again = bench.store().now();
    bench.clock.advance(1000);
    commit(bench, with(4, &["forge", "chat", "new"]));
    let all = ["forge", "chat", "new"].map(|hook| since(bench, hook));
    assert_eq!(all, [again, Timestamp(0), again]);
}

fn a_limit_that_the_manifest_no_longer_states_ends(bench: &mut Bench) {
    let seconds = |limit| BudgetLimit {
        metric: Metric::Seconds,
        limit: Some(limit),
        ..limits(10)[0].clone()
    };
    let scope = limits(10)[0].scope.to_string();
    let with = |generation, budgets: Vec<BudgetLimit>| NewGeneration {
        budgets,
        ..commit(generation, generation - 1)
    };
    let both = [limits(10), vec![seconds(60)]].concat();
    bench.store().commit_generation(with(1, both)).done();
    let limit = |bench: &Bench| bench.account(&scope, Metric::Seconds).limit;
    assert_eq!(limit(bench), Some(60));
    let one = with(2, limits(10));
    bench.store().commit_generation(one).done();
    assert_eq!(limit(bench), None, "it is counted without a limit");
    // What the operator set meanwhile stays until the manifest states something.
    let change = BudgetChange {
        scope: limits(10)[0].scope.clone(),
        metric: Metric::Seconds,
        kind: BudgetChangeKind::Set(Some(30)),
        note: None,
        key: None,
    };
    let changed = bench.store().change_budget(change, Principal::Operator);
    changed.done();
    bench.store().commit_generation(with(3, limits(10))).done();
    assert_eq!(limit(bench), Some(30));
}
