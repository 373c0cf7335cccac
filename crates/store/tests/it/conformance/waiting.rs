//! Tasks that wait for budgets and providers: what parks them, what they cost, and what ends their wait.

use super::case::cases;
use crate::support::{Bench, Done, agent_fact, limits, new_task, slug};
use abbey_engine::matcher::Match;
use abbey_engine::provider_health::{Observation, ProviderCondition};
use abbey_engine::task::Phase;
use abbey_model::*;
use abbey_store::*;

cases! {
    a_refused_call_parks_its_task_until_the_reset checks record_run_wait fail admit_task expire_deadlines next_deadline;
    a_raised_limit_ends_the_wait_and_a_small_raise_does_not checks set_budgets admit_task;
    a_raise_by_the_operator_wakes_what_waits_for_it checks change_budget expire_deadlines;
    a_task_keeps_what_it_waited_for checks admit_task claim;
    open_tasks_are_counted_by_what_they_wait_for checks counts record_backup;
    an_edit_does_not_begin_a_wait_anew checks edit_task counts;
    each_thing_that_a_task_waits_for_wakes_it checks change_budget expire_deadlines;
    what_one_agent_is_short_of_is_no_reason_for_another checks edit_task;
    what_can_never_fit_is_no_wait checks reserve_call fail;
    a_settled_call_makes_room_for_those_that_wait checks settle_call expire_deadlines;
    room_that_comes_before_the_end_of_the_run_wakes_as_well checks fail expire_deadlines;
    a_budget_that_is_counted_from_the_middle_of_a_run_on_is_settled checks set_budgets fail;
    runs_that_are_used_up_park_what_is_offered checks claim admit_task;
    tasks_wait_for_a_provider_without_costing_attempts checks record_provider_outcome provider_health claim fail;
    a_request_that_a_provider_cannot_serve_fails_its_task_in_the_end checks record_provider_outcome fail;
    what_a_model_refuses_is_remembered_until_its_provider_changes checks record_refused_key refused_keys forget_refused_keys;
    a_changed_provider_is_called_at_once checks reset_provider_health provider_health expire_deadlines;
    a_changed_time_zone_forgets_no_spending checks set_budgets budgets;
}

/// Admission of a task that no skill matches.
fn model_intake(agent: &str) -> Intake {
    Intake {
        fit: Match::None,
        agents: vec![agent_fact(agent)],
        reason: String::new(),
        suggested: Vec::new(),
    }
}

fn add_model_task(bench: &Bench, agent: &str) -> TaskRef {
    let new = NewTask {
        intake: model_intake(agent),
        ..new_task(agent, "write a haiku")
    };
    TaskRef::Id(bench.store().add_task(new).done().task.id)
}

fn readmit(bench: &Bench, task: &TaskRef, agent: &str) -> TaskRow {
    bench.store().admit_task(*task, model_intake(agent)).done()
}

fn fail(bench: &Bench, task: &TaskRef, claimed: &Claimed, reason: EndReason) -> TaskRow {
    let agent = claimed.task.assignee.clone().expect("an assignee");
    let proof = bench.proof(agent.as_str(), claimed.lease.token.0);
    let failure = Failure {
        reason,
        text: "the model call was rejected".into(),
    };
    let store = bench.store();
    store
        .fail(*task, proof, failure, RunFacts::default())
        .done()
}

/// Lets a call of the run be refused, as the model gateway does, and gives whether it is a wait.
fn refuse(bench: &Bench, agent: &str, claimed: &Claimed, tokens: u64) -> bool {
    let Err(Error::Budget(refusal)) = bench.reserve(agent, claimed.run, tokens) else {
        panic!("{tokens} tokens were granted");
    };
    let Some(wait) = refusal.wait() else {
        return false;
    };
    let store = bench.store();
    store
        .record_run_wait(slug(agent), Some(claimed.run), wait)
        .done();
    true
}

fn spend(bench: &Bench, agent: &str, claimed: &Claimed, tokens: u64) {
    let id = bench.reserve(agent, claimed.run, tokens).expect("it fits");
    let unknown = CallUsage::Unknown { model: None };
    bench.store().settle_call(id, unknown).done();
}

