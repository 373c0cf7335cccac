//! Budgets and reservations.

use super::case::cases;
use crate::support::{Bench, Done, limits, new_task};
use abbey_model::*;
use abbey_store::*;

cases! {
    reservations_hold_on_every_level_or_on_none checks set_budgets budgets reserve_call settle_call;
    thirty_two_calls_against_room_for_ten checks reserve_call;
    a_crash_charges_what_was_forwarded checks charge_lost_calls run;
    a_new_day_starts_with_nothing_spent checks budgets settle_call;
    a_released_call_costs_nothing checks settle_call;
    usage_is_summed_by_agent_and_model checks usage_since answering_models_since settle_call;
    an_unknown_time_zone_is_refused checks set_budgets;
    a_changed_limit_stays_until_the_manifest_states_another checks change_budget limit_overrides set_budgets;
    a_repeated_raise_raises_once checks change_budget remove_old_records;
    a_changed_limit_ends_with_its_agent checks change_budget set_budgets;
    changes_that_change_nothing_are_refused checks change_budget;
    tokens_of_usage_are_those_of_the_ledger checks usage_since;
    the_numbers_of_tasks_with_budgets_are_known checks task_numbers_of_budgets;
}

fn set_limits(bench: &Bench, tokens: u64, timezone: &str) {
    bench
        .store()
        .set_budgets(limits(tokens), timezone.into())
        .done();
}

fn known(input: u64, output: u64, model: &str) -> CallUsage {
    CallUsage::Known {
        input,
        output,
        cached: 0,
        cost: Some(5),
        model: Some(model.into()),
    }
}

fn reservations_hold_on_every_level_or_on_none(bench: &mut Bench) {
    set_limits(bench, 1000, "UTC");
    let (task, claimed) = bench.claimed("agent-a");
    let run = claimed.run;
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
    let used = known(100, 450, "m");
    bench.store().settle_call(id, used.clone()).done();
    // Spend above its reservation is recorded; settling twice is refused.
    assert_eq!(bench.account("house", Metric::Tokens).spent, 550);
    assert!(bench.store().settle_call(id, used).wait().is_err());
    // Applying limits again never resets spend.
    set_limits(bench, 2000, "UTC");
    assert_eq!(bench.account("house", Metric::Tokens).spent, 550);
    bench.complete(&task, "agent-a", 1).unwrap();
    assert_eq!(bench.reserved(), 0);
    assert!(
        matches!(bench.reserve("agent-a", run, 1), Err(Error::NoLease(_))),
        "no lease, no call"
    );
}

fn thirty_two_calls_against_room_for_ten(bench: &mut Bench) {
    set_limits(bench, 2000, "UTC");
    let (_, claimed) = bench.claimed("agent-a");
    let (store, run) = (bench.store(), claimed.run);
    let call = || CallReservation {
        agent: crate::support::slug("agent-a"),
        run: Some(run),
        amounts: BudgetAmounts {
            tokens: Tokens(100),
            ..BudgetAmounts::default()
        },
        model: "p/m".into(),
    };
    let granted = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..32)
            .map(|_| scope.spawn(|| store.reserve_call(call()).wait().is_ok()))
            .collect();
        let granted = calls.into_iter().map(|c| c.join().unwrap());
        granted.filter(|ok| *ok).count()
    });
    assert_eq!(granted, 10);
}

fn a_crash_charges_what_was_forwarded(bench: &mut Bench) {
    set_limits(bench, 1000, "UTC");
    let (_, claimed) = bench.claimed("agent-a");
    bench.reserve("agent-a", claimed.run, 300).unwrap();
    bench.reopen();
    assert_eq!(bench.store().charge_lost_calls().done(), 1);
    let account = bench.account("house", Metric::Tokens);
    assert_eq!((account.spent, account.reserved), (300, 0));
    assert_eq!(
        bench.store().run(claimed.run).done().usage_source,
        "unknown"
    );
    assert_eq!(bench.store().charge_lost_calls().done(), 0);
}

fn a_new_day_starts_with_nothing_spent(bench: &mut Bench) {
    set_limits(bench, 1000, "Europe/Ljubljana");
    let (_, claimed) = bench.claimed("agent-a");
    let id = bench.reserve("agent-a", claimed.run, 300).unwrap();
    bench
        .store()
        .settle_call(id, CallUsage::Unknown { model: None })
        .done();
    let reset = bench.account("house", Metric::Tokens).resets_at.unwrap();
    let left = reset.since(bench.store().now()).0;
    bench.clock.advance(left - 1);
    assert_eq!(bench.account("house", Metric::Tokens).spent, 300);
    bench.clock.advance(1);
    assert_eq!(bench.account("house", Metric::Tokens).spent, 0);
}

