//! Subtasks, their bounds, and the outbox.

use super::case::cases;
use crate::support::{Bench, Done, claim, new_task, slug};
use abbey_engine::authority::Bounds;
use abbey_model::*;
use abbey_store::*;
use serde_json::json;
use std::collections::BTreeSet;

cases! {
    a_subtask_hangs_below_its_parent checks add_task task_tree;
    only_the_holder_of_the_parent_delegates checks add_task;
    chains_and_width_are_bounded checks add_task;
    a_subtask_is_due_no_later_than_its_parent checks add_task expire_deadlines next_deadline;
    cancelling_a_task_cancels_its_subtasks checks cancel_task task_tree;
    a_task_that_ends_without_a_result_takes_its_subtasks_along checks fail task_tree;
    the_subtasks_of_a_removed_agent_are_cancelled checks cancel_subtasks_of_agent;
    a_wait_for_a_subtask_leaves_its_place_and_time checks await_subtask claim;
    a_ring_of_waits_is_broken_with_the_reason checks await_subtask;
    a_result_must_have_the_expected_fields checks complete;
    a_finished_subtask_is_in_the_outbox_until_it_is_delivered checks outbox mark_delivered;
    costs_of_subtasks_are_charged_to_their_root checks reserve_call settle_call budgets;
}

fn delegation(parent: &TaskRef, token: u64) -> DelegationRequest {
    DelegationRequest {
        parent: Some((*parent, LeaseToken(token))),
        bounds: Bounds {
            depth: 2,
            fan_out: 2,
        },
        ..DelegationRequest::default()
    }
}

fn try_delegate(
    bench: &Bench,
    from: &str,
    to: &str,
    delegated: DelegationRequest,
) -> Result<TaskRow> {
    let new = NewTask {
        author: Principal::Agent(slug(from)),
        delegated: Some(delegated),
        ..new_task(to, "a part of it")
    };
    Ok(bench.store().add_task(new).wait()?.task)
}

fn a_subtask_hangs_below_its_parent(bench: &mut Bench) {
    let (parent, _) = bench.claimed("agent-a");
    let first = try_delegate(bench, "agent-a", "agent-b", delegation(&parent, 1)).unwrap();
    let second = try_delegate(bench, "agent-a", "agent-c", delegation(&parent, 1)).unwrap();
    let below = TaskRef::Id(first.id);
    bench.claim(&below, "agent-b").unwrap();
    try_delegate(bench, "agent-b", "agent-c", delegation(&below, 1)).unwrap();
    let tree = bench.store().task_tree(parent).done();
    let shape: Vec<(u32, u64)> = tree.iter().map(|(depth, t)| (*depth, t.number)).collect();
    assert_eq!(shape, [(0, 1), (1, 2), (2, 4), (1, 3)]);
    let link = second.link.unwrap();
    assert_eq!(
        (link.parent, link.root, link.chain),
        (Some(1), 1, vec![slug("agent-a")])
    );
}

fn only_the_holder_of_the_parent_delegates(bench: &mut Bench) {
    let (parent, _) = bench.claimed("agent-a");
    let stale = try_delegate(bench, "agent-a", "agent-b", delegation(&parent, 2));
    assert!(matches!(stale, Err(Error::Task(_))));
    let stranger = try_delegate(bench, "agent-c", "agent-b", delegation(&parent, 1));
    assert!(matches!(stranger, Err(Error::Task(_))));
    assert_eq!(bench.store().task_tree(parent).done().len(), 1);
}

fn chains_and_width_are_bounded(bench: &mut Bench) {
    let (parent, _) = bench.claimed("agent-a");
    let first = try_delegate(bench, "agent-a", "agent-b", delegation(&parent, 1)).unwrap();
    try_delegate(bench, "agent-a", "agent-c", delegation(&parent, 1)).unwrap();
    let third = try_delegate(bench, "agent-a", "agent-d", delegation(&parent, 1));
    assert!(matches!(third, Err(Error::Authority(_))), "two at once");
    let first = TaskRef::Id(first.id);
    bench.claim(&first, "agent-b").unwrap();
    let circle = try_delegate(bench, "agent-b", "agent-a", delegation(&first, 1));
    assert!(
        matches!(circle, Err(Error::Authority(_))),
        "not back to agent-a"
    );
    let second = try_delegate(bench, "agent-b", "agent-c", delegation(&first, 1)).unwrap();
    let second = TaskRef::Id(second.id);
    bench.claim(&second, "agent-c").unwrap();
    let deep = try_delegate(bench, "agent-c", "agent-d", delegation(&second, 1));
    assert!(matches!(deep, Err(Error::Authority(_))), "two deep");
}