fn waiting_for(row: &TaskRow) -> WaitingFor {
    assert_eq!(row.state(), TaskState::Parked);
    row.phase.waiting_for().expect("it waits")
}

/// A task of agent-a that waits for 400 tokens, of which 200 are left.
fn short_of_tokens(bench: &Bench) -> TaskRef {
    bench.store().set_budgets(limits(1000), "UTC".into()).done();
    let task = add_model_task(bench, "agent-a");
    let claimed = bench.claim(&task, "agent-a").expect("claimed");
    spend(bench, "agent-a", &claimed, 300);
    assert!(refuse(bench, "agent-a", &claimed, 400));
    fail(bench, &task, &claimed, EndReason::BudgetExhausted);
    task
}

fn a_refused_call_parks_its_task_until_the_reset(bench: &mut Bench) {
    let task = short_of_tokens(bench);
    let row = bench.task(&task);
    let resets_at = bench.account("house", Metric::Tokens).resets_at;
    let wait = waiting_for(&row);
    assert_eq!(
        (wait.kind, wait.name.as_str(), wait.until),
        (WaitKind::Budget, "agent:agent-a", resets_at)
    );
    assert_eq!(row.attempts, 0, "waiting costs no attempt");
    assert_eq!(row.failure, None);
    let runs = bench.account("house", Metric::Runs);
    assert_eq!((runs.spent, runs.reserved), (0, 0), "nor a run");
    // It is not offered again before there is enough, whatever the occasion.
    assert_eq!(readmit(bench, &task, "agent-a").phase, row.phase);
    bench.reopen();
    assert_eq!(bench.store().next_deadline().done(), resets_at);
    assert!(bench.store().expire_deadlines().done().is_empty());
    let left = resets_at.unwrap().since(bench.store().now());
    bench.clock.advance(left.0);
    let due = bench.store().expire_deadlines().done();
    assert_eq!(due.len(), 1);
    let admitted = readmit(bench, &task, "agent-a");
    assert!(matches!(admitted.phase, Phase::Ready { .. }));
    assert_eq!(bench.store().next_deadline().done(), None);
}

fn a_raised_limit_ends_the_wait_and_a_small_raise_does_not(bench: &mut Bench) {
    let task = short_of_tokens(bench);
    bench.store().set_budgets(limits(1398), "UTC".into()).done();
    waiting_for(&readmit(bench, &task, "agent-a"));
    bench.store().set_budgets(limits(1400), "UTC".into()).done();
    let admitted = readmit(bench, &task, "agent-a");
    assert!(matches!(admitted.phase, Phase::Ready { .. }));
}

fn what_one_agent_is_short_of_is_no_reason_for_another(bench: &mut Bench) {
    let other = short_of_tokens(bench);
    let edit = TaskEdit {
        text: "write a haiku".into(),
        priority: Priority::P2,
        assignee: Some(slug("agent-b")),
        intake: model_intake("agent-b"),
    };
    let moved = bench.store().edit_task(other, edit, Principal::Operator);
    assert!(matches!(moved.done().phase, Phase::Ready { .. }));
}

fn what_can_never_fit_is_no_wait(bench: &mut Bench) {
    bench.store().set_budgets(limits(1000), "UTC".into()).done();
    let task = add_model_task(bench, "agent-a");
    let claimed = bench.claim(&task, "agent-a").expect("claimed");
    assert!(!refuse(bench, "agent-a", &claimed, 501));
    let row = fail(bench, &task, &claimed, EndReason::BudgetExhausted);
    assert_eq!(row.state(), TaskState::Failed);
    // A refusal that a later call made up for is no excuse either.
    let task = add_model_task(bench, "agent-a");
    let claimed = bench.claim(&task, "agent-a").expect("claimed");
    spend(bench, "agent-a", &claimed, 100);
    assert!(refuse(bench, "agent-a", &claimed, 401));
    spend(bench, "agent-a", &claimed, 100);
    let row = fail(bench, &task, &claimed, EndReason::AgentError);
    assert_eq!(row.state(), TaskState::Failed);
}