fn a_released_call_costs_nothing(bench: &mut Bench) {
    set_limits(bench, 1000, "UTC");
    let (_, claimed) = bench.claimed("agent-a");
    let id = bench.reserve("agent-a", claimed.run, 300).unwrap();
    bench.store().settle_call(id, CallUsage::Released).done();
    let account = bench.account("house", Metric::Tokens);
    assert_eq!((account.spent, account.reserved), (0, 0));
    assert_eq!(bench.store().run(claimed.run).done().usage_source, "none");
}

fn usage_is_summed_by_agent_and_model(bench: &mut Bench) {
    let since = bench.store().now();
    for (agent, model) in [("agent-a", "m"), ("agent-a", "m"), ("agent-b", "n")] {
        let (_, claimed) = bench.claimed(agent);
        let id = bench.reserve(agent, claimed.run, 10).unwrap();
        bench.store().settle_call(id, known(3, 4, model)).done();
    }
    let usage = bench.store().usage_since(since).done();
    let sums: Vec<_> = usage
        .iter()
        .map(|u| {
            (
                u.agent.as_str(),
                u.model.as_str(),
                u.runs,
                u.input,
                u.output,
                u.cost_nano_usd,
            )
        })
        .collect();
    assert_eq!(
        sums,
        [("agent-a", "m", 2, 6, 8, 10), ("agent-b", "n", 1, 3, 4, 5)]
    );
    let models = bench.store().answering_models_since(since).done();
    let models: Vec<_> = models.iter().map(|m| (&m.answered[..], m.runs)).collect();
    assert_eq!(models, [("m", 2), ("n", 1)]);
    assert!(
        bench
            .store()
            .usage_since(since + Millis(1))
            .done()
            .is_empty()
    );
}

fn an_unknown_time_zone_is_refused(bench: &mut Bench) {
    let refused = bench
        .store()
        .set_budgets(limits(5), "Mars/Base".into())
        .wait();
    assert!(matches!(refused, Err(Error::TimeZone(_))));
    assert!(bench.store().budgets().done().is_empty(), "nothing was set");
}

fn change(bench: &Bench, metric: Metric, kind: BudgetChangeKind) -> Result<ChangedBudget> {
    let change = BudgetChange {
        scope: Scope::House,
        metric,
        kind,
        note: Some("release week".into()),
        key: None,
    };
    let store = bench.store();
    store.change_budget(change, Principal::Operator).wait()
}

fn a_changed_limit_stays_until_the_manifest_states_another(bench: &mut Bench) {
    let limit = |bench: &Bench| bench.account("house", Metric::Tokens).limit;
    set_limits(bench, 1000, "UTC");
    change(bench, Metric::Tokens, BudgetChangeKind::Raise(500)).unwrap();
    assert_eq!(limit(bench), Some(1500));
    // The same manifest again, and a restart.
    set_limits(bench, 1000, "UTC");
    bench.reopen();
    assert_eq!(limit(bench), Some(1500));
    let changed = bench.store().limit_overrides().done();
    let (name, limits) = changed.first_key_value().unwrap();
    assert_eq!(name, &("house".to_owned(), Metric::Tokens));
    assert_eq!((limits.limit, limits.manifest), (Some(1500), Some(1000)));
    assert_eq!(limits.by, "operator");
    set_limits(bench, 2000, "UTC");
    assert_eq!(limit(bench), Some(2000));
    assert!(bench.store().limit_overrides().done().is_empty());
    change(bench, Metric::Tokens, BudgetChangeKind::Set(None)).unwrap();
    assert_eq!(limit(bench), None);
    change(bench, Metric::Tokens, BudgetChangeKind::FollowManifest).unwrap();
    assert_eq!(limit(bench), Some(2000));
    assert!(bench.store().limit_overrides().done().is_empty());
    let entries = bench.store().audit_entries(0, 1000).done();
    let seen: Vec<(&str, &str)> = entries
        .iter()
        .filter(|e| e.action.starts_with("budget.") && e.entity == "house")
        .map(|e| (e.action.as_str(), e.actor.as_str()))
        .collect();
    let expected = [
        ("budget.raise", "operator"),
        ("budget.set", "house"),
        ("budget.set", "operator"),
        ("budget.set", "operator"),
    ];
    assert_eq!(seen, expected);
}

/// What was given to a removed agent is not there for a later one of its name.
fn a_changed_limit_ends_with_its_agent(bench: &mut Bench) {
    let limit_of = |scope: Scope| BudgetLimit {
        scope,
        metric: Metric::Tokens,
        window: Window::Day,
        limit: Some(1000),
        warn_percent: 80,
    };
    let agent = Scope::Agent("a".parse().unwrap());
    let state = |bench: &Bench, scopes: &[Scope]| {
        let limits = scopes.iter().cloned().map(limit_of).collect();
        let store = bench.store();
        store.set_budgets(limits, "UTC".into()).done();
    };
    state(bench, &[Scope::House, agent.clone()]);
    for scope in [Scope::House, agent.clone()] {
        let change = BudgetChange {
            scope,
            metric: Metric::Tokens,
            kind: BudgetChangeKind::Set(None),
            note: None,
            key: None,
        };
        let store = bench.store();
        store.change_budget(change, Principal::Operator).done();
    }
    state(bench, &[Scope::House]);
    state(bench, &[Scope::House, agent]);
    assert_eq!(bench.account("agent:a", Metric::Tokens).limit, Some(1000));
    assert_eq!(bench.account("house", Metric::Tokens).limit, None);
}

