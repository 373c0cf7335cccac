//! Waits of runs for tasks that their agents gave, and tasks that agents give on their own initiative.

use super::case::cases;
use crate::support::{Bench, Done, new_task, slug};
use abbey_engine::authority::{Bounds, Refusal};
use abbey_model::*;
use abbey_store::*;
use std::collections::BTreeSet;

cases! {
    the_end_of_a_request_ends_the_wait checks await_subtask end_subtask_wait;
    a_wait_for_a_subtask_is_kept_as_a_past_wait checks await_subtask end_subtask_wait;
    a_ring_is_not_judged_before_it_is_known_who_asks checks await_subtask;
    a_ring_through_own_initiative_is_broken checks await_subtask;
    own_initiative_is_charged_to_its_cause_and_due_with_it checks add_task reserve_call;
    own_initiative_stays_within_its_bounds_between_tasks checks add_task;
    what_a_removed_agent_gave_by_itself_is_cancelled checks cancel_subtasks_of_agent;
}

const BOUNDS: Bounds = Bounds {
    depth: 2,
    fan_out: 4,
};

fn give(bench: &Bench, from: &str, to: &str, delegated: DelegationRequest) -> Result<TaskRef> {
    let new = NewTask {
        author: Principal::Agent(slug(from)),
        delegated: Some(DelegationRequest {
            bounds: BOUNDS,
            ..delegated
        }),
        ..new_task(to, "a part of it")
    };
    Ok(TaskRef::Id(bench.store().add_task(new).wait()?.task.id))
}

/// A subtask of a task that `from` holds with its first lease.
fn delegate(bench: &Bench, from: &str, to: &str, parent: &TaskRef) -> TaskRef {
    let below = DelegationRequest {
        parent: Some((*parent, LeaseToken(1))),
        ..DelegationRequest::default()
    };
    give(bench, from, to, below).unwrap()
}

fn own_initiative() -> DelegationRequest {
    DelegationRequest {
        own_initiative: true,
        ..DelegationRequest::default()
    }
}

fn initiate(bench: &Bench, from: &str, to: &str) -> Result<TaskRef> {
    give(bench, from, to, own_initiative())
}

fn wait(bench: &Bench, agent: &str, task: &TaskRef, asking: Option<&[&str]>) {
    let asking = asking.map(|all| all.iter().map(|a| slug(a)).collect::<BTreeSet<Slug>>());
    let patience = Millis::from_secs(25);
    let waits = bench
        .store()
        .await_subtask(*task, slug(agent), patience, asking);
    waits.done();
}

fn wall(bench: &Bench, task: &TaskRef) -> Timestamp {
    bench.task(task).phase.lease().unwrap().wall_deadline()
}

fn the_end_of_a_request_ends_the_wait(bench: &mut Bench) {
    let (parent, _) = bench.claimed("agent-a");
    let before = wall(bench, &parent);
    let below = delegate(bench, "agent-a", "agent-b", &parent);
    for _ in 0..3 {
        // The worker asks for one second and works for four, again and again.
        wait(bench, "agent-a", &below, Some(&[]));
        bench.clock.advance(1000);
        let ended = bench.store().end_subtask_wait(below, slug("agent-a"));
        ended.done();
        assert_eq!(bench.task(&parent).phase.waiting_for(), None);
        bench.clock.advance(4000);
    }
    assert_eq!(wall(bench, &parent), before + Millis(3000));
    // What nobody waits for, or does not exist, is no mistake.
    let store = bench.store();
    store.end_subtask_wait(below, slug("agent-b")).done();
    let none = TaskRef::Number(99);
    store.end_subtask_wait(none, slug("agent-a")).done();
}

fn a_wait_for_a_subtask_is_kept_as_a_past_wait(bench: &mut Bench) {
    let (parent, _) = bench.claimed("agent-a");
    let below = delegate(bench, "agent-a", "agent-b", &parent);
    let since = bench.store().now();
    for _ in 0..3 {
        wait(bench, "agent-a", &below, Some(&[]));
        bench.clock.advance(9_000);
        bench.renew(&parent, "agent-a", 1).unwrap();
        let ended = bench.store().end_subtask_wait(below, slug("agent-a"));
        ended.done();
        bench.clock.advance(1000);
    }
    wait(bench, "agent-a", &below, Some(&[]));
    bench.clock.advance(500);
    bench.claim(&below, "agent-b").unwrap();
    bench.complete(&below, "agent-b", 1).unwrap();
    let past = bench.task(&parent).route.waits;
    let expected = PastWait {
        kind: WaitKind::Subtask,
        name: "TASK-2".into(),
        since,
        ended: since + Millis(29_000),
    };
    assert_eq!(
        past,
        [expected],
        "one wait; what is shorter than a second is none"
    );
}

fn a_ring_is_not_judged_before_it_is_known_who_asks(bench: &mut Bench) {
    let (first, _) = bench.claimed("agent-a");
    let (second, _) = bench.claimed("agent-b");
    let for_b = delegate(bench, "agent-a", "agent-b", &first);
    let for_a = delegate(bench, "agent-b", "agent-a", &second);
    wait(bench, "agent-a", &for_b, None);
    // After a restart nobody has asked yet.
    wait(bench, "agent-b", &for_a, None);
    wait(bench, "agent-b", &for_a, Some(&["agent-a"]));
    assert_eq!(bench.task(&for_a).state(), TaskState::Ready);
    wait(bench, "agent-b", &for_a, Some(&[]));
    assert_eq!(bench.task(&for_a).state(), TaskState::Cancelled);
    assert_eq!(bench.task(&for_b).state(), TaskState::Ready);
}