fn a_settled_call_makes_room_for_those_that_wait(bench: &mut Bench) {
    bench.store().set_budgets(limits(1000), "UTC".into()).done();
    let (_, busy) = bench.claimed("agent-b");
    let open = bench.reserve("agent-b", busy.run, 700).unwrap();
    let task = add_model_task(bench, "agent-c");
    let claimed = bench.claim(&task, "agent-c").expect("claimed");
    assert!(refuse(bench, "agent-c", &claimed, 400));
    let row = fail(bench, &task, &claimed, EndReason::BudgetExhausted);
    assert_eq!(waiting_for(&row).name, "house");
    let released = CallUsage::Released;
    bench.store().settle_call(open, released).done();
    let due = bench.store().expire_deadlines().done();
    assert_eq!(due.iter().map(|t| t.id).collect::<Vec<_>>(), [row.id]);
    let admitted = readmit(bench, &task, "agent-c");
    assert!(matches!(admitted.phase, Phase::Ready { .. }));
}

/// A worker reports after the refusal, and the room may come in between.
fn room_that_comes_before_the_end_of_the_run_wakes_as_well(bench: &mut Bench) {
    let store = bench.store();
    store.set_budgets(limits(1000), "UTC".into()).done();
    let (first, second) = (
        add_model_task(bench, "agent-a"),
        add_model_task(bench, "agent-b"),
    );
    let holder = bench.claim(&first, "agent-a").expect("claimed");
    let other = bench.claim(&second, "agent-b").expect("claimed");
    let held = bench.reserve("agent-a", holder.run, 480).expect("it fits");
    let more = bench.reserve("agent-b", other.run, 480).expect("it fits");
    assert!(refuse(bench, "agent-b", &other, 200));
    let store = bench.store();
    store.settle_call(held, CallUsage::Released).done();
    store.settle_call(more, CallUsage::Released).done();
    assert!(bench.store().expire_deadlines().done().is_empty());
    fail(bench, &second, &other, EndReason::BudgetExhausted);
    let due = bench.store().expire_deadlines().done();
    assert_eq!(due.len(), 1);
}

/// A limit of minutes that is set while a run goes on counts what the run has reserved.
fn a_budget_that_is_counted_from_the_middle_of_a_run_on_is_settled(bench: &mut Bench) {
    let without: Vec<BudgetLimit> = limits(1000)
        .into_iter()
        .filter(|l| l.metric != Metric::Seconds)
        .collect();
    bench.store().set_budgets(without, "UTC".into()).done();
    let task = add_model_task(bench, "agent-a");
    let claimed = bench.claim(&task, "agent-a").expect("claimed");
    let minutes = |scope| BudgetLimit {
        scope,
        metric: Metric::Seconds,
        window: Window::Day,
        limit: Some(36_000),
        warn_percent: 80,
    };
    let scopes = [Scope::House, Scope::Agent(slug("agent-a"))];
    let minutes = scopes.map(minutes).to_vec();
    bench.store().set_budgets(minutes, "UTC".into()).done();
    assert!(bench.account("house", Metric::Seconds).reserved > 0);
    fail(bench, &task, &claimed, EndReason::AgentError);
    let counted = bench.account("house", Metric::Seconds);
    assert_eq!(counted.reserved, 0);
}

fn runs_that_are_used_up_park_what_is_offered(bench: &mut Bench) {
    let runs = |most| {
        let mut all = limits(1000);
        all[1].limit = Some(most);
        all
    };
    bench.store().set_budgets(runs(1), "UTC".into()).done();
    let waits = add_model_task(bench, "agent-b");
    let (task, _) = bench.claimed("agent-b");
    bench.complete(&task, "agent-b", 1).unwrap();
    let refused = bench.claim(&waits, "agent-b");
    assert!(matches!(refused, Err(Error::Budget(_))), "{refused:?}");
    let wait = waiting_for(&readmit(bench, &waits, "agent-b"));
    assert_eq!(wait.name, "house");
    assert_eq!(wait.until, bench.account("house", Metric::Runs).resets_at);
    bench.store().set_budgets(runs(2), "UTC".into()).done();
    let admitted = readmit(bench, &waits, "agent-b");
    assert!(matches!(admitted.phase, Phase::Ready { .. }));
}

/// End of a call of the run to the provider `p`.
fn call(claimed: &Claimed, seen: Observation) -> ProviderOutcome {
    ProviderOutcome {
        provider: "p".into(),
        agent: slug("agent-a"),
        run: Some(claimed.run),
        seen,
    }
}

