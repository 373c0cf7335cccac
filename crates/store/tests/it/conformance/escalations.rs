//! Escalations of tasks without an eligible agent.

use super::case::cases;
use crate::support::{Bench, Done, intake, new_task, slug};
use abbey_model::*;
use abbey_store::*;

cases! {
    a_task_is_escalated_once checks escalate escalations;
    an_escalation_to_an_agent_edits_the_task checks escalate offers;
    an_untouched_task_is_cancelled_when_the_time_is_over checks close_escalation task;
    a_task_that_was_taken_up_is_kept checks close_escalation;
}

fn parked(bench: &Bench) -> TaskRef {
    let new = NewTask {
        assignee: None,
        intake: intake(&[]),
        ..new_task("agent-a", "x")
    };
    TaskRef::Number(bench.store().add_task(new).done().task.number)
}

fn to_operator(task: TaskRef) -> NewEscalation {
    NewEscalation {
        task,
        within: Some(Millis(5000)),
        edit: None,
        why: "no eligible agent".into(),
    }
}

fn to_agent(task: TaskRef) -> NewEscalation {
    let edit = TaskEdit {
        text: "decide about x".into(),
        priority: Priority::P1,
        assignee: Some(slug("agent-a")),
        intake: intake(&["agent-a"]),
    };
    NewEscalation {
        edit: Some(edit),
        ..to_operator(task)
    }
}

fn a_task_is_escalated_once(bench: &mut Bench) {
    let task = parked(bench);
    bench.store().escalate(to_operator(task)).done();
    let until = Some(bench.store().now() + Millis(5000));
    let head = bench.store().audit_head();
    bench.clock.advance(1000);
    bench.store().escalate(to_agent(task)).done();
    assert_eq!(bench.store().audit_head(), head, "the second is no change");
    let escalation = Escalation {
        task: 1,
        receiver: "operator".into(),
        until,
    };
    assert_eq!(bench.store().escalations().done(), [escalation]);
    bench.store().cancel_task(task, Principal::Operator).done();
    assert!(
        bench.store().escalations().done().is_empty(),
        "its task is over"
    );
}

fn an_escalation_to_an_agent_edits_the_task(bench: &mut Bench) {
    let task = parked(bench);
    let row = bench.store().escalate(to_agent(task)).done();
    assert_eq!(
        (row.text.as_str(), row.state()),
        ("decide about x", TaskState::Ready)
    );
    assert_eq!(bench.store().offers(slug("agent-a"), 10).done().len(), 1);
    assert_eq!(bench.store().escalations().done()[0].receiver, "agent-a");
}

fn an_untouched_task_is_cancelled_when_the_time_is_over(bench: &mut Bench) {
    let task = parked(bench);
    bench.store().escalate(to_operator(task)).done();
    let head = bench.store().audit_head();
    bench.store().close_escalation(1, true).done();
    assert_eq!(bench.task(&task).state(), TaskState::Cancelled);
    bench.store().close_escalation(1, true).done();
    assert_eq!(
        bench.logged_after(head),
        ["task.escalation_over", "task.cancel"]
    );
}

fn a_task_that_was_taken_up_is_kept(bench: &mut Bench) {
    let task = parked(bench);
    bench.store().escalate(to_agent(task)).done();
    bench.claim(&task, "agent-a").unwrap();
    bench.store().close_escalation(1, true).done();
    assert_eq!(bench.task(&task).state(), TaskState::Running);
    assert_eq!(bench.store().escalations().done()[0].until, None);
}