fn the_numbers_of_tasks_with_budgets_are_known(bench: &mut Bench) {
    set_limits(bench, 1000, "UTC");
    assert!(bench.store().task_numbers_of_budgets().done().is_empty());
    let limited = NewTask {
        budget: BudgetAmounts {
            tokens: Tokens(500),
            ..BudgetAmounts::default()
        },
        ..new_task("agent-a", "with a budget")
    };
    let with = bench.store().add_task(limited).done().task;
    let without = bench.task(&bench.add("agent-a", None));
    let numbers = bench.store().task_numbers_of_budgets().done();
    assert_eq!(numbers.get(&with.id), Some(&with.number));
    assert_eq!(numbers.get(&without.id), None);
}

fn changes_that_change_nothing_are_refused(bench: &mut Bench) {
    set_limits(bench, 1000, "UTC");
    for (kind, why) in [
        (BudgetChangeKind::Set(Some(0)), "would stop its work"),
        (BudgetChangeKind::Set(Some(1000)), "has this limit already"),
        (BudgetChangeKind::Raise(0), "can't be raised by 0"),
        (BudgetChangeKind::Reset, "nothing is spent yet"),
        (BudgetChangeKind::FollowManifest, "of the manifest already"),
    ] {
        let refusal = change(bench, Metric::Tokens, kind).unwrap_err().to_string();
        assert!(refusal.contains(why), "{refusal}");
        assert!(refusal.contains("token budget of the house"), "{refusal}");
    }
    let missing = change(bench, Metric::Seconds, BudgetChangeKind::Raise(1));
    assert!(matches!(missing, Err(Error::NotFound { .. })));
    let (_, claimed) = bench.claimed("agent-a");
    let id = bench.reserve("agent-a", claimed.run, 400).unwrap();
    bench.store().settle_call(id, known(100, 200, "m")).done();
    change(bench, Metric::Tokens, BudgetChangeKind::Reset).unwrap();
    let account = bench.account("house", Metric::Tokens);
    assert_eq!((account.spent, account.limit), (0, Some(1000)));
}

fn tokens_of_usage_are_those_of_the_ledger(bench: &mut Bench) {
    set_limits(bench, 10_000, "UTC");
    for (agent, used) in [
        ("agent-a", known(100, 50, "m")),
        ("agent-b", CallUsage::Unknown { model: None }),
        ("agent-b", known(10, 5, "m")),
    ] {
        let (_, claimed) = bench.claimed(agent);
        let id = bench.reserve(agent, claimed.run, 400).unwrap();
        bench.store().settle_call(id, used).done();
    }
    let usage = bench.store().usage_since(Timestamp(0)).done();
    let of = |agent: &str| -> u64 {
        let own = usage.iter().filter(|u| u.agent == agent);
        own.map(|u| u.charged).sum()
    };
    assert_eq!((of("agent-a"), of("agent-b")), (150, 415));
    assert_eq!(bench.account("house", Metric::Tokens).spent, 565);
}

fn a_repeated_raise_raises_once(bench: &mut Bench) {
    set_limits(bench, 1000, "UTC");
    let raise = |bench: &Bench, key: &str, more: u64| {
        let change = BudgetChange {
            scope: Scope::House,
            metric: Metric::Tokens,
            kind: BudgetChangeKind::Raise(more),
            note: None,
            key: Some((format!("operator budgets {key}"), more.to_string())),
        };
        let store = bench.store();
        store.change_budget(change, Principal::Operator).wait()
    };
    for _ in 0..2 {
        let raised = raise(bench, "a", 500).unwrap();
        assert_eq!(raised.account.limit, Some(1500));
        assert!(raised.changed.is_some());
    }
    let other = raise(bench, "a", 600);
    assert!(matches!(other, Err(Error::KeyReused(_))), "{other:?}");
    assert_eq!(raise(bench, "b", 500).unwrap().account.limit, Some(2000));
    let entries = bench.store().audit_entries(0, 1000).done();
    let raises = entries.iter().filter(|e| e.action == "budget.raise");
    assert_eq!(raises.count(), 2);
    bench.clock.advance(10_000);
    bench.store().remove_old_records(Millis(5_000)).done();
    assert_eq!(raise(bench, "a", 500).unwrap().account.limit, Some(2500));
}