const fn failed(failure: ProviderFailure) -> Observation {
    Observation::Failed {
        failure,
        retry_after: None,
        words: None,
    }
}

fn tasks_wait_for_a_provider_without_costing_attempts(bench: &mut Bench) {
    let (first, second) = (
        add_model_task(bench, "agent-a"),
        add_model_task(bench, "agent-a"),
    );
    // More often than a task may fail.
    for _ in 0..6 {
        let claimed = bench.claim(&first, "agent-a").expect("claimed");
        let outcome = call(&claimed, failed(ProviderFailure::Unreachable));
        let condition = bench.store().record_provider_outcome(outcome).done();
        let until = condition.refuses_until(bench.store().now()).unwrap();
        let row = fail(bench, &first, &claimed, EndReason::ProviderError);
        let wait = waiting_for(&row);
        assert_eq!(
            (wait.kind, wait.name.as_str(), wait.until),
            (WaitKind::Provider, "p", Some(until))
        );
        assert_eq!(row.attempts, 0);
        assert!(matches!(
            bench.claim(&second, "agent-a"),
            Err(Error::MustWait(_))
        ));
        waiting_for(&readmit(bench, &second, "agent-a"));
        bench.reopen();
        assert_eq!(bench.store().provider_health().done()["p"], condition);
        bench.clock.advance(until.since(bench.store().now()).0);
        assert_eq!(bench.store().expire_deadlines().done().len(), 2);
        readmit(bench, &first, "agent-a");
        readmit(bench, &second, "agent-a");
    }
    let claimed = bench.claim(&first, "agent-a").expect("claimed");
    let answered = call(&claimed, Observation::Answered);
    let condition = bench.store().record_provider_outcome(answered).done();
    assert_eq!(condition, ProviderCondition::Available);
    assert!(bench.store().provider_health().done().is_empty());
    let log = bench.store().audit_entries(0, 200).done().into_iter();
    let edges: Vec<String> = log
        .map(|e| e.action)
        .filter(|a| a.starts_with("provider."))
        .collect();
    assert_eq!(edges, ["provider.cool_down", "provider.recover"]);
    assert_eq!(bench.complete(&first, "agent-a", 7).unwrap().attempts, 1);
}

fn a_request_that_a_provider_cannot_serve_fails_its_task_in_the_end(bench: &mut Bench) {
    let (bad, good) = (
        add_model_task(bench, "agent-a"),
        add_model_task(bench, "agent-a"),
    );
    let mut states = Vec::new();
    while states.last() != Some(&Failed) {
        assert!(states.len() < 10, "{states:?}");
        let claimed = bench.claim(&bad, "agent-a").expect("claimed");
        let outcome = call(&claimed, failed(ProviderFailure::ServerError));
        bench.store().record_provider_outcome(outcome).done();
        states.push(fail(bench, &bad, &claimed, EndReason::ProviderError).state());
        bench.clock.advance(10_000);
        readmit(bench, &good, "agent-a");
        let claimed = bench.claim(&good, "agent-a").expect("claimed");
        let outcome = call(&claimed, Observation::Answered);
        bench.store().record_provider_outcome(outcome).done();
        bench
            .store()
            .revoke_leases(slug("agent-a"), None, false)
            .done();
        bench.store().cancel_task(good, Principal::Operator).done();
        bench.store().retry_task(good, Principal::Operator).done();
        if states.last() != Some(&Failed) {
            readmit(bench, &bad, "agent-a");
        }
    }
    use TaskState::{Failed, Parked, Pending};
    assert_eq!(states, [Parked, Parked, Parked, Pending, Pending, Failed]);
}

fn what_a_model_refuses_is_remembered_until_its_provider_changes(bench: &mut Bench) {
    for (provider, model, key) in [
        ("p", "m", RefusedKey::MaxTokens),
        ("p", "m", RefusedKey::MaxTokens),
        ("p", "m", RefusedKey::StreamOptions),
        ("q", "m", RefusedKey::MaxTokens),
    ] {
        let store = bench.store();
        store
            .record_refused_key(provider.into(), model.into(), key)
            .done();
    }
    bench.reopen();
    let known = bench.store().refused_keys().done();
    assert_eq!(known[&("p".to_owned(), "m".to_owned())].len(), 2);
    bench.store().forget_refused_keys(vec!["p".into()]).done();
    let known = bench.store().refused_keys().done();
    let left: Vec<_> = known
        .keys()
        .map(|(provider, _)| provider.as_str())
        .collect();
    assert_eq!(left, ["q"]);
}