fn a_ring_through_own_initiative_is_broken(bench: &mut Bench) {
    let (first, _) = bench.claimed("agent-a");
    let (second, _) = bench.claimed("agent-b");
    let for_b = initiate(bench, "agent-a", "agent-b").unwrap();
    let for_a = initiate(bench, "agent-b", "agent-a").unwrap();
    wait(bench, "agent-a", &for_b, Some(&[]));
    let waits = bench.task(&first).phase.waiting_for().unwrap();
    assert_eq!(
        (waits.kind, waits.name.as_str()),
        (WaitKind::Subtask, "TASK-3")
    );
    wait(bench, "agent-b", &for_a, Some(&[]));
    let broken = bench.task(&for_a);
    assert_eq!(broken.state(), TaskState::Cancelled);
    let why = broken.failure.unwrap();
    assert!(why.contains("agent-b waits for agent-a"), "{why}");
    assert_eq!(bench.task(&second).phase.waiting_for(), None, "it goes on");
    bench.complete(&second, "agent-b", 1).unwrap();
    bench.claim(&for_b, "agent-b").unwrap();
    bench.complete(&for_b, "agent-b", 1).unwrap();
    assert_eq!(bench.task(&first).phase.waiting_for(), None);
}

fn own_initiative_is_charged_to_its_cause_and_due_with_it(bench: &mut Bench) {
    let root = NewTask {
        delegated: Some(DelegationRequest {
            within: Some(Millis(20_000)),
            ..DelegationRequest::default()
        }),
        budget: BudgetAmounts {
            tokens: Tokens(100),
            ..BudgetAmounts::default()
        },
        ..new_task("agent-a", "x")
    };
    let root = bench.store().add_task(root).done().task;
    let due = bench.store().now() + Millis(20_000);
    bench.claim(&TaskRef::Id(root.id), "agent-a").unwrap();
    let asked = DelegationRequest {
        within: Some(Millis(99_000)),
        ..own_initiative()
    };
    let given = give(bench, "agent-a", "agent-b", asked).unwrap();
    let link = bench.task(&given).link.unwrap();
    assert_eq!((link.parent, link.cause), (None, Some(root.number)));
    assert_eq!((link.root, link.due), (root.number, Some(due)));
    let run = bench.claim(&given, "agent-b").unwrap().run;
    bench.reserve("agent-b", run, 60).unwrap();
    let scope = Scope::Task(root.id).to_string();
    assert_eq!(bench.account(&scope, Metric::Tokens).reserved, 60);
    let refused = bench.reserve("agent-b", run, 60);
    assert!(matches!(refused, Err(Error::Budget(_))), "{refused:?}");
    // It does not end with its cause.
    bench.complete(&TaskRef::Id(root.id), "agent-a", 1).unwrap();
    assert_eq!(bench.task(&given).state(), TaskState::Running);
}

fn own_initiative_stays_within_its_bounds_between_tasks(bench: &mut Bench) {
    let finish = |bench: &Bench, task: &TaskRef, agent: &str| {
        bench.claim(task, agent).unwrap();
        bench.complete(task, agent, 1).unwrap();
    };
    let refusal = |given: Result<TaskRef>| match given {
        Err(Error::Authority(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    // Each ends its task first and acts then, as if nobody had made it do so.
    let first = initiate(bench, "agent-a", "agent-b").unwrap();
    finish(bench, &first, "agent-b");
    let back = refusal(initiate(bench, "agent-b", "agent-a"));
    assert!(matches!(back, Refusal::Circle { .. }), "{back}");
    let second = initiate(bench, "agent-b", "agent-c").unwrap();
    finish(bench, &second, "agent-c");
    let deep = refusal(initiate(bench, "agent-c", "agent-d"));
    assert!(matches!(deep, Refusal::TooDeep { .. }), "{deep}");
    // Another time it acts by itself.
    bench.clock.advance(600_001);
    initiate(bench, "agent-b", "agent-a").unwrap();
}

fn what_a_removed_agent_gave_by_itself_is_cancelled(bench: &mut Bench) {
    let given = initiate(bench, "agent-a", "agent-b").unwrap();
    let running = initiate(bench, "agent-a", "agent-c").unwrap();
    bench.claim(&running, "agent-c").unwrap();
    let of_other = initiate(bench, "agent-d", "agent-b").unwrap();
    let removed = bench.store().cancel_subtasks_of_agent(slug("agent-a"));
    removed.done();
    for task in [&given, &running] {
        let row = bench.task(task);
        assert_eq!(row.state(), TaskState::Cancelled);
        let why = row.failure.unwrap();
        assert!(
            why.contains("agent `agent-a`") && why.contains("removed"),
            "{why}"
        );
    }
    assert_eq!(bench.task(&of_other).state(), TaskState::Ready);
}