fn a_subtask_is_due_no_later_than_its_parent(bench: &mut Bench) {
    let within = |ms| DelegationRequest {
        within: Some(Millis(ms)),
        ..DelegationRequest::default()
    };
    let root = NewTask {
        delegated: Some(within(20_000)),
        ..new_task("agent-a", "x")
    };
    let root = TaskRef::Number(bench.store().add_task(root).done().task.number);
    bench.claim(&root, "agent-a").unwrap();
    let asked = DelegationRequest {
        within: Some(Millis(99_000)),
        ..delegation(&root, 1)
    };
    let subtask = try_delegate(bench, "agent-a", "agent-b", asked).unwrap();
    let due = bench.store().now() + Millis(20_000);
    assert_eq!(subtask.link.unwrap().due, Some(due));
    assert_eq!(bench.store().next_deadline().done(), Some(due));
    bench.clock.advance(20_000);
    let over = bench.store().expire_deadlines().done();
    assert_eq!(over.len(), 2);
    assert!(over.iter().all(|t| t.state() == TaskState::TimedOut));
}

fn cancelling_a_task_cancels_its_subtasks(bench: &mut Bench) {
    let (parent, _) = bench.claimed("agent-a");
    let below = try_delegate(bench, "agent-a", "agent-b", delegation(&parent, 1)).unwrap();
    let below = TaskRef::Id(below.id);
    bench.claim(&below, "agent-b").unwrap();
    try_delegate(bench, "agent-b", "agent-c", delegation(&below, 1)).unwrap();
    bench
        .store()
        .cancel_task(parent, Principal::Operator)
        .done();
    let tree = bench.store().task_tree(parent).done();
    assert_eq!(tree.len(), 3);
    assert!(tree.iter().all(|(_, t)| t.state() == TaskState::Cancelled));
}

fn a_task_that_ends_without_a_result_takes_its_subtasks_along(bench: &mut Bench) {
    let (parent, _) = bench.claimed("agent-a");
    let below = try_delegate(bench, "agent-a", "agent-b", delegation(&parent, 1)).unwrap();
    let below = TaskRef::Id(below.id);
    bench.claim(&below, "agent-b").unwrap();
    try_delegate(bench, "agent-b", "agent-c", delegation(&below, 1)).unwrap();
    let failure = Failure {
        reason: EndReason::TurnLimit,
        text: "no result".to_owned(),
    };
    let (proof, facts) = (bench.proof("agent-a", 1), RunFacts::default());
    let failed = bench.store().fail(parent, proof, failure, facts).done();
    assert_eq!(failed.state(), TaskState::Failed);
    let tree = bench.store().task_tree(parent).done();
    let states: Vec<(TaskState, Option<String>)> = tree
        .into_iter()
        .skip(1)
        .map(|(_, t)| (t.state(), t.failure))
        .collect();
    let cancelled = |why: &str| (TaskState::Cancelled, Some(why.to_owned()));
    assert_eq!(
        states,
        [
            cancelled("its parent TASK-1 is failed"),
            cancelled("its parent TASK-2 is cancelled")
        ]
    );
}

fn the_subtasks_of_a_removed_agent_are_cancelled(bench: &mut Bench) {
    let (parent, _) = bench.claimed("agent-a");
    let below = try_delegate(bench, "agent-a", "agent-b", delegation(&parent, 1)).unwrap();
    let below = TaskRef::Id(below.id);
    bench.claim(&below, "agent-b").unwrap();
    try_delegate(bench, "agent-b", "agent-c", delegation(&below, 1)).unwrap();
    bench
        .store()
        .revoke_leases(slug("agent-a"), None, false)
        .done();
    bench
        .store()
        .cancel_subtasks_of_agent(slug("agent-c"))
        .done();
    assert_eq!(bench.task(&below).state(), TaskState::Running);
    bench
        .store()
        .cancel_subtasks_of_agent(slug("agent-a"))
        .done();
    let tree = bench.store().task_tree(parent).done();
    let states: Vec<TaskState> = tree.iter().map(|(_, t)| t.state()).collect();
    assert_eq!(
        states,
        [
            TaskState::Pending,
            TaskState::Cancelled,
            TaskState::Cancelled
        ]
    );
    let why = bench.task(&below).failure.unwrap();
    assert!(why.contains("agent `agent-a`"), "{why}");
}

/// Waits from now on for a subtask, as a worker does by asking for its end.
fn await_subtask(bench: &Bench, subtask: &TaskRow, agent: &str) {
    let (subtask, patience) = (TaskRef::Id(subtask.id), Millis::from_secs(25));
    let nobody = Some(BTreeSet::new());
    let wait = bench
        .store()
        .await_subtask(subtask, slug(agent), patience, nobody);
    wait.done();
}