fn a_changed_provider_is_called_at_once(bench: &mut Bench) {
    let task = add_model_task(bench, "agent-a");
    let claimed = bench.claim(&task, "agent-a").expect("claimed");
    let outcome = call(&claimed, failed(ProviderFailure::Unreachable));
    bench.store().record_provider_outcome(outcome).done();
    waiting_for(&fail(bench, &task, &claimed, EndReason::ProviderError));
    let reset = |names: &[&str]| {
        let names = names.iter().map(ToString::to_string).collect();
        let store = bench.store();
        store
            .reset_provider_health(names, None, Principal::Operator)
            .done();
    };
    reset(&["q"]);
    assert_eq!(bench.store().provider_health().done().len(), 1);
    assert!(bench.store().expire_deadlines().done().is_empty());
    reset(&["p", "q"]);
    assert!(bench.store().provider_health().done().is_empty());
    assert_eq!(bench.store().expire_deadlines().done().len(), 1);
    let admitted = readmit(bench, &task, "agent-a");
    assert!(matches!(admitted.phase, Phase::Ready { .. }));
}

fn a_changed_time_zone_forgets_no_spending(bench: &mut Bench) {
    let set = |zone: &str| bench.store().set_budgets(limits(9000), zone.into()).done();
    set("Etc/UTC");
    let (_, claimed) = bench.claimed("agent-a");
    for (zone, spent) in [
        ("Pacific/Kiritimati", 100),
        ("Pacific/Niue", 200),
        ("Etc/UTC", 300),
    ] {
        spend(bench, "agent-a", &claimed, 100);
        set(zone);
        assert_eq!(
            bench.account("house", Metric::Tokens).spent,
            spent,
            "{zone}"
        );
    }
    let account = bench.account("house", Metric::Tokens);
    let left = account.resets_at.unwrap().since(bench.store().now());
    assert!(left <= Millis::from_secs(86_400));
    bench.clock.advance(left.0);
    assert_eq!(bench.account("house", Metric::Tokens).spent, 0);
}

fn raise_agent(bench: &Bench, tokens: u64) {
    let change = BudgetChange {
        scope: Scope::Agent(slug("agent-a")),
        metric: Metric::Tokens,
        kind: BudgetChangeKind::Raise(tokens),
        note: None,
        key: None,
    };
    let store = bench.store();
    store.change_budget(change, Principal::Operator).done();
}

fn a_raise_by_the_operator_wakes_what_waits_for_it(bench: &mut Bench) {
    let task = short_of_tokens(bench);
    assert!(bench.store().expire_deadlines().done().is_empty());
    raise_agent(bench, 500);
    let due = bench.store().expire_deadlines().done();
    assert_eq!(due.len(), 1, "it is due at once");
    let admitted = readmit(bench, &task, "agent-a");
    assert!(matches!(admitted.phase, Phase::Ready { .. }));
}

fn a_task_keeps_what_it_waited_for(bench: &mut Bench) {
    let task = short_of_tokens(bench);
    let since = bench.store().now();
    bench.clock.advance(5000);
    raise_agent(bench, 500);
    bench.clock.advance(1000);
    readmit(bench, &task, "agent-a");
    bench.claim(&task, "agent-a").expect("claimed");
    let waits = bench.task(&task).route.waits;
    let wait = PastWait {
        kind: WaitKind::Budget,
        name: "agent:agent-a".into(),
        since,
        ended: since + Millis(6000),
    };
    assert_eq!(waits, [wait]);
}

fn open_tasks_are_counted_by_what_they_wait_for(bench: &mut Bench) {
    let empty = bench.store().counts().done();
    assert_eq!((empty.approvals_pending, empty.last_backup), (0, None));
    short_of_tokens(bench);
    let parked = bench.store().now();
    bench.clock.advance(1000);
    let (task, claimed) = bench.claimed("agent-b");
    let token = claimed.lease.token.0;
    bench.complete(&task, "agent-b", token).expect("done");
    bench.claimed("agent-b");
    bench.add("agent-b", None);
    bench.store().record_backup().done();
    let counts = bench.store().counts().done();
    let open: Vec<_> = counts
        .open
        .iter()
        .filter(|o| o.count > 0)
        .map(|o| (o.state, o.wait, o.count))
        .collect();
    let expected = [
        (TaskState::Parked, Some(WaitKind::Budget), 1),
        (TaskState::Ready, Some(WaitKind::Claim), 1),
        (TaskState::Running, None, 1),
    ];
    assert_eq!(open, expected);
    assert_eq!(counts.open[0].oldest, Some(parked));
    assert_eq!(counts.ended[&TaskState::Done], 1);
    assert_eq!(counts.last_backup, Some(bench.store().now()));
}

fn an_edit_does_not_begin_a_wait_anew(bench: &mut Bench) {
    let task = short_of_tokens(bench);
    let since = bench.store().now();
    bench.clock.advance(5000);
    let edit = TaskEdit {
        text: "write a longer haiku".into(),
        priority: Priority::P1,
        assignee: Some(slug("agent-a")),
        intake: model_intake("agent-a"),
    };
    let edited = bench.store().edit_task(task, edit, Principal::Operator);
    assert_eq!(edited.done().state(), TaskState::Parked);
    assert_eq!(bench.store().counts().done().open[0].oldest, Some(since));
    bench.clock.advance(5000);
    raise_agent(bench, 500);
    readmit(bench, &task, "agent-a");
    let ready = bench.store().now();
    let waits = bench.task(&task).route.waits;
    let kept: Vec<_> = waits.iter().map(|w| (w.since, w.ended)).collect();
    assert_eq!(kept, [(since, ready)]);
    // Renewals do not make a run younger.
    let claimed = bench.claim(&task, "agent-a").expect("claimed");
    bench.clock.advance(9000);
    let token = claimed.lease.token.0;
    bench.renew(&task, "agent-a", token).expect("renewed");
    assert_eq!(bench.store().counts().done().open[0].oldest, Some(ready));
}

/// A task that any of two agents could do waits for the budgets of both, and either wakes it.
fn each_thing_that_a_task_waits_for_wakes_it(bench: &mut Bench) {
    let agents = ["agent-a", "agent-b"];
    let of_agent = |agent: &str| BudgetLimit {
        scope: Scope::Agent(slug(agent)),
        metric: Metric::Tokens,
        window: Window::Day,
        limit: Some(100),
        warn_percent: 80,
    };
    let limits = agents.map(of_agent).to_vec();
    bench.store().set_budgets(limits, "UTC".into()).done();
    for agent in agents {
        let (_, claimed) = bench.claimed(agent);
        bench.reserve(agent, claimed.run, 100).expect("it fits");
    }
    let intake = || Intake {
        agents: agents.map(agent_fact).to_vec(),
        ..model_intake("agent-a")
    };
    let new = NewTask {
        assignee: None,
        intake: intake(),
        ..new_task("agent-a", "write a haiku")
    };
    let task = TaskRef::Id(bench.store().add_task(new).done().task.id);
    let parked = |bench: &Bench| match bench.task(&task).phase {
        Phase::Parked { reasons } => reasons.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(parked(bench), 2);
    let due = |bench: &Bench| bench.store().expire_deadlines().done().len();
    assert_eq!(due(bench), 0);
    let counted = bench.store().counts().done().open;
    let waits: Vec<_> = counted.iter().map(|o| o.wait).collect();
    assert!(waits.contains(&Some(WaitKind::Budget)), "{counted:?}");
    let raise = |agent: &str| {
        let change = BudgetChange {
            scope: Scope::Agent(slug(agent)),
            metric: Metric::Tokens,
            kind: BudgetChangeKind::Raise(50),
            note: None,
            key: None,
        };
        let store = bench.store();
        store.change_budget(change, Principal::Operator).done();
    };
    raise("agent-b");
    assert_eq!(due(bench), 1, "the second reason is over");
    let admitted = bench.store().admit_task(task, intake()).done();
    assert!(
        matches!(&admitted.phase, Phase::Ready { candidates } if *candidates == [slug("agent-b")])
    );
}