fn a_wait_for_a_subtask_leaves_its_place_and_time(bench: &mut Bench) {
    let (parent, _) = bench.claimed("agent-a");
    let wall = |bench: &Bench| bench.task(&parent).phase.lease().unwrap().wall_deadline();
    let before = wall(bench);
    let below = try_delegate(bench, "agent-a", "agent-b", delegation(&parent, 1)).unwrap();
    // Somebody else waits for nothing.
    await_subtask(bench, &below, "agent-b");
    assert_eq!(wall(bench), before);
    await_subtask(bench, &below, "agent-a");
    let waits = bench.task(&parent).phase.waiting_for().unwrap();
    assert_eq!(
        (waits.kind, waits.name.as_str()),
        (WaitKind::Subtask, "TASK-2")
    );
    // Nobody works on it: its time stands still.
    bench.clock.advance(10_000);
    let subtask = TaskRef::Id(below.id);
    bench.claim(&subtask, "agent-b").unwrap();
    assert_eq!(wall(bench), before + Millis::from_secs(10));
    // Another task of its agent can begin, also where one at a time is the limit.
    let other = bench
        .store()
        .add_task(new_task("agent-a", "another"))
        .done();
    let one_at_a_time = Claim {
        runs_max: 1,
        ..claim(&TaskRef::Id(other.task.id), "agent-a")
    };
    bench.store().claim(one_at_a_time).done();
    // Somebody works on it: the time passes, until it ends.
    bench.clock.advance(5_000);
    bench.complete(&subtask, "agent-b", 1).unwrap();
    assert_eq!(wall(bench), before + Millis::from_secs(10));
    assert_eq!(bench.task(&parent).phase.waiting_for(), None);
}

fn a_ring_of_waits_is_broken_with_the_reason(bench: &mut Bench) {
    let (first, _) = bench.claimed("agent-a");
    let (second, _) = bench.claimed("agent-b");
    let for_b = try_delegate(bench, "agent-a", "agent-b", delegation(&first, 1)).unwrap();
    await_subtask(bench, &for_b, "agent-a");
    let for_a = try_delegate(bench, "agent-b", "agent-a", delegation(&second, 1)).unwrap();
    assert_eq!(bench.task(&TaskRef::Id(for_a.id)).state(), TaskState::Ready);
    await_subtask(bench, &for_a, "agent-b");
    let broken = bench.task(&TaskRef::Id(for_a.id));
    assert_eq!(broken.state(), TaskState::Cancelled);
    let why = broken.failure.unwrap();
    assert!(
        why.contains("agent-b waits for agent-a, and agent-a waits for agent-b"),
        "{why}"
    );
    assert_eq!(bench.task(&second).phase.waiting_for(), None);
    let waits = bench.task(&TaskRef::Id(for_b.id));
    assert_eq!(waits.state(), TaskState::Ready, "the other wait goes on");
}

fn a_result_must_have_the_expected_fields(bench: &mut Bench) {
    let (parent, _) = bench.claimed("agent-a");
    let asked = DelegationRequest {
        expects: vec!["price".into(), "unit".into()],
        ..delegation(&parent, 1)
    };
    let task = try_delegate(bench, "agent-a", "agent-b", asked).unwrap();
    let task = TaskRef::Id(task.id);
    bench.claim(&task, "agent-b").unwrap();
    let missing = bench.complete_with(&task, "agent-b", 1, json!({ "price": 1, "unit": null }));
    assert!(matches!(missing, Err(Error::Handoff { missing }) if missing == ["unit"]));
    assert_eq!(bench.task(&task).state(), TaskState::Running);
    let whole = json!({ "price": 1, "unit": "kg" });
    bench.complete_with(&task, "agent-b", 1, whole).unwrap();
}

fn a_finished_subtask_is_in_the_outbox_until_it_is_delivered(bench: &mut Bench) {
    let deliver = Recipient::Agent(slug("agent-b"));
    let delegated = Some(DelegationRequest {
        deliver: deliver.clone(),
        ..DelegationRequest::default()
    });
    let new = NewTask {
        delegated,
        ..new_task("agent-a", "x")
    };
    let number = bench.store().add_task(new).done().task.number;
    let task = TaskRef::Number(number);
    bench.claim(&task, "agent-a").unwrap();
    assert!(bench.store().outbox().done().is_empty());
    bench.complete(&task, "agent-a", 1).unwrap();
    let at = bench.store().now();
    let notice = Notice {
        task: number,
        recipient: deliver,
        at,
    };
    assert_eq!(bench.store().outbox().done(), [notice]);
    bench.reopen();
    assert_eq!(bench.store().outbox().done().len(), 1);
    bench.store().mark_delivered(number).done();
    assert!(bench.store().outbox().done().is_empty());
}

fn costs_of_subtasks_are_charged_to_their_root(bench: &mut Bench) {
    let (parent, claimed) = bench.claimed("agent-a");
    let subtask = try_delegate(bench, "agent-a", "agent-b", delegation(&parent, 1)).unwrap();
    let run = bench
        .claim(&TaskRef::Id(subtask.id), "agent-b")
        .unwrap()
        .run;
    let reservation = bench.reserve("agent-b", run, 50).unwrap();
    let root = Scope::Task(claimed.task.id).to_string();
    assert_eq!(bench.account(&root, Metric::Tokens).reserved, 50);
    bench
        .store()
        .settle_call(reservation, CallUsage::Unknown { model: None })
        .done();
    let account = bench.account(&root, Metric::Tokens);
    assert_eq!((account.spent, account.reserved), (50, 0));
}
